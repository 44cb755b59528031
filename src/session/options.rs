//! Options of a session.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crate::config::{ParseError, Precision, RnnMode};

/// How often a run is saved, besides at the end of every epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CheckpointEvery {
    /// After this many steps.
    Steps(i64),
    /// After this many minutes.
    Minutes(f64),
}

impl FromStr for CheckpointEvery {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let every = match s.strip_suffix('m') {
            Some(minutes) => {
                minutes.parse().ok().filter(|m: &f64| m.is_finite() && *m > 0.0).map(Self::Minutes)
            }
            None => s.parse().ok().filter(|&n| n > 0).map(Self::Steps),
        };
        every.ok_or(ParseError("it is a number of steps, such as 500, or of minutes, such as 10m"))
    }
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            CheckpointEvery::Steps(n) => write!(f, "{n}"),
            CheckpointEvery::Minutes(m) => write!(f, "{m}m"),
        }
    }
}

/// Options of a session that are not hyperparameters.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the recurrent layers are run.
    pub rnn_mode: RnnMode,
    /// Precision of the large products.
    pub precision: Precision,
    /// Number of steps from one [`Event::Step`](crate::event::Event::Step) to the next; 0 for none.
    pub log_every: i64,
    /// Stop after this many steps in all.
    pub max_steps: Option<i64>,
    /// Whether to evaluate the validation and test texts.
    pub evaluate: bool,
    /// When to save within an epoch.
    pub checkpoint_every: CheckpointEvery,
    /// Number of the signal to stop by, set by a signal handler; 0 is none. The session then
    /// finishes the step, saves, and stops.
    pub stop: Arc<AtomicUsize>,
    /// If true, the session finishes the step, saves, continues, and resets it.
    pub save: Arc<AtomicBool>,
    /// Whether to evaluate even after a stop by SIGINT.
    pub evaluate_when_stopped: bool,
    /// Whether to record the step on a GPU as a CUDA graph and replay it.
    pub cuda_graph: bool,
}

impl Default for Options {
    /// The defaults of `train` on a CPU, except that no steps are logged.
    fn default() -> Self {
        Options {
            rnn_mode: RnnMode::Cudnn,
            precision: Precision::Fp32,
            log_every: 0,
            max_steps: None,
            evaluate: true,
            checkpoint_every: CheckpointEvery::Minutes(10.0),
            stop: Arc::default(),
            save: Arc::default(),
            evaluate_when_stopped: false,
            cuda_graph: true,
        }
    }
}
