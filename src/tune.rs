//! A search for the settings with which models adapt themselves best to a text: the validation
//! text, never the test text.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use crate::adapt::{Adaptation, Adaptive, Dynamic};
use crate::cache::{Cache, mix};
use crate::config::{Precision, RnnMode};
use crate::model::PtbVariables;
use crate::predictor::Predictor;

/// Settings to try, all with all.
///
/// The text is read once for each learning rate; thetas and lambdas cost next to nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Learning rates of dynamic evaluation; 0 is without.
    pub rates: Vec<f64>,
    /// Thetas of the cache.
    pub thetas: Vec<f64>,
    /// Lambdas of the cache.
    pub lambdas: Vec<f64>,
}

impl Default for Grid {
    fn default() -> Self {
        Grid {
            rates: vec![0.0, 0.02, 0.05, 0.1, 0.2, 0.5],
            thetas: vec![0.0, 0.1, 0.2, 0.3, 0.5, 0.8],
            lambdas: vec![0.05, 0.1, 0.15, 0.2, 0.3],
        }
    }
}

/// A point of the grid, and the perplexity there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Learning rate of dynamic evaluation.
    pub rate: f64,
    /// Theta and lambda of the cache, if there is one.
    pub cache: Option<(f64, f64)>,
    /// Perplexity of the text.
    pub perplexity: f64,
}

/// A search on one text, with one model or the average of several.
pub struct Tuning {
    grid: Grid,
    /// The rest of the settings: steps and decay, and the cache's size.
    dynamic: Dynamic,
    cache: Cache,
    models: u64,
    /// For each rate the logarithms of the words' probabilities, summed over the models: the
    /// models' own first, then the caches' for each theta; `[1 + thetas, words]`, float64.
    log_sums: Vec<Tensor>,
}

impl Tuning {
    /// A search on `grid`; what is not in the grid is as in `dynamic` and `cache`.
    pub fn new(grid: Grid, dynamic: Dynamic, cache: Cache) -> Self {
        Tuning { grid, dynamic, cache, models: 0, log_sums: Vec::new() }
    }

    /// Reads the text with one more model, once for each rate. `listen` is given each rate, and the
    /// model's own perplexity without a cache.
    ///
    /// # Errors
    /// A text of fewer than two words, settings that cannot be used, errors of libtorch.
    pub fn add(
        &mut self,
        variables: &PtbVariables,
        rnn_mode: RnnMode,
        precision: Precision,
        text: &[i32],
        listen: &mut dyn FnMut(f64, f64),
    ) -> Result<()> {
        ensure!(text.len() > 1, "a text of {} words has no word to predict", text.len());
        for (k, &rate) in self.grid.rates.iter().enumerate() {
            let dynamic = Some(Dynamic { rate, ..self.dynamic });
            // (Of any weight: the mixture is made afterwards.)
            let cache = Some(Cache { lambda: 0.5, ..self.cache });
            let mut model =
                Adaptive::new(variables, rnn_mode, precision, Adaptation { dynamic, cache })?;
            let mut pieces = Vec::new();
            model.reset()?;
            model.read(text, &self.grid.thetas, &mut |model, caches| {
                let mut rows = vec![model];
                rows.extend(caches);
                pieces.push(Tensor::f_stack(&rows, 0)?);
                Ok(())
            })?;
            let log_p = Tensor::f_cat(&pieces, 1)?;
            listen(rate, perplexity(&log_p.get(0))?);
            match self.log_sums.get_mut(k) {
                Some(sum) => *sum = sum.f_logaddexp(&log_p)?,
                None => self.log_sums.push(log_p),
            }
        }
        self.models += 1;
        Ok(())
    }

    /// All points: for each rate without a cache first, then by theta and lambda.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn points(&self) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for (&rate, log_sum) in self.grid.rates.iter().zip(&self.log_sums) {
            let log_p = log_sum - (self.models as f64).ln();
            let model = log_p.f_get(0)?;
            points.push(Point { rate, cache: None, perplexity: perplexity(&model)? });
            // (Without a cache there are no rows of it.)
            let thetas = self.grid.thetas.iter().zip(1..log_p.size()[0]);
            for (&theta, row) in thetas {
                for &lambda in &self.grid.lambdas {
                    // Mean and mixture may be exchanged: both are linear.
                    let mixed = mix(&model, &log_p.f_get(row)?, lambda)?;
                    let cache = Some((theta, lambda));
                    points.push(Point { rate, cache, perplexity: perplexity(&mixed)? });
                }
            }
        }
        Ok(points)
    }
}

/// The best of some points; one whose perplexity is not a number is not.
pub fn best(points: impl IntoIterator<Item = Point>) -> Option<Point> {
    let numbers = points.into_iter().filter(|point| !point.perplexity.is_nan());
    numbers.min_by(|a, b| a.perplexity.total_cmp(&b.perplexity))
}

/// Perplexity of words whose probabilities have these logarithms.
fn perplexity(log_p: &Tensor) -> Result<f64> {
    Ok((-log_p.f_mean(Kind::Double)?.f_double_value(&[])?).exp())
}
