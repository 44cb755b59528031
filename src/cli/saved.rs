//! Which saved model a command uses, and loading it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::Kind;

use super::rnn_mode;
use super::train::DeviceFlags;
use crate::checkpoint::Checkpoint;
use crate::config::RnnMode;
use crate::model::PtbVariables;
use crate::reader::Vocabulary;
use crate::report::notice;

#[derive(Args)]
pub struct SavedFlags {
    /// The save path of a run, or one of its checkpoints
    #[arg(long, visible_alias = "save-path", value_name = "DIR")]
    checkpoint: PathBuf,
    #[command(flatten)]
    device: DeviceFlags,
}

/// A model to use: its words and its variables.
pub struct Saved {
    pub vocabulary: Vocabulary,
    pub variables: PtbVariables,
    pub mode: RnnMode,
}

impl SavedFlags {
    /// Loads the newest good checkpoint.
    pub fn load(&self) -> Result<Saved> {
        let device = self.device.select()?;
        let here = || format!("--checkpoint {}", self.checkpoint.display());
        let checkpoint = Checkpoint::load(&self.checkpoint, &mut notice)?;
        let cell = checkpoint.cell().with_context(here)?;
        let mode = rnn_mode(cell, None)?;
        let vocabulary = checkpoint.vocabulary.with_context(|| {
            format!("{}: the model's words are not known; `import` it again with --data-path", here())
        })?;
        let config = checkpoint.run.config;
        ensure!(
            vocabulary.len() as i64 == config.vocab_size,
            "{}: a model of {} words with a list of {}",
            here(),
            config.vocab_size,
            vocabulary.len()
        );
        let variables = PtbVariables::new(&config, cell, device, Kind::Float, 0)?;
        variables.assign(&checkpoint.variables).with_context(here)?;
        Ok(Saved { vocabulary, variables, mode })
    }
}
