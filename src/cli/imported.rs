//! Models that another program saved, as `import` and `train --init-from` read them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::flags::UsageError;
use super::report::notice;
use crate::optimizer::OptimizerType;
use crate::pretrained::Pretrained;
use crate::tf;

/// A model and the file that it was read from.
pub struct Imported {
    path: PathBuf,
    /// The model, its words, and the run that it comes from, as far as the file has them.
    pub found: Pretrained,
}

impl Imported {
    /// Reads a model.
    pub fn read(path: &Path) -> Result<Self> {
        let found = Pretrained::read(path, &mut notice)?;
        Ok(Imported { path: path.to_owned(), found })
    }

    fn model(&self) -> &tf::Model {
        &self.found.model
    }

    /// What the file says of the constant that the cells add to their forget gates.
    fn known_forget_bias(&self) -> Option<f64> {
        let of_run = self.found.run.as_ref().map(|run| run.config.forget_bias);
        of_run.or(self.model().forget_bias)
    }

    /// Reports what was assumed, and what else is in the file.
    pub fn report(&self, say: &dyn Fn(&str)) {
        for remark in &self.model().remarks {
            say(&format!("{}: {remark}", self.path.display()));
        }
        for note in self.model().notes() {
            say(&format!("{}: not part of the model: {note}", self.path.display()));
        }
    }

    /// The constant that the LSTM cells add to their forget gates: what the file says, or `given`
    /// (`--forget-bias`), or the original's 0. Reports which. Other cells have none.
    ///
    /// # Errors
    /// The file and the flag contradict each other; or the cells are others.
    pub fn forget_bias(&self, given: Option<f64>, say: &dyn Fn(&str)) -> Result<f64> {
        let (file, cell) = (self.path.display(), self.model().shapes.cell);
        if !cell.contains("lstm") {
            if given.is_some_and(|bias| bias != 0.0) {
                bail!(UsageError::no_effect("forget_bias", &format!("on {cell}s ({file})")));
            }
            return Ok(0.0);
        }
        if let Some(given) = given.filter(|bias| !bias.is_finite()) {
            bail!(UsageError(format!("--forget-bias is {given}; it must be a number")));
        }
        match (self.known_forget_bias(), given) {
            (Some(known), Some(given)) => {
                // The file may hold it as a float32.
                ensure!(
                    known as f32 == given as f32,
                    "{file}: its forget_bias is {known}, but --forget-bias is {given}"
                );
                Ok(given)
            }
            (Some(known), None) => {
                say(&format!("{file}: its forget_bias is {known}"));
                Ok(known)
            }
            (None, Some(given)) => {
                say(&format!("{file}: its forget_bias is taken to be {given} (--forget-bias)"));
                Ok(given)
            }
            (None, None) => {
                say(&format!(
                    "{file}: its forget_bias is not in the file and is taken to be 0, as in the \
                     original; if the model was made with another, such as TensorFlow's default \
                     of 1, give --forget-bias"
                ));
                Ok(0.0)
            }
        }
    }

    /// The optimizer to import the model for: the one that was `asked` for, or the one whose slots
    /// are in the file.
    ///
    /// # Errors
    /// Adam, but only some of its slots are there.
    pub fn optimizer(&self, asked: Option<OptimizerType>) -> Result<OptimizerType> {
        let found = match self.model().slots.is_empty() {
            true => OptimizerType::Sgd,
            false => OptimizerType::Adam,
        };
        let optimizer = asked.unwrap_or(found);
        if let (OptimizerType::Adam, false) = (optimizer, self.model().slots.is_empty())
            && let Some(missing) = self.model().missing_slot()
        {
            bail!(
                "{}: only some of Adam's slots are in it; {missing:?} is missing. \
                 --optimizer sgd leaves them out",
                self.path.display()
            );
        }
        Ok(optimizer)
    }

    /// The variables to start from, and the optimizer's slots where the file has them.
    ///
    /// # Errors
    /// Those of [`Self::optimizer`].
    pub fn variables(&self, optimizer: OptimizerType, say: &dyn Fn(&str)) -> Result<tf::Variables> {
        let file = self.path.display();
        let mut all = vec![&self.model().variables];
        match (self.optimizer(Some(optimizer))?, self.model().slots.is_empty()) {
            (OptimizerType::Adam, false) => {
                say(&format!("{file}: Adam continues from the slots in it"));
                all.push(&self.model().slots);
            }
            (OptimizerType::Adam, true) => {
                say(&format!("{file}: there are no slots of Adam in it; they start at zero"));
            }
            (OptimizerType::Sgd, false) => {
                say(&format!(
                    "{file}: Adam's slots in it are left out; --optimizer adam uses them"
                ));
            }
            (OptimizerType::Sgd, true) => {}
        }
        let all = all.into_iter().flatten();
        Ok(all.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect())
    }
}
