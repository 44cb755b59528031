//! The original's `PTBModel`: the variables, and the graph over them.
//!
//! As in the original there is one set of variables ([`PtbVariables`]) and several views of it ([`PtbModel`]): one that is training, with
//! dropout and gradients, and one that is not, for validation and test.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, nn};

use crate::config::{Config, Precision, RnnMode};
use crate::loss::{SoftmaxLayer, SoftmaxScorer, product};
use crate::lstm;
use crate::optimizer::{self, Adam, Gradient, Optimizer, OptimizerType};
use crate::rnn::{
    BasicLSTMCell, CellType, DropoutWrapper, LSTMBlockCell, MultiRNNCell, RnnCell, State, dropout_mask,
    dynamic_rnn, kernel_from_libtorch, kernel_to_libtorch, masks_in_order,
};
use crate::team::{Solo, Team};
use crate::tf;

const EMBEDDING: &str = "Model/embedding";
const SOFTMAX_W: &str = "Model/softmax_w";
const SOFTMAX_B: &str = "Model/softmax_b";
/// What `tf.train.AdamOptimizer` adds to a variable's name for its slots m and v.
const ADAM_M: &str = "/Adam";
const ADAM_V: &str = "/Adam_1";
const ADAM_POWERS: [&str; 2] = ["beta1_power", "beta2_power"];

/// The scope of layer `k`'s cell in TensorFlow's names.
fn cell_scope(k: usize) -> String {
    format!("Model/RNN/multi_rnn_cell/cell_{k}")
}

/// A layer's variables as libtorch wants them: `[4*hidden, in]`, `[4*hidden, hidden]`, `[4*hidden]`, `[4*hidden]`, gates in libtorch's order.
///
/// Recurrent and input bias are one in the original, so the second of libtorch's two biases is not trained: under SGD it would double
/// the bias's step. It holds what TensorFlow adds to the gates besides, `forget_bias`, which is 0 in the original.
type LstmWeights = [Tensor; 4];

/// `nn::lstm`'s variables of the layers that are run in one call of libtorch's LSTM: all layers, or a single one where dropout stands
/// between them.
struct LstmStack {
    layers: Vec<LstmWeights>,
    /// On a GPU the one buffer that the layers' variables are views of: cuDNN wants them side by side.
    flat: Option<Tensor>,
}

impl LstmStack {
    /// The weights in another precision, as leaves to differentiate; side by side like these.
    fn narrowed(&self, kind: Kind) -> LstmStack {
        tch::no_grad(|| {
            let flat = self.flat.as_ref().map(|flat| flat.to_kind(kind));
            let narrow = |t: &Tensor| match (&self.flat, &flat) {
                (Some(wide), Some(narrow)) => {
                    let offset = (t.data_ptr() as usize - wide.data_ptr() as usize) / size_of::<f32>();
                    narrow.narrow(0, offset as i64, t.numel() as i64).view(t.size().as_slice())
                }
                _ => t.to_kind(kind),
            };
            let leaf = |t: &Tensor| narrow(t).detach().set_requires_grad(t.requires_grad());
            LstmStack { layers: self.layers.iter().map(|layer| layer.each_ref().map(leaf)).collect(), flat }
        })
    }
}

/// Factor that keeps the LSTM's small float16 gradients above that type's least number (6e-8); they are divided by it again in float32.
///
/// The gradient with respect to an output is about `softmax_w / batch_size`, 2e-3 in the published models, and shrinks on its way back
/// through time; float16's normal numbers begin at 6e-5. At the other end there is room too: a bias's gradient is a sum over 700 rows
/// (medium's and large's batches) of such numbers, far below float16's 65,504 / 256. A constant needs no state, so a resumed run is
/// the uninterrupted one.
const FP16_LOSS_SCALE: f64 = 256.0;

/// The recurrent part's variables.
enum Recurrent {
    /// `basic_lstm`: kept in libtorch's layout, mapped to TensorFlow's where variables go in or out.
    Lstm(Vec<LstmStack>),
    /// Other cells: kept under TensorFlow's names in TensorFlow's layout.
    Cells(tf::Variables),
}

/// All variables of the model, shared by its views.
pub struct PtbVariables {
    config: Config,
    cell: CellType,
    device: Device,
    kind: Kind,
    /// Units that a layer is computed with: `hidden_size`, or a few more that are always zero ([`padded_width`]).
    width: i64,
    embedding: Tensor,
    recurrent: Recurrent,
    softmax_w: Tensor,
    softmax_b: Tensor,
    optimizer: Optimizer,
}

/// Units that a layer is computed with.
///
/// On a GPU, rows of 650 or 1500 numbers are not aligned to the 16 bytes that tensor cores load at once, and the kernels that remain are
/// up to twice as slow (docs/performance.md). So wide LSTM layers get a few units more, to a multiple of 8. Their weights and biases are
/// zero; then their state, their output and all their gradients are zero too, and they stay so: the other units compute what they would
/// compute alone.
fn padded_width(config: &Config, cell: CellType, device: Device) -> i64 {
    let wide = cell == CellType::BasicLstm && config.hidden_size > 256;
    if wide && device.is_cuda() { (config.hidden_size + 7) / 8 * 8 } else { config.hidden_size }
}

/// The tensor with its blocks of `from` units along some dimensions cut or filled up with zeros to `to` units. `blocks` says how many such
/// blocks stand side by side along each dimension; 0 for a dimension that does not count units.
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
            Tensor::cat(&[&block, &Tensor::zeros(zeros, (block.kind(), block.device()))], dim as i64)
        };
        let resized: Vec<Tensor> = tensor.chunk(blocks, dim as i64).into_iter().map(resized).collect();
        tensor = Tensor::cat(&resized, dim as i64);
    }
    tensor
}

/// Blocks of units along each dimension of the model's variables, in TensorFlow's layout, and of its state.
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
    /// New variables: uniform in `[-init_scale, init_scale]`, the cells' biases zero; a function of `seed`.
    /// `kind` is `Float` to train, `Double` to compare.
    pub fn new(config: &Config, cell: CellType, device: Device, kind: Kind, seed: i64) -> Result<Self> {
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
            .with_context(|| format!("no memory for layers of hidden_size {hidden}"))?;
        let embedding = var("embedding", &[vocab, hidden], uniform)?;
        let recurrent = match cell {
            CellType::BasicLstm => {
                // One call for all layers lets cuDNN work on several at once. Dropout between them has to come from here: the same
                // in all modes, and a function of seed and step.
                let (stacks, layers) =
                    if config.keep_prob < 1.0 { (config.num_layers, 1) } else { (1, config.num_layers) };
                let stack = |k| Self::lstm_stack(&store, &root / format!("cell_{k}"), config, layers, width);
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

    fn lstm_stack(
        store: &nn::VarStore,
        path: nn::Path,
        config: &Config,
        num_layers: i64,
        hidden: i64,
    ) -> Result<LstmStack> {
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let options =
            nn::RNNConfig { w_ih_init: uniform, w_hh_init: uniform, num_layers, ..Default::default() };
        nn::lstm(&path, hidden, hidden, options);
        let variables = store.variables();
        let get = |name: &str, k: i64| {
            let full = path.path(&format!("{name}_l{k}"));
            variables
                .get(&full)
                .map(Tensor::shallow_clone)
                .with_context(|| format!("nn::lstm made no variable {full}"))
        };
        let layer = |k| -> Result<LstmWeights> {
            let second_bias = get("bias_hh", k)?.set_requires_grad(false);
            // (libtorch's gates: i, f, g, o)
            let _ = second_bias.narrow(0, hidden, hidden).fill_(config.forget_bias);
            Ok([get("weight_ih", k)?, get("weight_hh", k)?, get("bias_ih", k)?, second_bias])
        };
        let layers = (0..num_layers).map(layer).collect::<Result<Vec<_>>>()?;
        // nn::lstm has laid them side by side for cuDNN; once more, to get hold of the buffer. They stay there: values are copied in.
        let flat = (path.device().is_cuda() && tch::Cuda::cudnn_is_available())
            .then(|| {
                let all: Vec<&Tensor> = layers.iter().flatten().collect();
                tch::no_grad(|| {
                    // (4 tensors a layer, mode 2: LSTM, no projection, batch first, one direction)
                    Tensor::f_internal_cudnn_rnn_flatten_weight(
                        &all, 4, hidden, 2, hidden, 0, num_layers, true, false,
                    )
                })
            })
            .transpose()?;
        Ok(LstmStack { layers, flat })
    }

    /// The configuration that the variables were made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the variables are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The trainable variables, in the order of the model's gradients.
    pub fn trainable(&self) -> Vec<&Tensor> {
        let recurrent: Vec<&Tensor> = match &self.recurrent {
            Recurrent::Lstm(stacks) => layers(stacks).flat_map(|layer| &layer[..3]).collect(),
            Recurrent::Cells(variables) => variables.values().collect(),
        };
        [vec![&self.embedding], recurrent, vec![&self.softmax_w, &self.softmax_b]].concat()
    }

    /// Tensors in the order of [`Self::trainable`] under TensorFlow's names, in TensorFlow's layout, on the CPU: the variables themselves
    /// or their gradients.
    fn named(&self, tensors: &[&Tensor]) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let mut put = |name: String, tensor: &Tensor, blocks: &[i64]| {
            let tensor = resize(&tensor.detach(), blocks, self.width, self.config.hidden_size);
            // A copy: what is handed out must not change as training goes on.
            named.insert(name, tensor.to_device(Device::Cpu).contiguous().copy());
        };
        let (recurrent, softmax) = tensors[1..].split_at(tensors.len() - 3);
        put(EMBEDDING.into(), tensors[0], &blocks::EMBEDDING);
        match &self.recurrent {
            Recurrent::Lstm(_) => {
                for (k, weights) in recurrent.chunks_exact(3).enumerate() {
                    let (kernel, bias) = kernel_from_libtorch(weights[0], weights[1], weights[2])?;
                    put(format!("{}/basic_lstm_cell/kernel", cell_scope(k)), &kernel, &blocks::KERNEL);
                    put(format!("{}/basic_lstm_cell/bias", cell_scope(k)), &bias, &blocks::BIAS);
                }
            }
            Recurrent::Cells(variables) => {
                for (name, tensor) in variables.keys().zip(recurrent) {
                    put(name.clone(), tensor, &[]);
                }
            }
        }
        put(SOFTMAX_W.into(), softmax[0], &blocks::SOFTMAX_W);
        put(SOFTMAX_B.into(), softmax[1], &[]);
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

    /// The optimizer's slots under the names that TensorFlow's optimizer adds to their variables', on the CPU; none for plain
    /// gradient descent.
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

    /// Sets the optimizer's slots from ones under TensorFlow's names. Returns false, and changes nothing, if there are none among
    /// `given`.
    ///
    /// # Errors
    /// Some of them are missing, or have a wrong shape.
    pub fn assign_slots(&self, given: &tf::Variables) -> Result<bool> {
        let Optimizer::Adam(Adam { m, v, powers }) = &self.optimizer else { return Ok(true) };
        if !given.contains_key(ADAM_POWERS[0]) {
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
            ensure!(value.numel() == 1, "variable {name} has shape {:?}; it is a scalar", value.size());
            tch::no_grad(|| power.shallow_clone().f_copy_(&value.f_view([0i64; 0])?))?;
        }
        Ok(true)
    }

    /// Sets all variables from ones under TensorFlow's names; others in `given` are ignored.
    ///
    /// # Errors
    /// A missing variable, a wrong shape (named, with both shapes), values that are NaN or infinite.
    /// Nothing is changed then.
    pub fn assign(&self, given: &tf::Variables) -> Result<()> {
        self.assign_to(&self.trainable(), given)
    }

    /// Copies tensors under TensorFlow's names to `targets`, which are in the order of [`Self::trainable`].
    fn assign_to(&self, targets: &[&Tensor], given: &tf::Variables) -> Result<()> {
        tch::no_grad(|| {
            let mut checked = tf::Variables::new();
            for (name, own) in self.named(targets)? {
                // A plain LSTMCell's variables have the same names as block mode's, which are read as BasicLSTMCell's.
                let also = name.replace("/lstm_cell/", "/basic_lstm_cell/");
                let Some(tensor) = given.get(&name).or_else(|| given.get(&also)) else {
                    bail!("variable {name} (shape {:?}) is missing; there are: {}", own.size(), names(given));
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
            values.extend([widened(SOFTMAX_W, &blocks::SOFTMAX_W), checked[SOFTMAX_B].shallow_clone()]);
            for (target, value) in targets.iter().zip(values) {
                target.shallow_clone().copy_(&value);
            }
            Ok(())
        })
    }

    /// A state `[batch, hidden_size]` per tensor, as checkpoints have it, in the width that this model computes with, on its device.
    pub(crate) fn widen_state(&self, state: &[Tensor]) -> State {
        let wide = |t: &Tensor| {
            resize(&t.to_device(self.device), &blocks::STATE, self.config.hidden_size, self.width)
        };
        state.iter().map(wide).collect()
    }

    /// The inverse of [`Self::widen_state`], on the same device.
    pub(crate) fn narrow_state(&self, state: &[Tensor]) -> State {
        state.iter().map(|t| resize(t, &blocks::STATE, self.width, self.config.hidden_size)).collect()
    }

    /// The cells over these variables, one per layer, for a mode that is unrolled over time.
    fn cells(&self, mode: RnnMode) -> Result<Vec<Box<dyn RnnCell>>> {
        let indices = 0..self.config.num_layers as usize;
        let forget_bias = self.config.forget_bias;
        match &self.recurrent {
            Recurrent::Lstm(stacks) => layers(stacks)
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

/// libtorch's LSTM through some layers: `x [batch, steps, in]`, `state` c and h of each layer. In the weights' type; the states come back
/// in theirs.
fn lstm(x: &Tensor, state: &[Tensor], weights: &[LstmWeights]) -> Result<(Tensor, State)> {
    let kind = weights[0][0].kind();
    // [layers, batch, hidden]; a view where it is one layer.
    let of_all = |which: usize| {
        let each: Vec<&Tensor> = state.iter().skip(which).step_by(2).collect();
        let all = if let [one] = each[..] { one.unsqueeze(0) } else { Tensor::stack(&each, 0) };
        all.to_kind(kind)
    };
    let (c, h) = (of_all(0), of_all(1));
    let params: Vec<&Tensor> = weights.iter().flatten().collect();
    // (with biases, no dropout of its own, training or not is then the same, one direction, batch first)
    let train = params.iter().any(|w| w.requires_grad());
    let (output, h, c) =
        x.to_kind(kind).f_lstm(&[&h, &c], &params, true, weights.len() as i64, 0.0, train, false, true)?;
    let last = |all: &Tensor, k: usize| all.get(k as i64).to_kind(state[0].kind());
    let last = (0..weights.len()).flat_map(|k| [last(&c, k), last(&h, k)]).collect();
    Ok((output, last))
}

fn layers(stacks: &[LstmStack]) -> impl Iterator<Item = &LstmWeights> {
    stacks.iter().flat_map(|stack| &stack.layers)
}

/// `tf.nn.embedding_lookup`: ids `[batch, steps]` -> rows `[batch, steps, hidden]`.
fn lookup(embedding: &Tensor, ids: &Tensor) -> Tensor {
    let size = ids.size();
    embedding.index_select(0, &ids.flatten(0, -1)).view([size[0], size[1], -1])
}

fn names(variables: &tf::Variables) -> String {
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A view of the variables: the graph that the original builds once per split.
pub struct PtbModel<'a> {
    variables: &'a PtbVariables,
    is_training: bool,
    rnn_mode: RnnMode,
    precision: Precision,
    team: &'a dyn Team,
}

/// Result of a training step: scalars on the model's device, not yet read.
pub struct Step {
    /// Total cross entropy of the batch divided by its size, in nats: the original's `cost`.
    pub cost: Tensor,
    /// TensorFlow's global norm before clipping.
    pub global_norm: Tensor,
    /// The final state, detached: the next step's initial state.
    pub state: State,
}

impl<'a> PtbModel<'a> {
    /// A view that is training (dropout, gradients) or not.
    pub fn new(variables: &'a PtbVariables, is_training: bool, rnn_mode: RnnMode) -> Self {
        PtbModel { variables, is_training, rnn_mode, precision: Precision::Fp32, team: &Solo }
    }

    /// The configuration of its variables.
    pub fn config(&self) -> &Config {
        &self.variables.config
    }

    /// Where its variables are.
    pub fn device(&self) -> Device {
        self.variables.device
    }

    /// The same view with its softmax layer's products, most of the model's arithmetic, in another precision.
    pub fn precision(self, precision: Precision) -> Self {
        PtbModel { precision, ..self }
    }

    /// The same view for one of a team's workers: of every batch it computes its own rows; cost and gradients are summed over all
    /// workers.
    pub fn with_team(self, team: &'a dyn Team) -> Self {
        PtbModel { team, ..self }
    }

    /// Its team.
    pub fn team(&self) -> &'a dyn Team {
        self.team
    }

    /// The state before the first word: zeros; per layer c, then h, each `[batch_size, hidden]`.
    pub fn zero_state(&self, batch_size: i64) -> State {
        let v = self.variables;
        let per_layer = if matches!(v.cell, CellType::BasicLstm | CellType::Lstm) { 2 } else { 1 };
        let zeros = || Tensor::zeros([batch_size, v.width], (v.kind, v.device));
        (0..per_layer * v.config.num_layers).map(|_| zeros()).collect()
    }

    /// The dropout masks of one step, drawn in this order: on the embedded input, then after every layer; none if the view is not
    /// training or `keep_prob` is 1. Each is `[batch, steps, hidden]`, 0 or `1 / keep_prob`.
    pub fn dropout_masks(&self, batch: i64, steps: i64) -> Result<Vec<Tensor>> {
        let v = self.variables;
        if !self.is_training || v.config.keep_prob == 1.0 {
            return Ok(Vec::new());
        }
        let size = [batch, steps, v.width];
        (0..=v.config.num_layers).map(|_| dropout_mask(&size, v.config.keep_prob, v.kind, v.device)).collect()
    }

    /// The recurrent part: embedded words `[batch, steps, hidden]` and an initial state to the outputs
    /// `[batch * steps, hidden]`, in batch-major order, and the final state.
    ///
    /// `masks` are the L+1 of [`Self::dropout_masks`], or none. Information meets dropout L+1 times on its way up and never on the
    /// recurrent path.
    pub fn outputs(&self, inputs: &Tensor, state: &[Tensor], masks: &[Tensor]) -> Result<(Tensor, State)> {
        self.outputs_of(self.narrowed().as_deref(), inputs, state, masks)
    }

    /// The type that the recurrent layers run in where it is not the variables' own: half width, in cuDNN.
    fn narrow_kind(&self) -> Option<Kind> {
        let kind = match self.precision {
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => Kind::Half,
            Precision::Fp32 | Precision::Tf32Cudnn | Precision::Tf32 => return None,
        };
        let v = self.variables;
        // (float16 on the CPU too: slow, but it shows that the numbers are right. The command line does not offer it.)
        let here = v.device.is_cuda() || kind == Kind::Half;
        (here && v.kind == Kind::Float && self.rnn_mode == RnnMode::Cudnn).then_some(kind)
    }

    /// Copies of the LSTM's weights in that type, made anew for every step: what is trained are the float32 ones.
    fn narrowed(&self) -> Option<Vec<LstmStack>> {
        let (Recurrent::Lstm(stacks), Some(kind)) = (&self.variables.recurrent, self.narrow_kind()) else {
            return None;
        };
        Some(stacks.iter().map(|stack| stack.narrowed(kind)).collect())
    }

    fn outputs_of(
        &self,
        narrowed: Option<&[LstmStack]>,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        let v = self.variables;
        let drop = |x: Tensor, place: usize| match masks.get(place) {
            Some(mask) => x * mask,
            None => x,
        };
        let mut x = drop(inputs.shallow_clone(), 0);
        let mut final_state = State::with_capacity(state.len());
        match (&v.recurrent, self.rnn_mode) {
            (Recurrent::Lstm(stacks), RnnMode::Cudnn) => {
                let mut done = 0;
                for stack in narrowed.unwrap_or(stacks) {
                    // Masks (float32, so exact) stand between layers, so with them it is layer by layer in any case.
                    let calls = if masks.is_empty() { 1 } else { stack.layers.len() };
                    for weights in stack.layers.chunks(stack.layers.len() / calls) {
                        let last;
                        (x, last) = lstm(&x, &state[2 * done..2 * (done + weights.len())], weights)?;
                        done += weights.len();
                        x = drop(x, done);
                        final_state.extend(last);
                    }
                }
                x = x.to_kind(v.kind);
            }
            _ => {
                // The walkthrough's way: wrap every cell in its dropout, stack the cells, unroll the stack over time.
                let cells =
                    v.cells(self.rnn_mode)?.into_iter().enumerate().map(|(k, cell)| match masks.get(k + 1) {
                        Some(mask) => {
                            let per_step = masks_in_order(mask.unbind(1));
                            Box::new(DropoutWrapper::with_masks(cell, None, Some(per_step)))
                                as Box<dyn RnnCell>
                        }
                        None => cell,
                    });
                let stack = MultiRNNCell::new(cells.collect(), true)?;
                (x, final_state) = dynamic_rnn(&stack, &x, None, Some(state), false)?;
            }
        }
        Ok((x.reshape([-1, v.width]), final_state))
    }

    fn lookup(&self, ids: &Tensor) -> Tensor {
        lookup(&self.variables.embedding, ids)
    }

    fn softmax(&self) -> SoftmaxLayer<'_> {
        SoftmaxLayer { w: &self.variables.softmax_w, b: &self.variables.softmax_b, precision: self.precision }
    }

    /// Cost of a batch by its plain definition, differentiable with respect to all variables: the specification that
    /// [`Self::gradients`] is tested against.
    pub fn cost(&self, x: &Tensor, y: &Tensor, state: &[Tensor], masks: &[Tensor]) -> Result<Tensor> {
        let (output, _) = self.outputs(&self.lookup(x), state, masks)?;
        self.softmax().cost(&output, &y.flatten(0, -1), x.size()[0])
    }

    /// Cost of a batch and the final state, without gradients. `x` and `y` are ids `[batch, steps]`, int64.
    pub fn evaluate(&self, x: &Tensor, y: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let size = x.size();
            let masks = self.dropout_masks(size[0], size[1])?;
            let (output, state) = self.outputs(&self.lookup(x), state, &masks)?;
            Ok((self.softmax().evaluate(&output, &y.flatten(0, -1), size[0])?, state))
        })
    }

    /// The logits of the word after each of the words `x`, ids `[batch, steps]`, int64: `[batch * steps, vocab]` in batch-major order, and
    /// the final state; without dropout and gradients.
    pub fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let x = x.f_to_device(self.variables.device)?;
            let (output, state) = self.outputs(&self.lookup(&x), state, &[])?;
            Ok((self.softmax().logits(&output), state))
        })
    }

    /// What reads `words` words of text faster than [`Self::evaluate`], if this model is of the kind that has one: LSTM layers, float32 variables, on
    /// the CPU, without dropout.
    pub(crate) fn text_reader(&self, words: i64) -> Option<TextReader> {
        let v = self.variables;
        let dropout = self.is_training && v.config.keep_prob < 1.0;
        let Recurrent::Lstm(stacks) = &v.recurrent else { return None };
        if self.rnn_mode != RnnMode::Cudnn || dropout {
            return None;
        }
        let mut scorer = self.softmax().scorer()?;
        let embedding = v.embedding.detach();
        let layers: Vec<[Tensor; 3]> =
            layers(stacks).map(|[w_ih, w_hh, bias, _]| [w_ih, w_hh, bias].map(Tensor::detach)).collect();
        let (vocab, hidden) = (v.config.vocab_size, v.config.hidden_size);
        let pays = |width: i64| words > 2 * vocab && vocab.saturating_mul(width) <= LARGEST_TABLE;
        if pays(hidden) {
            scorer = scorer.for_much_text();
        }
        let table = pays(4 * hidden).then(|| tch::no_grad(|| product(&embedding, &layers[0][0].tr())));
        Some(TextReader { embedding, table, layers, scorer })
    }

    /// Cost of a batch, the gradient of every trainable variable, and the final state, with the masks given.
    ///
    /// The looked-up rows are the leaf that is differentiated, not the table: that is TensorFlow's `IndexedSlices`.
    ///
    /// One of several workers ([`Self::with_team`]) is given the whole batch and its masks, and the state of its own rows; cost and gradients are
    /// the whole batch's.
    pub fn gradients(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, Vec<Gradient>, State)> {
        let v = self.variables;
        ensure!(self.is_training, "this view of the model is not training: it has no gradients");
        let expected = if v.config.keep_prob < 1.0 { v.config.num_layers as usize + 1 } else { 0 };
        ensure!(masks.len() == expected, "{} dropout masks for {expected} places", masks.len());
        let masks: Vec<Tensor> = masks.iter().map(|mask| self.team.rows(mask)).collect();
        let rows = tch::no_grad(|| self.lookup(&self.team.rows(x))).set_requires_grad(true);
        let narrowed = self.narrowed();
        let (output, state) = self.outputs_of(narrowed.as_deref(), &rows, state, &masks)?;
        let mut softmax =
            self.softmax().cost_and_gradients(&output, &self.team.rows(y).flatten(0, -1), x.size()[0]);
        // The softmax layer's gradient is the largest of all and the first to be there: it travels while the layers below compute theirs.
        softmax.w = softmax.w.contiguous();
        let travelling = self.team.all_reduce(&softmax.w)?;
        let trainable = v.trainable();
        let leaves: Vec<&Tensor> = match &narrowed {
            Some(stacks) => layers(stacks).flat_map(|layer| &layer[..3]).collect(),
            None => trainable[1..trainable.len() - 2].to_vec(),
        };
        let leaves = [vec![&rows], leaves].concat();
        let loss_scale = if self.narrow_kind() == Some(Kind::Half) { FP16_LOSS_SCALE } else { 1.0 };
        let above = if loss_scale == 1.0 { softmax.output } else { softmax.output * loss_scale };
        // tch starts a backward pass from a scalar: this one's gradient with respect to `output` is the softmax layer's.
        let mut below = Tensor::f_run_backward(&[(output * above).sum(v.kind)], &leaves, false, false)?;
        for gradient in &mut below {
            *gradient = gradient.to_kind(v.kind);
            if loss_scale != 1.0 {
                let _ = gradient.g_mul_scalar_(1.0 / loss_scale);
            }
        }
        let mut recurrent = below.split_off(1);
        let values = below.remove(0).reshape([-1, v.width]);
        let rest = recurrent.iter_mut().chain([&mut softmax.b, &mut softmax.cost]).collect();
        let values = self.team.sum_gradients(travelling, rest, values)?;
        // Every worker has the whole text, so the rows' indices need not travel.
        let embedding = Gradient::IndexedSlices { values, indices: x.flatten(0, -1) };
        let dense = recurrent.into_iter().chain([softmax.w, softmax.b]).map(Gradient::Dense);
        let gradients = std::iter::once(embedding).chain(dense).collect();
        Ok((softmax.cost, gradients, state.iter().map(Tensor::detach).collect()))
    }

    /// The original's `train_op`: gradients, clipping by global norm, one step of the optimizer.
    pub fn train_step(&self, x: &Tensor, y: &Tensor, state: &[Tensor], learning_rate: f64) -> Result<Step> {
        let v = self.variables;
        self.train_op(x, y, state, &Tensor::from(learning_rate).f_to_kind(v.kind)?.f_to_device(v.device)?)
    }

    /// [`Self::train_step`] with the learning rate as the original has it: a scalar on the model's device.
    pub(crate) fn train_op(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        learning_rate: &Tensor,
    ) -> Result<Step> {
        let v = self.variables;
        let size = x.size();
        let masks = self.dropout_masks(size[0], size[1])?;
        let (cost, gradients, state) = self.gradients(x, y, state, &masks)?;
        let global_norm = optimizer::global_norm(&gradients);
        let scale = optimizer::clip_scale(&global_norm, v.config.max_grad_norm);
        v.optimizer.apply_gradients(&v.trainable(), &gradients, &scale, learning_rate);
        Ok(Step { cost, global_norm, state })
    }
}

/// The most numbers that are worth keeping a second time, in another form, to read much text with.
const LARGEST_TABLE: i64 = 1 << 24;

/// A model that reads text without gradients, its recurrent part (on one thread) and its softmax layer apart; shareable among threads.
pub(crate) struct TextReader {
    embedding: Tensor,
    /// For much text: what each word gives to the first layer's gates, `[vocab, 4 * hidden]`.
    table: Option<Tensor>,
    /// `weight_ih`, `weight_hh`, `bias_ih`
    layers: Vec<[Tensor; 3]>,
    /// The softmax layer.
    pub(crate) scorer: SoftmaxScorer,
}

impl TextReader {
    /// The same for another thread.
    pub(crate) fn share(&self) -> Self {
        let share = |layer: &[Tensor; 3]| layer.each_ref().map(Tensor::shallow_clone);
        TextReader {
            embedding: self.embedding.shallow_clone(),
            table: self.table.as_ref().map(Tensor::shallow_clone),
            layers: self.layers.iter().map(share).collect(),
            scorer: self.scorer.share(),
        }
    }

    /// The recurrent part: ids `[rows, steps]` and an initial state to the outputs `[rows, steps, hidden]` and the final state.
    pub(crate) fn outputs(&self, ids: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let mut x = None;
            let mut final_state = State::with_capacity(state.len());
            for ([w_ih, w_hh, bias], state) in self.layers.iter().zip(state.chunks(2)) {
                let gates = match (x, &self.table) {
                    (Some(below), _) => lstm::gates(&below, w_ih)?,
                    (None, Some(table)) => lookup(table, ids),
                    (None, None) => lstm::gates(&lookup(&self.embedding, ids), w_ih)?,
                };
                let (output, c, h) = lstm::layer(&gates, [w_hh, bias], &state[0], &state[1])?;
                x = Some(output);
                final_state.extend([c, h]);
            }
            Ok((x.context("a model without layers")?, final_state))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer with units that are always zero trains as the layer without them: cost, norm, variables, state, in all modes.
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
                PtbVariables::with_width(&config, CellType::BasicLstm, cpu.0, cpu.1, 3, width).unwrap()
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
            let (plain, trained) = (plain.to_tensorflow().unwrap(), padded.to_tensorflow().unwrap());
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
