//! Models that another program saved, as `import` and `train --init-from` read them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::flags::UsageError;
use crate::checkpoint::{Checkpoint, from_safetensors};
use crate::optimizer::OptimizerType;
use crate::reader::Vocabulary;
use crate::tf;

/// A model and the file that it was read from.
pub struct Imported {
    path: PathBuf,
    pub model: tf::Model,
    /// The words of its rows, if the file brings them.
    pub words: Option<Vocabulary>,
}

impl Imported {
    /// Reads a model: what [`tf::read`] reads, a `.safetensors` of PyTorch's or of this program, or
    /// a folder with `model.safetensors` in it.
    pub fn read(path: &Path) -> Result<Self> {
        let inside = path.join("model.safetensors");
        let path = if inside.is_file() { &inside } else { path };
        let (model, words) = match path.extension().is_some_and(|e| e == "safetensors") {
            true => read_safetensors(path)?,
            false => (tf::Model::read(path)?, None),
        };
        Ok(Imported { path: path.to_owned(), model, words })
    }

    /// Reports what was assumed, and what else is in the file.
    pub fn report(&self, say: &dyn Fn(&str)) {
        for remark in &self.model.remarks {
            say(&format!("{}: {remark}", self.path.display()));
        }
        for note in self.model.notes() {
            say(&format!("{}: not part of the model: {note}", self.path.display()));
        }
    }

    /// The constant that the LSTM cells add to their forget gates: what the file says, or `given`
    /// (`--forget-bias`), or the original's 0. Reports which. Other cells have none.
    ///
    /// # Errors
    /// The file and the flag contradict each other; or the cells are others.
    pub fn forget_bias(&self, given: Option<f64>, say: &dyn Fn(&str)) -> Result<f64> {
        let (file, cell) = (self.path.display(), self.model.shapes.cell);
        if !cell.contains("lstm") {
            if given.is_some_and(|bias| bias != 0.0) {
                bail!(UsageError::no_effect("forget_bias", &format!("on {cell}s ({file})")));
            }
            return Ok(0.0);
        }
        if let Some(given) = given.filter(|bias| !bias.is_finite()) {
            bail!(UsageError(format!("--forget-bias is {given}; it must be a number")));
        }
        match (self.model.forget_bias, given) {
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
        let found = match self.model.slots.is_empty() {
            true => OptimizerType::Sgd,
            false => OptimizerType::Adam,
        };
        let optimizer = asked.unwrap_or(found);
        if let (OptimizerType::Adam, false) = (optimizer, self.model.slots.is_empty())
            && let Some(missing) = self.model.missing_slot()
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
        let mut all = vec![&self.model.variables];
        match (self.optimizer(Some(optimizer))?, self.model.slots.is_empty()) {
            (OptimizerType::Adam, false) => {
                say(&format!("{file}: Adam continues from the slots in it"));
                all.push(&self.model.slots);
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

/// Reads a model with its words, which are among the file's metadata or in `words.txt` beside it.
fn read_safetensors(path: &Path) -> Result<(tf::Model, Option<Vocabulary>)> {
    let here = || path.display().to_string();
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", here()))?;
    let (variables, metadata) = from_safetensors(&bytes).with_context(here)?;
    let model = |variables| tf::Model::of(tf::Loaded { variables, ..tf::Loaded::default() }, path);
    if metadata.contains_key("meta") {
        // A checkpoint of this program.
        let Checkpoint { run, variables, vocabulary, .. } = Checkpoint::read(path)?;
        let forget_bias = Some(run.config.forget_bias);
        return Ok((tf::Model { forget_bias, ..model(variables)? }, vocabulary));
    }
    let model = model(variables)?;
    let beside = path.with_file_name("words.txt");
    let (words, place) = match metadata.get("vocabulary") {
        Some(words) => (words.clone(), path),
        None if beside.is_file() => {
            let words = fs::read_to_string(&beside);
            (words.with_context(|| beside.display().to_string())?, &*beside)
        }
        None => return Ok((model, None)),
    };
    let (rows, count) = (model.shapes.vocab_size, words.lines().count());
    let words = Vocabulary::from_words(words.lines());
    ensure!(
        count as i64 == rows && words.len() == count,
        "{}: expected a list of {rows} different words, found {} in {count} lines",
        place.display(),
        words.len()
    );
    Ok((model, Some(words)))
}
