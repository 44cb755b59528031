//! The neural cache (Grave, Joulin, Usunier, "Improving Neural Language Models with a Continuous
//! Cache", arXiv 1612.04426): a word that came a while ago, after words with a similar output of
//! the LSTM, is likely to come again.
//!
//! The cache holds the last `size` pairs of an output `h_i` and the word `x_i+1` that came after
//! it. It predicts a word after the output `h` by
//!
//! ```text
//! p_cache(w) = sum of exp(theta * h . h_i) over the pairs whose word is w / the same sum over all
//! p(w)       = (1 - lambda) * p_model(w) + lambda * p_cache(w)
//! ```
//!
//! Nothing is trained for it.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::config::{ConfigError, check};

/// Settings of a neural cache.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cache {
    /// Words that it remembers; without any it changes nothing.
    pub size: i64,
    /// How much likelier a similar output makes its word; 0 counts the words.
    pub theta: f64,
    /// Weight of the cache's probabilities beside the model's; with 0 it changes nothing.
    pub lambda: f64,
}

impl Default for Cache {
    fn default() -> Self {
        // Theta and lambda are the best of `eval --tune` for `small` on PTB's validation text.
        Cache { size: 2000, theta: 0.5, lambda: 0.2 }
    }
}

impl Cache {
    /// Checks the fields.
    ///
    /// # Errors
    /// Names the first unusable field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Cache { size, theta, lambda } = *self;
        let is_theta = theta >= 0.0 && theta.is_finite();
        check(size >= 0, "cache", size, "it must be 0 (no cache) or more")?;
        check(is_theta, "cache_theta", theta, "it must be 0 or a number above 0")?;
        let allowed = "it is a weight, at least 0 and below 1";
        check((0.0..1.0).contains(&lambda), "cache_lambda", lambda, allowed)
    }
}

/// The pairs that a cache holds.
#[derive(Default)]
pub(crate) struct Pairs {
    /// `[k, hidden]`
    outputs: Option<Tensor>,
    /// `[k]`, int64
    words: Option<Tensor>,
}

impl Pairs {
    /// Logarithms of the probabilities of the words `targets`, `[n]`, each after its output in
    /// `outputs`, `[n, hidden]`: for each theta `[n]`, float64. Each word is predicted from the
    /// `size` words before it; all are remembered then. A word without any before it has the
    /// probability that the model gives it, `model`.
    pub(crate) fn predict(
        &mut self,
        outputs: &Tensor,
        targets: &Tensor,
        model: &Tensor,
        size: i64,
        thetas: &[f64],
    ) -> Result<Vec<Tensor>> {
        let join = |before: &Option<Tensor>, new: &Tensor| match before {
            Some(before) => Tensor::f_cat(&[before, new], 0),
            None => Ok(new.shallow_clone()),
        };
        let (all_outputs, all_words) = (join(&self.outputs, outputs)?, join(&self.words, targets)?);
        let (n, all) = (targets.size()[0], all_words.size()[0]);
        let similarity = outputs.f_mm(&all_outputs.tr())?.to_kind(Kind::Double);
        // Row i, the word at all - n + i, sees the `size` words before it.
        let integers = (Kind::Int64, targets.device());
        let column = Tensor::f_arange(all, integers)?.f_unsqueeze(0)?;
        let row = Tensor::f_arange_start(all - n, all, integers)?.f_unsqueeze(1)?;
        let hidden = column.ge_tensor(&row).logical_or(&column.lt_tensor(&(&row - size)));
        let others = all_words.f_unsqueeze(0)?.ne_tensor(&targets.f_unsqueeze(1)?);
        let empty = hidden.all_dim(1, false);
        let mut found = Vec::with_capacity(thetas.len());
        for &theta in thetas {
            let exponents = (&similarity * theta).f_masked_fill(&hidden, f64::NEG_INFINITY)?;
            let of_word = exponents.f_masked_fill(&others, f64::NEG_INFINITY)?;
            let log_p = of_word.f_logsumexp(1, false)? - exponents.f_logsumexp(1, false)?;
            found.push(model.f_where_self(&empty, &log_p)?);
        }
        let kept = all.min(size);
        let last = |t: &Tensor| t.f_narrow(0, all - kept, kept);
        (self.outputs, self.words) = (Some(last(&all_outputs)?), Some(last(&all_words)?));
        Ok(found)
    }
}

/// Logarithms of the mixed probabilities: `lambda` of the cache's, the rest of the model's.
pub(crate) fn mix(model: &Tensor, cache: &Tensor, lambda: f64) -> Result<Tensor> {
    Ok((model + (1.0 - lambda).ln()).f_logaddexp(&(cache + lambda.ln()))?)
}
