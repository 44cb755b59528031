//! The original's `PTBModel`: the variables, and the graph over them.
//!
//! As in the original there is one set of variables ([`PtbVariables`]) and several views of it ([`PtbModel`]): one that is training, with
//! dropout and gradients, and one that is not, for validation and test.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, nn};

use crate::config::{Config, Precision, RnnMode};
use crate::distributed::{Pending, Workers};
use crate::loss::SoftmaxLayer;
use crate::optimizer::{self, Gradient};
use crate::rnn::{
    BasicLSTMCell, CellType, DropoutWrapper, LSTMBlockCell, MultiRNNCell, RnnCell, State, dropout_mask,
    dynamic_rnn, kernel_from_libtorch, kernel_to_libtorch, masks_in_order,
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

/// A layer's variables as libtorch wants them: `[4*hidden, in]`, `[4*hidden, hidden]`, `[4*hidden]`, `[4*hidden]`, gates in libtorch's order.
///
/// Recurrent and input bias are one in the original: the second of libtorch's two biases stays zero and is not trained, since under SGD it
/// would double the bias's step.
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

/// The factor that keeps float16's small gradients above its least number (6e-8), and by which they are divided again in float32.
///
/// A logit's gradient is `p / batch_size`: below float16's normal range (6e-5) from p = 0.001 on, and after scaling only from p = 5e-6 on.
/// It is safe at the other end: if all 700 rows of a batch (medium's and large's) stood for the same word and every output were
/// `1 / keep_prob` (at most 2.9), the sum in softmax_w's gradient would be 700 * 2.9 / 20 * 256 = 26,000 of float16's 65,504. A scale that
/// is a constant needs no state, so a resumed run is the uninterrupted one.
pub(crate) const FP16_LOSS_SCALE: f64 = 256.0;

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
        // nn::lstm has no fallible form: what is too large for the memory is found out here.
        let _ = Tensor::f_empty([4 * hidden, 2 * hidden], (kind, device))
            .with_context(|| format!("no memory for layers of --hidden-size {hidden}"))?;
        let embedding = var("embedding", &[vocab, hidden], uniform)?;
        let recurrent = match cell {
            CellType::BasicLstm => {
                // One call for all layers lets cuDNN work on several at once. Dropout between them has to come from here: the same
                // in all modes, and a function of seed and step.
                let (stacks, layers) =
                    if config.keep_prob < 1.0 { (config.num_layers, 1) } else { (1, config.num_layers) };
                let stack = |k| Self::lstm_stack(&store, &root / format!("cell_{k}"), config, layers);
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
        let made =
            PtbVariables { config: *config, cell, device, kind, embedding, recurrent, softmax_w, softmax_b };
        if device != Device::Cpu {
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
    ) -> Result<LstmStack> {
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let options =
            nn::RNNConfig { w_ih_init: uniform, w_hh_init: uniform, num_layers, ..Default::default() };
        let hidden = config.hidden_size;
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
        let mut put = |name: String, tensor: &Tensor| {
            // A copy: what is handed out must not change as training goes on.
            named.insert(name, tensor.detach().to_device(Device::Cpu).contiguous().copy());
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
                Recurrent::Lstm(stacks) => {
                    for (k, layer) in layers(stacks).enumerate() {
                        let get = |name| &checked[&format!("{}/basic_lstm_cell/{name}", cell_scope(k))];
                        let (w_ih, w_hh, bias) =
                            kernel_to_libtorch(get("kernel"), get("bias"), self.config.hidden_size)?;
                        for (variable, value) in layer.iter().zip([w_ih, w_hh, bias]) {
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
        let indices = 0..self.config.num_layers as usize;
        match &self.recurrent {
            Recurrent::Lstm(stacks) => layers(stacks)
                .map(|[w_ih, w_hh, bias, _]| -> Result<Box<dyn RnnCell>> {
                    if mode == RnnMode::Block {
                        return Ok(Box::new(LSTMBlockCell::from_libtorch(w_ih, w_hh, bias)?));
                    }
                    let (kernel, bias) = kernel_from_libtorch(w_ih, w_hh, bias)?;
                    Ok(Box::new(BasicLSTMCell::new(&kernel, &bias, FORGET_BIAS)?))
                })
                .collect(),
            Recurrent::Cells(variables) => {
                indices.map(|k| self.cell.build(variables, &cell_scope(k), FORGET_BIAS)).collect()
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
    workers: Option<&'a dyn Workers>,
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
        PtbModel { variables, is_training, rnn_mode, precision: Precision::Fp32, workers: None }
    }

    /// The configuration of its variables.
    pub fn config(&self) -> &Config {
        &self.variables.config
    }

    /// The same view with its softmax layer's products, most of the model's arithmetic, in another precision.
    pub fn precision(self, precision: Precision) -> Self {
        PtbModel { precision, ..self }
    }

    /// The same view for one of several workers: of every batch given it computes its rows, and what it tells is the sum of all workers'.
    pub fn among(self, workers: Option<&'a dyn Workers>) -> Self {
        PtbModel { workers, ..self }
    }

    /// Where its variables are.
    pub(crate) fn device(&self) -> Device {
        self.variables.device
    }

    /// The workers that it is one of, if there are several.
    pub fn workers(&self) -> Option<&'a dyn Workers> {
        self.workers
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
        self.outputs_of(self.narrowed().as_deref(), inputs, state, masks)
    }

    /// The type that the recurrent layers run in where it is not the variables' own: half width, in cuDNN.
    pub(crate) fn narrow_kind(&self) -> Option<Kind> {
        let kind = match self.precision {
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => Kind::Half,
            Precision::Fp32 | Precision::Tf32 => return None,
        };
        let v = self.variables;
        // (float16 on the CPU too: slow, but it shows that the numbers are right. The command line does not offer it.)
        let here = v.device.is_cuda() || kind == Kind::Half;
        (here && v.kind == Kind::Float && self.rnn_mode == RnnMode::Cudnn).then_some(kind)
    }

    /// The difference of two states, relative to 1 + |value|, that counts as rounding where both have
    /// read the same words for long. In a trained `small`, of 15 places of PTB's test text, it is at
    /// most 2e-6 in float32, 8e-3 in bfloat16 and 3e-3 in float16.
    pub(crate) fn state_rounding(&self) -> f64 {
        match (self.narrow_kind(), self.precision) {
            (Some(Kind::BFloat16), _) => 3e-2,
            // (TF32's products read as many bits as float16's.)
            (Some(_), _) | (None, Precision::Tf32) => 1e-2,
            (None, _) => 1e-5,
        }
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
        Ok((x.reshape([-1, v.config.hidden_size]), final_state))
    }

    /// `tf.nn.embedding_lookup`: ids `[batch, steps]` -> rows `[batch, steps, hidden]`.
    fn lookup(&self, ids: &Tensor) -> Tensor {
        let size = ids.size();
        self.variables.embedding.index_select(0, &ids.flatten(0, -1)).view([size[0], size[1], -1])
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
            let costs = self.costs(&output, &y.flatten(0, -1))?;
            Ok((costs.sum(Kind::Double) / size[0] as f64, state))
        })
    }

    /// Reads the words `x`, ids `[batch, steps]`, without dropout and gradients. Returns the outputs
    /// `[batch * steps, hidden]`, in batch-major order, and the final state.
    pub(crate) fn read(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| self.outputs(&self.lookup(x), state, &[]))
    }

    /// Cross entropy in nats of each target `[n]` after its output `[n, hidden]`: `[n]`, float64.
    pub(crate) fn costs(&self, output: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.softmax().costs(output, targets)
    }

    /// The logits of the word after each of the words `x`, ids `[batch, steps]`, int64: `[batch * steps, vocab]` in batch-major order, and
    /// the final state; without dropout and gradients.
    pub fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let (output, state) = self.read(&x.f_to_device(self.variables.device)?, state)?;
            Ok((self.softmax().logits(&output), state))
        })
    }

    /// Cost of a batch, the gradient of every trainable variable, and the final state, with the masks given.
    ///
    /// The looked-up rows are the leaf that is differentiated, not the table: that is TensorFlow's `IndexedSlices`.
    ///
    /// One of several workers ([`Self::among`]) is given the whole batch and its masks, and the state of its own rows; cost and gradients are
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
        let share = |t: &Tensor| self.workers.map_or_else(|| t.shallow_clone(), |workers| workers.rows(t));
        let masks: Vec<Tensor> = masks.iter().map(share).collect();
        let rows = tch::no_grad(|| self.lookup(&share(x))).set_requires_grad(true);
        let narrowed = self.narrowed();
        let (output, state) = self.outputs_of(narrowed.as_deref(), &rows, state, &masks)?;
        let mut softmax = self.softmax().cost_and_gradients(&output, &share(y).flatten(0, -1), x.size()[0]);
        // The softmax layer's gradient is the largest of all and the first to be there: it travels while the layers below compute theirs.
        softmax.w = softmax.w.contiguous();
        let travelling = self.workers.map(|workers| workers.all_reduce(&softmax.w)).transpose()?;
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
        let mut values = below.remove(0).reshape([-1, v.config.hidden_size]);
        if let (Some(workers), Some(travelling)) = (self.workers, travelling) {
            let rest = recurrent.iter_mut().chain([&mut softmax.b, &mut softmax.cost]).collect();
            values = sum_over_workers(workers, travelling, rest, &values)?;
        }
        // Every worker has the whole text, so the rows' indices need not travel.
        let embedding = Gradient::IndexedSlices { values, indices: x.flatten(0, -1) };
        let dense = recurrent.into_iter().chain([softmax.w, softmax.b]).map(Gradient::Dense);
        let gradients = std::iter::once(embedding).chain(dense).collect();
        Ok((softmax.cost, gradients, state.iter().map(Tensor::detach).collect()))
    }

    /// The original's `train_op`: gradients, clipping by global norm, one step of gradient descent.
    pub fn train_step(&self, x: &Tensor, y: &Tensor, state: &[Tensor], learning_rate: f64) -> Result<Step> {
        self.train_step_by(x, y, state, |scale| scale * -learning_rate)
    }

    /// [`Self::train_step`] with the learning rate wherever it is: `factor` makes `-learning_rate * scale` of the clipping scale.
    pub(crate) fn train_step_by(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        factor: impl Fn(&Tensor) -> Tensor,
    ) -> Result<Step> {
        let size = x.size();
        let masks = self.dropout_masks(size[0], size[1])?;
        let (cost, gradients, state) = self.gradients(x, y, state, &masks)?;
        let global_norm = optimizer::global_norm(&gradients);
        let scale = optimizer::clip_scale(&global_norm, self.variables.config.max_grad_norm);
        optimizer::descend(&self.variables.trainable(), &gradients, &factor(&scale));
        Ok(Step { cost, global_norm, state })
    }
}

/// Sums the `rest` over the workers, as one message, and puts the embedding's rows, `[n, hidden]` each, one after the other: rows as rows, so
/// that they enter the global norm one by one. Waits for these and for what was `travelling` before.
fn sum_over_workers(
    workers: &dyn Workers,
    travelling: Pending,
    rest: Vec<&mut Tensor>,
    rows: &Tensor,
) -> Result<Tensor> {
    let (all_rows, gathered) = workers.all_gather(rows)?;
    let sizes: Vec<i64> = rest.iter().map(|t| t.numel() as i64).collect();
    let bucket = Tensor::cat(&rest.iter().map(|t| t.flatten(0, -1)).collect::<Vec<_>>(), 0);
    let summed = workers.all_reduce(&bucket)?;
    for pending in [travelling, gathered, summed] {
        pending.wait()?;
    }
    for (tensor, sum) in rest.into_iter().zip(bucket.split_with_sizes(sizes.as_slice(), 0)) {
        *tensor = sum.view_as(tensor);
    }
    Ok(all_rows)
}
