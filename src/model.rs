//! The original's `PTBModel`: the variables, and the graph over them.
//!
//! As in the original there is one set of variables ([`PtbVariables`]) and several views of it ([`PtbModel`]): one that is training, with
//! dropout and gradients, and one that is not, for validation and test.

use anyhow::{Context, Result, bail, ensure};
use tch::nn::RNN;
use tch::{Device, Kind, Tensor, nn};

use crate::config::{Config, RnnMode};
use crate::loss::SoftmaxLayer;
use crate::optimizer::{self, Gradient};
use crate::rnn::{
    BasicLSTMCell, CellType, LSTMBlockCell, RnnCell, State, dropout_mask, kernel_from_libtorch,
    kernel_to_libtorch,
};
use crate::tf;

/// The forget gate's bias in the original: its gates start half open.
pub const FORGET_BIAS: f64 = 0.0;

const EMBEDDING: &str = "Model/embedding";
const SOFTMAX_W: &str = "Model/softmax_w";
const SOFTMAX_B: &str = "Model/softmax_b";

/// The scope of layer `k`'s cell in TensorFlow's names.
fn cell_scope(k: usize) -> String {
    format!("Model/RNN/multi_rnn_cell/cell_{k}")
}

/// One layer's variables as libtorch wants them, and `nn::lstm` over them.
struct LstmLayer {
    lstm: nn::LSTM,
    /// `[4*hidden, in]`, `[4*hidden, hidden]`, `[4*hidden]`, gates in libtorch's order. Recurrent and input bias are one in the original: the
    /// second of libtorch's two biases stays zero and is not trained, since under SGD it would double the bias's step.
    weights: [Tensor; 3],
}

/// The recurrent part's variables.
enum Recurrent {
    /// `basic_lstm`: kept in libtorch's layout, mapped to TensorFlow's where variables go in or out.
    Lstm(Vec<LstmLayer>),
    /// Other cells: kept under TensorFlow's names in TensorFlow's layout.
    Cells(tf::Variables),
}

/// All variables of the model, shared by its views.
pub struct PtbVariables {
    config: Config,
    cell: CellType,
    device: Device,
    kind: Kind,
    embedding: Tensor,
    recurrent: Recurrent,
    softmax_w: Tensor,
    softmax_b: Tensor,
}

impl PtbVariables {
    /// New variables: uniform in `[-init_scale, init_scale]`, the cells' biases zero; a function of `seed`.
    /// `kind` is `Float` to train, `Double` to compare.
    pub fn new(config: &Config, cell: CellType, device: Device, kind: Kind, seed: i64) -> Result<Self> {
        config.validate()?;
        tch::manual_seed(seed);
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let mut store = nn::VarStore::new(device);
        store.set_kind(kind);
        let root = store.root() / "Model";
        let var = |name: &str, size: &[i64], init| {
            root.f_var(name, size, init).with_context(|| format!("Model/{name} of shape {size:?}"))
        };
        let embedding = var("embedding", &[vocab, hidden], uniform)?;
        let recurrent = match cell {
            CellType::BasicLstm => {
                let layer = |k| Self::lstm_layer(&store, &root / format!("cell_{k}"), config);
                Recurrent::Lstm((0..config.num_layers).map(layer).collect::<Result<_>>()?)
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
        Ok(PtbVariables { config: *config, cell, device, kind, embedding, recurrent, softmax_w, softmax_b })
    }

    fn lstm_layer(store: &nn::VarStore, path: nn::Path, config: &Config) -> Result<LstmLayer> {
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let options = nn::RNNConfig { w_ih_init: uniform, w_hh_init: uniform, ..Default::default() };
        let lstm = nn::lstm(&path, config.hidden_size, config.hidden_size, options);
        let variables = store.variables();
        let get = |name: &str| {
            let full = path.path(&format!("{name}_l0"));
            variables
                .get(&full)
                .map(Tensor::shallow_clone)
                .with_context(|| format!("nn::lstm made no variable {full}"))
        };
        let _ = get("bias_hh")?.set_requires_grad(false);
        Ok(LstmLayer { lstm, weights: [get("weight_ih")?, get("weight_hh")?, get("bias_ih")?] })
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
            Recurrent::Lstm(layers) => layers.iter().flat_map(|layer| &layer.weights).collect(),
            Recurrent::Cells(variables) => variables.values().collect(),
        };
        [vec![&self.embedding], recurrent, vec![&self.softmax_w, &self.softmax_b]].concat()
    }

    /// Tensors in the order of [`Self::trainable`] under TensorFlow's names, in TensorFlow's layout, on the CPU: the variables themselves
    /// or their gradients.
    fn named(&self, tensors: &[&Tensor]) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let mut put = |name: String, tensor: &Tensor| {
            named.insert(name, tensor.detach().to_device(Device::Cpu).contiguous());
        };
        let (recurrent, softmax) = tensors[1..].split_at(tensors.len() - 3);
        put(EMBEDDING.into(), tensors[0]);
        match &self.recurrent {
            Recurrent::Lstm(_) => {
                for (k, weights) in recurrent.chunks_exact(3).enumerate() {
                    let (kernel, bias) = kernel_from_libtorch(weights[0], weights[1], weights[2])?;
                    put(format!("{}/basic_lstm_cell/kernel", cell_scope(k)), &kernel);
                    put(format!("{}/basic_lstm_cell/bias", cell_scope(k)), &bias);
                }
            }
            Recurrent::Cells(variables) => {
                for (name, tensor) in variables.keys().zip(recurrent) {
                    put(name.clone(), tensor);
                }
            }
        }
        put(SOFTMAX_W.into(), softmax[0]);
        put(SOFTMAX_B.into(), softmax[1]);
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

    /// Sets all variables from ones under TensorFlow's names; others in `given` are ignored.
    ///
    /// # Errors
    /// A missing variable or a wrong shape: named, with both shapes. Nothing is changed then.
    pub fn assign(&self, given: &tf::Variables) -> Result<()> {
        tch::no_grad(|| {
            let mut checked = tf::Variables::new();
            for (name, own) in self.named(&self.trainable())? {
                // A plain LSTMCell's variables go by the same names as block mode's, which are read as BasicLSTMCell's.
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
                checked.insert(name, tensor.to_kind(self.kind));
            }
            let copy = |variable: &Tensor, value: &Tensor| variable.shallow_clone().copy_(value);
            copy(&self.embedding, &checked[EMBEDDING]);
            copy(&self.softmax_w, &checked[SOFTMAX_W]);
            copy(&self.softmax_b, &checked[SOFTMAX_B]);
            match &self.recurrent {
                Recurrent::Lstm(layers) => {
                    for (k, layer) in layers.iter().enumerate() {
                        let get = |name| &checked[&format!("{}/basic_lstm_cell/{name}", cell_scope(k))];
                        let (w_ih, w_hh, bias) =
                            kernel_to_libtorch(get("kernel"), get("bias"), self.config.hidden_size)?;
                        for (variable, value) in layer.weights.iter().zip([w_ih, w_hh, bias]) {
                            copy(variable, &value);
                        }
                    }
                }
                Recurrent::Cells(variables) => {
                    for (name, variable) in variables {
                        copy(variable, &checked[name]);
                    }
                }
            }
            Ok(())
        })
    }

    /// The cells over these variables, one per layer, for a mode that is unrolled over time.
    fn cells(&self, mode: RnnMode) -> Result<Vec<Box<dyn RnnCell>>> {
        let layers = 0..self.config.num_layers as usize;
        match &self.recurrent {
            Recurrent::Lstm(layers) => layers
                .iter()
                .map(|LstmLayer { weights: [w_ih, w_hh, bias], .. }| -> Result<Box<dyn RnnCell>> {
                    if mode == RnnMode::Block {
                        return Ok(Box::new(LSTMBlockCell::from_libtorch(w_ih, w_hh, bias)?));
                    }
                    let (kernel, bias) = kernel_from_libtorch(w_ih, w_hh, bias)?;
                    Ok(Box::new(BasicLSTMCell::new(&kernel, &bias, FORGET_BIAS)?))
                })
                .collect(),
            Recurrent::Cells(variables) => {
                layers.map(|k| self.cell.build(variables, &cell_scope(k), FORGET_BIAS)).collect()
            }
        }
    }
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
}

/// What a training step tells: scalars on the model's device, not yet read.
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
        PtbModel { variables, is_training, rnn_mode }
    }

    /// The state before the first word: zeros; per layer c, then h, each `[batch_size, hidden]`.
    pub fn zero_state(&self, batch_size: i64) -> State {
        let v = self.variables;
        let per_layer = if matches!(v.cell, CellType::BasicLstm | CellType::Lstm) { 2 } else { 1 };
        let zeros = || Tensor::zeros([batch_size, v.config.hidden_size], (v.kind, v.device));
        (0..per_layer * v.config.num_layers).map(|_| zeros()).collect()
    }

    /// The dropout masks of one step, drawn in this order: on the embedded input, then after every layer; none if the view is not
    /// training or `keep_prob` is 1. Each is `[batch, steps, hidden]`, 0 or `1 / keep_prob`.
    pub fn dropout_masks(&self, batch: i64, steps: i64) -> Result<Vec<Tensor>> {
        let v = self.variables;
        if !self.is_training || v.config.keep_prob == 1.0 {
            return Ok(Vec::new());
        }
        let size = [batch, steps, v.config.hidden_size];
        (0..=v.config.num_layers).map(|_| dropout_mask(&size, v.config.keep_prob, v.kind, v.device)).collect()
    }

    /// The recurrent part: embedded words `[batch, steps, hidden]` and an initial state to the outputs
    /// `[batch * steps, hidden]`, in batch-major order, and the final state.
    ///
    /// `masks` are the L+1 of [`Self::dropout_masks`], or none. Information meets dropout L+1 times on its way up and never on the
    /// recurrent path.
    pub fn outputs(&self, inputs: &Tensor, state: &[Tensor], masks: &[Tensor]) -> Result<(Tensor, State)> {
        let v = self.variables;
        let drop = |x: Tensor, place: usize| match masks.get(place) {
            Some(mask) => x * mask,
            None => x,
        };
        let mut x = drop(inputs.shallow_clone(), 0);
        let mut final_state = State::with_capacity(state.len());
        match (&v.recurrent, self.rnn_mode) {
            (Recurrent::Lstm(layers), RnnMode::Cudnn) => {
                // Layer by layer, so that the dropout between layers is the same in all modes.
                for (k, layer) in layers.iter().enumerate() {
                    let at = |i: usize| state[2 * k + i].unsqueeze(0);
                    let (output, last) = layer.lstm.seq_init(&x, &nn::LSTMState((at(1), at(0))));
                    x = drop(output, k + 1);
                    final_state.extend([last.c().squeeze_dim(0), last.h().squeeze_dim(0)]);
                }
            }
            _ => {
                let cells = v.cells(self.rnn_mode)?;
                let per_layer = state.len() / cells.len();
                let mut states: Vec<State> =
                    state.chunks(per_layer).map(|s| s.iter().map(Tensor::shallow_clone).collect()).collect();
                let mut outputs = Vec::new();
                for time_step in 0..inputs.size()[1] {
                    let mut cell_output = x.select(1, time_step);
                    for (k, cell) in cells.iter().enumerate() {
                        (cell_output, states[k]) = cell.call(&cell_output, &states[k])?;
                        if let Some(mask) = masks.get(k + 1) {
                            cell_output = cell_output * mask.select(1, time_step);
                        }
                    }
                    outputs.push(cell_output);
                }
                x = Tensor::stack(&outputs, 1);
                final_state = states.into_iter().flatten().collect();
            }
        }
        Ok((x.reshape([-1, v.config.hidden_size]), final_state))
    }

    /// `tf.nn.embedding_lookup`: ids `[batch, steps]` -> rows `[batch, steps, hidden]`.
    fn lookup(&self, ids: &Tensor) -> Tensor {
        let size = ids.size();
        self.variables.embedding.index_select(0, &ids.flatten(0, -1)).view([size[0], size[1], -1])
    }

    fn softmax(&self) -> SoftmaxLayer<'_> {
        SoftmaxLayer { w: &self.variables.softmax_w, b: &self.variables.softmax_b }
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

    /// Cost of a batch, the gradient of every trainable variable, and the final state, with the masks given.
    ///
    /// The looked-up rows are the leaf that is differentiated, not the table: that is TensorFlow's `IndexedSlices`.
    pub fn gradients(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, Vec<Gradient>, State)> {
        let v = self.variables;
        let rows = tch::no_grad(|| self.lookup(x)).set_requires_grad(true);
        let (output, state) = self.outputs(&rows, state, masks)?;
        let softmax = self.softmax().cost_and_gradients(&output, &y.flatten(0, -1), x.size()[0]);
        let trainable = v.trainable();
        let leaves = [&[&rows], &trainable[1..trainable.len() - 2]].concat();
        // tch starts a backward pass from a scalar: this one's gradient with respect to `output` is the softmax layer's.
        let mut below =
            Tensor::f_run_backward(&[(output * softmax.output).sum(v.kind)], &leaves, false, false)?;
        let recurrent = below.split_off(1);
        let embedding = Gradient::IndexedSlices {
            values: below.remove(0).reshape([-1, v.config.hidden_size]),
            indices: x.flatten(0, -1),
        };
        let dense = recurrent.into_iter().chain([softmax.w, softmax.b]).map(Gradient::Dense);
        let gradients = std::iter::once(embedding).chain(dense).collect();
        Ok((softmax.cost, gradients, state.iter().map(Tensor::detach).collect()))
    }

    /// The original's `train_op`: gradients, clipping by global norm, one step of gradient descent.
    pub fn train_step(&self, x: &Tensor, y: &Tensor, state: &[Tensor], learning_rate: f64) -> Result<Step> {
        let size = x.size();
        let masks = self.dropout_masks(size[0], size[1])?;
        let (cost, gradients, state) = self.gradients(x, y, state, &masks)?;
        let global_norm = optimizer::global_norm(&gradients);
        let scale = optimizer::clip_scale(&global_norm, self.variables.config.max_grad_norm);
        optimizer::apply_gradients(&self.variables.trainable(), &gradients, &scale, learning_rate);
        Ok(Step { cost, global_norm, state })
    }
}
