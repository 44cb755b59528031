//! Models that adapt themselves to the text they read: dynamic evaluation, and the neural cache
//! ([`crate::cache`]).
//!
//! Dynamic evaluation (Mikolov et al. 2010; Krause et al., "Dynamic Evaluation of Neural Sequence
//! Models", arXiv 1709.07432) goes on training while the text is read: after each so many words
//! have been scored, one step of gradient descent on them. No word's score depends on the words
//! after it. So a text is read in one place, from its beginning to its end, where
//! [`crate::evaluate`] reads many pieces side by side: there all pieces would share one set of
//! weights.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::cache::{Cache, Pairs, mix};
use crate::config::{Config, ConfigError, Precision, RnnMode, check};
use crate::model::{PtbModel, PtbVariables};
use crate::predictor::Predictor;
use crate::rnn::State;

/// Words that are read together where no training step comes sooner.
const AT_ONCE: i64 = 200;

/// Settings of dynamic evaluation.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Dynamic {
    /// Learning rate; with 0 nothing is trained.
    pub rate: f64,
    /// Words from one training step to the next; each step learns from these words.
    pub steps: i64,
    /// After each step the weights go back this part of the way to the trained ones.
    pub decay: f64,
}

impl Default for Dynamic {
    fn default() -> Self {
        Dynamic { rate: 0.1, steps: 20, decay: 0.0 }
    }
}

impl Dynamic {
    /// Checks the fields.
    ///
    /// # Errors
    /// Names the first unusable field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Dynamic { rate, steps, decay } = *self;
        let is_rate = rate >= 0.0 && rate.is_finite();
        check(is_rate, "dynamic", rate, "it is a learning rate, 0 (no training) or above")?;
        check(steps >= 1, "dynamic_steps", steps, "it must be 1 or more")?;
        check((0.0..=1.0).contains(&decay), "dynamic_decay", decay, "it is a part, from 0 to 1")
    }
}

/// How a model adapts itself to a text. By default it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Adaptation {
    /// Dynamic evaluation, if any.
    pub dynamic: Option<Dynamic>,
    /// A neural cache, if any.
    pub cache: Option<Cache>,
}

impl Adaptation {
    /// Checks the fields.
    ///
    /// # Errors
    /// Names the first unusable field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.dynamic.iter().try_for_each(Dynamic::validate)?;
        self.cache.iter().try_for_each(Cache::validate)
    }

    /// The same without what changes nothing: a learning rate of 0, an empty cache, one of no
    /// weight.
    pub fn effective(self) -> Self {
        Adaptation {
            dynamic: self.dynamic.filter(|dynamic| dynamic.rate > 0.0),
            cache: self.cache.filter(|cache| cache.size > 0 && cache.lambda > 0.0),
        }
    }

    /// Whether it changes nothing.
    pub fn is_none(self) -> bool {
        self.effective() == Adaptation::default()
    }
}

/// A model that adapts itself to the text it reads.
///
/// Without [`Dynamic`] and [`Cache`] it is the model as it was trained.
pub struct Adaptive<'a> {
    trained: &'a PtbVariables,
    rnn_mode: RnnMode,
    precision: Precision,
    adaptation: Adaptation,
    /// The variables that dynamic evaluation trains.
    adapted: Option<PtbVariables>,
    /// Whether they differ from the trained ones.
    has_learned: bool,
    /// The state after all words that were read but the last.
    state: State,
    pairs: Pairs,
    /// The words to learn from next, after the word before them, and the state before that one.
    lesson: Vec<i32>,
    before_lesson: State,
}

impl<'a> Adaptive<'a> {
    /// A model with these variables, which stay as they are.
    ///
    /// # Errors
    /// A field of `adaptation` that cannot be used; no memory for a copy of the variables.
    pub fn new(
        trained: &'a PtbVariables,
        rnn_mode: RnnMode,
        precision: Precision,
        adaptation: Adaptation,
    ) -> Result<Self> {
        adaptation.validate()?;
        let adaptation = adaptation.effective();
        // Without dropout: then a training step of the model has none.
        let config = Config { keep_prob: 1.0, ..*trained.config() };
        let kind = trained.trainable()[0].kind();
        let copy = |_| PtbVariables::new(&config, trained.cell(), trained.device(), kind, 0);
        let mut made = Adaptive {
            trained,
            rnn_mode,
            precision,
            adaptation,
            adapted: adaptation.dynamic.map(copy).transpose()?,
            has_learned: true,
            state: State::new(),
            pairs: Pairs::default(),
            lesson: Vec::new(),
            before_lesson: State::new(),
        };
        made.reset()?;
        Ok(made)
    }

    fn model(&self) -> PtbModel<'_> {
        let variables = self.adapted.as_ref().unwrap_or(self.trained);
        PtbModel::new(variables, self.adapted.is_some(), self.rnn_mode).precision(self.precision)
    }

    /// Reads a piece of a text, as [`Predictor::costs`] does. `take` is given the logarithms of the
    /// words' probabilities, `[n]`, float64, some words at a time: the model's, and the cache's for
    /// each theta.
    pub(crate) fn read(
        &mut self,
        mut piece: &[i32],
        thetas: &[f64],
        take: &mut dyn FnMut(Tensor, Vec<Tensor>) -> Result<()>,
    ) -> Result<()> {
        while piece.len() > 1 {
            let learned = self.lesson.len().saturating_sub(1) as i64;
            let until_step = self.adaptation.dynamic.map_or(AT_ONCE, |d| d.steps - learned);
            let len = AT_ONCE.min(until_step).min(piece.len() as i64 - 1);
            let words = &piece[..=len as usize];
            piece = &piece[len as usize..];

            let (x, y) = self.inputs_and_targets(words)?;
            let before = std::mem::take(&mut self.state);
            let targets = y.flatten(0, -1);
            let (output, state) = self.model().forward(&x, &before)?;
            let model = -self.model().costs(&output, &targets)?;
            let cache = match self.adaptation.cache {
                Some(cache) => self.pairs.predict(&output, &targets, &model, cache.size, thetas)?,
                None => Vec::new(),
            };
            self.state = state;
            take(model, cache)?;
            if let Some(dynamic) = self.adaptation.dynamic {
                self.learn(dynamic, words, before)?;
            }
        }
        Ok(())
    }

    /// Ids `[1, n]`, int64, of words but the last, and of words but the first.
    fn inputs_and_targets(&self, words: &[i32]) -> Result<(Tensor, Tensor)> {
        let ids = Tensor::f_from_slice(words)?.to_kind(Kind::Int64).f_unsqueeze(0)?;
        let ids = ids.f_to_device(self.trained.device())?;
        let steps = words.len() as i64 - 1;
        Ok((ids.f_narrow(1, 0, steps)?, ids.f_narrow(1, 1, steps)?))
    }

    /// Puts scored words, after the word before them, to those to learn from, and learns as soon as
    /// there are enough. `before` is the state before them all.
    fn learn(&mut self, dynamic: Dynamic, words: &[i32], before: State) -> Result<()> {
        if self.lesson.is_empty() {
            self.before_lesson = before;
            self.lesson.push(words[0]);
        }
        self.lesson.extend_from_slice(&words[1..]);
        if (self.lesson.len() as i64) <= dynamic.steps {
            return Ok(());
        }
        let (x, y) = self.inputs_and_targets(&self.lesson)?;
        self.lesson.clear();
        let before = std::mem::take(&mut self.before_lesson);
        self.has_learned = true;
        self.model().train_step(&x, &y, &before, dynamic.rate)?;
        if dynamic.decay > 0.0 {
            self.for_each_variable(|adapted, trained| {
                let _ = adapted.f_lerp_(trained, dynamic.decay)?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Changes each adapted variable, given the trained one.
    fn for_each_variable(&self, change: impl Fn(&mut Tensor, &Tensor) -> Result<()>) -> Result<()> {
        let Some(adapted) = &self.adapted else { return Ok(()) };
        tch::no_grad(|| {
            for (adapted, trained) in adapted.trainable().into_iter().zip(self.trained.trainable())
            {
                // A shallow clone is the same variable.
                change(&mut adapted.shallow_clone(), trained)?;
            }
            Ok(())
        })
    }
}

impl Predictor for Adaptive<'_> {
    fn reset(&mut self) -> Result<()> {
        if std::mem::take(&mut self.has_learned) {
            self.for_each_variable(|adapted, trained| Ok(adapted.f_copy_(trained)?))?;
        }
        self.state = self.model().zero_state(1);
        self.pairs = Pairs::default();
        self.lesson.clear();
        Ok(())
    }

    fn costs(&mut self, piece: &[i32]) -> Result<Vec<f64>> {
        let cache = self.adaptation.cache;
        let thetas: Vec<f64> = cache.iter().map(|cache| cache.theta).collect();
        let mut costs = Vec::with_capacity(piece.len());
        self.read(piece, &thetas, &mut |model, of_cache| {
            let log_p = match (cache, of_cache.first()) {
                (Some(cache), Some(of_cache)) => mix(&model, of_cache, cache.lambda)?,
                _ => model,
            };
            costs.extend(Vec::<f64>::try_from(-log_p)?);
            Ok(())
        })?;
        Ok(costs)
    }
}
