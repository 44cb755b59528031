//! The original's `PTBModel`: the variables, and the graph over them.
//!
//! As in the original there is one set of variables ([`PtbVariables`]) and several views of it
//! ([`PtbModel`]): one for training, with dropout and gradients, and one for validation and test,
//! without them.

mod half;
mod lstm;
mod names;
mod padding;
mod softmax;
mod variables;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::{Config, Precision, RnnMode};
use crate::optimizer::{self, Gradient};
use crate::rnn::{
    DropoutWrapper, MultiRNNCell, RnnCell, State, dropout_mask, dynamic_rnn, masks_in_order,
};
use crate::team::{Solo, Team};
use lstm::StackInStep;
pub use softmax::{SoftmaxGradients, SoftmaxLayer};
use variables::Recurrent;
pub use variables::{PtbVariables, TooLarge};

/// A view of the variables: the graph that the original builds once per split.
pub struct PtbModel<'a> {
    variables: &'a PtbVariables,
    is_training: bool,
    rnn_mode: RnnMode,
    precision: Precision,
    team: &'a dyn Team,
}

/// Result of a training step: scalars on the model's device, not yet read.
pub struct Step {
    /// Total cross entropy of the batch divided by its size, in nats: the original's `cost`.
    pub cost: Tensor,
    /// TensorFlow's global norm before clipping.
    pub global_norm: Tensor,
    /// The final state, detached: the next step's initial state.
    pub state: State,
}

impl<'a> PtbModel<'a> {
    /// Creates a view for training (dropout, gradients) or for evaluation.
    pub fn new(variables: &'a PtbVariables, is_training: bool, rnn_mode: RnnMode) -> Self {
        PtbModel { variables, is_training, rnn_mode, precision: Precision::Fp32, team: &Solo }
    }

    /// Configuration of the variables.
    pub fn config(&self) -> &Config {
        &self.variables.config
    }

    /// Device of the variables.
    pub(crate) fn device(&self) -> Device {
        self.variables.device
    }

    /// Sets the precision of the large products: the softmax layer's, which are most of the model's
    /// arithmetic, and in cudnn mode on a GPU the LSTM's.
    pub fn precision(self, precision: Precision) -> Self {
        PtbModel { precision, ..self }
    }

    /// Sets the team of workers that share the work. Each worker computes its own rows of every
    /// batch; cost and gradients are summed over all workers.
    pub fn with_team(self, team: &'a dyn Team) -> Self {
        PtbModel { team, ..self }
    }

    /// Team set by [`Self::with_team`], or [`Solo`].
    pub fn team(&self) -> &'a dyn Team {
        self.team
    }

    /// The state before the first word: zeros; per layer what its cell has, such as c, then h, each
    /// `[batch_size, hidden]`.
    pub fn zero_state(&self, batch_size: i64) -> State {
        let v = self.variables;
        let layer = v.cell.state_size(v.width);
        let sizes = layer.iter().cycle().take(layer.len() * v.config.num_layers as usize);
        sizes.map(|&size| Tensor::zeros([batch_size, size], (v.kind, v.device))).collect()
    }

    /// Draws the dropout masks of one step: for the embedded input, then for the output of every
    /// layer. There are none if the view is not training or `keep_prob` is 1. Each is `[batch,
    /// steps, hidden]`, 0 or `1 / keep_prob`.
    pub fn dropout_masks(&self, batch: i64, steps: i64) -> Result<Vec<Tensor>> {
        let v = self.variables;
        if !self.is_training || v.config.keep_prob == 1.0 {
            return Ok(Vec::new());
        }
        let size = [batch, steps, v.width];
        (0..=v.config.num_layers)
            .map(|_| dropout_mask(&size, v.config.keep_prob, v.kind, v.device))
            .collect()
    }

    /// Runs the recurrent layers over embedded words `[batch, steps, hidden]` from an initial
    /// state. Returns the outputs `[batch * steps, hidden]`, in batch-major order, and the final
    /// state.
    ///
    /// `masks` are the L+1 of [`Self::dropout_masks`], or none. Dropout is applied L+1 times
    /// between the input and the softmax layer, and never on the recurrent path.
    pub fn outputs(
        &self,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        self.outputs_of(self.stacks().as_deref(), inputs, state, masks)
    }

    /// The LSTM's stacks as this step runs them; `None` if the cells are unrolled over time.
    fn stacks(&self) -> Option<Vec<StackInStep<'a>>> {
        match &self.variables.recurrent {
            Recurrent::Lstm(stacks) if self.rnn_mode == RnnMode::Cudnn => {
                let half = self.half_kind();
                Some(stacks.iter().map(|stack| StackInStep::new(stack, half)).collect())
            }
            _ => None,
        }
    }

    fn outputs_of(
        &self,
        stacks: Option<&[StackInStep]>,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        let v = self.variables;
        let drop = |x: Tensor, place: usize| match masks.get(place) {
            Some(mask) => x * mask,
            None => x,
        };
        let mut x = drop(inputs.shallow_clone(), 0);
        let mut final_state = State::with_capacity(state.len());
        if let Some(stacks) = stacks {
            ensure!(
                masks.is_empty() || stacks.len() as i64 == v.config.num_layers,
                "a model that was created with keep_prob 1 cannot apply dropout between its layers"
            );
            let mut done = 0;
            for stack in stacks {
                let layers = done..done + stack.num_layers();
                let (output, last) =
                    stack.seq_init(&x, &state[2 * layers.start..2 * layers.end])?;
                final_state.extend(last);
                done = layers.end;
                x = drop(output, done);
            }
            x = x.to_kind(v.kind);
        } else {
            // As in the original's graph: wrap every cell in its dropout, stack the cells, unroll
            // the stack over time.
            let cells = v.cells(self.rnn_mode)?.into_iter().enumerate();
            let wrapped = cells.map(|(k, cell)| -> Box<dyn RnnCell> {
                let Some(mask) = masks.get(k + 1) else { return cell };
                let per_step = masks_in_order(mask.unbind(1));
                Box::new(DropoutWrapper::with_masks(cell, None, Some(per_step)))
            });
            let stack = MultiRNNCell::new(wrapped.collect(), true)?;
            (x, final_state) = dynamic_rnn(&stack, &x, None, Some(state), false)?;
        }
        Ok((x.reshape([-1, v.width]), final_state))
    }

    /// `tf.nn.embedding_lookup`: ids `[batch, steps]` -> rows `[batch, steps, hidden]`.
    fn lookup(&self, ids: &Tensor) -> Tensor {
        let size = ids.size();
        self.variables.embedding.index_select(0, &ids.flatten(0, -1)).view([size[0], size[1], -1])
    }

    fn softmax(&self) -> SoftmaxLayer<'_> {
        SoftmaxLayer {
            w: &self.variables.softmax_w,
            b: &self.variables.softmax_b,
            precision: self.precision,
        }
    }

    /// Cost of a batch by its plain definition, differentiable with respect to all variables: the
    /// specification that [`Self::gradients`] is tested against.
    pub fn cost(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<Tensor> {
        let (output, _) = self.outputs(&self.lookup(x), state, masks)?;
        self.softmax().cost(&output, &y.flatten(0, -1), x.size()[0])
    }

    /// Cost of a batch and the final state, without gradients. `x` and `y` are ids `[batch,
    /// steps]`, int64.
    pub fn evaluate(&self, x: &Tensor, y: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let size = x.size();
            let masks = self.dropout_masks(size[0], size[1])?;
            let (output, state) = self.outputs(&self.lookup(x), state, &masks)?;
            let costs = self.costs(&output, &y.flatten(0, -1))?;
            Ok((costs.sum(Kind::Double) / size[0] as f64, state))
        })
    }

    /// Reads the words `x`, ids `[batch, steps]`, without dropout and gradients. Returns the
    /// outputs `[batch * steps, hidden]`, in batch-major order, and the final state.
    pub(crate) fn read(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| self.outputs(&self.lookup(x), state, &[]))
    }

    /// Cross entropy in nats of each target `[n]` after its output `[n, hidden]`: `[n]`, float64.
    pub(crate) fn costs(&self, output: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.softmax().costs(output, targets)
    }

    /// The logits of the word after each of the words `x`, ids `[batch, steps]`, int64: `[batch *
    /// steps, vocab]` in batch-major order, and the final state; without dropout and gradients.
    pub fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let (output, state) = self.read(&x.f_to_device(self.variables.device)?, state)?;
            Ok((self.softmax().logits(&output), state))
        })
    }

    /// Cost of a batch, the gradient of every trainable variable, and the final state, with the
    /// given masks.
    ///
    /// The leaf that is differentiated is the looked-up rows, not the table. This gives
    /// TensorFlow's `IndexedSlices`.
    ///
    /// With several workers ([`Self::with_team`]), each is given the whole batch, its masks, and
    /// the state of the worker's own rows. Cost and gradients are those of the whole batch.
    pub fn gradients(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, Vec<Gradient>, State)> {
        let v = self.variables;
        ensure!(self.is_training, "this view of the model is not training: it has no gradients");
        let expected = if v.config.keep_prob < 1.0 { v.config.num_layers as usize + 1 } else { 0 };
        ensure!(masks.len() == expected, "{} dropout masks for {expected} places", masks.len());
        let masks: Vec<Tensor> = masks.iter().map(|mask| self.team.rows(mask)).collect();
        let rows = tch::no_grad(|| self.lookup(&self.team.rows(x))).set_requires_grad(true);
        let stacks = self.stacks();
        let (output, state) = self.outputs_of(stacks.as_deref(), &rows, state, &masks)?;
        let mut softmax = self.softmax().cost_and_gradients(
            &output,
            &self.team.rows(y).flatten(0, -1),
            x.size()[0],
        );
        // The softmax layer's gradient is the largest and the first to be ready. It is sent while
        // the layers below compute theirs.
        softmax.w = softmax.w.contiguous();
        let travelling = self.team.all_reduce(&softmax.w)?;
        let leaves = match &stacks {
            Some(stacks) => stacks.iter().flat_map(StackInStep::leaves).collect(),
            None => v.weights(),
        };
        let leaves = [vec![&rows], leaves].concat();
        let mut below = self.backward(&output, softmax.output, &leaves)?;
        let mut recurrent = below.split_off(1);
        let values = below.remove(0).reshape([-1, v.width]);
        let rest = recurrent.iter_mut().chain([&mut softmax.b, &mut softmax.cost]).collect();
        let values = self.team.sum_gradients(travelling, rest, values)?;
        // Every worker has the whole text, so the rows' indices need not be sent.
        let embedding = Gradient::IndexedSlices { values, indices: x.flatten(0, -1) };
        let dense = recurrent.into_iter().chain([softmax.w, softmax.b]).map(Gradient::Dense);
        let gradients = std::iter::once(embedding).chain(dense).collect();
        Ok((softmax.cost, gradients, state.iter().map(Tensor::detach).collect()))
    }

    /// The original's `train_op`: gradients, clipping by global norm, one step of the optimizer.
    pub fn train_step(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        learning_rate: f64,
    ) -> Result<Step> {
        let v = self.variables;
        let learning_rate = Tensor::from(learning_rate).f_to_kind(v.kind)?.f_to_device(v.device)?;
        self.train_op(x, y, state, &learning_rate)
    }

    /// [`Self::train_step`] with the learning rate as a scalar tensor on the model's device, as in
    /// the original.
    pub(crate) fn train_op(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        learning_rate: &Tensor,
    ) -> Result<Step> {
        let v = self.variables;
        let size = x.size();
        let masks = self.dropout_masks(size[0], size[1])?;
        let (cost, gradients, state) = self.gradients(x, y, state, &masks)?;
        let global_norm = optimizer::global_norm(&gradients);
        let scale = optimizer::clip_scale(&global_norm, v.config.max_grad_norm);
        v.optimizer.apply_gradients(&v.trainable(), &gradients, &scale, learning_rate);
        Ok(Step { cost, global_norm, state })
    }
}
