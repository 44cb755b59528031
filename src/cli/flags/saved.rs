//! Which saved model a command uses, and loading it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use tch::{Device, Kind};

use super::{DeviceFlags, UsageError, rnn_mode};
use crate::checkpoint::{Checkpoint, NoCheckpoint};
use crate::cli::report::notice;
use crate::config::{Config, Precision, RnnMode};
use crate::device;
use crate::model::PtbVariables;
use crate::reader::Vocabulary;

#[derive(Args)]
pub struct SavedFlags {
    /// The save path of a run, or one of its checkpoints
    #[arg(long, visible_alias = "save-path", value_name = "DIR")]
    checkpoint: PathBuf,
    #[command(flatten)]
    device: DeviceFlags,
}

/// `--precision` for a model that is only evaluated.
#[derive(Args)]
pub struct PrecisionFlag {
    /// Precision of the large products, as for `train`. A run's own precision gives its own
    /// perplexity [default: fp32; on a GPU tf32-cudnn, as for `train`]
    #[arg(long, value_enum, hide_possible_values = true, help_heading = "Running")]
    precision: Option<Precision>,
}

impl PrecisionFlag {
    /// Checks it against the device and sets libtorch up for it.
    pub fn select(&self, device: Device) -> Result<Precision> {
        let precision = self.precision.unwrap_or(Precision::default_on(device.is_cuda()));
        precision.check(device.is_cuda()).map_err(UsageError::from)?;
        device::set_precision(precision);
        Ok(precision)
    }
}

/// Loads the newest good checkpoint of a save path, or the file itself if `path` is one.
pub fn load_checkpoint(path: &Path) -> Result<Checkpoint> {
    Checkpoint::load(path, &mut notice).map_err(|error| match error.is::<NoCheckpoint>() {
        true => anyhow!("{error}; `train --save-path` writes them"),
        false => error,
    })
}

/// A model to use: its words and its variables.
pub struct Saved {
    pub vocabulary: Vocabulary,
    pub variables: PtbVariables,
    pub mode: RnnMode,
}

impl SavedFlags {
    /// The newest good checkpoint, and the device to use it on.
    pub fn open(&self) -> Result<(Checkpoint, Device)> {
        let device = self.device.select()?;
        Ok((load_checkpoint(&self.checkpoint)?, device))
    }

    /// The flag, for messages.
    pub fn here(&self) -> String {
        format!("--checkpoint {}", self.checkpoint.display())
    }

    /// A checkpoint's variables, in a model of `config`.
    pub fn variables(
        &self,
        checkpoint: &Checkpoint,
        config: &Config,
        device: Device,
    ) -> Result<PtbVariables> {
        let variables = PtbVariables::new(config, checkpoint.cell()?, device, Kind::Float, 0)?;
        variables.assign(&checkpoint.variables).with_context(|| self.here())?;
        Ok(variables)
    }

    /// Loads a model with its words.
    pub fn load(&self) -> Result<Saved> {
        let (mut checkpoint, device) = self.open()?;
        let mode = rnn_mode(checkpoint.cell().with_context(|| self.here())?, None)?;
        let vocabulary = checkpoint.vocabulary.take().with_context(|| {
            let here = self.here();
            format!("{here}: the model's words are not known; `import` it again with --data-path")
        })?;
        let config = checkpoint.run.config;
        ensure!(
            vocabulary.len() as i64 == config.vocab_size,
            "{}: a model of {} words with a list of {}",
            self.here(),
            config.vocab_size,
            vocabulary.len()
        );
        Ok(Saved { vocabulary, variables: self.variables(&checkpoint, &config, device)?, mode })
    }
}
