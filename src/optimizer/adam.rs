//! `tf.train.AdamOptimizer`, as TensorFlow 1 computes it.

use tch::{Device, Kind, Tensor};

use super::Gradient;

/// The slots of `tf.train.AdamOptimizer` with its defaults: `beta1` 0.9, `beta2` 0.999, `epsilon`
/// 1e-8.
///
/// PyTorch's Adam adds epsilon at another place, and its SparseAdam does not change the rows of
/// absent words. TensorFlow decays their m and v and updates them too. So both of PyTorch's would
/// give another run.
#[derive(Debug)]
pub struct Adam {
    /// Of each variable: the decayed mean of its gradients.
    pub(crate) m: Vec<Tensor>,
    /// Of each variable: the decayed mean of their squares.
    pub(crate) v: Vec<Tensor>,
    /// `beta1_power` and `beta2_power`: beta to the power of the next step's number, float32 and
    /// rounded as in TensorFlow.
    pub(crate) powers: [Tensor; 2],
}

impl Adam {
    /// TensorFlow's defaults, as the float32 numbers that it computes with.
    const BETAS: [f64; 2] = [0.9f32 as f64, 0.999f32 as f64];
    const EPSILON: f64 = 1e-8;

    pub(super) fn new(variables: &[&Tensor]) -> Self {
        let zeros = || variables.iter().map(|variable| variable.detach().zeros_like()).collect();
        let device = variables.first().map_or(Device::Cpu, |variable| variable.device());
        let power = |beta: f64| Tensor::full([0; 0], beta, (Kind::Float, device));
        Adam { m: zeros(), v: zeros(), powers: Self::BETAS.map(power) }
    }

    pub(super) fn apply_gradients(
        &self,
        variables: &[&Tensor],
        gradients: &[Gradient],
        scale: &Tensor,
        learning_rate: &Tensor,
    ) {
        let [beta1, beta2] = Self::BETAS;
        let [beta1_power, beta2_power] = &self.powers;
        // lr_t = lr * sqrt(1 - beta2^t) / (1 - beta1^t)
        let bias_correction = (1f64 - beta2_power).sqrt() / (1f64 - beta1_power);
        let rate = learning_rate * bias_correction.to_kind(learning_rate.kind());
        let slots = self.m.iter().zip(&self.v);
        for ((variable, gradient), (m, v)) in variables.iter().zip(gradients).zip(slots) {
            // Here the rows of one word are summed; rows without a gradient decay like all others.
            let gradient = gradient.to_dense(&variable.size()) * scale;
            let (mut m, mut v) = (m.shallow_clone(), v.shallow_clone());
            let _ = m.g_mul_scalar_(beta1).g_add_(&(&gradient * (1.0 - beta1)));
            let _ = v.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let _ = variable.shallow_clone().g_sub_(&(&m / (v.sqrt() + Self::EPSILON) * &rate));
        }
        for (power, beta) in self.powers.iter().zip(Self::BETAS) {
            let _ = power.shallow_clone().g_mul_scalar_(beta);
        }
    }
}
