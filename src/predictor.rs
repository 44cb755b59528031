//! What predicts the words of a text from left to right: a model, one that adapts itself to the
//! text ([`crate::adapt`]), or the average of some ([`crate::average::Mean`]).

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::evaluate::{line_costs, text_costs};
use crate::loss::cross_entropy;
use crate::model::PtbModel;
use crate::rnn::State;

/// Words that [`ByLogits`] reads at once.
const AT_ONCE: usize = 400;

/// A recurrent language model: [`PtbModel`], or one of your own. It can write text
/// ([`crate::generate`]) and, as [`ByLogits`], score it ([`crate::score`]).
pub trait LanguageModel {
    /// Number of words.
    fn vocab_size(&self) -> i64;

    /// The state before the first word, for `batch_size` texts side by side.
    fn zero_state(&self, batch_size: i64) -> State;

    /// The logits of the word after each of the words `x`, ids `[batch, steps]`, int64: `[batch *
    /// steps, vocab]` in batch-major order, and the final state; without dropout and gradients.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)>;
}

impl LanguageModel for PtbModel<'_> {
    fn vocab_size(&self) -> i64 {
        self.config().vocab_size
    }

    fn zero_state(&self, batch_size: i64) -> State {
        PtbModel::zero_state(self, batch_size)
    }

    fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        PtbModel::logits(self, x, state)
    }
}

/// Gives each word of a text its cost, `-ln p(word | all words before it)`.
pub trait Predictor {
    /// Forgets all that was read. The next words begin a new text.
    ///
    /// # Errors
    /// As all of these: errors of libtorch, such as too little memory.
    fn reset(&mut self) -> Result<()>;

    /// Reads a piece of a text. Returns the costs in nats of its words but the first, which is only
    /// context: a text's first word, or the last word of the piece before.
    fn costs(&mut self, piece: &[i32]) -> Result<Vec<f64>>;

    /// The same for lines that are texts of their own.
    fn line_costs(&mut self, lines: &[Vec<i32>]) -> Result<Vec<Vec<f64>>> {
        let mut costs = Vec::with_capacity(lines.len());
        self.reset()?;
        for line in lines {
            costs.push(self.costs(line)?);
            self.reset()?;
        }
        Ok(costs)
    }
}

/// Any language model. [`Plain`] is faster for [`PtbModel`].
pub struct ByLogits<'a> {
    model: &'a dyn LanguageModel,
    state: State,
}

impl<'a> ByLogits<'a> {
    /// `model` begins a new text.
    pub fn new(model: &'a dyn LanguageModel) -> Self {
        ByLogits { model, state: model.zero_state(1) }
    }
}

impl Predictor for ByLogits<'_> {
    fn reset(&mut self) -> Result<()> {
        self.state = self.model.zero_state(1);
        Ok(())
    }

    fn costs(&mut self, piece: &[i32]) -> Result<Vec<f64>> {
        let mut costs = Vec::with_capacity(piece.len());
        let (mut x, mut y) = (piece, piece.get(1..).unwrap_or_default());
        while !y.is_empty() {
            let len = y.len().min(AT_ONCE);
            let ids = |words: &[i32]| Tensor::f_from_slice(&words[..len])?.f_to_kind(Kind::Int64);
            let logits;
            (logits, self.state) = self.model.logits(&ids(x)?.f_unsqueeze(0)?, &self.state)?;
            let logits = logits.f_to_kind(Kind::Double)?;
            let targets = ids(y)?.f_to_device(logits.device())?;
            costs.extend(Vec::<f64>::try_from(cross_entropy(&logits, &targets)?)?);
            (x, y) = (&x[len..], &y[len..]);
        }
        Ok(costs)
    }
}

/// A model as it was trained.
pub struct Plain<'a> {
    model: PtbModel<'a>,
    state: State,
}

impl<'a> Plain<'a> {
    /// `model` is a view that is not training.
    pub fn new(model: PtbModel<'a>) -> Self {
        let state = model.zero_state(1);
        Plain { model, state }
    }
}

impl Predictor for Plain<'_> {
    fn reset(&mut self) -> Result<()> {
        self.state = self.model.zero_state(1);
        Ok(())
    }

    fn costs(&mut self, piece: &[i32]) -> Result<Vec<f64>> {
        if piece.len() < 2 {
            return Ok(Vec::new());
        }
        let (costs, state) =
            text_costs(&self.model, piece.to_vec(), std::mem::take(&mut self.state))?;
        self.state = state;
        Ok(costs)
    }

    fn line_costs(&mut self, lines: &[Vec<i32>]) -> Result<Vec<Vec<f64>>> {
        line_costs(&self.model, lines)
    }
}
