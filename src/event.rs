//! Events that a run reports to its listener.

use std::path::PathBuf;
use std::time::Instant;

/// What happens in a run, in the order in which it happens. Epochs count from 1 here, as they are
/// printed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An epoch begins, or continues after a resume.
    Epoch {
        /// Counted from 1.
        epoch: i64,
        /// Learning rate of this epoch.
        learning_rate: f64,
        /// Steps of the epoch that an earlier process did.
        done: i64,
        /// Steps in the epoch.
        epoch_size: i64,
    },
    /// A training step is done. Nothing is read from the device for it.
    Tick {
        /// Steps of the epoch that are done.
        done: i64,
    },
    /// The original's progress line is due.
    Progress {
        /// Part of the epoch that is done, as the original counts it: `step / epoch_size`.
        fraction: f64,
        /// Perplexity of the epoch so far.
        perplexity: f64,
        /// Words per second of the epoch so far, in this process.
        wps: f64,
    },
    /// Every `log_every` steps.
    Step {
        /// Counted from 1.
        epoch: i64,
        /// Counted from 0, within the epoch.
        step: i64,
        /// Counted from 0, over all epochs.
        global_step: i64,
        /// Cost of this step: total cross entropy divided by the batch size.
        cost: f64,
        /// TensorFlow's global norm before clipping.
        global_norm: f64,
        /// Learning rate.
        lr: f64,
        /// Perplexity of the epoch so far.
        perplexity: f64,
        /// Words per second of the epoch so far, in this process.
        wps: f64,
    },
    /// A pass over a split is done: training, or validation after it.
    EpochEnd {
        /// Counted from 1.
        epoch: i64,
        /// `train` or `valid`.
        split: &'static str,
        /// Figures of the pass.
        result: Evaluation,
        /// Whether the pass covered the whole split; `max_steps` may end training within an epoch.
        complete: bool,
        /// Training steps of this epoch that are done, and that it has. A run that stops within an
        /// epoch is evaluated there.
        steps: (i64, i64),
    },
    /// An evaluation begins.
    Evaluating {
        /// `valid` or `test`.
        split: &'static str,
    },
    /// The test text is evaluated: the run is over.
    Final(Evaluation),
    /// A checkpoint is written.
    Saved {
        /// Path of the file.
        path: PathBuf,
    },
    /// A message for the user; training continues.
    Notice {
        /// The message.
        text: String,
    },
    /// A checkpoint could not be written. Training continues, and the next checkpoint is tried when
    /// it is due.
    SaveFailed {
        /// The error's message.
        error: String,
    },
}

/// Figures of one pass over a split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// `costs / iters`: per word, in nats. Finite even where the perplexity is too large a number.
    pub cost: f64,
    /// `exp(costs / iters)`: per word, as the original computes it.
    pub perplexity: f64,
    /// Words predicted.
    pub tokens: i64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Evaluation {
    /// The original's arithmetic: `costs` are totals divided by the batch size, `iters` time steps.
    pub(crate) fn new(costs: f64, iters: i64, batch_size: i64, start: Instant) -> Self {
        let cost = costs / iters as f64;
        Evaluation {
            cost,
            perplexity: cost.exp(),
            tokens: iters * batch_size,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}
