//! `tf.clip_by_global_norm` and `tf.train.GradientDescentOptimizer`, with the embedding's gradient as TensorFlow keeps it: one row per
//! occurrence of a word (`tf.IndexedSlices`), never summed into a `[vocab, hidden]` tensor.
//!
//! That is not only faster. **The rows enter the global norm one by one**: a word that stands twice in a batch counts as two rows, not as
//! their sum. A dense gradient has another norm, so the clipping differs, and with it the run.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// A gradient, as `tf.gradients` returns it.
#[derive(Debug)]
pub enum Gradient {
    /// One value per element of the variable.
    Dense(Tensor),
    /// `tf.IndexedSlices`: row `k` of `values` belongs to row `indices[k]` of the variable; an index may occur more than once.
    IndexedSlices {
        /// `[n, ...]`
        values: Tensor,
        /// `[n]`, int64
        indices: Tensor,
    },
}

impl Gradient {
    /// The numbers that enter the global norm.
    pub fn values(&self) -> &Tensor {
        match self {
            Gradient::Dense(values) | Gradient::IndexedSlices { values, .. } => values,
        }
    }

    /// The same gradient with one value per element of a variable of shape `size`; rows of the same index are summed.
    pub fn to_dense(&self, size: &[i64]) -> Tensor {
        match self {
            Gradient::Dense(values) => values.shallow_clone(),
            Gradient::IndexedSlices { values, indices } => {
                Tensor::zeros(size, (values.kind(), values.device())).index_add(0, indices, values)
            }
        }
    }

    fn scale(&self, factor: &Tensor) -> Gradient {
        match self {
            Gradient::Dense(values) => Gradient::Dense(values * factor),
            Gradient::IndexedSlices { values, indices } => {
                Gradient::IndexedSlices { values: values * factor, indices: indices.shallow_clone() }
            }
        }
    }
}

/// `tf.global_norm`: the square root of the sum of squares over all gradients, a scalar on their device.
/// Indexed slices enter row by row, un-aggregated.
pub fn global_norm(gradients: &[Gradient]) -> Tensor {
    if gradients[0].values().device().is_cuda() {
        return foreach::global_norm(gradients);
    }
    // Row by row first: over a whole matrix libtorch adds millions of squares into a few float32 accumulators and loses the fifth digit
    // (3e-5 for softmax_w of `small`, 7e-4 for `large`'s).
    let norm = |g: &Gradient| {
        let rows = g.values().norm_scalaropt_dim(2, [-1i64].as_slice(), false);
        rows.to_kind(Kind::Double).norm()
    };
    let norms: Vec<Tensor> = gradients.iter().map(norm).collect();
    Tensor::stack(&norms, 0).norm().to_kind(gradients[0].values().kind())
}

/// How much `clip_by_global_norm` multiplies every gradient by: `clip_norm / max(global_norm, clip_norm)`, a scalar on the norm's device.
pub fn clip_scale(global_norm: &Tensor, clip_norm: f64) -> Tensor {
    global_norm.clamp_min(clip_norm).reciprocal() * clip_norm
}

/// `tf.clip_by_global_norm`: the gradients scaled by `clip_norm / max(global_norm, clip_norm)`, and the global norm before it.
///
/// Nothing is read back to the host, so on a GPU nothing waits. The training step does the same in its update without the copies:
/// [`apply_gradients`].
///
/// # Errors
/// `clip_norm` that is not above 0, no gradients.
pub fn clip_by_global_norm(gradients: &[Gradient], clip_norm: f64) -> Result<(Vec<Gradient>, Tensor)> {
    ensure!(clip_norm > 0.0, "clip_norm is {clip_norm}; it must be above 0");
    ensure!(!gradients.is_empty(), "there are no gradients to clip");
    let norm = global_norm(gradients);
    let scale = clip_scale(&norm, clip_norm);
    Ok((gradients.iter().map(|g| g.scale(&scale)).collect(), norm))
}

/// Plain gradient descent with clipping in one pass: `variable -= learning_rate * scale * gradient`, in place.
/// `scale` is a scalar on the variables' device (see [`clip_scale`]). Of an embedding only the rows that occurred are touched.
pub fn apply_gradients(variables: &[&Tensor], gradients: &[Gradient], scale: &Tensor, learning_rate: f64) {
    descend(variables, gradients, &(scale * -learning_rate));
}

/// `variable += factor * gradient`, in place; `factor` is a scalar on the variables' device, `-learning_rate * scale`.
pub(crate) fn descend(variables: &[&Tensor], gradients: &[Gradient], factor: &Tensor) {
    tch::no_grad(|| {
        // (The fused kernel takes its learning rate as float32.)
        if factor.device().is_cuda() && factor.kind() == Kind::Float {
            return foreach::descend(variables, gradients, factor);
        }
        for (variable, gradient) in variables.iter().zip(gradients) {
            // A shallow clone is the same variable: tch asks for `mut` where libtorch writes in place.
            let mut variable = variable.shallow_clone();
            let _ = match gradient {
                // One pass over the variable; `factor` is broadcast, so nothing is copied.
                Gradient::Dense(values) => variable.addcmul_(values, factor),
                Gradient::IndexedSlices { values, indices } => {
                    variable.index_add_(0, indices, &(values * factor))
                }
            };
        }
    })
}

/// The same over all variables in one or two kernels, for GPUs, where a kernel for each variable costs more than its arithmetic. libtorch has
/// these operators, made for PyTorch's optimizers; tch does not bind them (src/foreach.cpp).
mod foreach {
    use std::ffi::c_int;

    use tch::{Kind, Tensor};
    use torch_sys::C_tensor;

    use super::Gradient;

    unsafe extern "C" {
        fn ptb_foreach_norm(tensors: *const *const C_tensor, count: c_int) -> *mut C_tensor;
        fn ptb_fused_sgd(
            variables: *const *const C_tensor,
            gradients: *const *const C_tensor,
            count: c_int,
            learning_rate: *const C_tensor,
        ) -> bool;
    }

    fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
        tensors.iter().map(|t| t.as_ptr()).collect()
    }

    /// A GPU adds in trees, so float32's norm of a whole matrix keeps its digits there.
    pub(super) fn global_norm(gradients: &[Gradient]) -> Tensor {
        let values: Vec<Tensor> = gradients.iter().map(|g| g.values().shallow_clone()).collect();
        // SAFETY: the pointers are those of tensors that outlive the call; what comes back is null or a new tensor, which is ours.
        let norms = unsafe { ptb_foreach_norm(pointers(&values).as_ptr(), values.len() as c_int) };
        assert!(!norms.is_null(), "libtorch's _foreach_norm failed");
        // SAFETY: as said above.
        let norms = unsafe { Tensor::from_ptr(norms) };
        norms.to_kind(Kind::Double).norm().to_kind(values[0].kind())
    }

    pub(super) fn descend(variables: &[&Tensor], gradients: &[Gradient], factor: &Tensor) {
        let (mut dense, mut values) = (Vec::new(), Vec::new());
        for (variable, gradient) in variables.iter().zip(gradients) {
            match gradient {
                Gradient::Dense(gradient) => {
                    dense.push(variable.shallow_clone());
                    values.push(gradient.contiguous());
                }
                Gradient::IndexedSlices { values, indices } => {
                    let _ = variable.shallow_clone().index_add_(0, indices, &(values * factor));
                }
            }
        }
        let learning_rate = -factor;
        // SAFETY: as above, and both lists have `count` pointers.
        let done = unsafe {
            ptb_fused_sgd(
                pointers(&dense).as_ptr(),
                pointers(&values).as_ptr(),
                dense.len() as c_int,
                learning_rate.as_ptr(),
            )
        };
        assert!(done, "libtorch's _fused_sgd_ failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The operators that GPUs use have CPU kernels too.
    #[test]
    fn all_variables_at_once_is_one_by_one() {
        tch::manual_seed(2);
        let rand = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let sizes: [&[i64]; 4] = [&[57, 24], &[96, 24], &[96], &[24, 57]];
        let variables: Vec<Tensor> = sizes.iter().map(|size| rand(size)).collect();
        let mut gradients: Vec<Gradient> = sizes.iter().map(|size| Gradient::Dense(rand(size))).collect();
        let indices = Tensor::from_slice(&[3i64, 5, 3]);
        gradients[0] = Gradient::IndexedSlices { values: rand(&[3, 24]), indices };
        let off = (foreach::global_norm(&gradients) / global_norm(&gradients) - 1.0).abs().double_value(&[]);
        assert!(off < 1e-6, "the norm is off by {off:e}");
        let copies: Vec<Tensor> = variables.iter().map(Tensor::copy).collect();
        let factor = Tensor::from(-0.25f32);
        descend(&variables.iter().collect::<Vec<_>>(), &gradients, &factor);
        foreach::descend(&copies.iter().collect::<Vec<_>>(), &gradients, &factor);
        for (plain, ours) in variables.iter().zip(&copies) {
            assert!((plain - ours).abs().max().double_value(&[]) < 1e-6, "{:?}", plain.size());
        }
    }

    fn slices(rows: &[[f64; 2]], indices: &[i64]) -> Gradient {
        Gradient::IndexedSlices { values: Tensor::from_slice2(rows), indices: Tensor::from_slice(indices) }
    }

    #[test]
    fn repeated_rows_enter_the_norm_one_by_one() {
        // Twice the row (3, 4) for the same word: rows give sqrt(25 + 25), their sum would give 10.
        let gradients = [slices(&[[3.0, 4.0], [3.0, 4.0]], &[1, 1])];
        assert!((global_norm(&gradients).double_value(&[]) - 50f64.sqrt()).abs() < 1e-12);
        let dense = [Gradient::Dense(gradients[0].to_dense(&[3, 2]))];
        assert!((global_norm(&dense).double_value(&[]) - 10.0).abs() < 1e-12);
    }

    /// At the real sizes of softmax_w, where libtorch's own float32 norm of the whole loses the fifth digit and with it TensorFlow's clipping.
    #[test]
    fn float32_norms_of_large_gradients_keep_their_digits() {
        tch::manual_seed(11);
        for hidden in [200, 650] {
            let gradient = Tensor::randn([hidden, 10_000], (Kind::Float, Device::Cpu)) * 1e-3;
            let exact = gradient.to_kind(Kind::Double).square().sum(Kind::Double).sqrt().double_value(&[]);
            let ours = global_norm(&[Gradient::Dense(gradient)]).double_value(&[]);
            assert!((ours / exact - 1.0).abs() < 1e-6, "{hidden}: {ours} instead of {exact}");
        }
    }

    #[test]
    fn clipping_scales_only_above_the_norm() {
        let gradients = || [Gradient::Dense(Tensor::from_slice(&[3.0])), slices(&[[0.0, 4.0]], &[0])];
        for (clip_norm, factor) in [(10.0, 1.0), (2.5, 0.5)] {
            let (clipped, norm) = clip_by_global_norm(&gradients(), clip_norm).unwrap();
            assert_eq!(norm.double_value(&[]), 5.0);
            assert_eq!(clipped[0].values().double_value(&[0]), 3.0 * factor);
            assert_eq!(clipped[1].values().double_value(&[0, 1]), 4.0 * factor);
        }
        assert!(clip_by_global_norm(&gradients(), 0.0).is_err());
        assert!(clip_by_global_norm(&[], 1.0).is_err());
    }

    #[test]
    fn update_touches_only_the_rows_that_occurred() {
        let ones = |size: &[i64]| Tensor::ones(size, (Kind::Double, Device::Cpu));
        let (embedding, w) = (ones(&[3, 2]), ones(&[2]));
        let gradients =
            [slices(&[[1.0, 0.0], [1.0, 2.0]], &[2, 2]), Gradient::Dense(Tensor::from_slice(&[4.0, 8.0]))];
        apply_gradients(&[&embedding, &w], &gradients, &Tensor::from(0.5), 0.1);
        assert!(
            (embedding - Tensor::from_slice2(&[[1.0, 1.0], [1.0, 1.0], [0.9, 0.9]]))
                .abs()
                .max()
                .double_value(&[])
                < 1e-12
        );
        assert!((w - Tensor::from_slice(&[0.8, 0.6])).abs().max().double_value(&[]) < 1e-12);
    }
}
