//! What predicts the words of a text from left to right: a model, one that adapts itself to the
//! text ([`crate::adapt`]), or the average of some ([`crate::average::Mean`]).

use anyhow::Result;

use crate::evaluate::{line_costs, text_costs};
use crate::model::PtbModel;
use crate::rnn::State;

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
