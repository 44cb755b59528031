//! The original's `PTBModel`: the variables, and the graph over them.
//!
//! As in the original there is one set of variables ([`PtbVariables`]) and several views of it
//! ([`PtbModel`]): one for training, with dropout and gradients, and one for validation and test,
//! without them.
//!
//! Shapes: `batch` rows of `steps` words each, `n = batch * steps` words in batch-major order,
//! `vocab` words in the vocabulary. `hidden` is the width that the layers are computed with:
//! `hidden_size`, or on a GPU a few units more that are always zero (padding.rs).

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
use lstm::{StepStack, fused_outputs};
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

    /// Type of the variables.
    pub(crate) fn kind(&self) -> Kind {
        self.variables.kind
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

    /// The original's `initial_state`: zeros. For each layer the tensors of its cell (c, then h for
    /// an LSTM), each `[batch_size, hidden]`.
    pub fn zero_state(&self, batch_size: i64) -> State {
        let v = self.variables;
        let layer = v.cell.state_size(v.width);
        let sizes = layer.iter().cycle().take(layer.len() * v.config.num_layers as usize);
        sizes.map(|&size| Tensor::zeros([batch_size, size], (v.kind, v.device))).collect()
    }

    /// Places where dropout is applied: the embedded input, then the output of every layer. None if
    /// the view is not training or `keep_prob` is 1.
    fn num_masks(&self) -> i64 {
        let config = &self.variables.config;
        if self.is_training && config.keep_prob < 1.0 { config.num_layers + 1 } else { 0 }
    }

    /// Draws the dropout masks of one step, one for each place. Each is `[batch, steps, hidden]`, 0
    /// or `1 / keep_prob`.
    pub fn dropout_masks(&self, batch_size: i64, num_steps: i64) -> Result<Vec<Tensor>> {
        let v = self.variables;
        let size = [batch_size, num_steps, v.width];
        (0..self.num_masks())
            .map(|_| dropout_mask(&size, v.config.keep_prob, v.kind, v.device))
            .collect()
    }

    /// Runs the recurrent layers over embedded words `[batch, steps, hidden]` from an initial
    /// state. Returns the outputs `[n, hidden]` and the final state.
    ///
    /// `masks` are the L+1 of [`Self::dropout_masks`], or none. Dropout is applied L+1 times
    /// between the input and the softmax layer, and never on the recurrent path.
    pub fn outputs(
        &self,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        self.outputs_with(self.lstm_stacks().as_deref(), inputs, state, masks)
    }

    /// The LSTM's stacks, with the weights that this step uses; `None` if the cells are unrolled
    /// over time.
    fn lstm_stacks(&self) -> Option<Vec<StepStack<'a>>> {
        match &self.variables.recurrent {
            Recurrent::Lstm(stacks) if self.rnn_mode == RnnMode::Cudnn => {
                let half = self.half_kind();
                Some(stacks.iter().map(|stack| StepStack::new(stack, half)).collect())
            }
            _ => None,
        }
    }

    /// [`Self::outputs`] with the given [`Self::lstm_stacks`].
    fn outputs_with(
        &self,
        stacks: Option<&[StepStack]>,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        let v = self.variables;
        let inputs = dropout(inputs.shallow_clone(), masks.first());
        let (outputs, state) = match stacks {
            Some(stacks) => {
                ensure!(
                    masks.is_empty() || stacks.len() as i64 == v.config.num_layers,
                    "a model that was created with keep_prob 1 cannot apply dropout between its \
                     layers"
                );
                fused_outputs(stacks, inputs, state, masks)?
            }
            None => self.unrolled_outputs(&inputs, state, masks)?,
        };
        Ok((outputs.to_kind(v.kind).reshape([-1, v.width]), state))
    }

    /// The original's loop over time: every cell is wrapped in its dropout, the cells are stacked,
    /// the stack is unrolled.
    fn unrolled_outputs(
        &self,
        inputs: &Tensor,
        state: &[Tensor],
        masks: &[Tensor],
    ) -> Result<(Tensor, State)> {
        let cells = self.variables.cells(self.rnn_mode)?.into_iter().enumerate();
        let wrapped = cells.map(|(k, cell)| -> Box<dyn RnnCell> {
            let Some(mask) = masks.get(k + 1) else { return cell };
            let per_step = masks_in_order(mask.unbind(1));
            Box::new(DropoutWrapper::with_masks(cell, None, Some(per_step)))
        });
        let stack = MultiRNNCell::new(wrapped.collect(), true)?;
        dynamic_rnn(&stack, inputs, None, Some(state), false)
    }

    /// `tf.nn.embedding_lookup`: ids `[batch, steps]` -> rows `[batch, steps, hidden]`.
    fn embedding_lookup(&self, ids: &Tensor) -> Tensor {
        let size = ids.size();
        self.variables.embedding.index_select(0, &ids.flatten(0, -1)).view([size[0], size[1], -1])
    }

    fn softmax_layer(&self) -> SoftmaxLayer<'_> {
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
        let (output, _) = self.outputs(&self.embedding_lookup(x), state, masks)?;
        self.softmax_layer().cost(&output, &y.flatten(0, -1), x.size()[0])
    }

    /// Cost of a batch and the final state, without gradients. `x` and `y` are ids `[batch,
    /// steps]`, int64. A training view applies dropout here too.
    pub fn evaluate(&self, x: &Tensor, y: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let size = x.size();
            let masks = self.dropout_masks(size[0], size[1])?;
            let (output, state) = self.outputs(&self.embedding_lookup(x), state, &masks)?;
            let costs = self.costs(&output, &y.flatten(0, -1))?;
            Ok((costs.sum(Kind::Double) / size[0] as f64, state))
        })
    }

    /// Runs the words `x`, ids `[batch, steps]`, int64, through embedding and layers, without
    /// dropout and gradients. Returns the outputs `[n, hidden]` and the final state.
    pub(crate) fn forward(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| self.outputs(&self.embedding_lookup(x), state, &[]))
    }

    /// Cross entropy in nats of each target `[n]` after its output `[n, hidden]`: `[n]`, float64.
    pub(crate) fn costs(&self, output: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.softmax_layer().costs(output, targets)
    }

    /// The logits of the word after each of the words `x`, ids `[batch, steps]`, int64: `[n,
    /// vocab]`, and the final state; without dropout and gradients.
    pub fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let (output, state) = self.forward(&x.f_to_device(self.variables.device)?, state)?;
            Ok((self.softmax_layer().logits(&output), state))
        })
    }

    /// Cost of a batch, the gradient of every trainable variable, and the final state, with the
    /// given masks.
    ///
    /// Differentiates with respect to the looked-up rows, not the table, which yields TensorFlow's
    /// `tf.IndexedSlices`.
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
        ensure!(self.is_training, "this view of the model is not training: it has no gradients");
        let (batch_size, places) = (x.size()[0], self.num_masks());
        ensure!(masks.len() as i64 == places, "{} dropout masks for {places} places", masks.len());
        let masks: Vec<Tensor> = masks.iter().map(|mask| self.team.rows(mask)).collect();
        let (own_x, own_y) = (self.team.rows(x), self.team.rows(y));

        let rows = tch::no_grad(|| self.embedding_lookup(&own_x)).set_requires_grad(true);
        let stacks = self.lstm_stacks();
        let (output, state) = self.outputs_with(stacks.as_deref(), &rows, state, &masks)?;
        let targets = own_y.flatten(0, -1);
        let mut softmax = self.softmax_layer().cost_and_gradients(&output, &targets, batch_size);
        // The softmax layer's gradient is the largest and is ready first, so its sum over the
        // workers starts here and runs during the backward pass.
        softmax.w = softmax.w.contiguous();
        let w_sum = self.team.all_reduce(&softmax.w)?;
        let weights = match &stacks {
            Some(stacks) => stacks.iter().flat_map(StepStack::leaves).collect(),
            None => self.variables.recurrent_variables(),
        };
        let leaves = [vec![&rows], weights].concat();
        let mut values = self.backward(&output, softmax.output, &leaves)?;
        let mut recurrent = values.split_off(1);
        let values = values.remove(0).flatten(0, 1);

        let dense = recurrent.iter_mut().chain([&mut softmax.b, &mut softmax.cost]).collect();
        let values = self.team.sum_gradients(w_sum, dense, values)?;
        // All workers have the same words, so only the values are gathered.
        let embedding = Gradient::IndexedSlices { values, indices: x.flatten(0, -1) };
        let dense = recurrent.into_iter().chain([softmax.w, softmax.b]).map(Gradient::Dense);
        let gradients = std::iter::once(embedding).chain(dense).collect();
        Ok((softmax.cost, gradients, state.iter().map(Tensor::detach).collect()))
    }

    /// Gradients of the cost with respect to `leaves`, given the one with respect to `output [n,
    /// hidden]`.
    fn backward(
        &self,
        output: &Tensor,
        gradient: Tensor,
        leaves: &[&Tensor],
    ) -> Result<Vec<Tensor>> {
        let kind = self.variables.kind;
        let loss_scale = self.loss_scale();
        let gradient = if loss_scale == 1.0 { gradient } else { gradient * loss_scale };
        // tch starts a backward pass from a scalar. The gradient of this one with respect to
        // `output` is `gradient`.
        let scalar = (output * gradient).sum(kind);
        let gradients = Tensor::f_run_backward(&[scalar], leaves, false, false)?;
        let unscaled = |gradient: Tensor| {
            let mut gradient = gradient.to_kind(kind);
            if loss_scale == 1.0 { gradient } else { gradient.g_div_scalar_(loss_scale) }
        };
        Ok(gradients.into_iter().map(unscaled).collect())
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

/// Multiplies `x` by a dropout mask, if there is one.
fn dropout(x: Tensor, mask: Option<&Tensor>) -> Tensor {
    if let Some(mask) = mask { x * mask } else { x }
}
