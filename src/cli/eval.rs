//! `eval`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tch::Kind;

use super::rnn_mode;
use super::train::DeviceFlags;
use crate::checkpoint::{Checkpoint, ensure_same_vocabulary};
use crate::config::RnnMode;
use crate::model::{PtbModel, PtbVariables};
use crate::reader::RawData;
use crate::report::{line, notice};
use crate::session::{Input, evaluate};

#[derive(Args)]
pub struct EvalArgs {
    /// The save path of a run, or one of its checkpoints
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder with ptb.train.txt (for the vocabulary), ptb.valid.txt and ptb.test.txt, or `sample`
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
        let data = RawData::read(&self.data_path)?;
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
