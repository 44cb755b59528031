//! The model's variables: their creation, and TensorFlow's names and layout for them.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, nn};

use super::lstm::{self, LstmStack};
use crate::config::{Config, RnnMode};
use crate::optimizer::{Adam, Gradient, Optimizer, OptimizerType};
use crate::rnn::{
    BasicLSTMCell, CellType, LSTMBlockCell, RnnCell, State, kernel_from_libtorch,
    kernel_to_libtorch,
};
use crate::tf::{self, ADAM_M, ADAM_POWERS, ADAM_V};

const EMBEDDING: &str = "Model/embedding";
const SOFTMAX_W: &str = "Model/softmax_w";
const SOFTMAX_B: &str = "Model/softmax_b";

/// The scope of layer `k`'s cell in TensorFlow's names.
fn cell_scope(k: usize) -> String {
    format!("Model/RNN/multi_rnn_cell/cell_{k}")
}

/// The recurrent part's variables.
pub(super) enum Recurrent {
    /// `basic_lstm`: kept in libtorch's layout, mapped to TensorFlow's where variables go in or
    /// out.
    Lstm(Vec<LstmStack>),
    /// Other cells: kept under TensorFlow's names in TensorFlow's layout.
    Cells(tf::Variables),
}

/// All variables of the model, shared by its views.
pub struct PtbVariables {
    pub(super) config: Config,
    pub(super) cell: CellType,
    pub(super) device: Device,
    pub(super) kind: Kind,
    /// Units that a layer is computed with: `hidden_size`, or a few more that are always zero
    /// ([`padded_width`]).
    pub(super) width: i64,
    pub(super) embedding: Tensor,
    pub(super) recurrent: Recurrent,
    pub(super) softmax_w: Tensor,
    pub(super) softmax_b: Tensor,
    pub(super) optimizer: Optimizer,
}

/// The error of layers that do not fit into the memory.
#[derive(Debug, thiserror::Error)]
#[error("no memory for layers of hidden_size {hidden_size}")]
pub struct TooLarge {
    /// Units of a layer.
    pub hidden_size: i64,
}

/// Units that a layer is computed with.
///
/// On a GPU, rows of 650 or 1500 numbers are not aligned to the 16 bytes that tensor cores load at
/// once, and the kernels that remain are up to twice as slow (docs/performance.md). So wide LSTM
/// layers get a few units more, to a multiple of 8. Their weights and biases are zero; then their
/// state, their output and all their gradients are zero too, and they stay so: the other units
/// compute what they would compute alone.
fn padded_width(config: &Config, cell: CellType, device: Device) -> i64 {
    let wide = cell == CellType::BasicLstm && config.hidden_size > 256;
    if wide && device.is_cuda() { (config.hidden_size + 7) / 8 * 8 } else { config.hidden_size }
}

/// The tensor with its blocks of `from` units along some dimensions cut or filled up with zeros to
/// `to` units. `blocks` says how many such blocks stand side by side along each dimension; 0 for a
/// dimension that does not count units.
fn resize(tensor: &Tensor, blocks: &[i64], from: i64, to: i64) -> Tensor {
    let mut tensor = tensor.shallow_clone();
    if from == to {
        return tensor;
    }
    for (dim, &blocks) in blocks.iter().enumerate().filter(|(_, blocks)| **blocks > 0) {
        let resized = |block: Tensor| {
            if to < from {
                return block.narrow(dim as i64, 0, to);
            }
            let mut zeros = block.size();
            zeros[dim] = to - from;
            Tensor::cat(
                &[&block, &Tensor::zeros(zeros, (block.kind(), block.device()))],
                dim as i64,
            )
        };
        let resized: Vec<Tensor> =
            tensor.chunk(blocks, dim as i64).into_iter().map(resized).collect();
        tensor = Tensor::cat(&resized, dim as i64);
    }
    tensor
}

/// Blocks of units along each dimension of the model's variables, in TensorFlow's layout, and of
/// its state.
mod blocks {
    pub(super) const EMBEDDING: [i64; 2] = [0, 1];
    /// `[inputs and h, i j f o]`
    pub(super) const KERNEL: [i64; 2] = [2, 4];
    pub(super) const BIAS: [i64; 1] = [4];
    pub(super) const SOFTMAX_W: [i64; 2] = [1, 0];
    /// `[batch, units]`
    pub(super) const STATE: [i64; 2] = [0, 1];
}

impl PtbVariables {
    /// New variables: uniform in `[-init_scale, init_scale]`, the cells' biases zero; a function of
    /// `seed`. `kind` is `Float` to train, `Double` to compare.
    pub fn new(
        config: &Config,
        cell: CellType,
        device: Device,
        kind: Kind,
        seed: i64,
    ) -> Result<Self> {
        Self::with_width(config, cell, device, kind, seed, padded_width(config, cell, device))
    }

    fn with_width(
        config: &Config,
        cell: CellType,
        device: Device,
        kind: Kind,
        seed: i64,
        width: i64,
    ) -> Result<Self> {
        config.validate()?;
        tch::manual_seed(seed);
        let (hidden, vocab) = (width, config.vocab_size);
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let mut store = nn::VarStore::new(device);
        store.set_kind(kind);
        let root = store.root() / "Model";
        let var = |name: &str, size: &[i64], init| {
            root.f_var(name, size, init).with_context(|| format!("Model/{name} of shape {size:?}"))
        };
        // nn::lstm has no fallible form: what is too large for the memory is found out here.
        let _ = Tensor::f_empty([4 * hidden, 2 * hidden], (kind, device))
            .context(TooLarge { hidden_size: hidden })?;
        let embedding = var("embedding", &[vocab, hidden], uniform)?;
        let recurrent = match cell {
            CellType::BasicLstm => {
                // One call for all layers lets cuDNN work on several at once. Dropout between them
                // has to come from here: the same in all modes, and a function of seed and step.
                let (stacks, layers) = if config.keep_prob < 1.0 {
                    (config.num_layers, 1)
                } else {
                    (1, config.num_layers)
                };
                let stack =
                    |k| LstmStack::new(&store, &root / format!("cell_{k}"), config, layers, width);
                Recurrent::Lstm((0..stacks).map(stack).collect::<Result<_>>()?)
            }
            _ => {
                let mut variables = tf::Variables::new();
                for k in 0..config.num_layers as usize {
                    for (name, size) in cell.variable_shapes(hidden, hidden) {
                        let init = cell.initial_bias(name).map_or(uniform, nn::Init::Const);
                        let full = format!("{}/{}/{name}", cell_scope(k), cell.scope());
                        let tensor = var(&full.replace('/', "_"), &size, init)?;
                        variables.insert(full, tensor);
                    }
                }
                Recurrent::Cells(variables)
            }
        };
        let softmax_w = var("softmax_w", &[hidden, vocab], uniform)?;
        let softmax_b = var("softmax_b", &[vocab], uniform)?;
        let made = PtbVariables {
            config: *config,
            cell,
            device,
            kind,
            width,
            embedding,
            recurrent,
            softmax_w,
            softmax_b,
            optimizer: Optimizer::GradientDescent,
        };
        if device != Device::Cpu || width != config.hidden_size {
            // A GPU's generator draws other numbers: a seed means the same variables everywhere.
            made.assign(&Self::new(config, cell, Device::Cpu, kind, seed)?.to_tensorflow()?)?;
        }
        Ok(made)
    }

    /// The configuration that the variables were made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cell of its layers.
    pub fn cell(&self) -> CellType {
        self.cell
    }

    /// The fastest mode that its layers can be run in.
    pub fn fastest_mode(&self) -> RnnMode {
        match self.recurrent {
            Recurrent::Lstm(_) => RnnMode::Cudnn,
            Recurrent::Cells(_) => RnnMode::Basic,
        }
    }

    /// Where the variables are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The trainable variables, in the order of the model's gradients.
    pub fn trainable(&self) -> Vec<&Tensor> {
        [vec![&self.embedding], self.weights(), vec![&self.softmax_w, &self.softmax_b]].concat()
    }

    /// The recurrent layers' variables.
    pub(super) fn weights(&self) -> Vec<&Tensor> {
        match &self.recurrent {
            Recurrent::Lstm(stacks) => lstm::layers(stacks).flat_map(|layer| &layer[..3]).collect(),
            Recurrent::Cells(variables) => variables.values().collect(),
        }
    }

    /// Tensors in the order of [`Self::trainable`] under TensorFlow's names, in TensorFlow's
    /// layout, on the CPU: the variables themselves or their gradients.
    fn named(&self, tensors: &[&Tensor]) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let mut put = |name: String, tensor: &Tensor, blocks: &[i64]| {
            let tensor = resize(&tensor.detach(), blocks, self.width, self.config.hidden_size);
            // A copy: what is handed out must not change as training goes on.
            named.insert(name, tensor.to_device(Device::Cpu).contiguous().copy());
        };
        let [embedding, weights @ .., softmax_w, softmax_b] = tensors else {
            bail!("{} tensors for the model's variables", tensors.len());
        };
        put(EMBEDDING.into(), embedding, &blocks::EMBEDDING);
        match &self.recurrent {
            Recurrent::Lstm(_) => {
                for (k, layer) in weights.chunks_exact(3).enumerate() {
                    let (kernel, bias) = kernel_from_libtorch(layer[0], layer[1], layer[2])?;
                    put(
                        format!("{}/basic_lstm_cell/kernel", cell_scope(k)),
                        &kernel,
                        &blocks::KERNEL,
                    );
                    put(format!("{}/basic_lstm_cell/bias", cell_scope(k)), &bias, &blocks::BIAS);
                }
            }
            Recurrent::Cells(variables) => {
                for (name, tensor) in variables.keys().zip(weights) {
                    put(name.clone(), tensor, &[]);
                }
            }
        }
        put(SOFTMAX_W.into(), softmax_w, &blocks::SOFTMAX_W);
        put(SOFTMAX_B.into(), softmax_b, &[]);
        Ok(named)
    }

    /// The variables under TensorFlow's names and in TensorFlow's layout, on the CPU.
    pub fn to_tensorflow(&self) -> Result<tf::Variables> {
        tch::no_grad(|| self.named(&self.trainable()))
    }

    /// Gradients under the names of their variables, dense, in TensorFlow's layout.
    pub fn gradients_to_tensorflow(&self, gradients: &[Gradient]) -> Result<tf::Variables> {
        let dense: Vec<Tensor> =
            self.trainable().iter().zip(gradients).map(|(v, g)| g.to_dense(&v.size())).collect();
        self.named(&dense.iter().collect::<Vec<_>>())
    }

    /// The same variables trained by another optimizer than plain gradient descent, with new slots.
    pub fn with_optimizer(self, optimizer: OptimizerType) -> Self {
        let optimizer = Optimizer::new(optimizer, &self.trainable());
        PtbVariables { optimizer, ..self }
    }

    /// The trainable variables, then the optimizer's slots: all that a training step changes.
    pub fn trained(&self) -> Vec<&Tensor> {
        [self.trainable(), self.optimizer.slots()].concat()
    }

    /// The optimizer's slots under the names that TensorFlow's optimizer adds to their variables',
    /// on the CPU; none for plain gradient descent.
    pub fn slots_to_tensorflow(&self) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let Optimizer::Adam(Adam { m, v, powers }) = &self.optimizer else { return Ok(named) };
        for (slots, suffix) in [(m, ADAM_M), (v, ADAM_V)] {
            let slots: Vec<&Tensor> = slots.iter().collect();
            named.extend(self.named(&slots)?.into_iter().map(|(name, slot)| (name + suffix, slot)));
        }
        let on_cpu = |power: &Tensor| power.to_device(Device::Cpu).copy();
        named.extend(ADAM_POWERS.map(String::from).into_iter().zip(powers.iter().map(on_cpu)));
        Ok(named)
    }

    /// Sets the optimizer's slots from ones under TensorFlow's names. Returns false, and changes
    /// nothing, if there are none among `given`.
    ///
    /// # Errors
    /// Some of them are missing, or have a wrong shape.
    pub fn assign_slots(&self, given: &tf::Variables) -> Result<bool> {
        let Optimizer::Adam(Adam { m, v, powers }) = &self.optimizer else { return Ok(true) };
        if !given.keys().any(|name| tf::is_slot_name(name)) {
            return Ok(false);
        }
        let slots_of = |suffix: &str| -> tf::Variables {
            let slot = |(name, slot): (&String, &Tensor)| {
                Some((name.strip_suffix(suffix)?.to_owned(), slot.shallow_clone()))
            };
            given.iter().filter_map(slot).collect()
        };
        self.assign_to(&m.iter().collect::<Vec<_>>(), &slots_of(ADAM_M)).context("Adam's m")?;
        self.assign_to(&v.iter().collect::<Vec<_>>(), &slots_of(ADAM_V)).context("Adam's v")?;
        for (power, name) in powers.iter().zip(ADAM_POWERS) {
            let value = given.get(name).with_context(|| format!("variable {name} is missing"))?;
            ensure!(
                value.numel() == 1,
                "variable {name} has shape {:?}; it is a scalar",
                value.size()
            );
            tch::no_grad(|| power.shallow_clone().f_copy_(&value.f_view([0i64; 0])?))?;
        }
        Ok(true)
    }

    /// Sets all variables from ones under TensorFlow's names; others in `given` are ignored.
    ///
    /// # Errors
    /// A missing variable, a wrong shape (named, with both shapes), values that are NaN or
    /// infinite. Nothing is changed then.
    pub fn assign(&self, given: &tf::Variables) -> Result<()> {
        self.assign_to(&self.trainable(), given)
    }

    /// Copies tensors under TensorFlow's names to `targets`, which are in the order of
    /// [`Self::trainable`].
    fn assign_to(&self, targets: &[&Tensor], given: &tf::Variables) -> Result<()> {
        tch::no_grad(|| {
            let mut checked = tf::Variables::new();
            for (name, own) in self.named(targets)? {
                // A plain LSTMCell's variables have the same names as block mode's, which are read
                // as BasicLSTMCell's.
                let also = name.replace("/lstm_cell/", "/basic_lstm_cell/");
                let Some(tensor) = given.get(&name).or_else(|| given.get(&also)) else {
                    bail!(
                        "variable {name} (shape {:?}) is missing; there are: {}",
                        own.size(),
                        names(given)
                    );
                };
                ensure!(
                    tensor.size() == own.size(),
                    "variable {name} has shape {:?}, but this model needs {:?}",
                    tensor.size(),
                    own.size()
                );
                let tensor = tensor.to_kind(self.kind);
                tf::ensure_finite(&name, &tensor)?;
                checked.insert(name, tensor);
            }
            let widened = |name: &str, blocks: &[i64]| {
                resize(&checked[name], blocks, self.config.hidden_size, self.width)
            };
            let mut values = vec![widened(EMBEDDING, &blocks::EMBEDDING)];
            match &self.recurrent {
                Recurrent::Lstm(_) => {
                    for k in 0..self.config.num_layers as usize {
                        let name = |part| format!("{}/basic_lstm_cell/{part}", cell_scope(k));
                        let kernel = widened(&name("kernel"), &blocks::KERNEL);
                        let bias = widened(&name("bias"), &blocks::BIAS);
                        let (w_ih, w_hh, bias) = kernel_to_libtorch(&kernel, &bias, self.width)?;
                        values.extend([w_ih, w_hh, bias]);
                    }
                }
                Recurrent::Cells(variables) => {
                    values.extend(variables.keys().map(|name| checked[name].shallow_clone()));
                }
            }
            values.extend([
                widened(SOFTMAX_W, &blocks::SOFTMAX_W),
                checked[SOFTMAX_B].shallow_clone(),
            ]);
            for (target, value) in targets.iter().zip(values) {
                target.shallow_clone().copy_(&value);
            }
            Ok(())
        })
    }

    /// A state `[batch, hidden_size]` per tensor, as checkpoints have it, in the width that this
    /// model computes with, on its device.
    pub(crate) fn widen_state(&self, state: &[Tensor]) -> State {
        let wide = |t: &Tensor| {
            resize(&t.to_device(self.device), &blocks::STATE, self.config.hidden_size, self.width)
        };
        state.iter().map(wide).collect()
    }

    /// The inverse of [`Self::widen_state`], on the same device.
    pub(crate) fn narrow_state(&self, state: &[Tensor]) -> State {
        state
            .iter()
            .map(|t| resize(t, &blocks::STATE, self.width, self.config.hidden_size))
            .collect()
    }

    /// The cells over these variables, one per layer, for a mode that is unrolled over time.
    pub(super) fn cells(&self, mode: RnnMode) -> Result<Vec<Box<dyn RnnCell>>> {
        let indices = 0..self.config.num_layers as usize;
        let forget_bias = self.config.forget_bias;
        match &self.recurrent {
            Recurrent::Lstm(stacks) => lstm::layers(stacks)
                .map(|[w_ih, w_hh, bias, second_bias]| -> Result<Box<dyn RnnCell>> {
                    if mode == RnnMode::Block {
                        let bias = bias + second_bias;
                        return Ok(Box::new(LSTMBlockCell::from_libtorch(w_ih, w_hh, &bias)?));
                    }
                    let (kernel, bias) = kernel_from_libtorch(w_ih, w_hh, bias)?;
                    Ok(Box::new(BasicLSTMCell::new(&kernel, &bias, forget_bias)?))
                })
                .collect(),
            Recurrent::Cells(variables) => {
                indices.map(|k| self.cell.build(variables, &cell_scope(k), forget_bias)).collect()
            }
        }
    }
}

fn names(variables: &tf::Variables) -> String {
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PtbModel;

    /// A layer with units that are always zero trains as the layer without them: cost, norm,
    /// variables, state, in all modes.
    #[test]
    fn padding_changes_no_number() {
        let _random = crate::random_numbers(0);
        let config = Config {
            vocab_size: 57,
            hidden_size: 13,
            batch_size: 5,
            num_steps: 7,
            init_scale: 0.3,
            max_grad_norm: 1.0,
            ..Config::SMALL
        };
        let cpu = (Device::Cpu, Kind::Double);
        for mode in [RnnMode::Cudnn, RnnMode::Block, RnnMode::Basic] {
            let make = |width| {
                PtbVariables::with_width(&config, CellType::BasicLstm, cpu.0, cpu.1, 3, width)
                    .unwrap()
            };
            let (plain, padded) = (make(13), make(16));
            let run = |variables: &PtbVariables| {
                let model = PtbModel::new(variables, true, mode);
                let mut state = model.zero_state(config.batch_size);
                let mut figures = Vec::new();
                for k in 0..4 {
                    tch::manual_seed(k);
                    let words = Tensor::randint(57, [5, 8], (Kind::Int64, Device::Cpu));
                    let step = model
                        .train_step(&words.narrow(1, 0, 7), &words.narrow(1, 1, 7), &state, 1.0)
                        .unwrap();
                    figures.push([step.cost.double_value(&[]), step.global_norm.double_value(&[])]);
                    state = variables.widen_state(&variables.narrow_state(&step.state));
                }
                (figures, variables.narrow_state(&state))
            };
            let ((figures, state), (padded_figures, padded_state)) = (run(&plain), run(&padded));
            for (a, b) in figures.iter().flatten().zip(padded_figures.iter().flatten()) {
                assert!((a / b - 1.0).abs() < 1e-12, "{mode}: {a} and {b}");
            }
            let (plain, trained) =
                (plain.to_tensorflow().unwrap(), padded.to_tensorflow().unwrap());
            assert!(plain.keys().eq(trained.keys()));
            let pairs = plain.values().zip(trained.values()).chain(state.iter().zip(&padded_state));
            for (a, b) in pairs {
                assert_eq!(a.size(), b.size());
                assert!((a - b).abs().max().double_value(&[]) < 1e-12, "{mode}: {:?}", a.size());
            }
            // The units that were added are still zero.
            let beyond = padded.embedding.narrow(1, 13, 3).abs().sum(Kind::Double);
            assert_eq!(beyond.double_value(&[]), 0.0, "{mode}");
        }
    }
}
