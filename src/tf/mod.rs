//! Reading and writing TensorFlow's files.
//!
//! Two containers hold a model's variables under TensorFlow's names: `.npz`, what numpy's `savez`
//! writes, and the checkpoints that `tf.train.Saver` writes, in the format V2 of the end of 2016 or
//! V1 before it.

mod bundle;
mod checkpoint;
mod npz;
mod pytorch;
mod slice;
mod slots;
mod table;
mod v1;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Kind, Tensor};

pub use bundle::write_checkpoint;
pub use checkpoint::{latest_checkpoint, prefix_of, read_checkpoint, trace_of_checkpoints};
pub(crate) use npz::refuse_pickle;
pub use npz::{read_npz, read_npz_words, write_npz, write_npz_with_words};
pub use pytorch::to_pytorch;
pub(crate) use slots::{ADAM_M, ADAM_POWERS, ADAM_V, is_slot_name};
use slots::{missing_slot, name_in_example, take_slots};
pub(crate) use table::masked_crc32c;

/// Variables by their TensorFlow names, on the CPU. A file's own names are kept as they are:
/// slashes, a trailing `:0`.
pub type Variables = BTreeMap<String, Tensor>;

/// Content of a file.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The variables that could be read.
    pub variables: Variables,
    /// The names of the others, and why each was skipped.
    pub skipped: BTreeMap<String, String>,
}

/// Reads `.npz` files by that ending or their first bytes; otherwise a checkpoint: its prefix, one
/// of its files, a folder with the file `checkpoint`, whose newest is taken, or the folder of a
/// SavedModel.
///
/// # Errors
/// Those of [`read_npz`], [`read_checkpoint`] and [`latest_checkpoint`].
pub fn read(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    if is_npz(path) {
        return npz::load_npz(path);
    }
    if path.is_dir() {
        // Where a SavedModel has its variables.
        let inside = path.join("variables").join("variables");
        let prefix = match with_suffix(&inside, ".index").is_file() {
            true => inside,
            false => latest_checkpoint(path)?,
        };
        return read_checkpoint(prefix);
    }
    read_checkpoint(path)
}

/// What kind of file of another program's `path` stands for, if it is of one that [`read`] reads.
pub(crate) fn kind_of(path: &Path) -> Option<&'static str> {
    if path.is_file() && is_npz(path) {
        return Some("a .npz file of numpy's");
    }
    checkpoint::is_there(path).then_some("a checkpoint of TensorFlow's")
}

/// Whether a file is a `.npz`, by this ending or by the first bytes of a zip archive.
pub fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "npz")
        || starts_as(path, |b| b.starts_with(b"PK\x03\x04"))
}

/// Whether the first bytes of a file, at most 9, are such.
pub(crate) fn starts_as(path: &Path, is: impl Fn(&[u8]) -> bool) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
    read.is_ok() && is(&start)
}

/// A language model out of one of TensorFlow's files.
#[derive(Debug)]
pub struct Model {
    /// Its variables under their canonical names: see [`canonical`].
    pub variables: Variables,
    /// Its sizes.
    pub shapes: Shapes,
    /// Adam's slots, if there are any: `<variable>/Adam` and `<variable>/Adam_1` for each of the
    /// variables, `beta1_power` and `beta2_power`, whatever scope stands before them in the file.
    pub slots: Variables,
    /// What its LSTM cells add to the forget gates, if the file says it: [`FORGET_BIAS`].
    pub forget_bias: Option<f64>,
    /// What else was in the file: the learning rate, the global step, another optimizer's slots.
    pub others: Variables,
    /// What could not be read, and why.
    pub skipped: BTreeMap<String, String>,
    /// What was assumed where the file leaves a choice.
    pub remarks: Vec<String>,
}

impl Model {
    /// Reads a model: [`read`], [`canonical`] and [`Shapes::of`] in one. All its values are finite.
    ///
    /// # Errors
    /// Theirs, with the path and a list of the file's variables; or a variable that is not finite.
    pub fn read(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        Self::of(read(path)?, path)
    }

    /// The model in what was read from `path`, as [`Self::read`] has it. It may also have the names
    /// of PyTorch's example `word_language_model`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of(loaded: Loaded, path: &Path) -> Result<Model> {
        let Loaded { variables, skipped } = loaded;
        let mut list = list(&variables);
        let not_read = skipped.iter().filter(|(name, _)| !is_bookkeeping(name));
        let not_read: Vec<String> =
            not_read.map(|(name, why)| format!("{:?} ({why})", plain_name(name))).collect();
        if !not_read.is_empty() {
            list += &format!("; not read: {}", not_read.join(", "));
        }
        let model = match pytorch::prefix(&variables) {
            Some(prefix) => Model::of_pytorch(variables, &prefix, skipped),
            None => Model::of_tensorflow(variables, skipped),
        };
        let model = model.map_err(|error| {
            let path = path.display();
            anyhow!("{path}: not a model of the PTB example: {error:#}. Its variables: {list}")
        })?;
        for (name, tensor) in model.variables.iter().chain(&model.slots) {
            ensure_finite(name, &tensor.f_to_kind(Kind::Float)?)
                .with_context(|| path.display().to_string())?;
        }
        Ok(model)
    }

    fn of_pytorch(
        variables: Variables,
        prefix: &str,
        skipped: BTreeMap<String, String>,
    ) -> Result<Model> {
        let pytorch::Converted { variables, others, remarks } =
            pytorch::to_tensorflow(variables, prefix)?;
        let shapes = Shapes::of(&variables)?;
        let (slots, forget_bias) = (Variables::new(), Some(0.0));
        Ok(Model { variables, shapes, slots, forget_bias, others, skipped, remarks })
    }

    fn of_tensorflow(variables: Variables, skipped: BTreeMap<String, String>) -> Result<Model> {
        let scope = model_scope(&variables)?;
        let (variables, mut others) = canonical_in(variables, &scope)?;
        let shapes = Shapes::of(&variables)?;
        let slots = take_slots(&variables, &mut others, &scope)?;
        let forget_bias = match shapes.cell {
            LSTM_CELL => take_forget_bias(&mut others, &scope)?,
            _ => None,
        };
        let remarks = Vec::new();
        Ok(Model { variables, shapes, slots, forget_bias, others, skipped, remarks })
    }

    /// The name of the first of Adam's slots that is missing.
    pub fn missing_slot(&self) -> Option<String> {
        missing_slot(&self.variables, &self.slots)
    }

    /// A line for each thing in the file that is not part of the model, such as
    /// `Model/global_step: Int64 [] = 3`.
    pub fn notes(&self) -> Vec<String> {
        let others = self.others.iter().filter(|(name, _)| !is_bookkeeping(name));
        let others = others.map(|(name, tensor)| {
            let value = f64::try_from(tensor).map(|v| format!(" = {v}")).unwrap_or_default();
            format!("{}: {:?} {:?}{value}", plain_name(name), tensor.kind(), tensor.size())
        });
        let skipped = self.skipped.iter().filter(|(name, _)| !is_bookkeeping(name));
        let skipped = skipped.map(|(name, why)| format!("{}: {why}", plain_name(name)));
        others.chain(skipped).collect()
    }
}

/// Names and shapes for a message.
fn list(variables: &Variables) -> String {
    const MOST: usize = 100;
    let of_model = variables.iter().filter(|(name, _)| !is_bookkeeping(name));
    let names: Vec<String> = of_model
        .map(|(name, tensor)| format!("{:?} {:?}", plain_name(name), tensor.size()))
        .collect();
    let mut list = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => list += "none",
        n if n > MOST => list += &format!(" and {} more", n - MOST),
        _ => {}
    }
    list
}

/// Refuses a variable with values that nobody can compute with.
///
/// # Errors
/// Names the variable.
pub(crate) fn ensure_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let wrong = tensor.f_isfinite()?.f_logical_not()?.f_sum(Kind::Int64)?;
    let wrong = i64::try_from(&wrong)?;
    ensure!(
        wrong == 0,
        "variable {name:?}: {wrong} of its {} values are NaN or infinite",
        tensor.numel()
    );
    Ok(())
}

/// Sorts variables into the model's, under their canonical names, and the others, under their own.
///
/// The canonical names are those of the example from 2017 on, in basic mode:
/// `Model/embedding`, `Model/RNN/multi_rnn_cell/cell_{k}/basic_lstm_cell/{kernel,bias}`,
/// `Model/softmax_w` and `Model/softmax_b`. The following are read as the same, since values and
/// layout are the same:
/// - block mode, whose LSTMBlockCell calls itself `lstm_cell`;
/// - TensorFlow 1.0 and 1.1: `weights` and `biases`;
/// - 2016: `model/RNN/MultiRNNCell/Cell{k}/BasicLSTMCell/Linear/{Matrix,Bias}`;
/// - LSTMCell of that time, without peepholes, a projection, or shards: `LSTMCell/{W_0,B}`;
/// - what cudnn mode saves for other cells to read: `.../cudnn_compatible_lstm_cell/{kernel,bias}`;
/// - a `:0` at the end, and TensorFlow 2's `/.ATTRIBUTES/VARIABLE_VALUE`;
/// - another scope than `Model`, or none, if there is only one model.
///
/// Where cudnn mode saved only its opaque buffer, `Model/lstm_params`, the kernels and biases are
/// cut out of it. The other cells that the model may be made of keep their names:
/// `gru_cell/{gates,candidate}/{kernel,bias}`, `basic_rnn_cell/{kernel,bias}`.
///
/// # Errors
/// Two variables of the file that mean the same; several models; weights in the model's scope that
/// it does not have, such as peepholes; a `Model/lstm_params` of a size that does not fit the
/// embedding.
pub fn canonical(variables: Variables) -> Result<(Variables, Variables)> {
    let scope = model_scope(&variables)?;
    canonical_in(variables, &scope)
}

/// [`canonical`] for the model in this scope.
fn canonical_in(variables: Variables, scope: &str) -> Result<(Variables, Variables)> {
    let (mut model, mut others) = (Variables::new(), Variables::new());
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for (name, tensor) in variables {
        let Some(canonical) = canonical_name(&name, scope) else {
            others.insert(name, tensor);
            continue;
        };
        if let Some(other) = sources.insert(canonical.clone(), name.clone()) {
            bail!("variables {other:?} and {name:?} are both {canonical:?}: expected one");
        }
        model.insert(canonical, tensor);
    }
    let sources: BTreeMap<_, _> = sources.into_iter().map(|(name, own)| (own, name)).collect();
    let foreign = others.iter().filter(|(name, tensor)| {
        is_weight(name, tensor, scope) && !is_slot(name, tensor, &model, &sources)
    });
    let foreign: Vec<_> = foreign.map(|(name, t)| format!("{name:?} {:?}", t.size())).collect();
    ensure!(
        foreign.is_empty(),
        "it has weights that the example's model does not have: {}",
        foreign.join(", ")
    );
    let opaque = others.keys().find(|name| is_cudnn_params(name, scope)).cloned();
    if let (Some(name), true) = (opaque, layer_cell(&model, 0).is_none()) {
        let layers = split_cudnn_params(&model, &others[&name])
            .with_context(|| format!("variable {name:?}"))?;
        others.remove(&name);
        for (k, (kernel, bias)) in layers.into_iter().enumerate() {
            model.insert(layer_name(k, "basic_lstm_cell", "kernel"), kernel);
            model.insert(layer_name(k, "basic_lstm_cell", "bias"), bias);
        }
    }
    Ok((model, others))
}

/// Scope of the example's model; until the end of 2016 it was in lower case.
const SCOPE: &str = "Model/";
const SCOPE_OF_2016: &str = "model/";

/// The scope, with its slash, of the model that the variables hold.
///
/// # Errors
/// There are several.
fn model_scope(variables: &Variables) -> Result<String> {
    const PARTS: [&str; 3] = ["embedding", "softmax_w", "softmax_b"];
    let mut scopes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for name in variables.keys() {
        let name = plain_name(name);
        for part in PARTS {
            let scope = name.strip_suffix(part).filter(|s| s.is_empty() || s.ends_with('/'));
            let Some(scope) = scope else { continue };
            let scope = if scope == SCOPE_OF_2016 { SCOPE } else { scope };
            scopes.entry(scope.to_owned()).or_default().insert(part);
        }
    }
    let whole = scopes.iter().filter(|(_, parts)| parts.len() == PARTS.len());
    let whole: Vec<&String> = whole.map(|(scope, _)| scope).collect();
    match whole[..] {
        [scope] => Ok(scope.clone()),
        // What is missing is reported later.
        [] if scopes.len() == 1 => Ok(scopes.into_keys().collect()),
        [] => Ok(SCOPE.into()),
        _ => bail!("it has several models, under the scopes {whole:?}: expected one"),
    }
}

/// The rest of a name in this scope.
fn in_scope<'a>(name: &'a str, scope: &str) -> Option<&'a str> {
    let of_2016 = || name.strip_prefix(SCOPE_OF_2016).filter(|_| scope == SCOPE);
    name.strip_prefix(scope).or_else(of_2016)
}

/// Whether a variable that is none of the model's looks like a weight of it: floats in its scope,
/// and not a single number, as the learning rate is.
fn is_weight(name: &str, tensor: &Tensor, scope: &str) -> bool {
    in_scope(&plain_name(name), scope).is_some()
        && is_float(tensor.kind())
        && tensor.dim() > 0
        && !is_cudnn_params(name, scope)
}

/// Whether a variable is what an optimizer, or an average, keeps for one of the model's: it has the
/// shape of that one, and its name with something after it: `Model/embedding/Adam`. A scope may
/// come before it again.
fn is_slot(
    name: &str,
    tensor: &Tensor,
    model: &Variables,
    sources: &BTreeMap<String, String>,
) -> bool {
    let name = format!("/{}", plain_name(name));
    sources.iter().any(|(own, canonical)| {
        name.contains(&format!("/{}/", plain_name(own))) && model[canonical].size() == tensor.size()
    })
}

/// cudnn mode's opaque buffer. It may be there besides the kernels and biases.
fn is_cudnn_params(name: &str, scope: &str) -> bool {
    in_scope(&plain_name(name), scope) == Some("lstm_params")
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

/// A model's variables (canonical), and Adam's slots if there are any, with what the original's
/// Saver wants besides: `Train/Model/Variable`, which is the learning rate, and
/// `Model/global_step`. The names are those of [`names_in_example`].
pub fn for_original(
    model: &Variables,
    block_mode: bool,
    learning_rate: f32,
    global_step: i64,
) -> Variables {
    let mut variables = names_in_example(model, block_mode);
    variables.insert("Train/Model/Variable".into(), Tensor::from(learning_rate));
    variables.insert("Model/global_step".into(), Tensor::from(global_step));
    variables
}

/// A model's variables (canonical), and Adam's slots if there are any, under their names in the
/// example's graph. `block_mode` names the cells as the original does in that mode, which is its
/// default on one GPU; otherwise they are named as in basic mode.
pub fn names_in_example(model: &Variables, block_mode: bool) -> Variables {
    let name = |name: &String| {
        let name = name_in_example(name).unwrap_or(name.clone());
        match block_mode {
            true => name.replace("/basic_lstm_cell/", "/lstm_cell/"),
            false => name,
        }
    };
    model.iter().map(|(k, v)| (name(k), v.shallow_clone())).collect()
}

/// The variable that says what a model's LSTM cells add to their forget gates. In TensorFlow this
/// is a constant of the graph, so TensorFlow itself writes no such variable; its Saver ignores one
/// that the graph does not have.
pub const FORGET_BIAS: &str = "Model/forget_bias";

/// Moves [`FORGET_BIAS`] of the model in this scope out of the other variables.
///
/// # Errors
/// It is not one finite float.
fn take_forget_bias(others: &mut Variables, scope: &str) -> Result<Option<f64>> {
    let rest = FORGET_BIAS.strip_prefix(SCOPE);
    let name = others.keys().find(|name| in_scope(&plain_name(name), scope) == rest).cloned();
    let Some((name, tensor)) = name.and_then(|name| others.remove_entry(&name)) else {
        return Ok(None);
    };
    let (kind, shape) = (tensor.kind(), tensor.size());
    ensure!(
        is_float(kind) && shape.is_empty(),
        "variable {name:?}: expected one float, found {kind:?} {shape:?}"
    );
    let value = f64::try_from(&tensor)?;
    ensure!(value.is_finite(), "variable {name:?}: expected a finite number, found {value}");
    Ok(Some(value))
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// Words.
    pub vocab_size: i64,
    /// Units of each layer, and the width of the embedding.
    pub hidden_size: i64,
    /// Layers.
    pub num_layers: i64,
    /// Their kind: `basic_lstm_cell`, `gru_cell` or `basic_rnn_cell`.
    pub cell: &'static str,
}

impl Shapes {
    /// Reads the sizes off the variables (canonical) and checks that all fit together.
    ///
    /// # Errors
    /// Name the variable that is missing, or has another shape (expected and found) or is not of
    /// floats.
    pub fn of(model: &Variables) -> Result<Shapes> {
        let get =
            |name: &str| model.get(name).with_context(|| format!("variable {name:?} is missing"));
        let embedding = get("Model/embedding")?.size();
        let [vocab_size, hidden_size] = embedding[..] else {
            bail!(
                "variable \"Model/embedding\": expected shape [vocab, hidden], found {embedding:?}"
            );
        };
        let (v, h) = (vocab_size, hidden_size);
        ensure!(
            v > 0 && h > 0,
            "variable \"Model/embedding\": expected no empty sizes, found {embedding:?}"
        );
        let (cell, parts) = layer_cell(model, 0).unwrap_or(CELLS[0]);
        let prefix = "Model/RNN/multi_rnn_cell/cell_";
        let layer =
            |name: &String| name.strip_prefix(prefix)?.split('/').next()?.parse::<u32>().ok();
        let num_layers = model.keys().filter_map(layer).max().map_or(1, |last| i64::from(last) + 1);
        let mut expected = vec![
            ("Model/embedding".to_string(), vec![v, h]),
            ("Model/softmax_w".into(), vec![h, v]),
            ("Model/softmax_b".into(), vec![v]),
        ];
        for k in 0..num_layers {
            for (part, ins, outs) in parts {
                let shape = [ins * h, outs * h].into_iter().filter(|&d| d > 0).collect();
                expected.push((layer_name(k, cell, part), shape));
            }
            // A number of layers out of a damaged name ends here.
            get(&expected[expected.len() - parts.len()].0)?;
        }
        for (name, shape) in &expected {
            let (found, kind) = (get(name)?.size(), get(name)?.kind());
            ensure!(
                found == *shape,
                "variable {name:?}: expected shape {shape:?}, found {found:?}"
            );
            ensure!(is_float(kind), "variable {name:?}: expected floats, found {kind:?}");
        }
        let unknown = model.keys().find(|name| !expected.iter().any(|(e, _)| e == *name));
        ensure!(
            unknown.is_none(),
            "variable {:?}: not expected beside {cell}s",
            unknown.unwrap_or(&String::new())
        );
        Ok(Shapes { vocab_size, hidden_size, num_layers, cell })
    }
}

/// A variable of a cell: its name, and its rows and columns in units of the hidden size (a layer's
/// input is as wide as its state; no rows: a vector).
type Part = (&'static str, i64, i64);

/// A kind of cell that a model may be made of.
type Cell = (&'static str, &'static [Part]);

/// The canonical name of the LSTM cells, which are one function of the same variables.
const LSTM_CELL: &str = "basic_lstm_cell";

const CELLS: [Cell; 3] = [
    (LSTM_CELL, &[("kernel", 2, 4), ("bias", 0, 4)]),
    (
        "gru_cell",
        &[
            ("gates/kernel", 2, 2),
            ("gates/bias", 0, 2),
            ("candidate/kernel", 2, 1),
            ("candidate/bias", 0, 1),
        ],
    ),
    ("basic_rnn_cell", &[("kernel", 2, 1), ("bias", 0, 1)]),
];

/// The kind of cell of which layer `k` has a variable.
fn layer_cell(model: &Variables, k: usize) -> Option<Cell> {
    CELLS.into_iter().find(|(cell, parts)| {
        parts.iter().any(|(part, ..)| model.contains_key(&layer_name(k, cell, part)))
    })
}

fn layer_name(k: impl std::fmt::Display, cell: &str, part: &str) -> String {
    format!("Model/RNN/multi_rnn_cell/cell_{k}/{cell}/{part}")
}

/// The name without the ends that TensorFlow 1 puts to a tensor's name and TensorFlow 2 to a
/// checkpoint's key.
fn plain_name(name: &str) -> Cow<'_, str> {
    match name.strip_suffix("/.ATTRIBUTES/VARIABLE_VALUE") {
        // In these keys a slash within a name is ".S" and a dot ".."
        // (python/training/tracking/graph_view.py).
        Some(key) => {
            key.split("..").map(|part| part.replace(".S", "/")).collect::<Vec<_>>().join(".").into()
        }
        None => name.strip_suffix(":0").unwrap_or(name).into(),
    }
}

/// Whether an entry is what an object-based checkpoint of TensorFlow's keeps for itself: the graph
/// of its objects, their configurations, and how often it was saved.
fn is_bookkeeping(name: &str) -> bool {
    const GRAPHS: [&str; 2] = ["_CHECKPOINTABLE_OBJECT_GRAPH", "_TRACKABLE_OBJECT_GRAPH"];
    GRAPHS.contains(&name)
        || name.ends_with("/.ATTRIBUTES/OBJECT_CONFIG_JSON")
        || name == "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
}

/// The canonical name of a variable of the model in this scope; `None` for any other.
fn canonical_name(name: &str, scope: &str) -> Option<String> {
    let name = plain_name(name);
    let mut rest = in_scope(&name, scope)?;
    if ["embedding", "softmax_w", "softmax_b"].contains(&rest) {
        return Some(format!("Model/{rest}"));
    }
    while let Some(inner) = rest.strip_prefix("RNN/").or_else(|| rest.strip_prefix("rnn/")) {
        rest = inner;
    }
    let rest = rest
        .strip_prefix("multi_rnn_cell/cell_")
        .or_else(|| rest.strip_prefix("MultiRNNCell/Cell"))?;
    let (k, variable) = rest.split_once('/')?;
    let k: u32 = k.parse().ok()?;
    let (cell, part) = variable.split_once('/')?;
    let cell = match cell {
        "lstm_cell" | "cudnn_compatible_lstm_cell" | "BasicLSTMCell" | "LSTMCell" => {
            "basic_lstm_cell"
        }
        "GRUCell" => "gru_cell",
        "BasicRNNCell" => "basic_rnn_cell",
        cell => cell,
    };
    let words = part.split('/').filter_map(|word| match word {
        "Linear" => None,
        "Gates" => Some("gates"),
        "Candidate" => Some("candidate"),
        "weights" | "Matrix" | "W_0" => Some("kernel"),
        "biases" | "Bias" | "B" => Some("bias"),
        word => Some(word),
    });
    let part = words.collect::<Vec<_>>().join("/");
    let (cell, parts) = CELLS.into_iter().find(|c| c.0 == cell)?;
    let (part, ..) = parts.iter().find(|p| p.0 == part)?;
    Some(layer_name(k, cell, part))
}

/// Kernels and biases out of cuDNN's opaque buffer `[num_layers * (8 * hidden^2 + 8 * hidden)]`.
///
/// First come the matrices `[hidden, hidden]` of all layers, per layer those of the input and then
/// those of the state, each for the gates i, f, c (TensorFlow's j), o; then, in the same order, the
/// biases, of which cuDNN has two that only ever occur as their sum.
/// (contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py, CudnnParamsFormatConverterLSTM.)
fn split_cudnn_params(model: &Variables, params: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let embedding =
        model.get("Model/embedding").context("variable \"Model/embedding\" is missing")?.size();
    let [_, h] = embedding[..] else {
        bail!("expected a \"Model/embedding\" of shape [vocab, hidden], found {embedding:?}");
    };
    let size = params.size();
    let layer = h.saturating_mul(h + 1).saturating_mul(8);
    let n = if let [n] = size[..] { n } else { 0 };
    ensure!(
        n > 0 && h > 0 && n % layer == 0,
        "expected shape [num_layers * {layer}] with {h} hidden units, found {size:?}"
    );
    let num_layers = n / layer;
    let weights =
        params.f_narrow(0, 0, num_layers * 8 * h * h)?.f_view([num_layers, 2, 4, h, h])?;
    let biases = params
        .f_narrow(0, num_layers * 8 * h * h, num_layers * 8 * h)?
        .f_view([num_layers, 2, 4, h])?;
    let order = Tensor::from_slice(&[0i64, 2, 1, 3]); // i, f, c, o to i, c, f, o
    (0..num_layers)
        .map(|k| {
            // [input or state, gate, out, in] to [input or state, in, gate, out].
            let kernel = weights.f_get(k)?.f_index_select(1, &order)?.f_permute([0, 3, 1, 2])?;
            let bias = biases.f_get(k)?.f_index_select(1, &order)?.f_sum_dim_intlist(
                [0i64].as_slice(),
                false,
                None,
            )?;
            Ok((kernel.f_reshape([2 * h, 4 * h])?, bias.f_reshape([4 * h])?))
        })
        .collect()
}

/// The number of elements of `shape`, or `None` where a size is negative or the product does not
/// fit.
fn num_elements(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
}

/// A CPU tensor of `kind` and `shape` from its little-endian bytes in C order, whose number must
/// fit exactly.
pub(crate) fn tensor_from_bytes(bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    let expected = num_elements(shape).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    if expected != Some(bytes.len()) {
        let expected =
            expected.map_or("more bytes than fit in memory".into(), |n| format!("{n} bytes"));
        bail!("expected {expected} for {kind:?} {shape:?}, found {}", bytes.len());
    }
    // libtorch reads the native order; every machine that it runs on here is little-endian.
    Ok(Tensor::f_from_data_size(bytes, shape, kind)?)
}

/// The bytes of `tensor` in C order, little-endian.
pub(crate) fn tensor_to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let numel = tensor.numel();
    let mut bytes = vec![0; numel * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, numel)?;
    Ok(bytes)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
