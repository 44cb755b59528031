//! `tf.clip_by_global_norm`, `tf.train.GradientDescentOptimizer` and `tf.train.AdamOptimizer`.
//!
//! The embedding's gradient is kept as in TensorFlow: one row per occurrence of a word
//! (`tf.IndexedSlices`), never summed into a `[vocab, hidden]` tensor. This is not only faster.
//! **The rows enter the global norm one by one**: a word that occurs twice in a batch counts as two
//! rows, not as their sum. A dense gradient has another norm, so it would be clipped differently
//! and give another run.

mod adam;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::kernels::foreach;
pub use adam::Adam;

/// A gradient, as `tf.gradients` returns it.
#[derive(Debug)]
pub enum Gradient {
    /// One value per element of the variable.
    Dense(Tensor),
    /// `tf.IndexedSlices`: row `k` of `values` belongs to row `indices[k]` of the variable; an
    /// index may occur more than once.
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

    /// The same gradient with one value per element of a variable of shape `size`; rows of the same
    /// index are summed.
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
            Gradient::IndexedSlices { values, indices } => Gradient::IndexedSlices {
                values: values * factor,
                indices: indices.shallow_clone(),
            },
        }
    }
}

/// `tf.global_norm`: the square root of the sum of squares over all gradients, a scalar on their
/// device. Indexed slices enter row by row, un-aggregated.
///
/// # Panics
/// If there are no gradients.
pub fn global_norm(gradients: &[Gradient]) -> Tensor {
    let kind = gradients[0].values().kind();
    if gradients[0].values().device().is_cuda() {
        // A GPU sums in trees, which keeps the precision.
        let values: Vec<Tensor> = gradients.iter().map(|g| g.values().shallow_clone()).collect();
        return foreach::norms(&values).to_kind(Kind::Double).norm().to_kind(kind);
    }
    // Row by row first: over a whole matrix libtorch's CPU kernel adds millions of squares into a
    // few float32 accumulators and loses the fifth digit (3e-5 for softmax_w of `small`, 7e-4 for
    // `large`'s).
    let norm = |g: &Gradient| {
        let rows = g.values().norm_scalaropt_dim(2, [-1i64].as_slice(), false);
        rows.to_kind(Kind::Double).norm()
    };
    let norms: Vec<Tensor> = gradients.iter().map(norm).collect();
    Tensor::stack(&norms, 0).norm().to_kind(kind)
}

/// Factor that `clip_by_global_norm` multiplies every gradient by: `clip_norm / max(global_norm,
/// clip_norm)`, a scalar on the norm's device. NaN if the norm is not finite, as in TensorFlow, so
/// that a diverged run does not continue unnoticed.
pub fn clip_scale(global_norm: &Tensor, clip_norm: f64) -> Tensor {
    // A finite number times 0 is 0; any other gives NaN.
    global_norm.clamp_min(clip_norm).reciprocal() * clip_norm + global_norm * 0.0
}

/// `tf.clip_by_global_norm`: the gradients scaled by [`clip_scale`], and the global norm before it.
///
/// Nothing is read back to the host, so the host does not wait for a GPU. The training step does
/// the same within its update, without the copies: [`Optimizer::apply_gradients`].
///
/// # Errors
/// `clip_norm` that is not above 0, no gradients.
pub fn clip_by_global_norm(
    gradients: &[Gradient],
    clip_norm: f64,
) -> Result<(Vec<Gradient>, Tensor)> {
    ensure!(clip_norm > 0.0, "clip_norm is {clip_norm}; it must be above 0");
    ensure!(!gradients.is_empty(), "there are no gradients to clip");
    let norm = global_norm(gradients);
    let scale = clip_scale(&norm, clip_norm);
    Ok((gradients.iter().map(|g| g.scale(&scale)).collect(), norm))
}

/// Type of the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerType {
    /// `tf.train.GradientDescentOptimizer`, the original's
    #[default]
    Sgd,
    /// `tf.train.AdamOptimizer`, as TensorFlow 1 computes it
    Adam,
}

/// An optimizer with its slots.
#[derive(Debug)]
pub enum Optimizer {
    /// `tf.train.GradientDescentOptimizer`: no slots.
    GradientDescent,
    /// `tf.train.AdamOptimizer` with its defaults.
    Adam(Adam),
}

impl Optimizer {
    /// A new optimizer of these variables.
    pub fn new(optimizer: OptimizerType, variables: &[&Tensor]) -> Self {
        match optimizer {
            OptimizerType::Sgd => Optimizer::GradientDescent,
            OptimizerType::Adam => Optimizer::Adam(Adam::new(variables)),
        }
    }

    /// Updates the variables in place. The gradients are multiplied by `scale` ([`clip_scale`]).
    /// `scale` and `learning_rate` are scalars on the variables' device.
    pub fn apply_gradients(
        &self,
        variables: &[&Tensor],
        gradients: &[Gradient],
        scale: &Tensor,
        learning_rate: &Tensor,
    ) {
        tch::no_grad(|| match self {
            Optimizer::GradientDescent => descend(variables, gradients, &(scale * learning_rate)),
            Optimizer::Adam(adam) => {
                adam.apply_gradients(variables, gradients, scale, learning_rate)
            }
        })
    }

    /// The slots, in the variables' order: m and v of each; then the two powers. None for gradient
    /// descent.
    pub fn slots(&self) -> Vec<&Tensor> {
        match self {
            Optimizer::GradientDescent => Vec::new(),
            Optimizer::Adam(Adam { m, v, powers }) => {
                m.iter().zip(v).flat_map(|(m, v)| [m, v]).chain(powers).collect()
            }
        }
    }
}

/// `variable -= rate * gradient`, in place. Of an embedding only the rows that occurred are
/// touched.
fn descend(variables: &[&Tensor], gradients: &[Gradient], rate: &Tensor) {
    let minus_rate = -rate;
    // libtorch's fused kernel takes its learning rate as float32.
    let fused = rate.device().is_cuda() && rate.kind() == Kind::Float;
    let (mut dense, mut values) = (Vec::new(), Vec::new());
    for (variable, gradient) in variables.iter().zip(gradients) {
        // A shallow clone is the same variable: tch asks for `mut` where libtorch writes in place.
        let mut variable = variable.shallow_clone();
        match gradient {
            Gradient::Dense(gradient) if fused => {
                dense.push(variable);
                values.push(gradient.contiguous());
            }
            Gradient::Dense(gradient) => {
                // One pass over the variable; the rate is broadcast, so nothing is copied.
                let _ = variable.addcmul_(gradient, &minus_rate);
            }
            Gradient::IndexedSlices { values, indices } => {
                let _ = variable.index_add_(0, indices, &(values * &minus_rate));
            }
        }
    }
    if fused {
        foreach::sgd(&dense, &values, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The operators that GPUs use have CPU kernels too.
    #[test]
    fn all_variables_at_once_is_one_by_one() {
        let _random = crate::random_numbers(2);
        let rand = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let sizes: [&[i64]; 4] = [&[57, 24], &[96, 24], &[96], &[24, 57]];
        let variables: Vec<Tensor> = sizes.iter().map(|size| rand(size)).collect();
        let mut gradients: Vec<Gradient> =
            sizes.iter().map(|size| Gradient::Dense(rand(size))).collect();
        let indices = Tensor::from_slice(&[3i64, 5, 3]);
        gradients[0] = Gradient::IndexedSlices { values: rand(&[3, 24]), indices };
        let values: Vec<Tensor> = gradients.iter().map(|g| g.values().shallow_clone()).collect();
        let off = (foreach::norms(&values).norm() / global_norm(&gradients) - 1.0)
            .abs()
            .double_value(&[]);
        assert!(off < 1e-6, "the norm is off by {off:e}");
        let copies: Vec<Tensor> = variables.iter().map(Tensor::copy).collect();
        descend(&variables.iter().collect::<Vec<_>>(), &gradients, &Tensor::from(0.25f32));
        let dense: Vec<Tensor> =
            gradients.iter().zip(sizes).map(|(gradient, size)| gradient.to_dense(size)).collect();
        foreach::sgd(&copies, &dense, &Tensor::from(0.25f32));
        for (plain, ours) in variables.iter().zip(&copies) {
            assert!((plain - ours).abs().max().double_value(&[]) < 1e-6, "{:?}", plain.size());
        }
    }

    fn slices(rows: &[[f64; 2]], indices: &[i64]) -> Gradient {
        Gradient::IndexedSlices {
            values: Tensor::from_slice2(rows),
            indices: Tensor::from_slice(indices),
        }
    }

    #[test]
    fn repeated_rows_enter_the_norm_one_by_one() {
        // Twice the row (3, 4) for the same word: rows give sqrt(25 + 25), their sum would give 10.
        let gradients = [slices(&[[3.0, 4.0], [3.0, 4.0]], &[1, 1])];
        assert!((global_norm(&gradients).double_value(&[]) - 50f64.sqrt()).abs() < 1e-12);
        let dense = [Gradient::Dense(gradients[0].to_dense(&[3, 2]))];
        assert!((global_norm(&dense).double_value(&[]) - 10.0).abs() < 1e-12);
    }

    /// At the real sizes of softmax_w, where libtorch's own float32 norm of the whole loses the
    /// fifth digit and with it TensorFlow's clipping.
    #[test]
    fn float32_norms_of_large_gradients_keep_their_digits() {
        let _random = crate::random_numbers(11);
        for hidden in [200, 650] {
            let gradient = Tensor::randn([hidden, 10_000], (Kind::Float, Device::Cpu)) * 1e-3;
            let exact =
                gradient.to_kind(Kind::Double).square().sum(Kind::Double).sqrt().double_value(&[]);
            let ours = global_norm(&[Gradient::Dense(gradient)]).double_value(&[]);
            assert!((ours / exact - 1.0).abs() < 1e-6, "{hidden}: {ours} instead of {exact}");
        }
    }

    #[test]
    fn clipping_scales_only_above_the_norm() {
        let gradients =
            || [Gradient::Dense(Tensor::from_slice(&[3.0])), slices(&[[0.0, 4.0]], &[0])];
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
        let gradients = [
            slices(&[[1.0, 0.0], [1.0, 2.0]], &[2, 2]),
            Gradient::Dense(Tensor::from_slice(&[4.0, 8.0])),
        ];
        let [scale, learning_rate] = [0.5, 0.1].map(Tensor::from);
        Optimizer::GradientDescent.apply_gradients(
            &[&embedding, &w],
            &gradients,
            &scale,
            &learning_rate,
        );
        assert!(
            (embedding - Tensor::from_slice2(&[[1.0, 1.0], [1.0, 1.0], [0.9, 0.9]]))
                .abs()
                .max()
                .double_value(&[])
                < 1e-12
        );
        assert!((w - Tensor::from_slice(&[0.8, 0.6])).abs().max().double_value(&[]) < 1e-12);
    }

    #[test]
    fn a_norm_that_is_not_finite_spoils_every_gradient() {
        for bad in [f64::INFINITY, f64::NAN] {
            let gradients =
                [Gradient::Dense(Tensor::from_slice(&[bad, 1.0])), slices(&[[0.0, 4.0]], &[0])];
            let (clipped, _) = clip_by_global_norm(&gradients, 5.0).unwrap();
            for gradient in &clipped {
                assert!(
                    gradient.values().isnan().all().int64_value(&[]) == 1,
                    "{bad}: {:?}",
                    gradient.values()
                );
            }
        }
    }

    /// By hand, two steps: a row without a gradient still moves in the second, by what is left of
    /// the first.
    #[test]
    fn adam_moves_absent_rows_too() {
        let embedding = Tensor::zeros([2, 1], (Kind::Double, Device::Cpu));
        let optimizer = Optimizer::new(OptimizerType::Adam, &[&embedding]);
        let [one, rate] = [1.0, 0.1].map(Tensor::from);
        let row = |k: i64| Gradient::IndexedSlices {
            values: Tensor::from_slice2(&[[2.0], [1.0]]),
            indices: Tensor::from_slice(&[k, k]),
        };
        for k in 0..2 {
            optimizer.apply_gradients(&[&embedding], &[row(k)], &one, &rate);
        }
        // Both rows' gradients are 2 + 1 = 3. In the first step m / sqrt(v) is 3 * 0.1 / (3 *
        // sqrt(0.001)).
        let (b1, b2): (f64, f64) = (0.9f32.into(), 0.999f32.into());
        let step = |m: f64, v: f64, t: i32| {
            0.1 * (1.0 - b2.powi(t)).sqrt() / (1.0 - b1.powi(t)) * m / (v.sqrt() + 1e-8)
        };
        let (m, v) = (3.0 * (1.0 - b1), 9.0 * (1.0 - b2));
        let expected = [-(step(m, v, 1) + step(m * b1, v * b2, 2)), -step(m, v, 2)];
        for (k, expected) in expected.into_iter().enumerate() {
            let ours = embedding.double_value(&[k as i64, 0]);
            assert!((ours / expected - 1.0).abs() < 1e-4, "row {k}: {ours} instead of {expected}");
        }
        assert_eq!(optimizer.slots().len(), 4);
    }
}
