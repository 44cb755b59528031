//! `eval`

use anyhow::{Context, Result};
use clap::Args;

use super::data::read_data;
use super::flags::{PrecisionFlag, SavedFlags, rnn_mode};
use super::report::line;
use crate::checkpoint::ensure_same_vocabulary;
use crate::config::RnnMode;
use crate::evaluate::evaluate;
use crate::model::PtbModel;
use crate::session::Input;

#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// Folder of the training text (for the vocabulary), the validation and the test text, named as
    /// for `train`; or `sample`
    #[arg(long, value_name = "DIR")]
    data_path: String,
    /// How to run the recurrent layers: cudnn, block or basic, as for `train`
    #[arg(long, value_enum, value_name = "MODE", hide_possible_values = true)]
    rnn_mode: Option<RnnMode>,
    #[command(flatten)]
    precision: PrecisionFlag,
}

impl EvalArgs {
    pub fn run(self) -> Result<()> {
        let (checkpoint, device) = self.saved.open()?;
        let precision = self.precision.select(device)?;
        let data = read_data(&self.data_path, checkpoint.run.limits)?;
        let mut config = checkpoint.run.config;
        let mode = rnn_mode(checkpoint.cell()?, self.rnn_mode)?;
        match &checkpoint.vocabulary {
            Some(vocabulary) => {
                ensure_same_vocabulary(vocabulary, &data.vocabulary).with_context(|| self.saved.here())?
            }
            None => config.vocab_size = data.vocabulary.len() as i64,
        }
        let variables = self.saved.variables(&checkpoint, &config, device)?;
        let input = Input::new(&data, &variables)?;
        let model = PtbModel::new(&variables, false, mode).precision(precision);
        line(&format!("Valid Perplexity: {:.3}", evaluate(&model, &input.valid)?.perplexity));
        line(&format!("Test Perplexity: {:.3}", evaluate(&model, &input.test)?.perplexity));
        Ok(())
    }
}
