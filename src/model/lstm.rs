//! The recurrent layers in one call: `nn::lstm`, which is cuDNN's LSTM on a GPU and oneDNN's on the
//! CPU.

use anyhow::{Context, Result};
use tch::nn::RNN;
use tch::{Device, Kind, Tensor, nn};

use super::half::HalfStack;
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
    pub(super) layers: Vec<LstmWeights>,
    /// On a GPU, the buffer that the variables are views of: cuDNN needs them in one block.
    pub(super) flat: Option<Tensor>,
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

    /// [`StackInStep::seq_init`] with the variables themselves.
    fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        // For a single word on the CPU, as when a text is generated, the fused call would bring all
        // weights into its own layout first, which takes longer than the arithmetic.
        if x.device() == Device::Cpu && x.size()[..2] == [1, 1] {
            let (output, last) = self.step(&x.squeeze_dim(1), state)?;
            return Ok((output.unsqueeze(1), last));
        }
        let state = nn::LSTMState((of_all_layers(state, 1), of_all_layers(state, 0)));
        let (output, nn::LSTMState((h, c))) = self.lstm.seq_init(x, &state);
        Ok((output, by_layer(&c, &h)))
    }

    /// One step of the layers, layer by layer: `x [batch, hidden]`.
    fn step(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let (mut x, mut last) = (x.shallow_clone(), State::new());
        for ([w_ih, w_hh, b_ih, b_hh], state) in self.layers.iter().zip(state.chunks_exact(2)) {
            let (c, h) = (&state[0], &state[1]);
            let (h, c) = x.f_lstm_cell(&[h, c], w_ih, w_hh, Some(b_ih), Some(b_hh))?;
            x = h.shallow_clone();
            last.extend([c, h]);
        }
        Ok((x, last))
    }
}

/// An [`LstmStack`] as one step runs it.
pub(super) enum StackInStep<'a> {
    Full(&'a LstmStack),
    Half(HalfStack),
}

impl<'a> StackInStep<'a> {
    /// `stack` with its own variables, or with copies of them of the type `half`.
    pub(super) fn new(stack: &'a LstmStack, half: Option<Kind>) -> Self {
        half.map_or(Self::Full(stack), |kind| Self::Half(stack.half(kind)))
    }

    fn layers(&self) -> &[LstmWeights] {
        match self {
            Self::Full(stack) => &stack.layers,
            Self::Half(stack) => &stack.layers,
        }
    }

    pub(super) fn num_layers(&self) -> usize {
        self.layers().len()
    }

    /// What is differentiated: weights and bias of each layer, in the order of the variables.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        self.layers().iter().flat_map(|layer| &layer[..3])
    }

    /// Runs the layers over `x [batch, steps, hidden]`, from `state`: c and h of each layer,
    /// `[batch, hidden]`. Returns the top layer's outputs and the final state.
    pub(super) fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        match self {
            Self::Full(stack) => stack.seq_init(x, state),
            Self::Half(stack) => stack.seq_init(x, state),
        }
    }
}

/// c (0) or h (1) of all layers, `[layers, batch, hidden]`; a view if there is one layer.
pub(super) fn of_all_layers(state: &[Tensor], which: usize) -> Tensor {
    let each: Vec<&Tensor> = state.iter().skip(which).step_by(2).collect();
    if let [one] = each[..] { one.unsqueeze(0) } else { Tensor::stack(&each, 0) }
}

/// The inverse of [`of_all_layers`]: c and h of each layer.
pub(super) fn by_layer(c: &Tensor, h: &Tensor) -> State {
    (0..c.size()[0]).flat_map(|k| [c.get(k), h.get(k)]).collect()
}
