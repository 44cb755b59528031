//! A saved model, loaded and ready to be asked: its variables and its words.

use std::path::Path;

use anyhow::{Result, ensure};
use tch::{Device, Kind};
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::model::{PtbModel, PtbVariables};
use crate::reader::Vocabulary;

/// A checkpoint without words: an import of a file that has none.
#[derive(Debug, Error)]
#[error("the model's words are not known")]
pub struct NoWords;

/// A saved model.
///
/// ```no_run
/// use ptb_word_lm::generate::{Generator, Sampling};
/// use ptb_word_lm::saved::SavedModel;
/// use tch::Device;
///
/// let saved = SavedModel::load("runs/small", Device::Cpu, &mut |notice| eprintln!("{notice}"))?;
/// let model = saved.model();
/// let mut generator = Generator::new(&model, Sampling::default(), 1)?;
/// generator.read(&[saved.vocabulary.id("the").unwrap_or(0)])?;
/// println!("{:?}", saved.vocabulary.word(generator.next_word()?));
/// # anyhow::Ok(())
/// ```
pub struct SavedModel {
    /// The variables, with the configuration that they were made for.
    pub variables: PtbVariables,
    /// The words, by their ids.
    pub vocabulary: Vocabulary,
}

impl SavedModel {
    /// Loads a checkpoint, or the newest good one of a run's save path. `notify` hears of damaged
    /// ones.
    ///
    /// # Errors
    /// As [`Checkpoint::load`] and [`Self::new`].
    pub fn load(
        path: impl AsRef<Path>,
        device: Device,
        notify: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        Self::new(Checkpoint::load(path.as_ref(), notify)?, device)
    }

    /// The model of a checkpoint, on `device`.
    ///
    /// # Errors
    /// [`NoWords`]; variables or words that do not fit the checkpoint's configuration.
    pub fn new(checkpoint: Checkpoint, device: Device) -> Result<Self> {
        let config = &checkpoint.run.config;
        let variables = PtbVariables::new(config, checkpoint.cell()?, device, Kind::Float, 0)?;
        variables.assign(&checkpoint.variables)?;
        let vocabulary = checkpoint.vocabulary.ok_or(NoWords)?;
        ensure!(
            vocabulary.len() as i64 == config.vocab_size,
            "a model of {} words with a list of {}",
            config.vocab_size,
            vocabulary.len()
        );
        Ok(SavedModel { variables, vocabulary })
    }

    /// A view of the model that is not training, in the fastest mode that its cell has.
    pub fn model(&self) -> PtbModel<'_> {
        PtbModel::new(&self.variables, false, self.variables.fastest_mode())
    }
}
