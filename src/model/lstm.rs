//! The recurrent layers in one call: `nn::lstm`, which is cuDNN's LSTM on a GPU and oneDNN's on the
//! CPU.

use anyhow::{Context, Result};
use tch::nn::RNN;
use tch::{Kind, Tensor, nn};

use crate::config::Config;
use crate::rnn::State;

/// A layer's variables in libtorch's layout: `[4*hidden, in]`, `[4*hidden, hidden]`, `[4*hidden]`,
/// `[4*hidden]`, gates in libtorch's order.
///
/// The original has one bias, libtorch has two. The second one is not trained: under SGD it would
/// double the bias's step. It holds TensorFlow's `forget_bias`, which is 0 in the original.
pub(super) type LstmWeights = [Tensor; 4];

/// `nn::lstm` and the layers that it runs in one call: all layers, or a single one if there is
/// dropout between them.
pub(super) struct LstmStack {
    lstm: nn::LSTM,
    /// The variables of `lstm`.
    layers: Vec<LstmWeights>,
    /// On a GPU, the buffer that the variables are views of: cuDNN needs them in one block.
    flat: Option<Tensor>,
}

/// The layers of all stacks.
pub(super) fn layers(stacks: &[LstmStack]) -> impl Iterator<Item = &LstmWeights> {
    stacks.iter().flat_map(|stack| &stack.layers)
}

impl LstmStack {
    /// New layers of `hidden` units: weights uniform in `[-init_scale, init_scale]`, biases zero.
    pub(super) fn new(
        store: &nn::VarStore,
        path: nn::Path,
        config: &Config,
        num_layers: i64,
        hidden: i64,
    ) -> Result<Self> {
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let options = nn::RNNConfig {
            w_ih_init: uniform,
            w_hh_init: uniform,
            num_layers,
            ..Default::default()
        };
        let lstm = nn::lstm(&path, hidden, hidden, options);
        let variables = store.variables();
        let get = |name: &str, k: i64| {
            let full = path.path(&format!("{name}_l{k}"));
            variables
                .get(&full)
                .map(Tensor::shallow_clone)
                .with_context(|| format!("nn::lstm made no variable {full}"))
        };
        let layer = |k| -> Result<LstmWeights> {
            let second_bias = get("bias_hh", k)?.set_requires_grad(false);
            // libtorch's order of the gates is i, f, g, o.
            let _ = second_bias.narrow(0, hidden, hidden).fill_(config.forget_bias);
            Ok([get("weight_ih", k)?, get("weight_hh", k)?, get("bias_ih", k)?, second_bias])
        };
        let layers = (0..num_layers).map(layer).collect::<Result<Vec<_>>>()?;
        // nn::lstm has already put the variables into one block for cuDNN. This does it again to
        // obtain the buffer. They stay in it: new values are copied in.
        let flat = (path.device().is_cuda() && tch::Cuda::cudnn_is_available())
            .then(|| {
                let all: Vec<&Tensor> = layers.iter().flatten().collect();
                tch::no_grad(|| {
                    Tensor::f_internal_cudnn_rnn_flatten_weight(
                        &all, 4, /* tensors a layer */
                        hidden, 2, /* LSTM */
                        hidden, 0, /* no projection */
                        num_layers, true,  /* batch first */
                        false, /* one direction */
                    )
                })
            })
            .transpose()?;
        Ok(LstmStack { lstm, layers, flat })
    }

    pub(super) fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Runs the layers over `x [batch, steps, hidden]`, from `state`: c and h of each layer,
    /// `[batch, hidden]`. Returns the top layer's outputs and the final state.
    pub(super) fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> (Tensor, State) {
        let (output, nn::LSTMState((h, c))) = self
            .lstm
            .seq_init(x, &nn::LSTMState((of_all_layers(state, 1), of_all_layers(state, 0))));
        (output, by_layer(&c, &h))
    }

    /// One step of the layers, layer by layer: `x [batch, hidden]` from the next states of `state`,
    /// c and h for each layer. As [`Self::seq_init`] for a sequence of one step.
    pub(super) fn step<'a>(
        &self,
        x: &Tensor,
        state: &mut impl Iterator<Item = &'a [Tensor]>,
    ) -> Result<(Tensor, State)> {
        let (mut x, mut last) = (x.shallow_clone(), State::new());
        for (weights, state) in self.layers.iter().zip(state) {
            let [w_ih, w_hh, b_ih, b_hh] = weights;
            let (h, c) =
                x.f_lstm_cell(&[&state[1], &state[0]], w_ih, w_hh, Some(b_ih), Some(b_hh))?;
            x = h.shallow_clone();
            last.extend([c, h]);
        }
        Ok((x, last))
    }

    /// Copies of the weights in half precision, in one block like these, as leaves to
    /// differentiate.
    pub(super) fn half(&self, kind: Kind) -> HalfStack {
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

/// The layers of an [`LstmStack`] in half precision. `nn::LSTM` owns float32 weights, and these
/// copies are made in every step, so libtorch's function is called directly.
pub(super) struct HalfStack {
    layers: Vec<LstmWeights>,
    kind: Kind,
}

impl HalfStack {
    /// The weights and biases that are differentiated, in the order of the variables.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().flat_map(|layer| &layer[..3])
    }

    /// As [`LstmStack::seq_init`]. The outputs are in half precision, the state is in the type of
    /// `state`.
    pub(super) fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let half = |which| of_all_layers(state, which).to_kind(self.kind);
        let (c, h) = (half(0), half(1));
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
        let as_given = |t: Tensor| t.to_kind(state[0].kind());
        Ok((output, by_layer(&c, &h).into_iter().map(as_given).collect()))
    }
}

/// c (0) or h (1) of all layers, `[layers, batch, hidden]`; a view if there is one layer.
fn of_all_layers(state: &[Tensor], which: usize) -> Tensor {
    let each: Vec<&Tensor> = state.iter().skip(which).step_by(2).collect();
    if let [one] = each[..] { one.unsqueeze(0) } else { Tensor::stack(&each, 0) }
}

/// The inverse of [`of_all_layers`]: c and h of each layer.
fn by_layer(c: &Tensor, h: &Tensor) -> State {
    (0..c.size()[0]).flat_map(|k| [c.get(k), h.get(k)]).collect()
}
