//! Which saved model a command uses, and loading it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tch::{Device, Kind};

use super::{DeviceFlags, UsageError};
use crate::average::CommonWords;
use crate::checkpoint::{Checkpoint, NoCheckpoint, OtherFormat, OtherProgram};
use crate::cli::report::notice;
use crate::cli::shell_word;
use crate::config::{Config, Precision};
use crate::device;
use crate::model::{PtbModel, PtbVariables};
use crate::reader::Vocabulary;
use crate::saved::{NoWords, SavedModel};

#[derive(Args)]
pub struct SavedFlags {
    /// The save path of a run, or one of its checkpoints. Given several times, the probabilities of
    /// all these models are averaged
    #[arg(long = "checkpoint", visible_alias = "save-path", value_name = "DIR", required = true)]
    checkpoints: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceFlags,
}

/// One of the saved models.
pub struct SavedPath<'a>(&'a Path);

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
    Checkpoint::load(path, &mut notice).map_err(|error| {
        if error.is::<NoCheckpoint>() {
            return anyhow!(
                "{error}; `train --save-path` writes them, and `import` makes one of a model of \
                 TensorFlow's"
            );
        }
        if error.is::<OtherProgram>() {
            let file = shell_word(path.as_os_str());
            return anyhow!("{error}; `ptb-word-lm import {file} --save-path RUN` reads it");
        }
        if error.is::<OtherFormat>() {
            return anyhow!("{error:#}; `import` makes a checkpoint of an exported model");
        }
        error
    })
}

/// Models to use, and the words that they have in common.
pub struct Saved {
    pub vocabulary: Vocabulary,
    pub device: Device,
    pub models: Vec<PtbVariables>,
}

impl Saved {
    /// Views of the models, not training, in this precision.
    pub fn views(&self, precision: Precision) -> Vec<PtbModel<'_>> {
        let view = |v| PtbModel::new(v, false, v.fastest_mode()).precision(precision);
        self.models.iter().map(view).collect()
    }
}

impl SavedFlags {
    /// The device to use the models on.
    pub fn device(&self) -> Result<Device> {
        self.device.select()
    }

    /// The models, in the order in which they were given.
    pub fn paths(&self) -> Vec<SavedPath<'_>> {
        self.checkpoints.iter().map(|path| SavedPath(path)).collect()
    }

    /// Loads all models with their words.
    pub fn load(&self) -> Result<Saved> {
        let device = self.device()?;
        let mut known = CommonWords::default();
        let mut models = Vec::new();
        for path in self.paths() {
            let saved = SavedModel::new(path.open()?, device);
            let SavedModel { variables, vocabulary } = saved.map_err(|error| {
                let here = path.here();
                match error.is::<NoWords>() {
                    true => {
                        anyhow!("{here}: {error}; `import` it again with --data-path or --vocab")
                    }
                    false => error.context(here),
                }
            })?;
            known.add(path.here(), vocabulary)?;
            models.push(variables);
        }
        let (_, vocabulary) = known.into_inner().context("there is no --checkpoint")?;
        Ok(Saved { vocabulary, device, models })
    }
}

impl SavedPath<'_> {
    /// As it was given.
    pub fn path(&self) -> &Path {
        self.0
    }

    /// The newest good checkpoint.
    pub fn open(&self) -> Result<Checkpoint> {
        load_checkpoint(self.0)
    }

    /// The flag, for messages.
    pub fn here(&self) -> String {
        format!("--checkpoint {}", self.0.display())
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
}
