//! The recurrent layers in one call: `nn::lstm`, which is cuDNN's LSTM on a GPU and oneDNN's on the
//! CPU.

use anyhow::{Context, Result};
use tch::nn::RNN;
use tch::{Device, Tensor, nn};

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
        let (w_ih_init, w_hh_init) = (uniform(config), uniform(config));
        let options = nn::RNNConfig { w_ih_init, w_hh_init, num_layers, ..Default::default() };
        let lstm = nn::lstm(&path, hidden, hidden, options);
        let variables = store.variables();
        let get = |name: &str, k: i64| {
            let name = path.path(&format!("{name}_l{k}"));
            let variable = variables.get(&name).map(Tensor::shallow_clone);
            variable.with_context(|| format!("nn::lstm made no variable {name}"))
        };
        let layer = |k| -> Result<LstmWeights> {
            let second_bias = get("bias_hh", k)?.set_requires_grad(false);
            // libtorch's order of the gates is i, f, g, o.
            let _ = second_bias.narrow(0, hidden, hidden).fill_(config.forget_bias);
            Ok([get("weight_ih", k)?, get("weight_hh", k)?, get("bias_ih", k)?, second_bias])
        };
        let layers = (0..num_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let cudnn = path.device().is_cuda() && tch::Cuda::cudnn_is_available();
        let flat = cudnn.then(|| flatten(&layers, hidden)).transpose()?;
        Ok(LstmStack { lstm, layers, flat })
    }

    /// tch's `seq_init`: runs the layers over `x [batch, steps, hidden]`, from c and h of each
    /// layer, `[batch, hidden]`. Returns the top layer's outputs and the final state.
    pub(super) fn seq_init(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        // For a single word on the CPU, as when a text is generated, the fused call would bring all
        // weights into its own layout first, which takes longer than the arithmetic.
        if x.device() == Device::Cpu && x.size()[..2] == [1, 1] && !x.requires_grad() {
            let (output, last) = self.step(&x.squeeze_dim(1), state)?;
            return Ok((output.unsqueeze(1), last));
        }
        let [c, h] = tensors_of(state);
        let (output, nn::LSTMState((h, c))) = self.lstm.seq_init(x, &nn::LSTMState((h, c)));
        Ok((output, state_of(&c, &h)))
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

/// Moves the weights of layers of `hidden` units into one block, as cuDNN needs them, and returns
/// it. `nn::lstm` has done this already; doing it again is the way to obtain the block. The weights
/// stay in it, since new values are copied in.
fn flatten(layers: &[LstmWeights], hidden: i64) -> Result<Tensor> {
    let weights: Vec<&Tensor> = layers.iter().flatten().collect();
    let (input_size, num_layers) = (hidden, layers.len() as i64);
    let (weights_per_layer, mode_lstm, no_projection) = (4, 2, 0);
    let (batch_first, bidirectional) = (true, false);
    Ok(tch::no_grad(|| {
        Tensor::f_internal_cudnn_rnn_flatten_weight(
            &weights, weights_per_layer, input_size, mode_lstm, hidden, no_projection, num_layers,
            batch_first, bidirectional,
        )
    })?)
}

/// Uniform in `[-init_scale, init_scale]`, as all variables but the cells' biases begin.
pub(super) fn uniform(config: &Config) -> nn::Init {
    nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale }
}

/// c and h of all layers, `[layers, batch, hidden]` each, from c and h of each layer; views if
/// there is one layer.
pub(super) fn tensors_of(state: &[Tensor]) -> [Tensor; 2] {
    [0, 1].map(|which| {
        let each: Vec<&Tensor> = state.iter().skip(which).step_by(2).collect();
        if let [one] = each[..] { one.unsqueeze(0) } else { Tensor::stack(&each, 0) }
    })
}

/// The inverse of [`tensors_of`].
pub(super) fn state_of(c: &Tensor, h: &Tensor) -> State {
    (0..c.size()[0]).flat_map(|k| [c.get(k), h.get(k)]).collect()
}
