//! The unrolls: one loop over time, [`unroll`], and what TensorFlow makes of it.

use super::{RnnCell, State, check_state};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// The loop over time: feeds `inputs`, one `[batch, input_size]` per step, to the cell. Everything
/// else here is made of it.
///
/// With lengths, a sequence that has ended gives zeros and keeps its state.
fn unroll(
    cell: &dyn RnnCell,
    inputs: &[Tensor],
    initial_state: Option<&[Tensor]>,
    lengths: Option<&Lengths>,
) -> Result<(Vec<Tensor>, State)> {
    let first =
        inputs.first().context("the inputs are empty: there must be at least one time step")?;
    let batch = first.size().first().copied().unwrap_or(0);
    let mut state = match initial_state {
        Some(state) => state.iter().map(Tensor::shallow_clone).collect(),
        None => cell.zero_state(batch, (first.kind(), first.device())),
    };
    check_state("initial state", &state, &cell.state_size(), batch)?;

    let mut outputs = Vec::with_capacity(inputs.len());
    for (time, inputs) in inputs.iter().enumerate() {
        let (mut output, mut new_state) =
            cell.call(inputs, &state).with_context(|| format!("in time step {time}"))?;
        if let Some(ended) = lengths.and_then(|lengths| lengths.ended(time)) {
            output = output.masked_fill(&ended, 0.0);
            for (new, old) in new_state.iter_mut().zip(&state) {
                *new = old.where_self(&ended, new);
            }
        }
        outputs.push(output);
        state = new_state;
    }
    Ok((outputs, state))
}

/// Checked sequence lengths.
struct Lengths {
    /// `[batch, 1]`, Int64, where the inputs are.
    lengths: Tensor,
    shortest: i64,
}

impl Lengths {
    /// `None` stays `None`. The steps of `inputs` are `[batch, input_size]`.
    fn new(sequence_length: Option<&[i64]>, inputs: &[Tensor]) -> Result<Option<Self>> {
        let (Some(lengths), Some(first)) = (sequence_length, inputs.first()) else {
            return Ok(None);
        };
        let (steps, batch) = (inputs.len() as i64, first.size().first().copied().unwrap_or(0));
        ensure!(
            lengths.len() as i64 == batch,
            "sequence_length has {} elements, expected one for each of the batch of {batch}",
            lengths.len()
        );
        for (k, length) in lengths.iter().enumerate() {
            ensure!(
                (0..=steps).contains(length),
                "sequence_length[{k}] is {length}, expected 0 to {steps}, the number of time steps"
            );
        }
        Ok(Some(Self {
            lengths: Tensor::from_slice(lengths).unsqueeze(1).to_device(first.device()),
            shortest: lengths.iter().copied().min().unwrap_or(steps),
        }))
    }

    /// Which sequences have ended before step `time`, `[batch, 1]`; `None` if no one has.
    fn ended(&self, time: usize) -> Option<Tensor> {
        (time as i64 >= self.shortest).then(|| self.lengths.le(time as i64))
    }

    /// Each sequence's own steps back to front, the padding after them left in place:
    /// `tf.reverse_sequence`.
    fn reverse(&self, steps: &[Tensor]) -> Result<Vec<Tensor>> {
        let steps = Tensor::f_stack(steps, 0)?; // [time, batch, size]
        let lengths = self.lengths.tr(); // [1, batch]
        let time =
            Tensor::arange(steps.size()[0], (Kind::Int64, Device::Cpu)).to_device(steps.device());
        let time = time.unsqueeze(1); // [time, 1]
        // [time, batch]
        let from = (&lengths - 1 - &time).where_self(&time.lt_tensor(&lengths), &time);
        Ok(steps.f_gather(0, &from.unsqueeze(2).expand_as(&steps), false)?.unbind(0))
    }
}

/// `inputs [batch, time, size]` (or `[time, batch, size]`) as one `[batch, size]` per step.
fn steps_of(inputs: &Tensor, time_major: bool) -> Result<Vec<Tensor>> {
    let found = inputs.size();
    let expected =
        if time_major { "[time, batch, input_size]" } else { "[batch, time, input_size]" };
    ensure!(found.len() == 3, "inputs have shape {found:?}, expected {expected}");
    let time = if time_major { 0 } else { 1 };
    // libtorch cannot unbind a dimension of 0; an empty list is refused by the loop.
    if found[time] == 0 { Ok(vec![]) } else { Ok(inputs.f_unbind(time as i64)?) }
}

/// The inverse of [`steps_of`].
fn stack_steps(steps: &[Tensor], time_major: bool) -> Result<Tensor> {
    Ok(Tensor::f_stack(steps, if time_major { 0 } else { 1 })?)
}

/// Unrolls a cell over a list of time steps, `[batch, input_size]` each; returns the outputs,
/// `[batch, output_size]` each, and the final state.
///
/// Without an initial state it is zeros. With `sequence_length`, one for each of the batch, outputs
/// past the end are zero and the final state is the state after the last step within it.
/// TensorFlow: `tf.nn.static_rnn`, formerly `tf.nn.rnn`. Here nothing is static: it differs from
/// [`dynamic_rnn`] only in taking lists.
///
/// ```python
/// inputs = tf.unstack(inputs, num=num_steps, axis=1)
/// outputs, state = tf.nn.static_rnn(cell, inputs, initial_state=state)
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicRNNCell, RnnCell, static_rnn};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let kernel = Tensor::rand([4 + 3, 3], options);
/// # let cell = BasicRNNCell::new(&kernel, &Tensor::zeros([3], options))?;
/// # let inputs = Tensor::rand([2, 5, 4], options);
/// # let state = cell.zero_state(2, options);
/// let (outputs, state) = static_rnn(&cell, &inputs.unbind(1), Some(&state), None)?;
/// # assert_eq!((outputs.len(), outputs[4].size(), state[0].size()), (5, vec![2, 3], vec![2, 3]));
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// If there are no inputs, a length is outside `0..=inputs.len()`, or shapes do not fit.
pub fn static_rnn(
    cell: &dyn RnnCell,
    inputs: &[Tensor],
    initial_state: Option<&[Tensor]>,
    sequence_length: Option<&[i64]>,
) -> Result<(Vec<Tensor>, State)> {
    unroll(cell, inputs, initial_state, Lengths::new(sequence_length, inputs)?.as_ref())
}

/// Unrolls a cell over one tensor, `[batch, time, input_size]`, or `[time, batch, input_size]` if
/// `time_major`; returns the outputs in the same layout, `output_size` wide, and the final state.
///
/// Lengths and states are as in [`static_rnn`]. TensorFlow: `tf.nn.dynamic_rnn`.
///
/// ```python
/// outputs, state = tf.nn.dynamic_rnn(cell, inputs, sequence_length=[5, 3], dtype=tf.float32)
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicRNNCell, dynamic_rnn};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let kernel = Tensor::rand([4 + 3, 3], options);
/// # let cell = BasicRNNCell::new(&kernel, &Tensor::zeros([3], options))?;
/// # let inputs = Tensor::rand([2, 5, 4], options);
/// let (outputs, state) = dynamic_rnn(&cell, &inputs, Some(&[5, 3]), None, false)?;
/// // Past the end of the second sequence.
/// assert_eq!(outputs.get(1).get(3), Tensor::zeros([3], (Float, Cpu)));
/// assert_eq!(state[0].get(1), outputs.get(1).get(2));
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// If there are no time steps, a length is outside `0..=time`, or shapes do not fit.
pub fn dynamic_rnn(
    cell: &dyn RnnCell,
    inputs: &Tensor,
    sequence_length: Option<&[i64]>,
    initial_state: Option<&[Tensor]>,
    time_major: bool,
) -> Result<(Tensor, State)> {
    let (outputs, state) =
        static_rnn(cell, &steps_of(inputs, time_major)?, initial_state, sequence_length)?;
    Ok((stack_steps(&outputs, time_major)?, state))
}

/// Keeps states between calls, by name. A `BTreeMap` is one; put a zero state in before the first
/// call.
pub trait StateSaver {
    /// The state that was saved last under `name`, `[batch, size]`.
    ///
    /// # Errors
    /// If there is none.
    fn state(&self, name: &str) -> Result<Tensor>;

    /// Keeps `value` under `name`.
    ///
    /// # Errors
    /// If it cannot.
    fn save_state(&mut self, name: &str, value: Tensor) -> Result<()>;
}

impl StateSaver for BTreeMap<String, Tensor> {
    fn state(&self, name: &str) -> Result<Tensor> {
        match self.get(name) {
            Some(state) => Ok(state.shallow_clone()),
            None => bail!("no state '{name}' has been saved: begin with the cell's zero_state"),
        }
    }

    fn save_state(&mut self, name: &str, value: Tensor) -> Result<()> {
        self.insert(name.to_string(), value);
        Ok(())
    }
}

/// [`static_rnn`] from the states that a state saver keeps, one under each of `state_name`; the
/// final states are saved for the next call.
///
/// Saved states are detached, as a value that leaves a TensorFlow session is: no gradient flows
/// back into the call before (truncated back-propagation). The returned ones are not. TensorFlow:
/// `tf.nn.static_state_saving_rnn`, formerly `tf.nn.state_saving_rnn`.
///
/// ```python
/// outputs, state = tf.nn.static_state_saving_rnn(cell, inputs, state_saver, state_name=("c", "h"))
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicLSTMCell, RnnCell, static_state_saving_rnn};
/// # use std::collections::BTreeMap;
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let (kernel, bias) = (Tensor::rand([4 + 3, 12], options), Tensor::zeros([12], options));
/// # let cell = BasicLSTMCell::new(&kernel, &bias, 1.0)?;
/// # let inputs = Tensor::rand([2, 5, 4], options).unbind(1);
/// let names = ["c", "h"];
/// let mut saver: BTreeMap<String, Tensor> =
///     names.map(String::from).into_iter().zip(cell.zero_state(2, options)).collect();
/// let (outputs, state) = static_state_saving_rnn(&cell, &inputs, &mut saver, &names, None)?;
/// assert_eq!(saver["h"], outputs[4]);
/// # assert_eq!(saver["c"], state[0]);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// If there is not one name for each tensor of the cell's state, the saver fails, or as
/// [`static_rnn`].
pub fn static_state_saving_rnn(
    cell: &dyn RnnCell,
    inputs: &[Tensor],
    state_saver: &mut dyn StateSaver,
    state_name: &[&str],
    sequence_length: Option<&[i64]>,
) -> Result<(Vec<Tensor>, State)> {
    let sizes = cell.state_size();
    ensure!(
        state_name.len() == sizes.len(),
        "state_name has {} names, expected one for each of the cell's state sizes {sizes:?}",
        state_name.len()
    );
    let initial: State =
        state_name.iter().map(|name| state_saver.state(name)).collect::<Result<_>>()?;
    let (outputs, state) = static_rnn(cell, inputs, Some(&initial), sequence_length)?;
    for (name, value) in state_name.iter().zip(&state) {
        state_saver.save_state(name, value.detach())?;
    }
    Ok((outputs, state))
}

/// Two unrolls over a list of time steps, one from each end; returns the outputs, forward and
/// backward side by side, `[batch, fw output_size + bw output_size]` each, and the two final
/// states.
///
/// With `sequence_length` the backward cell starts at each sequence's own end. TensorFlow:
/// `tf.nn.static_bidirectional_rnn`, formerly `tf.nn.bidirectional_rnn`.
///
/// # Errors
/// As [`static_rnn`].
pub fn bidirectional_rnn(
    cell_fw: &dyn RnnCell,
    cell_bw: &dyn RnnCell,
    inputs: &[Tensor],
    initial_state_fw: Option<&[Tensor]>,
    initial_state_bw: Option<&[Tensor]>,
    sequence_length: Option<&[i64]>,
) -> Result<(Vec<Tensor>, State, State)> {
    let (fw, state_fw) =
        static_rnn(cell_fw, inputs, initial_state_fw, sequence_length).context("forward")?;
    let (bw, state_bw) =
        backward_rnn(cell_bw, inputs, initial_state_bw, sequence_length).context("backward")?;
    let outputs =
        fw.iter().zip(&bw).map(|(fw, bw)| Tensor::f_cat(&[fw, bw], 1)).collect::<Result<_, _>>()?;
    Ok((outputs, state_fw, state_bw))
}

/// [`bidirectional_rnn`] over one tensor, `[batch, time, input_size]`, or `[time, batch,
/// input_size]` if `time_major`; returns `((output_fw, output_bw), (state_fw, state_bw))`, outputs
/// in the same layout and not concatenated.
///
/// TensorFlow: `tf.nn.bidirectional_dynamic_rnn`.
///
/// ```python
/// outputs, states = tf.nn.bidirectional_dynamic_rnn(
///     cell_fw, cell_bw, inputs, sequence_length, dtype=tf.float32)
/// outputs = tf.concat(outputs, 2)
/// ```
/// ```
/// # use ptb_word_lm::rnn::{BasicRNNCell, bidirectional_dynamic_rnn};
/// # use tch::{Device::Cpu, Kind::Float, Tensor};
/// # let options = (Float, Cpu);
/// # let kernel = || Tensor::rand([4 + 3, 3], options);
/// # let cell_fw = BasicRNNCell::new(&kernel(), &Tensor::zeros([3], options))?;
/// # let cell_bw = BasicRNNCell::new(&kernel(), &Tensor::zeros([3], options))?;
/// # let inputs = Tensor::rand([2, 5, 4], options);
/// let ((fw, bw), states) =
///     bidirectional_dynamic_rnn(&cell_fw, &cell_bw, &inputs, Some(&[5, 3]), None, None, false)?;
/// let outputs = Tensor::cat(&[fw, bw], 2);
/// # assert_eq!((outputs.size(), states.1[0].size()), (vec![2, 5, 6], vec![2, 3]));
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`dynamic_rnn`].
pub fn bidirectional_dynamic_rnn(
    cell_fw: &dyn RnnCell,
    cell_bw: &dyn RnnCell,
    inputs: &Tensor,
    sequence_length: Option<&[i64]>,
    initial_state_fw: Option<&[Tensor]>,
    initial_state_bw: Option<&[Tensor]>,
    time_major: bool,
) -> Result<((Tensor, Tensor), (State, State))> {
    let inputs = steps_of(inputs, time_major)?;
    let (fw, state_fw) =
        static_rnn(cell_fw, &inputs, initial_state_fw, sequence_length).context("forward")?;
    let (bw, state_bw) =
        backward_rnn(cell_bw, &inputs, initial_state_bw, sequence_length).context("backward")?;
    Ok(((stack_steps(&fw, time_major)?, stack_steps(&bw, time_major)?), (state_fw, state_bw)))
}

/// The backward half: reverses, unrolls, and puts the outputs back in the order of the inputs.
fn backward_rnn(
    cell: &dyn RnnCell,
    inputs: &[Tensor],
    initial_state: Option<&[Tensor]>,
    sequence_length: Option<&[i64]>,
) -> Result<(Vec<Tensor>, State)> {
    let lengths = Lengths::new(sequence_length, inputs)?;
    let reverse = |steps: &[Tensor]| match &lengths {
        Some(lengths) => lengths.reverse(steps),
        None => Ok(steps.iter().rev().map(Tensor::shallow_clone).collect()),
    };
    let (outputs, state) = unroll(cell, &reverse(inputs)?, initial_state, lengths.as_ref())?;
    Ok((reverse(&outputs)?, state))
}
