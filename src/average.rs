//! The average of several models: the arithmetic mean of their probabilities for each word, as in
//! the paper's own table (Zaremba et al., section 4.1).
//!
//! A perplexity needs the probabilities of the text's words alone, so the models can be evaluated
//! one after the other, and one of them in memory at a time is enough.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use crate::evaluate::text_windows;
use crate::event::Evaluation;
use crate::model::PtbModel;
use crate::predictor::Predictor;
use crate::reader::{Producer, Vocabulary};

/// The probabilities of a text's words, summed over models.
pub struct Average {
    start: Instant,
    models: u64,
    /// Logarithms of the sums, `[rows, words]`, float64, for each window of the text.
    log_sums: Vec<Tensor>,
}

impl Default for Average {
    fn default() -> Self {
        Average { start: Instant::now(), models: 0, log_sums: Vec::new() }
    }
}

impl Average {
    /// Evaluates one more model, a view that is not training, on the same text as those before it.
    /// Returns the model's own perplexity.
    ///
    /// # Errors
    /// As of [`crate::evaluate::evaluate`]; a text of another length or with other rows.
    pub fn add(&mut self, model: &PtbModel, text: &Producer) -> Result<f64> {
        self.add_costs(text_windows(model, text)?)
    }

    /// Adds a model's costs in nats, `[rows, words]`, float64, for each window of the text. Returns
    /// the perplexity of these alone.
    pub(crate) fn add_costs(&mut self, costs: Vec<Tensor>) -> Result<f64> {
        let own =
            Average { start: self.start, models: 1, log_sums: costs.iter().map(|c| -c).collect() };
        let perplexity = own.evaluation()?.perplexity;
        if self.models == 0 {
            self.log_sums = own.log_sums;
        } else {
            let sizes = |windows: &[Tensor]| windows.iter().map(Tensor::size).collect::<Vec<_>>();
            let (own_sizes, others) = (sizes(&own.log_sums), sizes(&self.log_sums));
            ensure!(own_sizes == others, "costs of {own_sizes:?} words to average with {others:?}");
            for (sum, own) in self.log_sums.iter_mut().zip(&own.log_sums) {
                *sum = sum.f_logaddexp(own)?;
            }
        }
        self.models += 1;
        Ok(perplexity)
    }

    /// [`Self::add_costs`] of a text of one row that is read in one window.
    pub(crate) fn add_row(&mut self, costs: &[f64]) -> Result<f64> {
        self.add_costs(vec![Tensor::f_from_slice(costs)?.f_unsqueeze(0)?])
    }

    /// The averaged model's costs in nats, `[rows, words]`, for each window of the text.
    fn windows(&self) -> impl Iterator<Item = Tensor> {
        let log_models = (self.models as f64).ln();
        self.log_sums.iter().map(move |log_sum| log_models - log_sum)
    }

    /// The averaged model's costs in nats of all words.
    fn costs(&self) -> Result<Vec<f64>> {
        let mut costs = Vec::new();
        for window in self.windows() {
            costs.extend(Vec::<f64>::try_from(window.f_flatten(0, -1)?)?);
        }
        Ok(costs)
    }

    /// The figures of the averaged model.
    ///
    /// # Errors
    /// No model was added.
    pub fn evaluation(&self) -> Result<Evaluation> {
        let rows = self.log_sums.first().context("there is no model to average")?.size()[0];
        let (mut costs, mut iters) = (0.0, 0);
        for window in self.windows() {
            costs += window.f_sum(Kind::Double)?.f_double_value(&[])?;
            iters += window.size()[1];
        }
        Ok(Evaluation::new(costs / rows as f64, iters, rows, self.start))
    }
}

/// The average of some predictors, each of which reads the text in its own way.
pub struct Mean<'a>(Vec<Box<dyn Predictor + 'a>>);

impl<'a> Mean<'a> {
    /// The average of `members`; of a single one that one itself.
    pub fn of(mut members: Vec<Box<dyn Predictor + 'a>>) -> Box<dyn Predictor + 'a> {
        match members.len() {
            1 => members.remove(0),
            _ => Box::new(Mean(members)),
        }
    }
}

impl Predictor for Mean<'_> {
    fn reset(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|member| member.reset())
    }

    fn costs(&mut self, piece: &[i32]) -> Result<Vec<f64>> {
        let mut average = Average::default();
        for member in &mut self.0 {
            average.add_row(&member.costs(piece)?)?;
        }
        average.costs()
    }

    fn line_costs(&mut self, lines: &[Vec<i32>]) -> Result<Vec<Vec<f64>>> {
        let mut average = Average::default();
        for member in &mut self.0 {
            average.add_row(&member.line_costs(lines)?.concat())?;
        }
        let mut costs = average.costs()?.into_iter();
        let steps = lines.iter().map(|line| line.len().saturating_sub(1));
        Ok(steps.map(|steps| costs.by_ref().take(steps).collect()).collect())
    }
}

/// The words that some models have in common, with the name of the first that has them.
#[derive(Default)]
pub struct CommonWords(Option<(String, Vocabulary)>);

impl CommonWords {
    /// Adds one more model's words. `name` is for errors.
    ///
    /// # Errors
    /// Other words, or other ids for them, than the first model has: names both models and the
    /// first word that differs. Their probabilities cannot be averaged.
    pub fn add(&mut self, name: String, words: Vocabulary) -> Result<()> {
        match &self.0 {
            Some((first, others)) => ensure_same_words((first, others), (&name, &words)),
            None => {
                self.0 = Some((name, words));
                Ok(())
            }
        }
    }

    /// The name of the first model and the words, if some model's words are known.
    pub fn into_inner(self) -> Option<(String, Vocabulary)> {
        self.0
    }
}

/// Checks that two models, named for the error, have the same words under the same ids.
fn ensure_same_words(a: (&str, &Vocabulary), b: (&str, &Vocabulary)) -> Result<()> {
    let ((a_name, a), (b_name, b)) = (a, b);
    let differ = format!("{a_name} and {b_name} have different words, so they cannot be averaged");
    if let Some((id, (a, b))) = a.words().zip(b.words()).enumerate().find(|(_, (a, b))| a != b) {
        bail!("{differ}: word {id} is {a:?} in the first and {b:?} in the second");
    }
    let common = a.len().min(b.len()) as i32;
    for (words, which, other) in [(a, "first", "second"), (b, "second", "first")] {
        if let Some(word) = words.word(common) {
            bail!(
                "{differ}: word {common} is {word:?} in the {which}, and the {other} has no more \
                 than {common}"
            );
        }
    }
    Ok(())
}
