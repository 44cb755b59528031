//! The softmax layer, which is most of a step's arithmetic: its cost by the plain definition, and
//! the training step's version with the gradient written out.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::config::Precision;
use crate::kernels::{product, softmax_cross_entropy};
use crate::loss::cross_entropy;

/// Largest number of logits in memory when costs are computed without gradients. On the CPU they
/// stay in a cache between the product that writes them and the pass that reads them. On a GPU they
/// are enough to hide the launches of the kernels: 8,000 words of PTB's vocabulary, 320 MB.
const CPU_LOGITS: i64 = 2_000_000;
const GPU_LOGITS: i64 = 80_000_000;

/// The softmax layer's variables: `Model/softmax_w` `[hidden, vocab]` and `Model/softmax_b`
/// `[vocab]`.
pub struct SoftmaxLayer<'a> {
    /// `Model/softmax_w`
    pub w: &'a Tensor,
    /// `Model/softmax_b`
    pub b: &'a Tensor,
    /// Precision of the three large products. The variables, the softmax and the sums are always
    /// float32.
    pub precision: Precision,
}

/// Cost and gradients of the softmax layer.
pub struct SoftmaxGradients {
    /// Total cross entropy divided by the batch size: the original's `cost`, a scalar.
    pub cost: Tensor,
    /// d cost / d output, `[n, hidden]`.
    pub output: Tensor,
    /// d cost / d softmax_w, `[hidden, vocab]`.
    pub w: Tensor,
    /// d cost / d softmax_b, `[vocab]`.
    pub b: Tensor,
}

impl SoftmaxLayer<'_> {
    /// `output @ softmax_w + softmax_b`: `[n, hidden]` -> `[n, vocab]`.
    pub fn logits(&self, output: &Tensor) -> Tensor {
        self.cast_logits(&self.cast(output), &self.cast(self.w))
    }

    /// [`Self::logits`] of factors that are already in the product's precision.
    fn cast_logits(&self, output: &Tensor, w: &Tensor) -> Tensor {
        // In half precision the bias is added in float32.
        if w.kind() == self.b.kind() { self.b.addmm(output, w) } else { self.b + output.mm(w) }
    }

    /// Whether the pointwise part runs in the fused kernel instead of op by op.
    fn uses_fused_kernel(&self) -> bool {
        self.w.device() == Device::Cpu
            && self.w.kind() == Kind::Float
            && self.precision != Precision::Fp16
    }

    /// A factor of a product, in the product's precision.
    fn cast(&self, t: &Tensor) -> Tensor {
        match self.precision {
            Precision::Bf16 if self.w.kind() == Kind::Float => t.to_kind(Kind::BFloat16),
            Precision::Fp16 if self.w.kind() == Kind::Float => t.to_kind(Kind::Half),
            _ => t.shallow_clone(),
        }
    }

    /// Cross entropy in nats of each target `[n]` after its output `[n, hidden]`: `[n]`, float64,
    /// without a gradient. Its memory does not grow with `n`.
    ///
    /// # Errors
    /// Shapes that do not fit each other.
    pub fn costs(&self, output: &Tensor, targets: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| {
            let logits = if self.w.device() == Device::Cpu { CPU_LOGITS } else { GPU_LOGITS };
            let rows = (logits / self.b.numel() as i64).max(1);
            let (output, w) = (self.cast(output), self.cast(self.w));
            let mut costs = Vec::new();
            for (output, targets) in output.f_split(rows, 0)?.iter().zip(targets.f_split(rows, 0)?)
            {
                costs.push(if self.uses_fused_kernel() {
                    let mut logits = product(output, &w);
                    let (scale, gradients) = (0.0, false);
                    let (costs, _) =
                        softmax_cross_entropy(&mut logits, self.b, &targets, scale, gradients);
                    Tensor::f_from_slice(&costs)?
                } else {
                    cross_entropy(&self.cast_logits(output, &w), &targets)?.to_kind(Kind::Double)
                });
            }
            Ok(Tensor::f_cat(&costs, 0)?)
        })
    }

    /// Total cross entropy divided by `batch_size`, a scalar; differentiable, the plain definition.
    pub fn cost(&self, output: &Tensor, targets: &Tensor, batch_size: i64) -> Result<Tensor> {
        Ok(cross_entropy(&self.logits(output), targets)?.sum(None::<Kind>) / batch_size as f64)
    }

    /// The cost and its gradients, written out: with `p = softmax(logits)` the gradient of the
    /// logits is `(p - onehot(target)) / batch_size`. It overwrites the logits, so the step needs a
    /// single `[n, vocab]` block.
    pub fn cost_and_gradients(
        &self,
        output: &Tensor,
        targets: &Tensor,
        batch_size: i64,
    ) -> SoftmaxGradients {
        let scale = 1.0 / batch_size as f64;
        tch::no_grad(|| match self.uses_fused_kernel() {
            true => self.fused_gradients(output, targets, scale),
            false => self.plain_gradients(output, targets, scale),
        })
    }

    /// [`Self::cost_and_gradients`] with the fused kernel, on the CPU.
    fn fused_gradients(&self, output: &Tensor, targets: &Tensor, scale: f64) -> SoftmaxGradients {
        let (output, w, kind) = (self.cast(output), self.cast(self.w), self.w.kind());
        let mut logits = product(&output, &w);
        let gradients = true;
        let (costs, b) =
            softmax_cross_entropy(&mut logits, self.b, targets, scale as f32, gradients);
        SoftmaxGradients {
            cost: Tensor::from((costs.iter().sum::<f64>() * scale) as f32),
            output: product(&logits, &w.tr()).to_kind(kind),
            w: product(&output.tr(), &logits).to_kind(kind),
            b,
        }
    }

    /// [`Self::cost_and_gradients`] op by op.
    ///
    /// The small tensors are scaled instead of the `[n, vocab]` block. In float16 this also keeps
    /// the values in range: p is a normal number of that type down to 6e-5, and the sum over 700
    /// rows (medium's and large's batches) of outputs up to 2.9 / 20 stays far below 65,504.
    fn plain_gradients(&self, output: &Tensor, targets: &Tensor, scale: f64) -> SoftmaxGradients {
        let (w, kind, index) = (self.cast(self.w), self.w.kind(), targets.unsqueeze(1));
        let mut p = self.cast_logits(&self.cast(output), &w).log_softmax(1, None::<Kind>);
        let cost = p.gather(1, &index, false).sum(None::<Kind>) * -scale;
        let _ = p.exp_();
        let _ = p.scatter_add_(1, &index, &p.narrow(1, 0, 1).full_like(-1.0));
        let b = p.sum_dim_intlist(0, false, None::<Kind>) * scale;
        let p = p.to_kind(w.kind());
        SoftmaxGradients {
            cost,
            output: p.mm(&w.tr()).to_kind(kind) * scale,
            w: self.cast(&(output * scale)).tr().mm(&p).to_kind(kind),
            b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::onednn_product;

    fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Double, Device::Cpu))
    }

    #[test]
    fn gradients_by_hand_are_autograd_s() {
        let _random = crate::random_numbers(7);
        let (w, b, output) = (random(&[6, 11]), random(&[11]), random(&[8, 6]));
        let targets = Tensor::from_slice(&[0i64, 3, 3, 10, 5, 1, 0, 9]);
        let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
        let (lw, lb, lo) = (leaf(&w), leaf(&b), leaf(&output));
        let cost = SoftmaxLayer { w: &lw, b: &lb, precision: Precision::Fp32 }
            .cost(&lo, &targets, 4)
            .unwrap();
        cost.backward();
        let by_hand = SoftmaxLayer { w: &w, b: &b, precision: Precision::Fp32 }
            .cost_and_gradients(&output, &targets, 4);
        assert!((cost - by_hand.cost).abs().double_value(&[]) < 1e-12);
        for (plain, fast) in
            [(lo.grad(), by_hand.output), (lw.grad(), by_hand.w), (lb.grad(), by_hand.b)]
        {
            assert!((plain - fast).abs().max().double_value(&[]) < 1e-12);
        }
    }

    /// Compares the fused kernel with the plain definition in double precision. The sizes are no
    /// multiples of a vector's width; rows are peaked and flat.
    #[test]
    fn the_fused_kernel_is_the_plain_definition() {
        let _random = crate::random_numbers(8);
        for (n, hidden, vocab, size) in
            [(1, 3, 2, 1.0), (7, 5, 33, 1.0), (40, 16, 1001, 3.0), (9, 4, 10_000, 5.0)]
        {
            let double = [random(&[hidden, vocab]) * size, random(&[vocab]), random(&[n, hidden])];
            let [w, b, output] = double.each_ref().map(|t| t.to_kind(Kind::Float));
            let double = [&w, &b, &output].map(|t| t.to_kind(Kind::Double));
            let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
            let plain = SoftmaxLayer { w: &double[0], b: &double[1], precision: Precision::Fp32 };
            let fast = SoftmaxLayer { w: &w, b: &b, precision: Precision::Fp32 };
            assert!(fast.uses_fused_kernel() && !plain.uses_fused_kernel());
            let (plain_cost, expected) = {
                let g = plain.cost_and_gradients(&double[2], &targets, 3);
                (g.cost.double_value(&[]), [g.output, g.w, g.b])
            };
            let ours = fast.cost_and_gradients(&output, &targets, 3);
            let cost = ours.cost.double_value(&[]);
            assert!(
                (cost / plain_cost - 1.0).abs() < 1e-6,
                "{vocab}: {cost} instead of {plain_cost}"
            );
            for (ours, expected) in [ours.output, ours.w, ours.b].iter().zip(&expected) {
                let scale = expected.abs().max().double_value(&[]);
                let difference =
                    (ours.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
                assert!(difference < 2e-6 * scale, "{vocab}: {difference} of {scale}");
            }
        }
    }

    /// Costs without a gradient against the plain definition in double precision, in all precisions
    /// of the CPU: sizes that no vector width divides, more logits than are computed at once,
    /// logits whose exponentials no float32 holds.
    #[test]
    fn costs_are_the_plain_definition() {
        let _random = crate::random_numbers(12);
        let sizes = [
            (1, 3, 2, 1.0),
            (7, 5, 33, 1.0),
            (40, 16, 1001, 3.0),
            (2 * CPU_LOGITS / 10_000 + 3, 4, 10_000, 5.0),
            (9, 4, 48, 60.0),
        ];
        for (n, hidden, vocab, size) in sizes {
            let [w, b, output] =
                [random(&[hidden, vocab]) * size, random(&[vocab]), random(&[n, hidden])]
                    .map(|t| t.to_kind(Kind::Float));
            let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
            let double = [&w, &b, &output].map(|t| t.to_kind(Kind::Double));
            let plain = SoftmaxLayer { w: &double[0], b: &double[1], precision: Precision::Fp32 };
            let expected = cross_entropy(&plain.logits(&double[2]), &targets).unwrap();
            let largest_difference = |costs: Tensor| {
                assert_eq!((costs.kind(), costs.size()), (Kind::Double, vec![n]));
                (costs - &expected).abs().max().double_value(&[])
            };
            assert_eq!(largest_difference(plain.costs(&double[2], &targets).unwrap()), 0.0);
            // The errors of the products, which are relative to the logits' size.
            for (precision, rounding) in
                [(Precision::Fp32, 2e-6), (Precision::Bf16, 1e-1), (Precision::Fp16, 1e-2)]
            {
                let layer = SoftmaxLayer { w: &w, b: &b, precision };
                let difference = largest_difference(layer.costs(&output, &targets).unwrap());
                assert!(
                    difference < rounding * (1.0 + size * 4.0),
                    "{precision} {vocab}: {difference}"
                );
            }
            let _ = output.get(0).fill_(f64::NAN);
            let layer = SoftmaxLayer { w: &w, b: &b, precision: Precision::Fp32 };
            assert!(layer.costs(&output, &targets).unwrap().double_value(&[0]).is_nan());
        }
    }

    /// bfloat16 keeps 8 bits, so the gradients agree to some hundredths of their largest value, and
    /// the cost, a mean over many, better.
    #[test]
    fn bf16_products_are_near_the_float32_ones() {
        let _random = crate::random_numbers(9);
        let float = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let (w, b, output) = (float(&[64, 1001]) * 0.3, float(&[1001]), float(&[80, 64]));
        let targets = Tensor::randint(1001, [80], (Kind::Int64, Device::Cpu));
        let gradients = |precision| {
            SoftmaxLayer { w: &w, b: &b, precision }.cost_and_gradients(&output, &targets, 4)
        };
        let (exact, ours) = (gradients(Precision::Fp32), gradients(Precision::Bf16));
        assert!((ours.cost / exact.cost - 1.0).abs().double_value(&[]) < 2e-3);
        for (ours, exact) in [(ours.output, exact.output), (ours.w, exact.w), (ours.b, exact.b)] {
            assert_eq!(ours.kind(), Kind::Float);
            let difference = (&ours - &exact).norm() / exact.norm();
            assert!(difference.double_value(&[]) < 2e-2, "{difference:?}");
        }
    }

    #[test]
    fn fast_softmax_does_not_hide_what_is_not_finite() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (w, b) = (
                Tensor::ones([1, 40], (Kind::Float, Device::Cpu)),
                Tensor::zeros([40], (Kind::Float, Device::Cpu)),
            );
            let layer = SoftmaxLayer { w: &w, b: &b, precision: Precision::Fp32 };
            let output = Tensor::from_slice(&[1.0, bad, 2.0]).view([3, 1]);
            let targets = Tensor::from_slice(&[0i64, 1, 39]);
            assert!(layer.cost_and_gradients(&output, &targets, 1).cost.double_value(&[]).is_nan());
            assert!(
                layer
                    .costs(&output, &targets)
                    .unwrap()
                    .sum(Kind::Double)
                    .double_value(&[])
                    .is_nan()
            );
        }
    }

    /// oneDNN's product against float64's, in all the layouts that the layer has, and that it is
    /// not the fallback that is tested.
    #[test]
    fn fast_product_is_the_plain_one() {
        let _random = crate::random_numbers(10);
        for (m, k, n) in [(1, 1, 1), (7, 5, 33), (40, 200, 1001)] {
            let (a, b) =
                (random(&[m, k]).to_kind(Kind::Float), random(&[k, n]).to_kind(Kind::Float));
            let expected = a.to_kind(Kind::Double).mm(&b.to_kind(Kind::Double));
            let (a_transposed, b_transposed) = (a.tr().contiguous(), b.tr().contiguous());
            for (a, b) in [(&a, &b), (&a_transposed.tr(), &b), (&a, &b_transposed.tr())] {
                let made = onednn_product(a, b).expect("this libtorch has oneDNN's product");
                let difference = (made - &expected).abs().max().double_value(&[]);
                assert!(
                    difference < 1e-6 * (k as f64) && product(a, b).size() == [m, n],
                    "{m} {k} {n}: {difference}"
                );
            }
        }
    }
}
