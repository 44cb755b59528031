//! `eval`

use anyhow::{Context, Result};
use clap::Args;

use super::data::read_data;
use super::flags::{PrecisionFlag, SavedFlags, rnn_mode};
use super::report::{line, notice};
use crate::average::{Average, ensure_same_words};
use crate::checkpoint::ensure_same_vocabulary;
use crate::config::{Config, RnnMode};
use crate::model::PtbModel;
use crate::reader::{Limits, Producer, Vocabulary};

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
        let device = self.saved.device()?;
        let paths = self.saved.paths();
        let several = paths.len() > 1;
        // All are looked at before the first is evaluated. Their weights are loaded again, each in
        // its turn, as they may not fit in memory together.
        let mut only = None;
        let mut known: Option<(String, Vocabulary)> = None;
        let mut limits = Limits::default();
        let mut layout = None;
        for path in &paths {
            let checkpoint = path.open()?;
            rnn_mode(checkpoint.cell().with_context(|| path.here())?, self.rnn_mode)?;
            if let Some(words) = &checkpoint.vocabulary {
                match &known {
                    Some((name, others)) => {
                        ensure_same_words((name, others), (&path.here(), words))?
                    }
                    None => known = Some((path.here(), words.clone())),
                }
            }
            limits = if limits.is_none() { checkpoint.run.limits } else { limits };
            layout
                .get_or_insert((checkpoint.run.config.batch_size, checkpoint.run.config.num_steps));
            only = (!several).then_some(checkpoint);
        }
        let precision = self.precision.select(device)?;
        let data = read_data(&self.data_path, limits)?;
        if let Some((name, words)) = &known {
            ensure_same_vocabulary(words, &data.vocabulary).with_context(|| name.clone())?;
        }
        // All models read the text as the first one's run does.
        let (batch_size, num_steps) = layout.context("there is no model")?;
        let valid_text = Producer::new(&data.valid, batch_size, num_steps, device)?;
        let test_text = Producer::new(&data.test, 1, 1, device)?;

        let (mut valid, mut test) = (Average::default(), Average::default());
        for path in &paths {
            let checkpoint = only.take().map_or_else(|| path.open(), Ok)?;
            let mode = rnn_mode(checkpoint.cell()?, self.rnn_mode)?;
            let config =
                Config { vocab_size: data.vocabulary.len() as i64, ..checkpoint.run.config };
            let variables = path.variables(&checkpoint, &config, device)?;
            drop(checkpoint);
            let model = PtbModel::new(&variables, false, mode).precision(precision);
            let own = [valid.add(&model, &valid_text)?, test.add(&model, &test_text)?];
            if several {
                notice(&format!("{}: valid {:.3}, test {:.3}", path.here(), own[0], own[1]));
            }
        }
        line(&format!("Valid Perplexity: {:.3}", valid.evaluation()?.perplexity));
        line(&format!("Test Perplexity: {:.3}", test.evaluation()?.perplexity));
        Ok(())
    }
}
