//! Cells around cells: dropout, stacking, and the concatenated state of old code.

use super::{RnnCell, State, check_state};
use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// A mask for inverted dropout: each element is `1 / keep_prob` with probability `keep_prob`, else
/// 0.
///
/// `x * dropout_mask(...)` is `tf.nn.dropout(x, keep_prob)`: what is kept is scaled up, so that the
/// expectation stays and nothing needs scaling when not training. Drawn from libtorch's generator
/// (`tch::manual_seed`).
///
/// # Errors
/// If `keep_prob` is not in (0, 1].
pub fn dropout_mask(shape: &[i64], keep_prob: f64, kind: Kind, device: Device) -> Result<Tensor> {
    check_keep_prob("keep_prob", keep_prob)?;
    let mut mask = Tensor::f_empty(shape, (kind, device))?;
    let _ = mask.f_bernoulli_float_(keep_prob)?;
    Ok(mask / keep_prob)
}

fn check_keep_prob(name: &str, keep_prob: f64) -> Result<()> {
    ensure!(keep_prob > 0.0 && keep_prob <= 1.0, "{name} must be in (0, 1], found {keep_prob}");
    Ok(())
}

/// Gives the dropout mask for a tensor, `[batch, size]`, once per step. See
/// [`DropoutWrapper::with_masks`].
pub type MaskFn = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// A [`MaskFn`] that hands out `masks` in order, one per step: dropout that can be repeated
/// exactly.
///
/// It fails when the masks run out, or when one has not the shape of what it masks.
pub fn masks_in_order(masks: Vec<Tensor>) -> MaskFn {
    let masks = RefCell::new(masks.into_iter());
    Box::new(move |x| {
        let mask = masks.borrow_mut().next().context("there are fewer dropout masks than steps")?;
        ensure!(
            mask.size() == x.size(),
            "a dropout mask has shape {:?}, expected {:?}",
            mask.size(),
            x.size()
        );
        Ok(mask)
    })
}

/// Dropout on what goes into a cell and on what comes out of it; never on the state, so the
/// recurrent path stays whole.
///
/// Masks are fresh at every step. Use it in training only: there is no switch in it, leave it off
/// to evaluate. TensorFlow: `tf.nn.rnn_cell.DropoutWrapper`, after Zaremba et al. (arXiv
/// 1409.2329).
///
/// ```python
/// cell = tf.nn.rnn_cell.DropoutWrapper(cell, output_keep_prob=0.5)
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicRNNCell, DropoutWrapper, RnnCell};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let kernel = Tensor::rand([4 + 3, 3], options);
/// # let cell = BasicRNNCell::new(&kernel, &Tensor::zeros([3], options))?;
/// let cell = DropoutWrapper::new(Box::new(cell), 1.0, 0.5)?; // input_keep_prob, output_keep_prob
/// # assert_eq!(cell.output_size(), 3);
/// # anyhow::Ok(())
/// ```
pub struct DropoutWrapper {
    cell: Box<dyn RnnCell>,
    input_mask: Option<MaskFn>,
    output_mask: Option<MaskFn>,
}

impl DropoutWrapper {
    /// Keeps each input with probability `input_keep_prob` and each output with `output_keep_prob`;
    /// 1.0 is no dropout.
    ///
    /// # Errors
    /// If a probability is not in (0, 1].
    pub fn new(
        cell: Box<dyn RnnCell>,
        input_keep_prob: f64,
        output_keep_prob: f64,
    ) -> Result<Self> {
        let fresh = |name, keep_prob| -> Result<Option<MaskFn>> {
            check_keep_prob(name, keep_prob)?;
            Ok(match keep_prob < 1.0 {
                true => Some(Box::new(move |x| {
                    dropout_mask(&x.size(), keep_prob, x.kind(), x.device())
                })),
                false => None,
            })
        };
        Ok(Self {
            cell,
            input_mask: fresh("input_keep_prob", input_keep_prob)?,
            output_mask: fresh("output_keep_prob", output_keep_prob)?,
        })
    }

    /// Masks of your own, for instance [`masks_in_order`]; `None` is no dropout.
    pub fn with_masks(
        cell: Box<dyn RnnCell>,
        input_mask: Option<MaskFn>,
        output_mask: Option<MaskFn>,
    ) -> Self {
        Self { cell, input_mask, output_mask }
    }
}

impl RnnCell for DropoutWrapper {
    fn state_size(&self) -> Vec<i64> {
        self.cell.state_size()
    }

    fn output_size(&self) -> i64 {
        self.cell.output_size()
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let (output, state) = match &self.input_mask {
            Some(mask) => self.cell.call(&inputs.f_mul(&mask(inputs)?)?, state)?,
            None => self.cell.call(inputs, state)?,
        };
        let output = match &self.output_mask {
            Some(mask) => output.f_mul(&mask(&output)?)?,
            None => output,
        };
        Ok((output, state))
    }
}

/// A cell whose state is one tensor `[batch, sum of sizes]`, the parts of the inner cell's state
/// side by side (`c` first): TensorFlow's deprecated `state_is_tuple=False`.
///
/// ```python
/// cell = tf.nn.rnn_cell.BasicLSTMCell(3, state_is_tuple=False)
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicLSTMCell, ConcatState, RnnCell};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let (kernel, bias) = (Tensor::rand([4 + 3, 12], options), Tensor::zeros([12], options));
/// let cell = ConcatState::new(Box::new(BasicLSTMCell::new(&kernel, &bias, 1.0)?));
/// assert_eq!(cell.state_size(), [6]); // c and h
/// # anyhow::Ok(())
/// ```
pub struct ConcatState {
    cell: Box<dyn RnnCell>,
}

impl ConcatState {
    /// `cell` with its state concatenated.
    pub fn new(cell: Box<dyn RnnCell>) -> Self {
        Self { cell }
    }
}

impl RnnCell for ConcatState {
    fn state_size(&self) -> Vec<i64> {
        vec![self.cell.state_size().iter().sum()]
    }

    fn output_size(&self) -> i64 {
        self.cell.output_size()
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let parts = split_state("ConcatState", inputs, state, &self.cell.state_size())?;
        let (output, parts) = self.cell.call(inputs, &parts)?;
        Ok((output, vec![Tensor::f_cat(&parts, 1)?]))
    }
}

/// The parts, `[batch, size]` each of `sizes`, of a concatenated state.
fn split_state(who: &str, inputs: &Tensor, state: &[Tensor], sizes: &[i64]) -> Result<State> {
    check_state(who, state, &[sizes.iter().sum()], batch_of(inputs))?;
    Ok(state[0].f_split_with_sizes(sizes, 1)?)
}

/// The batch size of `inputs [batch, input_size]`; the cell itself checks the shape.
fn batch_of(inputs: &Tensor) -> i64 {
    inputs.size().first().copied().unwrap_or(0)
}

/// Cells on top of each other: the output of each is the input of the next; the last one's is the
/// output.
///
/// State: those of the cells, one after another; with `state_is_tuple: false` they are one tensor,
/// side by side. TensorFlow: `tf.nn.rnn_cell.MultiRNNCell(cells, state_is_tuple=True)`.
///
/// ```python
/// cell = tf.nn.rnn_cell.MultiRNNCell([tf.nn.rnn_cell.BasicLSTMCell(3) for _ in range(2)])
/// ```
/// ```
/// use ptb_word_lm::rnn::{BasicLSTMCell, MultiRNNCell, RnnCell};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let mut variables = std::collections::BTreeMap::new();
/// # for (cell, input_size) in [(0, 4), (1, 3)] {
/// #     let name = |v| format!("rnn/multi_rnn_cell/cell_{cell}/basic_lstm_cell/{v}");
/// #     variables.insert(name("kernel"), Tensor::rand([input_size + 3, 12], (Float, Cpu)));
/// #     variables.insert(name("bias"), Tensor::zeros([12], (Float, Cpu)));
/// # }
/// // rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel, ...
/// let cell = MultiRNNCell::from_variables(&variables, "rnn", true, |variables, scope| {
///     Ok(Box::new(BasicLSTMCell::from_variables(variables, scope, 1.0)?))
/// })?;
/// assert_eq!(cell.state_size(), [3, 3, 3, 3]); // c0, h0, c1, h1
/// # anyhow::Ok(())
/// ```
pub struct MultiRNNCell {
    cells: Vec<Box<dyn RnnCell>>,
    state_is_tuple: bool,
}

impl MultiRNNCell {
    /// A stack of `cells`, the first one nearest to the input.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(cells: Vec<Box<dyn RnnCell>>, state_is_tuple: bool) -> Result<Self> {
        ensure!(!cells.is_empty(), "MultiRNNCell: there must be at least one cell");
        Ok(Self { cells, state_is_tuple })
    }

    /// As many cells as there are scopes `scope/multi_rnn_cell/cell_{k}`, each made by
    /// `cell(variables, its scope)`.
    ///
    /// # Errors
    /// If there is no such scope, or `cell` fails.
    pub fn from_variables(
        variables: &BTreeMap<String, Tensor>,
        scope: &str,
        state_is_tuple: bool,
        cell: impl Fn(&BTreeMap<String, Tensor>, &str) -> Result<Box<dyn RnnCell>>,
    ) -> Result<Self> {
        let prefix = match scope {
            "" => "multi_rnn_cell/cell_".to_string(),
            _ => format!("{scope}/multi_rnn_cell/cell_"),
        };
        // The highest number, not the count: a gap is then a missing variable, reported by name.
        let number =
            |name: &str| name.strip_prefix(&prefix)?.split('/').next()?.parse::<usize>().ok();
        let last = variables
            .keys()
            .filter_map(|name| number(name))
            .max()
            .with_context(|| format!("no variable's name begins with '{prefix}0/'"))?;
        let cells =
            (0..=last).map(|k| cell(variables, &format!("{prefix}{k}"))).collect::<Result<_>>()?;
        Self::new(cells, state_is_tuple)
    }

    /// The width of each state of each cell.
    fn sizes(&self) -> Vec<i64> {
        self.cells.iter().flat_map(|cell| cell.state_size()).collect()
    }
}

impl RnnCell for MultiRNNCell {
    fn state_size(&self) -> Vec<i64> {
        let sizes = self.sizes();
        if self.state_is_tuple { sizes } else { vec![sizes.iter().sum()] }
    }

    fn output_size(&self) -> i64 {
        self.cells.last().map_or(0, |cell| cell.output_size())
    }

    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let parts;
        let mut rest = if self.state_is_tuple {
            check_state("MultiRNNCell", state, &self.sizes(), batch_of(inputs))?;
            state
        } else {
            parts = split_state("MultiRNNCell", inputs, state, &self.sizes())?;
            &parts
        };
        let mut output = inputs.shallow_clone();
        let mut new_state = Vec::with_capacity(rest.len());
        for (k, cell) in self.cells.iter().enumerate() {
            let (own, others) = rest.split_at(cell.state_size().len());
            rest = others;
            let (next, own) =
                cell.call(&output, own).with_context(|| format!("MultiRNNCell, cell_{k}"))?;
            output = next;
            new_state.extend(own);
        }
        if !self.state_is_tuple {
            new_state = vec![Tensor::f_cat(&new_state, 1)?];
        }
        Ok((output, new_state))
    }
}
