//! `tf.nn.rnn_cell` and the unrolls: what TensorFlow's PTB example stands on, under TensorFlow's names.
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
//! In TensorFlow a cell makes its variables when it is first called. Here the variables come first, a map from
//! TensorFlow's names to tensors, and a cell is a cheap view over some of them: building one copies nothing, and
//! gradients reach the variables through autograd. (One exception: [`LSTMBlockCell`] made from TensorFlow's kernel
//! reorders it once, see there.) `scope` is the variable scope *around* the cell: `"rnn"` finds
//! `rnn/basic_lstm_cell/kernel`.
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
//! A [`State`] is what `tf.nest.flatten` makes of TensorFlow's nested tuples: one `[batch, size]` tensor after another,
//! `c` before `h`, layer 0 first. A two-layer LSTM has the state `[c0, h0, c1, h1]`. The deprecated
//! `state_is_tuple=False` is one tensor `[batch, sum of sizes]`, the same parts side by side: see [`ConcatState`].
//!
//! # Scopes
//!
//! `static_rnn` and `dynamic_rnn` open the scope `rnn`, the bidirectional ones `bidirectional_rnn/fw` and
//! `bidirectional_rnn/bw`, `MultiRNNCell` adds `multi_rnn_cell/cell_{k}`; [`ConcatState`] and [`DropoutWrapper`] add none.
//! Unrolls here take a built cell, so a scope is only ever given to `from_variables`.

mod cell;
mod layout;
mod unroll;
mod wrapper;

pub use cell::{
    BasicLSTMCell, BasicRNNCell, CellType, GRUCell, LSTMBlockCell, LSTMCell, LSTMCellOptions, UnknownCellType,
};
pub use layout::{kernel_from_libtorch, kernel_to_libtorch};
pub use unroll::{
    StateSaver, bidirectional_dynamic_rnn, bidirectional_rnn, dynamic_rnn, static_rnn,
    static_state_saving_rnn,
};
pub use wrapper::{ConcatState, DropoutWrapper, MaskFn, MultiRNNCell, dropout_mask, masks_in_order};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

/// A recurrent state, flattened as `tf.nest.flatten` does: `[batch, size]` each, `c` before `h`, layer 0 first.
pub type State = Vec<Tensor>;

/// One step of a recurrent network: TensorFlow's `RNNCell`.
pub trait RnnCell {
    /// The width of each tensor of the state.
    fn state_size(&self) -> Vec<i64>;

    /// The width of the output.
    fn output_size(&self) -> i64;

    /// One step: `inputs [batch, input_size]` and the state before it give the output `[batch, output_size]` and
    /// the state after it.
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
