//! What the user typed, and what it means: the flags that commands share, and wrong usage.

mod adapt;
pub mod config_file;
pub mod device;
mod hyperparameters;
mod limits;
mod markers;
pub mod numbers;
mod saved;
pub mod signals;
mod workers;

use thiserror::Error;

use crate::config::{ConfigError, RnnMode};
use crate::rnn::CellType;

pub use adapt::AdaptFlags;
pub use device::DeviceFlags;
pub use hyperparameters::Hyperparameters;
pub use limits::LimitFlags;
pub use markers::{MarkersFlag, advise_markers, describe_markers};
pub use saved::{PrecisionFlag, Saved, SavedFlags, SavedPath, load_checkpoint};
pub use workers::WorkerFlags;

/// Wrong usage, which has an exit code of its own. The message names the flags.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// The error of a flag that would be ignored. `where_not` is such as `without --save-path`.
    pub fn no_effect(flag: &str, where_not: &str) -> Self {
        UsageError(format!("--{} has no effect {where_not}", flag.replace('_', "-")))
    }
}

/// The library names fields. A field that comes from the command line has a flag of the same name.
impl From<ConfigError> for UsageError {
    fn from(ConfigError { field, problem }: ConfigError) -> Self {
        UsageError(format!("--{} {problem}", field.replace('_', "-")))
    }
}

/// The mode to run a cell in: `asked`, or the fastest that it has.
pub fn rnn_mode(cell: CellType, asked: Option<RnnMode>) -> Result<RnnMode, UsageError> {
    match (cell, asked) {
        (CellType::BasicLstm, asked) => Ok(asked.unwrap_or(RnnMode::Cudnn)),
        (_, None | Some(RnnMode::Basic)) => Ok(RnnMode::Basic),
        (cell, Some(mode)) => Err(UsageError(format!(
            "--rnn-mode {mode} is made for --cell basic_lstm; {cell} runs in --rnn-mode basic"
        ))),
    }
}
