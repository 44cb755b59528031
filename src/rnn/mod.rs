//! `tf.nn.rnn_cell` and the unrolls: what TensorFlow's PTB example stands on, under TensorFlow's
//! names.
//!
//! | TensorFlow | here |
//! |---|---|
//! | `RNNCell` (`state_size`, `output_size`, `zero_state`, `__call__`) | [`RnnCell`] |
//! | `BasicRNNCell`, `GRUCell`, `BasicLSTMCell`, `LSTMCell` | [`BasicRNNCell`], [`GRUCell`], [`BasicLSTMCell`], [`LSTMCell`] with [`LSTMCellOptions`] |
//! | `tf.contrib.rnn.LSTMBlockCell` | [`LSTMBlockCell`] |
//! | `DropoutWrapper(cell, input_keep_prob, output_keep_prob)` | [`DropoutWrapper`], and [`dropout_mask`] for `tf.nn.dropout` |
//! | `MultiRNNCell(cells, state_is_tuple)` | [`MultiRNNCell`] |
//! | `BasicLSTMCell(num_units, state_is_tuple=False)` | [`ConcatState`] around any cell |
//! | `tf.nn.static_rnn` (`tf.nn.rnn`) | [`static_rnn`] |
//! | `tf.nn.dynamic_rnn` | [`dynamic_rnn`] |
//! | `tf.nn.static_state_saving_rnn` (`tf.nn.state_saving_rnn`) | [`static_state_saving_rnn`] with a [`StateSaver`] |
//! | `tf.nn.static_bidirectional_rnn` (`tf.nn.bidirectional_rnn`) | [`bidirectional_rnn`] |
//! | `tf.nn.bidirectional_dynamic_rnn` | [`bidirectional_dynamic_rnn`] |
//!
//! # A cell is a view over variables
//!
//! In TensorFlow a cell makes its variables when it is first called. Here the variables come first,
//! a map from TensorFlow's names to tensors, and a cell is a cheap view over some of them: building
//! one copies nothing, and gradients reach the variables through autograd. (One exception:
//! [`LSTMBlockCell`] made from TensorFlow's kernel reorders it once, see there.) `scope` is the
//! variable scope *around* the cell: `"rnn"` finds `rnn/basic_lstm_cell/kernel`.
//!
//! ```python
//! cell = tf.nn.rnn_cell.BasicLSTMCell(num_units=3, forget_bias=0.0)
//! state = cell.zero_state(batch_size=2, dtype=tf.float32)
//! outputs, state = tf.nn.dynamic_rnn(cell, inputs, initial_state=state)
//! ```
//! ```
//! use ptb_word_lm::rnn::{BasicLSTMCell, RnnCell, dynamic_rnn};
//! use std::collections::BTreeMap;
//! use tch::{Device, Kind, Tensor};
//!
//! let float = (Kind::Float, Device::Cpu);
//! let variables = BTreeMap::from([
//!     // [input_size + num_units, 4 * num_units] and [4 * num_units]
//!     ("rnn/basic_lstm_cell/kernel".to_string(), Tensor::rand([4 + 3, 4 * 3], float)),
//!     ("rnn/basic_lstm_cell/bias".to_string(), Tensor::zeros([4 * 3], float)),
//! ]);
//! let inputs = Tensor::rand([2, 5, 4], float); // [batch, time, input_size]
//!
//! let cell = BasicLSTMCell::from_variables(&variables, "rnn", 0.0)?;
//! let state = cell.zero_state(2, float);
//! let (outputs, state) = dynamic_rnn(&cell, &inputs, None, Some(&state), false)?;
//!
//! assert_eq!(outputs.size(), [2, 5, 3]);
//! assert_eq!(state.len(), 2); // c, then h
//! # anyhow::Ok(())
//! ```
//!
//! # The state is a flat list
//!
//! A [`State`] is what `tf.nest.flatten` makes of TensorFlow's nested tuples: one `[batch, size]`
//! tensor after another, `c` before `h`, layer 0 first. A two-layer LSTM has the state `[c0, h0,
//! c1, h1]`. The deprecated `state_is_tuple=False` is one tensor `[batch, sum of sizes]`, the same
//! parts side by side: see [`ConcatState`].
//!
//! # Scopes
//!
//! `static_rnn` and `dynamic_rnn` open the scope `rnn`, the bidirectional ones
//! `bidirectional_rnn/fw` and `bidirectional_rnn/bw`, `MultiRNNCell` adds
//! `multi_rnn_cell/cell_{k}`; [`ConcatState`] and [`DropoutWrapper`] add none. Unrolls here take a
//! built cell, so a scope is only ever given to `from_variables`.

mod cell;
mod layout;
mod unroll;
mod wrapper;

pub use cell::{
    BasicLSTMCell, BasicRNNCell, CellType, GRUCell, LSTMBlockCell, LSTMCell, LSTMCellOptions,
    UnknownCellType,
};
pub use layout::{kernel_from_libtorch, kernel_to_libtorch};
pub use unroll::{
    StateSaver, bidirectional_dynamic_rnn, bidirectional_rnn, dynamic_rnn, static_rnn,
    static_state_saving_rnn,
};
pub use wrapper::{
    ConcatState, DropoutWrapper, MaskFn, MultiRNNCell, dropout_mask, masks_in_order,
};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

/// A recurrent state, flattened as `tf.nest.flatten` does: `[batch, size]` each, `c` before `h`,
/// layer 0 first.
pub type State = Vec<Tensor>;

/// One step of a recurrent network: TensorFlow's `RNNCell`.
pub trait RnnCell {
    /// The width of each tensor of the state.
    fn state_size(&self) -> Vec<i64>;

    /// The width of the output.
    fn output_size(&self) -> i64;

    /// One step: `inputs [batch, input_size]` and the state before it give the output `[batch,
    /// output_size]` and the state after it.
    ///
    /// # Errors
    /// If `inputs` or `state` has not the shape that the cell's variables call for.
    fn call(&self, inputs: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)>;

    /// A state of zeros, `[batch_size, size]` each.
    fn zero_state(&self, batch_size: i64, options: (Kind, Device)) -> State {
        self.state_size().iter().map(|size| Tensor::zeros([batch_size, *size], options)).collect()
    }
}

/// The state must be one `[batch, size]` tensor for each of `sizes`; `who` begins the message.
fn check_state(who: &str, state: &[Tensor], sizes: &[i64], batch: i64) -> Result<()> {
    ensure!(
        state.len() == sizes.len(),
        "{who}: the state is {} tensors of sizes {sizes:?}, found {} tensors",
        sizes.len(),
        state.len()
    );
    for (k, (tensor, size)) in state.iter().zip(sizes).enumerate() {
        let found = tensor.size();
        ensure!(
            found == [batch, *size],
            "{who}: state {k} has shape {found:?}, expected [batch, size] = [{batch}, {size}]"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// input_size 4, num_units 3, everything ones
    fn variables(cell: CellType) -> BTreeMap<String, Tensor> {
        let name = |name| format!("rnn/{}/{name}", cell.scope());
        let shapes = cell.variable_shapes(4, 3).into_iter();
        shapes.map(|(variable, shape)| (name(variable), Tensor::ones(shape, FLOAT))).collect()
    }

    fn basic_lstm() -> BasicLSTMCell {
        BasicLSTMCell::from_variables(&variables(CellType::BasicLstm), "rnn", 0.0).unwrap()
    }

    /// The whole message must have all of `parts` in it.
    fn fails<T>(result: Result<T>, parts: &[&str]) {
        let message = format!("{:#}", result.err().expect("it should fail"));
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_missing_or_misshapen_variable_is_named() {
        for cell in CellType::ALL {
            let complete = variables(cell);
            assert!(cell.build(&complete, "rnn", 0.0).is_ok());
            for name in complete.keys() {
                let mut variables = variables(cell);
                variables.remove(name);
                fails(cell.build(&variables, "rnn", 0.0), &[name, "missing", "expected shape ["]);
                variables.insert(name.clone(), Tensor::ones([5, 2, 2], FLOAT));
                fails(cell.build(&variables, "rnn", 0.0), &[name, "[5, 2, 2]", "expected ["]);
                variables.insert(name.clone(), Tensor::ones([], FLOAT));
                fails(cell.build(&variables, "rnn", 0.0), &[name, "shape []", "expected ["]);
            }
        }
        let empty = BTreeMap::new();
        let cell = |variables: &BTreeMap<String, Tensor>, scope: &str| {
            CellType::Gru.build(variables, scope, 0.0)
        };
        fails(
            MultiRNNCell::from_variables(&empty, "rnn", true, cell),
            &["rnn/multi_rnn_cell/cell_0/"],
        );
        fails(MultiRNNCell::new(vec![], true), &["at least one cell"]);
    }

    #[test]
    fn lstm_options_and_variables_must_fit() {
        let build = |variables: &BTreeMap<String, Tensor>, options| {
            LSTMCell::from_variables(variables, "rnn", options)
        };
        let mut variables = variables(CellType::Lstm);
        let peepholes = LSTMCellOptions { use_peepholes: true, ..Default::default() };
        fails(build(&variables, peepholes.clone()), &["rnn/lstm_cell/w_i_diag", "[3]", "missing"]);
        for gate in ["i", "f", "o"] {
            variables.insert(format!("rnn/lstm_cell/w_{gate}_diag"), Tensor::ones([3], FLOAT));
        }
        assert!(build(&variables, peepholes).is_ok());
        fails(build(&variables, Default::default()), &["w_f_diag", "use_peepholes"]);
        fails(LSTMBlockCell::from_variables(&variables, "rnn", 0.0), &["w_f_diag", "LSTMCell"]);
        let options =
            LSTMCellOptions { use_peepholes: true, num_proj: Some(0), ..Default::default() };
        fails(build(&variables, options), &["num_proj must be positive"]);
        for cell_clip in [0.0, -1.0, f64::NAN] {
            let options = LSTMCellOptions { cell_clip: Some(cell_clip), ..Default::default() };
            fails(build(&variables, options), &["cell_clip must be positive"]);
        }
        let options = LSTMCellOptions { proj_clip: Some(1.0), ..Default::default() };
        fails(build(&variables, options), &["needs num_proj"]);
        let options =
            LSTMCellOptions { use_peepholes: true, num_proj: Some(2), ..Default::default() };
        fails(build(&variables, options), &["projection/kernel", "[3, 2]", "missing"]);
    }

    #[test]
    fn cell_types_have_the_names_of_the_command_line() {
        for (cell, name) in
            CellType::ALL.into_iter().zip(["basic_rnn", "basic_lstm", "lstm", "gru"])
        {
            assert_eq!((cell.to_string().as_str(), name.parse()), (name, Ok(cell)));
        }
        fails(
            "LSTM".parse::<CellType>().map_err(Into::into),
            &["'LSTM'", "basic_rnn, basic_lstm, lstm, gru"],
        );
    }

    #[test]
    fn a_step_checks_its_shapes() {
        let cell = basic_lstm();
        let state = cell.zero_state(2, FLOAT);
        let inputs = |shape: &[i64]| Tensor::ones(shape, FLOAT);
        assert!(cell.call(&inputs(&[2, 4]), &state).is_ok());
        fails(cell.call(&inputs(&[2, 5]), &state), &["[2, 5]", "[batch, 4]"]);
        fails(cell.call(&inputs(&[4]), &state), &["[4]", "[batch, 4]"]);
        fails(cell.call(&inputs(&[3, 4]), &state), &["state 0", "[2, 3]", "[3, 3]"]);
        fails(cell.call(&inputs(&[2, 4]), &state[..1]), &["2 tensors", "found 1"]);
        let cell = ConcatState::new(Box::new(cell));
        fails(cell.call(&inputs(&[2, 4]), &state), &["1 tensors", "found 2"]);
        fails(cell.call(&inputs(&[2, 4]), &state[..1]), &["[2, 3]", "[2, 6]"]);
    }

    #[test]
    fn stacked_cells_that_do_not_fit_are_numbered() {
        let cell =
            MultiRNNCell::new(vec![Box::new(basic_lstm()), Box::new(basic_lstm())], true).unwrap();
        let state = cell.zero_state(2, FLOAT);
        fails(cell.call(&Tensor::ones([2, 4], FLOAT), &state), &["cell_1", "[2, 3]", "[batch, 4]"]);
        fails(cell.call(&Tensor::ones([2, 4], FLOAT), &state[1..]), &["4 tensors", "found 3"]);
    }

    #[test]
    fn unrolls_refuse_what_does_not_fit() {
        let cell = basic_lstm();
        let inputs = Tensor::ones([2, 5, 4], FLOAT);
        let run = |lengths: &[i64]| dynamic_rnn(&cell, &inputs, Some(lengths), None, false);
        assert!(run(&[0, 5]).is_ok());
        fails(run(&[0, 6]), &["sequence_length[1] is 6", "0 to 5"]);
        fails(run(&[-1, 5]), &["sequence_length[0] is -1", "0 to 5"]);
        fails(run(&[5]), &["1 elements", "batch of 2"]);
        fails(static_rnn(&cell, &[], None, None), &["empty"]);
        fails(static_rnn(&cell, &[], None, Some(&[1])), &["empty"]);
        fails(bidirectional_rnn(&cell, &cell, &[], None, None, Some(&[1])), &["empty"]);
        fails(dynamic_rnn(&cell, &Tensor::ones([2, 0, 4], FLOAT), None, None, false), &["empty"]);
        fails(
            dynamic_rnn(&cell, &Tensor::ones([2, 4], FLOAT), None, None, false),
            &["[2, 4]", "[batch, time,"],
        );
        fails(
            dynamic_rnn(&cell, &Tensor::ones([4], FLOAT), None, None, true),
            &["[4]", "[time, batch,"],
        );
        let state = cell.zero_state(3, FLOAT);
        fails(
            dynamic_rnn(&cell, &inputs, None, Some(&state), false),
            &["initial state", "[3, 3]", "[2, 3]"],
        );
        fails(
            dynamic_rnn(&cell, &inputs, None, Some(&state[1..]), false),
            &["initial state", "found 1"],
        );
        let ragged = [Tensor::ones([2, 4], FLOAT), Tensor::ones([1, 4], FLOAT)];
        fails(static_rnn(&cell, &ragged, None, None), &["time step 1", "[2, 3]", "[1, 3]"]);

        let mut saver = BTreeMap::new();
        fails(
            static_state_saving_rnn(&cell, &inputs.unbind(1), &mut saver, &["c"], None),
            &["1 names", "[3, 3]"],
        );
        fails(
            static_state_saving_rnn(&cell, &inputs.unbind(1), &mut saver, &["c", "h"], None),
            &["'c'", "zero_state"],
        );
    }

    #[test]
    fn dropout_draws_a_fresh_mask_at_every_step() {
        let wrap = |input, output| DropoutWrapper::new(Box::new(basic_lstm()), input, output);
        for keep_prob in [0.0, -0.5, 1.5, f64::NAN] {
            fails(wrap(keep_prob, 1.0), &["input_keep_prob", "(0, 1]"]);
            fails(wrap(1.0, keep_prob), &["output_keep_prob", "(0, 1]"]);
            fails(
                dropout_mask(&[2], keep_prob, Kind::Float, Device::Cpu),
                &["keep_prob", "(0, 1]"],
            );
        }
        let inputs = Tensor::ones([40, 2, 4], FLOAT);
        let run = |cell: &dyn RnnCell| dynamic_rnn(cell, &inputs, None, None, true).unwrap();
        let plain = run(&basic_lstm());
        assert_eq!(run(&wrap(1.0, 1.0).unwrap()), plain, "keep_prob 1.0 is no dropout");

        let (outputs, state) = run(&wrap(1.0, 0.5).unwrap());
        assert_eq!(state, plain.1, "the state is not dropped");
        let mask = outputs / plain.0; // 0 or 2
        assert_eq!(mask.round(), &mask.gt(0.0).to_kind(Kind::Float) * 2.0);
        let repeated = mask.slice(0, 1, None, 1).eq_tensor(&mask.slice(0, 0, -1, 1)).all();
        assert_eq!(repeated.int64_value(&[]), 0, "one mask for all steps");

        let (_, state) = run(&wrap(0.5, 1.0).unwrap());
        assert_ne!(state, plain.1, "the input is dropped");

        let mask = || Some(masks_in_order(vec![Tensor::ones([2, 4], FLOAT)]));
        let cell = DropoutWrapper::with_masks(Box::new(basic_lstm()), mask(), None);
        fails(
            dynamic_rnn(&cell, &inputs, None, None, true),
            &["time step 1", "fewer dropout masks"],
        );
        let cell = DropoutWrapper::with_masks(Box::new(basic_lstm()), None, mask());
        fails(dynamic_rnn(&cell, &inputs, None, None, true), &["mask has shape [2, 4]", "[2, 3]"]);
    }

    #[test]
    fn layouts_check_their_shapes() {
        let ones = |shape: &[i64]| Tensor::ones(shape, FLOAT);
        fails(kernel_to_libtorch(&ones(&[7, 12]), &ones(&[12]), 5), &["[7, 12]", "[5 + num_units"]);
        fails(kernel_to_libtorch(&ones(&[7, 12]), &ones(&[11]), 4), &["[12]", "[11]"]);
        fails(
            kernel_from_libtorch(&ones(&[12, 4]), &ones(&[12, 2]), &ones(&[12])),
            &["w_hh", "[12, 2]"],
        );
        fails(
            kernel_from_libtorch(&ones(&[8, 4]), &ones(&[12, 3]), &ones(&[12])),
            &["w_ih", "[8, 4]"],
        );
        fails(
            kernel_from_libtorch(&ones(&[12, 4]), &ones(&[12, 3]), &ones(&[9])),
            &["bias", "[9]"],
        );
    }
}
