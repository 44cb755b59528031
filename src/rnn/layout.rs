//! The one place that knows how TensorFlow's LSTM kernel and libtorch's weights differ.
//!
//! | | TensorFlow | libtorch |
//! |---|---|---|
//! | weights | one `kernel [input_size + num_units, 4 * num_units]` | `w_ih [4 * num_units, input_size]`, `w_hh [4 * num_units, num_units]` |
//! | applied as | `[inputs, h] kernel` | `inputs w_ihᵀ + h w_hhᵀ` |
//! | biases | one `[4 * num_units]` | two; the second is not trained and holds TensorFlow's `forget_bias` |
//! | gates | i, j, f, o | i, f, g, o (its g is TensorFlow's j) |
//!
//! Both functions only move numbers about: a round trip gives back the same bits, and gradients
//! pass through.

use anyhow::{Result, ensure};
use tch::Tensor;

/// i, j, f, o <-> i, f, j, o along `dim`: swapping the two middle quarters is its own inverse.
fn swap_middle_gates(x: &Tensor, dim: i64) -> Tensor {
    let gates = x.chunk(4, dim);
    Tensor::cat(&[&gates[0], &gates[2], &gates[1], &gates[3]], dim)
}

/// TensorFlow's `kernel [input_size + num_units, 4 * num_units]` and `bias [4 * num_units]` as
/// libtorch's `(w_ih [4 * num_units, input_size], w_hh [4 * num_units, num_units], bias [4 *
/// num_units])`.
///
/// ```
/// use ptb_word_lm::rnn::{kernel_from_libtorch, kernel_to_libtorch};
/// use tch::{Kind::Float, Device::Cpu, Tensor};
/// let rand = |size: &[i64]| Tensor::rand(size, (Float, Cpu));
/// let (kernel, bias) = (rand(&[4 + 3, 4 * 3]), rand(&[4 * 3]));
/// let (w_ih, w_hh, b) = kernel_to_libtorch(&kernel, &bias, 4)?;
/// assert_eq!((w_ih.size(), w_hh.size()), (vec![12, 4], vec![12, 3]));
/// assert_eq!(kernel_from_libtorch(&w_ih, &w_hh, &b)?, (kernel, bias));
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other and `input_size`.
pub fn kernel_to_libtorch(
    kernel: &Tensor,
    bias: &Tensor,
    input_size: i64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (found, found_bias) = (kernel.size(), bias.size());
    let num_units = found.last().map_or(0, |columns| columns / 4);
    ensure!(
        num_units > 0 && input_size > 0 && found == [input_size + num_units, 4 * num_units],
        "an LSTM kernel with input_size {input_size} has shape [{input_size} + num_units, 4 * \
         num_units], found {found:?}"
    );
    ensure!(
        found_bias == [4 * num_units],
        "the bias of an LSTM kernel {found:?} has shape [{}], found {found_bias:?}",
        4 * num_units
    );
    let weights = swap_middle_gates(kernel, 1);
    let w_ih = weights.narrow(0, 0, input_size).tr().contiguous();
    let w_hh = weights.narrow(0, input_size, num_units).tr().contiguous();
    Ok((w_ih, w_hh, swap_middle_gates(bias, 0)))
}

/// The inverse of [`kernel_to_libtorch`]: `(kernel, bias)` in TensorFlow's layout.
///
/// libtorch's LSTM has two biases: pass their sum, or the first alone if the second holds only the
/// forget bias.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn kernel_from_libtorch(
    w_ih: &Tensor,
    w_hh: &Tensor,
    bias: &Tensor,
) -> Result<(Tensor, Tensor)> {
    libtorch_sizes(w_ih, w_hh, bias)?;
    let weights = Tensor::cat(&[w_ih, w_hh], 1).tr().contiguous();
    Ok((swap_middle_gates(&weights, 1), swap_middle_gates(bias, 0)))
}

/// Checks the shapes of libtorch's weights, and returns `(input_size, num_units)`.
pub(super) fn libtorch_sizes(w_ih: &Tensor, w_hh: &Tensor, bias: &Tensor) -> Result<(i64, i64)> {
    let (found_ih, found_hh, found_bias) = (w_ih.size(), w_hh.size(), bias.size());
    let num_units = found_hh.last().copied().unwrap_or(0);
    ensure!(
        num_units > 0 && found_hh == [4 * num_units, num_units],
        "w_hh of an LSTM has shape [4 * num_units, num_units], found {found_hh:?}"
    );
    ensure!(
        found_ih.len() == 2 && found_ih[0] == 4 * num_units && found_ih[1] > 0,
        "w_ih of an LSTM with num_units {num_units} has shape [{}, input_size], found {found_ih:?}",
        4 * num_units
    );
    ensure!(
        found_bias == [4 * num_units],
        "the bias of an LSTM with num_units {num_units} has shape [{}], found {found_bias:?}",
        4 * num_units
    );
    Ok((found_ih[1], num_units))
}
