//! `eval`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tch::Kind;

use super::data::read_data;
use super::rnn_mode;
use super::train::DeviceFlags;
use crate::checkpoint::{Checkpoint, ensure_same_vocabulary};
use crate::config::RnnMode;
use crate::model::{PtbModel, PtbVariables};
use crate::report::{line, notice};
use crate::session::{Input, evaluate};

#[derive(Args)]
pub struct EvalArgs {
    /// The save path of a run, or one of its checkpoints
    #[arg(long, visible_alias = "save-path", value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder with the training text (for the vocabulary), the validation and the test text, named as for `train`; or `sample`
    #[arg(long, value_name = "DIR")]
    data_path: String,
    /// How the recurrent layers are run: basic, block or cudnn
    #[arg(long, value_enum, value_name = "MODE", hide_possible_values = true)]
    rnn_mode: Option<RnnMode>,
    #[command(flatten)]
    device: DeviceFlags,
}

impl EvalArgs {
    pub fn run(self) -> Result<()> {
        let device = self.device.select()?;
        let checkpoint = Checkpoint::load(&self.checkpoint, &mut notice)?;
        let data = read_data(&self.data_path, checkpoint.run.limits)?;
        let here = || format!("--checkpoint {}", self.checkpoint.display());
        let mut config = checkpoint.run.config;
        let cell = checkpoint.cell()?;
        let mode = rnn_mode(cell, self.rnn_mode)?;
        match &checkpoint.vocabulary {
            Some(vocabulary) => ensure_same_vocabulary(vocabulary, &data.vocabulary).with_context(here)?,
            None => config.vocab_size = data.vocabulary.len() as i64,
        }
        let variables = PtbVariables::new(&config, cell, device, Kind::Float, 0)?;
        variables.assign(&checkpoint.variables).with_context(here)?;
        let input = Input::new(&data, &variables)?;
        let model = PtbModel::new(&variables, false, mode);
        line(&format!("Valid Perplexity: {:.3}", evaluate(&model, &input.valid)?.perplexity));
        line(&format!("Test Perplexity: {:.3}", evaluate(&model, &input.test)?.perplexity));
        Ok(())
    }
}
