//! The cells: one step of a recurrent network each, with the formulas, variable names and layouts
//! of TensorFlow's `rnn_cell_impl.py`.
//!
//! Every cell is a view over given variables: `from_variables` finds them by TensorFlow's names,
//! `new` takes them one by one ([`LSTMCell`], whose options decide which it has, takes them by name
//! only).

use super::layout::{kernel_to_libtorch, libtorch_sizes};
use super::{RnnCell, State, check_state};
use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use strum::VariantNames;
use tch::Tensor;

/// The variables of one cell: those under `path/`.
struct Scope<'a> {
    variables: &'a BTreeMap<String, Tensor>,
    path: String,
}

impl<'a> Scope<'a> {
    fn new(variables: &'a BTreeMap<String, Tensor>, scope: &str, cell: &str) -> Self {
        let path = if scope.is_empty() { cell.to_string() } else { format!("{scope}/{cell}") };
        Scope { variables, path }
    }

    fn name(&self, variable: &str) -> String {
        format!("{}/{variable}", self.path)
    }

    /// The variable, or an error that says which shape it should have had and what there is
    /// instead.
    fn find(&self, variable: &str, expected: &str) -> Result<&'a Tensor> {
        let name = self.name(variable);
        if let Some(tensor) = self.variables.get(&name) {
            return Ok(tensor);
        }
        let found: Vec<_> = self
            .variables
            .iter()
            .map(|(name, tensor)| format!("{name} {:?}", tensor.size()))
            .collect();
        let more = if found.len() > 8 { ", ..." } else { "" };
        bail!(
            "variable '{name}', expected shape {expected}, is missing; found {} variables: \
             {}{more}",
            found.len(),
            found[..found.len().min(8)].join(", ")
        )
    }

    /// A variable whose shape is known.
    fn get(&self, variable: &str, shape: &[i64]) -> Result<Tensor> {
        let tensor = self.find(variable, &format!("{shape:?}"))?;
        let found = tensor.size();
        ensure!(
            found == shape,
            "variable '{}' has shape {found:?}, expected {shape:?}",
            self.name(variable)
        );
        Ok(tensor.shallow_clone())
    }

    /// An error if there is a variable that the cell would leave unused, and so compute something
    /// else.
    fn refuse(&self, variable: &str, advice: &str) -> Result<()> {
        let name = self.name(variable);
        ensure!(
            !self.variables.contains_key(&name),
            "variable '{name}' would be left unused: {advice}"
        );
        Ok(())
    }

    /// A kernel from `[inputs, h]` to the gates, which tells `(kernel, input_size, num_units)`. The
    /// width of `h` is `num_proj` where there is one, else `num_units`.
    fn kernel(
        &self,
        variable: &str,
        gates: i64,
        num_proj: Option<i64>,
    ) -> Result<(Tensor, i64, i64)> {
        let expected = match num_proj {
            Some(num_proj) => format!("[input_size + {num_proj}, {gates} * num_units]"),
            None => format!("[input_size + num_units, {gates} * num_units]"),
        };
        let kernel = self.find(variable, &expected)?;
        let found = kernel.size();
        if let [rows, columns] = found[..] {
            let num_units = columns / gates;
            let input_size = rows - num_proj.unwrap_or(num_units);
            if columns % gates == 0 && num_units > 0 && input_size > 0 {
                return Ok((kernel.shallow_clone(), input_size, num_units));
            }
        }
        bail!("variable '{}' has shape {found:?}, expected {expected}", self.name(variable))
    }
}

/// Variables given one by one, under their names, so that every `new` can be a `from_variables`.
fn named<const N: usize>(cell: &str, variables: [(&str, &Tensor); N]) -> BTreeMap<String, Tensor> {
    variables.map(|(name, tensor)| (format!("{cell}/{name}"), tensor.shallow_clone())).into()
}

/// What every cell checks before a step, so that a wrong shape is reported in words.
fn check_step(
    cell: &impl RnnCell,
    who: &str,
    inputs: &Tensor,
    input_size: i64,
    state: &[Tensor],
) -> Result<()> {
    let found = inputs.size();
    ensure!(
        found.len() == 2 && found[1] == input_size,
        "{who}: inputs have shape {found:?}, expected [batch, {input_size}]"
    );
    check_state(who, state, &cell.state_size(), found[0])
}

/// `[inputs, h] kernel + bias`: TensorFlow's one matrix product per step.
fn linear(inputs: &Tensor, h: &Tensor, kernel: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(bias.f_addmm(&Tensor::f_cat(&[inputs, h], 1)?, kernel)?)
}

/// Clips to `[-limit, limit]`, if there is a limit: `tf.clip_by_value`.
fn clip(x: Tensor, limit: Option<f64>) -> Tensor {
    match limit {
        Some(limit) => x.clamp(-limit, limit),
        None => x,
    }
}

/// `h' = tanh([x, h] kernel + bias)`; the output is `h'`.
///
/// Variables `basic_rnn_cell/kernel [input_size + num_units, num_units]`, `bias [num_units]`.
/// State: `h [batch, num_units]`. TensorFlow: `tf.nn.rnn_cell.BasicRNNCell`.
#[derive(Debug)]
pub struct BasicRNNCell {
    kernel: Tensor,
    bias: Tensor,
    input_size: i64,
    num_units: i64,
}

impl BasicRNNCell {
    /// A cell over its two variables.
    ///
    /// # Errors
    /// If their shapes do not fit.
    pub fn new(kernel: &Tensor, bias: &Tensor) -> Result<Self> {
        let variables = named("basic_rnn_cell", [("kernel", kernel), ("bias", bias)]);
        Self::from_variables(&variables, "")
    }

    /// Finds `scope/basic_rnn_cell/{kernel,bias}`.
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape.
    pub fn from_variables(variables: &BTreeMap<String, Tensor>, scope: &str) -> Result<Self> {
        let scope = Scope::new(variables, scope, "basic_rnn_cell");
        let (kernel, input_size, num_units) = scope.kernel("kernel", 1, None)?;
        Ok(Self { kernel, bias: scope.get("bias", &[num_units])?, input_size, num_units })
    }
}

impl RnnCell for BasicRNNCell {
    fn state_size(&self) -> Vec<i64> {
        vec![self.num_units]
    }

    fn output_size(&self) -> i64 {
        self.num_units
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        check_step(self, "BasicRNNCell", inputs, self.input_size, state)?;
        let h = linear(inputs, &state[0], &self.kernel, &self.bias)?.tanh();
        Ok((h.shallow_clone(), vec![h]))
    }
}

/// The gated recurrent unit: `r, u = sigmoid([x, h] gates)`, `c = tanh([x, r * h] candidate)`,
/// `h' = u * h + (1 - u) * c`; the output is `h'`.
///
/// Variables `gru_cell/gates/kernel [input_size + num_units, 2 * num_units]`, `gates/bias [2 *
/// num_units]`, `candidate/kernel [input_size + num_units, num_units]`, `candidate/bias
/// [num_units]`. State: `h [batch, num_units]`. TensorFlow: `tf.nn.rnn_cell.GRUCell`, after Cho et
/// al. (arXiv 1406.1078).
///
/// libtorch's `gru` is another function: it applies `r` after the matrix product, and its `z` is
/// `u`.
#[derive(Debug)]
pub struct GRUCell {
    gates_kernel: Tensor,
    gates_bias: Tensor,
    candidate_kernel: Tensor,
    candidate_bias: Tensor,
    input_size: i64,
    num_units: i64,
}

impl GRUCell {
    /// A cell over its four variables.
    ///
    /// # Errors
    /// If their shapes do not fit.
    pub fn new(
        gates_kernel: &Tensor,
        gates_bias: &Tensor,
        candidate_kernel: &Tensor,
        candidate_bias: &Tensor,
    ) -> Result<Self> {
        let variables = named(
            "gru_cell",
            [
                ("gates/kernel", gates_kernel),
                ("gates/bias", gates_bias),
                ("candidate/kernel", candidate_kernel),
                ("candidate/bias", candidate_bias),
            ],
        );
        Self::from_variables(&variables, "")
    }

    /// Finds `scope/gru_cell/{gates,candidate}/{kernel,bias}`.
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape.
    pub fn from_variables(variables: &BTreeMap<String, Tensor>, scope: &str) -> Result<Self> {
        let scope = Scope::new(variables, scope, "gru_cell");
        let (gates_kernel, input_size, num_units) = scope.kernel("gates/kernel", 2, None)?;
        Ok(Self {
            gates_kernel,
            gates_bias: scope.get("gates/bias", &[2 * num_units])?,
            candidate_kernel: scope
                .get("candidate/kernel", &[input_size + num_units, num_units])?,
            candidate_bias: scope.get("candidate/bias", &[num_units])?,
            input_size,
            num_units,
        })
    }
}

impl RnnCell for GRUCell {
    fn state_size(&self) -> Vec<i64> {
        vec![self.num_units]
    }

    fn output_size(&self) -> i64 {
        self.num_units
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        check_step(self, "GRUCell", inputs, self.input_size, state)?;
        let h = &state[0];
        let gates = linear(inputs, h, &self.gates_kernel, &self.gates_bias)?.sigmoid().chunk(2, 1);
        let (r, u) = (&gates[0], &gates[1]);
        let c = linear(inputs, &(r * h), &self.candidate_kernel, &self.candidate_bias)?.tanh();
        let h = u * h + (1f64 - u) * c;
        Ok((h.shallow_clone(), vec![h]))
    }
}

/// The LSTM of the PTB example: `i, j, f, o = [x, h] kernel + bias`, `c' = c * sigmoid(f +
/// forget_bias) + sigmoid(i) * tanh(j)`, `h' = tanh(c') * sigmoid(o)`; the output is `h'`.
///
/// Variables `basic_lstm_cell/kernel [input_size + num_units, 4 * num_units]`, `bias [4 *
/// num_units]`. State: `c, h`, `[batch, num_units]` each. TensorFlow:
/// `tf.nn.rnn_cell.BasicLSTMCell`, after Zaremba et al. (arXiv 1409.2329). `forget_bias` is a
/// constant, not part of the variables: TensorFlow's default is 1.0, so that a fresh cell
/// remembers; the PTB example sets 0.0.
#[derive(Debug)]
pub struct BasicLSTMCell {
    kernel: Tensor,
    bias: Tensor,
    forget_bias: f64,
    input_size: i64,
    num_units: i64,
}

impl BasicLSTMCell {
    /// A cell over its two variables.
    ///
    /// # Errors
    /// If their shapes do not fit.
    pub fn new(kernel: &Tensor, bias: &Tensor, forget_bias: f64) -> Result<Self> {
        let variables = named("basic_lstm_cell", [("kernel", kernel), ("bias", bias)]);
        Self::from_variables(&variables, "", forget_bias)
    }

    /// Finds `scope/basic_lstm_cell/{kernel,bias}`.
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape.
    pub fn from_variables(
        variables: &BTreeMap<String, Tensor>,
        scope: &str,
        forget_bias: f64,
    ) -> Result<Self> {
        let scope = Scope::new(variables, scope, "basic_lstm_cell");
        let (kernel, input_size, num_units) = scope.kernel("kernel", 4, None)?;
        Ok(Self {
            kernel,
            bias: scope.get("bias", &[4 * num_units])?,
            forget_bias,
            input_size,
            num_units,
        })
    }
}

impl RnnCell for BasicLSTMCell {
    fn state_size(&self) -> Vec<i64> {
        vec![self.num_units, self.num_units]
    }

    fn output_size(&self) -> i64 {
        self.num_units
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        check_step(self, "BasicLSTMCell", inputs, self.input_size, state)?;
        let (c, h) = (&state[0], &state[1]);
        let gates = linear(inputs, h, &self.kernel, &self.bias)?.chunk(4, 1);
        let (i, j, f, o) = (&gates[0], &gates[1], &gates[2], &gates[3]);
        let c = c * (f + self.forget_bias).sigmoid() + i.sigmoid() * j.tanh();
        let h = c.tanh() * o.sigmoid();
        Ok((h.shallow_clone(), vec![c, h]))
    }
}

/// The arguments of [`LSTMCell`], under TensorFlow's names and with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct LSTMCellOptions {
    /// Adds the cell state to the gates, through the diagonal weights `w_i_diag`, `w_f_diag` (old
    /// c) and `w_o_diag` (new c). Default: false.
    pub use_peepholes: bool,
    /// Clips the new cell state to `[-cell_clip, cell_clip]`, before the output sees it. Default:
    /// none.
    pub cell_clip: Option<f64>,
    /// The width of the projected output, which is also what recurs. Default: none, no projection.
    pub num_proj: Option<i64>,
    /// Clips the projected output to `[-proj_clip, proj_clip]`. Default: none.
    pub proj_clip: Option<f64>,
    /// Added to the forget gate before its sigmoid. Default: 1.0.
    pub forget_bias: f64,
}

impl Default for LSTMCellOptions {
    fn default() -> Self {
        Self {
            use_peepholes: false,
            cell_clip: None,
            num_proj: None,
            proj_clip: None,
            forget_bias: 1.0,
        }
    }
}

/// LSTM with optional peepholes, clipping and projection ([`LSTMCellOptions`]).
///
/// Variables `lstm_cell/kernel [input_size + output_size, 4 * num_units]`, `bias [4 * num_units]`,
/// with peepholes `w_f_diag`, `w_i_diag`, `w_o_diag [num_units]`, with a projection
/// `projection/kernel [num_units, num_proj]`. State: `c [batch, num_units]`, `h [batch,
/// output_size]`. TensorFlow: `tf.nn.rnn_cell.LSTMCell`, after Sak et al. (arXiv 1402.1128).
///
/// ```python
/// cell = tf.nn.rnn_cell.LSTMCell(num_units=5, num_proj=3, cell_clip=10.0)
/// ```
/// ```
/// use ptb_word_lm::rnn::{LSTMCell, LSTMCellOptions, RnnCell};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let (kernel, bias) = (("kernel", vec![2 + 3, 4 * 5]), ("bias", vec![4 * 5]));
/// # let variables = [kernel, bias, ("projection/kernel", vec![5, 3])]
/// #     .map(|(name, shape)| (format!("rnn/lstm_cell/{name}"), Tensor::rand(shape, (Float, Cpu))))
/// #     .into();
/// let options =
///     LSTMCellOptions { num_proj: Some(3), cell_clip: Some(10.0), ..Default::default() };
/// let cell = LSTMCell::from_variables(&variables, "rnn", options)?;
/// assert_eq!((cell.state_size(), cell.output_size()), (vec![5, 3], 3));
/// # anyhow::Ok(())
/// ```
#[derive(Debug)]
pub struct LSTMCell {
    kernel: Tensor,
    bias: Tensor,
    peepholes: Option<Peepholes>,
    projection: Option<Tensor>,
    options: LSTMCellOptions,
    input_size: i64,
    num_units: i64,
}

/// Diagonal weights from the cell state to the gates, `[num_units]` each.
#[derive(Debug)]
struct Peepholes {
    i: Tensor,
    f: Tensor,
    o: Tensor,
}

impl LSTMCell {
    /// Finds `scope/lstm_cell/{kernel,bias,...}`, those that the options call for.
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape; if `num_proj` is not the width of
    /// `projection/kernel`; if there are peephole or projection weights that the options would
    /// leave unused.
    pub fn from_variables(
        variables: &BTreeMap<String, Tensor>,
        scope: &str,
        options: LSTMCellOptions,
    ) -> Result<Self> {
        for (name, limit) in [("cell_clip", options.cell_clip), ("proj_clip", options.proj_clip)] {
            // A NaN is not positive either.
            ensure!(
                limit.is_none_or(|limit| limit > 0.0),
                "LSTMCell: {name} must be positive, found {limit:?}"
            );
        }
        ensure!(
            options.proj_clip.is_none() || options.num_proj.is_some(),
            "LSTMCell: proj_clip clips a projection, so it needs num_proj"
        );
        let scope = Scope::new(variables, scope, "lstm_cell");
        if !options.use_peepholes {
            scope.refuse("w_f_diag", "set use_peepholes")?;
        }
        match options.num_proj {
            Some(num_proj) => {
                ensure!(num_proj > 0, "LSTMCell: num_proj must be positive, found {num_proj}")
            }
            None => scope.refuse("projection/kernel", "set num_proj")?,
        }
        let (kernel, input_size, num_units) = scope.kernel("kernel", 4, options.num_proj)?;
        let bias = scope.get("bias", &[4 * num_units])?;
        let peepholes = match options.use_peepholes {
            true => Some(Peepholes {
                i: scope.get("w_i_diag", &[num_units])?,
                f: scope.get("w_f_diag", &[num_units])?,
                o: scope.get("w_o_diag", &[num_units])?,
            }),
            false => None,
        };
        let projection = match options.num_proj {
            Some(num_proj) => Some(scope.get("projection/kernel", &[num_units, num_proj])?),
            None => None,
        };
        Ok(Self { kernel, bias, peepholes, projection, options, input_size, num_units })
    }
}

impl RnnCell for LSTMCell {
    fn state_size(&self) -> Vec<i64> {
        vec![self.num_units, self.output_size()]
    }

    fn output_size(&self) -> i64 {
        self.options.num_proj.unwrap_or(self.num_units)
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        check_step(self, "LSTMCell", inputs, self.input_size, state)?;
        let (c_prev, h_prev) = (&state[0], &state[1]);
        let mut gates = linear(inputs, h_prev, &self.kernel, &self.bias)?.chunk(4, 1);
        if let Some(w) = &self.peepholes {
            gates[0] = &gates[0] + &w.i * c_prev;
            gates[2] = &gates[2] + &w.f * c_prev;
        }
        let (i, j, f) = (&gates[0], &gates[1], &gates[2]);
        let c = (f + self.options.forget_bias).sigmoid() * c_prev + i.sigmoid() * j.tanh();
        let c = clip(c, self.options.cell_clip);
        if let Some(w) = &self.peepholes {
            gates[3] = &gates[3] + &w.o * &c;
        }
        let mut h = gates[3].sigmoid() * c.tanh();
        if let Some(projection) = &self.projection {
            h = clip(h.f_matmul(projection)?, self.options.proj_clip);
        }
        Ok((h.shallow_clone(), vec![c, h]))
    }
}

/// [`BasicLSTMCell`]'s function in one fused operation per step, libtorch's `lstm_cell`.
///
/// Variables (of [`LSTMBlockCell::from_variables`]) `lstm_cell/kernel [input_size + num_units, 4 *
/// num_units]`, `bias [4 * num_units]`. State: `c, h`, `[batch, num_units]` each. TensorFlow:
/// `tf.contrib.rnn.LSTMBlockCell` without peepholes and clipping.
///
/// Built from TensorFlow's kernel, the cell holds a reordered *copy* of it, which gradients pass
/// through. It is made once, not at every step. So build a new cell after the variables have
/// changed, and for every backward pass. Built from libtorch's weights it is a plain view.
#[derive(Debug)]
pub struct LSTMBlockCell {
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    /// libtorch's second bias: always zero. (Its CUDA kernel wants both or none.)
    zero_bias: Tensor,
    input_size: i64,
    num_units: i64,
}

impl LSTMBlockCell {
    /// A cell over TensorFlow's kernel and bias.
    ///
    /// # Errors
    /// If their shapes do not fit.
    pub fn new(kernel: &Tensor, bias: &Tensor, forget_bias: f64) -> Result<Self> {
        let variables = named("lstm_cell", [("kernel", kernel), ("bias", bias)]);
        Self::from_variables(&variables, "", forget_bias)
    }

    /// Finds `scope/lstm_cell/{kernel,bias}`.
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape.
    pub fn from_variables(
        variables: &BTreeMap<String, Tensor>,
        scope: &str,
        forget_bias: f64,
    ) -> Result<Self> {
        let scope = Scope::new(variables, scope, "lstm_cell");
        scope.refuse("w_f_diag", "LSTMBlockCell has no peepholes here, take LSTMCell")?;
        let (kernel, input_size, num_units) = scope.kernel("kernel", 4, None)?;
        let bias = scope.get("bias", &[4 * num_units])?;
        let (w_ih, w_hh, mut bias) = kernel_to_libtorch(&kernel, &bias, input_size)?;
        if forget_bias != 0.0 {
            let mut gates = bias.chunk(4, 0); // i, f, g, o
            gates[1] = &gates[1] + forget_bias;
            bias = Tensor::cat(&gates, 0);
        }
        Self::from_libtorch(&w_ih, &w_hh, &bias)
    }

    /// A cell over libtorch's weights, gates i, f, g, o: `w_ih [4 * num_units, input_size]`, `w_hh
    /// [4 * num_units, num_units]` and the one `bias [4 * num_units]`, with the forget bias, if
    /// any, in it.
    ///
    /// # Errors
    /// If their shapes do not fit.
    pub fn from_libtorch(w_ih: &Tensor, w_hh: &Tensor, bias: &Tensor) -> Result<Self> {
        let (input_size, num_units) = libtorch_sizes(w_ih, w_hh, bias)?;
        Ok(Self {
            w_ih: w_ih.shallow_clone(),
            w_hh: w_hh.shallow_clone(),
            bias: bias.shallow_clone(),
            zero_bias: bias.detach().zeros_like(),
            input_size,
            num_units,
        })
    }
}

impl RnnCell for LSTMBlockCell {
    fn state_size(&self) -> Vec<i64> {
        vec![self.num_units, self.num_units]
    }

    fn output_size(&self) -> i64 {
        self.num_units
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        check_step(self, "LSTMBlockCell", inputs, self.input_size, state)?;
        let (c, h) = (&state[0], &state[1]);
        let (h, c) = inputs.f_lstm_cell(
            &[h, c],
            &self.w_ih,
            &self.w_hh,
            Some(&self.bias),
            Some(&self.zero_bias),
        )?;
        Ok((h.shallow_clone(), vec![c, h]))
    }
}

/// The cells that the language model can be trained with, by their names: `basic_rnn`,
/// `basic_lstm`, `lstm`, `gru`.
///
/// To add a cell: write its type and `from_variables`, give it a variant here, and fill in its row
/// of the table below. The command line, the model and the tests take it from there; it is then run
/// unrolled.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::EnumCount,
    strum::VariantNames,
)]
#[strum(serialize_all = "snake_case")]
#[strum(parse_err_ty = UnknownCellType, parse_err_fn = unknown_cell_type)]
pub enum CellType {
    /// [`BasicRNNCell`]
    BasicRnn,
    /// [`BasicLSTMCell`]
    BasicLstm,
    /// [`LSTMCell`] without peepholes, clipping and projection
    Lstm,
    /// [`GRUCell`]
    Gru,
}

/// Properties of a type of cell.
struct CellSpec {
    /// The variable scope that TensorFlow gives it.
    scope: &'static str,
    /// Its kernels, `[input_size + num_units, columns * num_units]`, and biases, `[columns *
    /// num_units]`: name, columns, and the constant that a bias starts from.
    variables: &'static [(&'static str, i64, Option<f64>)],
    /// Tensors of its state, `[batch, num_units]` each.
    states: usize,
    /// Whether `forget_bias` means something to it.
    has_forget_bias: bool,
    /// The cell over its variables: variables, scope, forget bias.
    build: Build,
}

type Build = fn(&BTreeMap<String, Tensor>, &str, f64) -> Result<Box<dyn RnnCell>>;

impl CellType {
    /// The table of cells. The gates of a GRU start from a bias of 1 ("to not reset and not
    /// update" at first), all other biases from 0, as in TensorFlow.
    fn spec(self) -> CellSpec {
        const LSTM: &[(&str, i64, Option<f64>)] = &[("kernel", 4, None), ("bias", 4, Some(0.0))];
        match self {
            Self::BasicRnn => CellSpec {
                scope: "basic_rnn_cell",
                variables: &[("kernel", 1, None), ("bias", 1, Some(0.0))],
                states: 1,
                has_forget_bias: false,
                build: |variables, scope, _| {
                    Ok(Box::new(BasicRNNCell::from_variables(variables, scope)?))
                },
            },
            Self::BasicLstm => CellSpec {
                scope: "basic_lstm_cell",
                variables: LSTM,
                states: 2,
                has_forget_bias: true,
                build: |variables, scope, forget_bias| {
                    Ok(Box::new(BasicLSTMCell::from_variables(variables, scope, forget_bias)?))
                },
            },
            Self::Lstm => CellSpec {
                scope: "lstm_cell",
                variables: LSTM,
                states: 2,
                has_forget_bias: true,
                build: |variables, scope, forget_bias| {
                    let options = LSTMCellOptions { forget_bias, ..Default::default() };
                    Ok(Box::new(LSTMCell::from_variables(variables, scope, options)?))
                },
            },
            Self::Gru => CellSpec {
                scope: "gru_cell",
                variables: &[
                    ("gates/kernel", 2, None),
                    ("gates/bias", 2, Some(1.0)),
                    ("candidate/kernel", 1, None),
                    ("candidate/bias", 1, Some(0.0)),
                ],
                states: 1,
                has_forget_bias: false,
                build: |variables, scope, _| {
                    Ok(Box::new(GRUCell::from_variables(variables, scope)?))
                },
            },
        }
    }

    /// All of them.
    pub const ALL: [CellType; <Self as strum::EnumCount>::COUNT] =
        [Self::BasicRnn, Self::BasicLstm, Self::Lstm, Self::Gru];

    /// The name, such as `basic_lstm`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The variable scope that TensorFlow gives the cell: `basic_lstm_cell` and so on.
    pub fn scope(self) -> &'static str {
        self.spec().scope
    }

    /// The cell's variables, names relative to [`CellType::scope`], with their shapes.
    pub fn variable_shapes(self, input_size: i64, num_units: i64) -> Vec<(&'static str, Vec<i64>)> {
        let shape = |&(name, columns, bias): &(&'static str, i64, Option<f64>)| {
            let columns = columns * num_units;
            let kernel = || vec![input_size + num_units, columns];
            (name, bias.map_or_else(kernel, |_| vec![columns]))
        };
        self.spec().variables.iter().map(shape).collect()
    }

    /// The constant that TensorFlow starts a bias from, by its name in
    /// [`CellType::variable_shapes`]. `None` for a kernel, which is drawn from the scope's
    /// initializer.
    pub fn initial_bias(self, variable: &str) -> Option<f64> {
        self.spec().variables.iter().find(|(name, ..)| *name == variable)?.2
    }

    /// The widths of the state's tensors, as [`RnnCell::state_size`] of the cell that is built.
    pub fn state_size(self, num_units: i64) -> Vec<i64> {
        vec![num_units; self.spec().states]
    }

    /// Whether the cell has a forget gate, to whose input `forget_bias` is added.
    pub fn has_forget_bias(self) -> bool {
        self.spec().has_forget_bias
    }

    /// The cell over the variables under `scope`. `forget_bias` is for the LSTMs; the others have
    /// none.
    ///
    /// ```
    /// use ptb_word_lm::rnn::CellType;
    /// use tch::{Device::Cpu, Kind::Float, Tensor};
    /// let cell_type: CellType = "gru".parse()?;
    /// let variables = cell_type.variable_shapes(4, 3).into_iter()
    ///     .map(|(name, shape)| {
    ///         (format!("rnn/{}/{name}", cell_type.scope()), Tensor::rand(shape, (Float, Cpu)))
    ///     })
    ///     .collect();
    /// let cell = cell_type.build(&variables, "rnn", 0.0)?;
    /// assert_eq!(cell.output_size(), 3);
    /// # anyhow::Ok(())
    /// ```
    ///
    /// # Errors
    /// If a variable is missing or has the wrong shape.
    pub fn build(
        self,
        variables: &BTreeMap<String, Tensor>,
        scope: &str,
        forget_bias: f64,
    ) -> Result<Box<dyn RnnCell>> {
        (self.spec().build)(variables, scope, forget_bias)
    }
}

/// A name that is no [`CellType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cell '{0}': expected one of {names}", names = CellType::VARIANTS.join(", "))]
pub struct UnknownCellType(String);

fn unknown_cell_type(name: &str) -> UnknownCellType {
    UnknownCellType(name.to_owned())
}
