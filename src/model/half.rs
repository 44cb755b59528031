//! The recurrent layers in half precision.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::PtbModel;
use super::lstm::{LstmStack, LstmWeights, state_of, tensors_of};
use crate::config::{Precision, RnnMode};
use crate::rnn::State;

/// Factor that keeps the LSTM's small float16 gradients above the type's smallest number (6e-8).
/// They are divided by it again in float32.
///
/// The gradient with respect to an output is about `softmax_w / batch_size`, 2e-3 in the published
/// models, and shrinks on its way back through time; float16's normal numbers begin at 6e-5. Large
/// values still fit: a bias's gradient is a sum over 700 rows (medium's and large's batches) of
/// such numbers, far below float16's 65,504 / 256. A constant factor has no state to save, so a
/// resumed run equals an uninterrupted one.
const FP16_LOSS_SCALE: f64 = 256.0;

/// Half-precision copies of an [`LstmStack`]'s weights, made in every step, since training updates
/// the float32 weights. `nn::LSTM` owns its weights, so libtorch's function is called directly.
pub(super) struct HalfStack {
    layers: Vec<LstmWeights>,
    kind: Kind,
}

impl HalfStack {
    /// [`LstmStack::seq_init`] with these copies. The outputs are in half precision, the state is
    /// in the type of `state`.
    fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let [c, h] = tensors_of(state).map(|t| t.to_kind(self.kind));
        let params: Vec<&Tensor> = self.layers.iter().flatten().collect();
        let (output, h, c) = x.to_kind(self.kind).f_lstm(
            &[&h, &c],
            &params,
            true, /* biases */
            self.layers.len() as i64,
            0.0,   /* no dropout of its own */
            true,  /* keep what the backward pass needs */
            false, /* one direction */
            true,  /* batch first */
        )?;
        let to_state_kind = |t: Tensor| t.to_kind(state[0].kind());
        Ok((output, state_of(&c, &h).into_iter().map(to_state_kind).collect()))
    }
}

impl LstmStack {
    /// Copies of the weights in half precision, in one block like these, as leaves to
    /// differentiate.
    fn half(&self, kind: Kind) -> HalfStack {
        tch::no_grad(|| {
            let flat = self.flat.as_ref().map(|flat| flat.to_kind(kind));
            let half = |t: &Tensor| match (&self.flat, &flat) {
                (Some(wide), Some(half)) => {
                    let offset =
                        (t.data_ptr() as usize - wide.data_ptr() as usize) / size_of::<f32>();
                    half.narrow(0, offset as i64, t.numel() as i64).view(t.size().as_slice())
                }
                _ => t.to_kind(kind),
            };
            let leaf = |t: &Tensor| half(t).detach().set_requires_grad(t.requires_grad());
            HalfStack {
                layers: self.layers.iter().map(|layer| layer.each_ref().map(leaf)).collect(),
                kind,
            }
        })
    }
}

/// The layers of an [`LstmStack`] with the weights that one step uses: its own, or half-precision
/// copies.
pub(super) enum StepStack<'a> {
    Full(&'a LstmStack),
    Half(HalfStack),
}

impl<'a> StepStack<'a> {
    /// `stack` with its own variables, or with copies of them of the type `half`.
    pub(super) fn new(stack: &'a LstmStack, half: Option<Kind>) -> Self {
        half.map_or(Self::Full(stack), |kind| Self::Half(stack.half(kind)))
    }

    pub(super) fn layers(&self) -> &[LstmWeights] {
        match self {
            Self::Full(stack) => &stack.layers,
            Self::Half(stack) => &stack.layers,
        }
    }

    /// What is differentiated: weights and bias of each layer, in the order of the variables.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        self.layers().iter().flat_map(|layer| &layer[..3])
    }

    /// [`LstmStack::seq_init`].
    pub(super) fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        match self {
            Self::Full(stack) => stack.seq_init(x, state),
            Self::Half(stack) => stack.seq_init(x, state),
        }
    }
}

impl PtbModel<'_> {
    /// Precision that the recurrent layers are run in. Half precision needs cuDNN.
    pub(crate) fn layers_precision(&self) -> Precision {
        let v = self.variables;
        let one_call = v.kind == Kind::Float && self.rnn_mode == RnnMode::Cudnn;
        match self.precision {
            Precision::Bf16 if one_call && v.device.is_cuda() => Precision::Bf16,
            // float16 also runs on the CPU: it is slow there, but lets tests check the numbers. The
            // command line does not offer it.
            Precision::Fp16 if one_call => Precision::Fp16,
            Precision::Bf16 | Precision::Fp16 => Precision::Fp32,
            wide => wide,
        }
    }

    /// Half-precision type that the recurrent layers are run in, or `None` if they run in the
    /// variables' type.
    pub(super) fn half_kind(&self) -> Option<Kind> {
        match self.layers_precision() {
            Precision::Bf16 => Some(Kind::BFloat16),
            Precision::Fp16 => Some(Kind::Half),
            Precision::Fp32 | Precision::Tf32Cudnn | Precision::Tf32 => None,
        }
    }

    /// [`FP16_LOSS_SCALE`] if the recurrent layers are run in float16, otherwise 1.
    pub(super) fn loss_scale(&self) -> f64 {
        if self.half_kind() == Some(Kind::Half) { FP16_LOSS_SCALE } else { 1.0 }
    }
}
