//! What a training run starts from: random variables, an imported model, or its own checkpoint.

use std::path::{Display, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::Training;
use crate::checkpoint::{
    Checkpoint, Difference, Misfit, Progress, RunConfig, SaveFolder, digest_of, ensure_same_run,
    ensure_same_vocabulary, has_checkpoint,
};
use crate::cli::flags::UsageError;
use crate::cli::imported::Imported;
use crate::cli::report::{notice, plural};
use crate::cli::{model_of_size, shell_word};
use crate::config::Config;
use crate::model::PtbVariables;
use crate::optimizer::OptimizerType;
use crate::pretrained::{OtherSizes, Pretrained, match_rows};
use crate::reader::{RawData, Vocabulary};
use crate::session::Session;
use crate::tf;

/// The variables that a run starts from.
pub(super) enum Start {
    Random,
    Imported(Box<Imported>),
    Resumed(Box<Checkpoint>),
}

impl Training<'_> {
    /// Reads the checkpoint that the run resumes from, or else the variables of `--init-from`.
    pub(super) fn start(&self, folder: Option<&SaveFolder>) -> Result<Start> {
        let checkpoint =
            folder.map(|folder| folder.latest(&mut |text| notice(text))).transpose()?;
        match checkpoint.flatten() {
            Some(checkpoint) => Ok(Start::Resumed(Box::new(checkpoint))),
            None => Ok(self
                .imported()?
                .map_or(Start::Random, |imported| Start::Imported(Box::new(imported)))),
        }
    }

    /// The forget gates' constant. It belongs to a model that is there already, so that without the
    /// flag it is that model's. Worker 0, which alone reads the model, tells the others.
    pub(super) fn forget_bias(&self, config: &Config, start: &Start) -> Result<f64> {
        let given = self.args.hyperparameters.forget_bias();
        let forget_bias = match start {
            Start::Random => config.forget_bias,
            Start::Imported(imported) => imported
                .forget_bias(given, &|text| self.say(text))
                .with_context(|| self.init_from())?,
            Start::Resumed(checkpoint) => given.unwrap_or(checkpoint.run.config.forget_bias),
        };
        Ok(self.team.broadcast_text("forget_bias", &forget_bias.to_string())?.parse()?)
    }

    /// Refuses to resume a run with other flags, on other words or from other variables.
    pub(super) fn ensure_resumable(
        &self,
        checkpoint: &Checkpoint,
        run: &RunConfig,
        data: &RawData,
    ) -> Result<()> {
        ensure_same_run(checkpoint, run).map_err(|error| self.cannot_resume(error))?;
        if let Some(vocabulary) = &checkpoint.vocabulary {
            let same = ensure_same_vocabulary(vocabulary, &data.vocabulary);
            same.map_err(|error| self.cannot_resume(error.into()))?;
        }
        let imported = match self.imported() {
            // The flags of a run have it, and to resume the run its file need not be there.
            Err(error) if !self.args.given.is_typed("init_from") => {
                self.say(&format!("{error:#}; it is not needed to resume the run"));
                None
            }
            imported => imported?,
        };
        // The same command starts a run and resumes it.
        if let Some(imported) = imported
            && checkpoint.made.init_from
                != Some(digest_of(&imported.variables(run.optimizer, &|_| ())?)?)
        {
            bail!(UsageError(format!(
                "{}: the run in --save-path {} is not known to have started from these variables. \
                 Without --init-from it is resumed; a new run needs another --save-path",
                self.init_from(),
                shown(&self.args.save_path)
            )));
        }
        Ok(())
    }

    /// The model of `--init-from`.
    fn imported(&self) -> Result<Option<Imported>> {
        let path = self.args.init_from.as_deref().filter(|_| self.is_first());
        path.map(|path| Imported::read(path).with_context(|| self.init_from())).transpose()
    }

    /// Refuses a model of `--init-from` that cannot start this run.
    pub(super) fn ensure_imported_fits(
        &self,
        Imported { found, .. }: &Imported,
        run: &RunConfig,
    ) -> Result<()> {
        let here = self.init_from();
        let cell = self.args.hyperparameters.cell;
        found
            .ensure_fits(&run.config, cell)
            .map_err(|error| anyhow!("{here}: {error}: {}", flags_for(&error)))?;
        let (rows, words) = (found.model.shapes.vocab_size, run.config.vocab_size);
        ensure!(
            found.words.is_some() || rows == words,
            "{here}: the file holds {rows} words, which ones is not known, and the training text \
             has {words}. If the model was made from this text, --max-vocab or --min-count limit \
             its words; otherwise `import` the model with --vocab, and start from that"
        );
        Ok(())
    }

    /// Gives the session its variables. Returns the global step of a run that is resumed.
    pub(super) fn prepare(
        &self,
        session: &mut Session,
        start: Start,
        random: &PtbVariables,
        vocabulary: &Vocabulary,
    ) -> Result<Option<i64>> {
        if self.args.save_path.is_none() {
            self.say("without --save-path this run cannot be resumed, and its model is not kept");
        }
        match start {
            Start::Random => Ok(None),
            Start::Imported(imported) => {
                self.start_from(session, &imported, random, vocabulary)
                    .with_context(|| self.init_from())?;
                Ok(None)
            }
            Start::Resumed(checkpoint) => {
                session.resume(&checkpoint).map_err(|error| self.cannot_resume(error))?;
                self.report_resumed(&checkpoint, session)?;
                Ok(Some(checkpoint.progress.global_step))
            }
        }
    }

    /// Gives the session an imported model's variables.
    fn start_from(
        &self,
        session: &mut Session,
        imported: &Imported,
        random: &PtbVariables,
        vocabulary: &Vocabulary,
    ) -> Result<()> {
        let say = |text: &str| self.say(text);
        imported.report(&say);
        let variables = imported.variables(self.args.hyperparameters.optimizer, &say)?;
        let origin = digest_of(&variables)?;
        let fitting = self.match_words(&imported.found, variables, random, vocabulary)?;
        session.start_from(&fitting, origin)
    }

    /// Says where a run is resumed, and what is not as it was.
    fn report_resumed(&self, checkpoint: &Checkpoint, session: &Session) -> Result<()> {
        let args = self.args;
        if args.hyperparameters.optimizer == OptimizerType::Adam && !checkpoint.has_slots() {
            let folder = shown(&args.save_path);
            self.say(&format!("{folder}: there are no slots of Adam; they start at zero"));
        }
        let Progress { epoch, step, global_step, .. } = checkpoint.progress;
        let epochs = args.hyperparameters.config(args.model)?.max_max_epoch;
        self.say(&format!(
            "resuming at epoch {}, step {step} (global step {global_step})",
            epoch + 1
        ));
        if epoch >= epochs {
            self.say(&format!(
                "the run is over: it has its {}; --max-max-epoch extends it",
                plural(epochs, "epoch")
            ));
        } else if let Some(max) = args.max_steps.filter(|&max| global_step >= max) {
            self.say(&format!(
                "nothing is left to train: the run has done --max-steps {max} already"
            ));
        }
        for difference in checkpoint.made.differences(&session.provenance()) {
            self.notice(&format!(
                "{difference}: the run goes on equal to rounding, not to the last bit"
            ));
        }
        Ok(())
    }

    /// The variables of a model with their rows in the order of `vocabulary`, if the model's words
    /// are known and are others. Words that it does not have begin with their `random` rows.
    fn match_words(
        &self,
        found: &Pretrained,
        variables: tf::Variables,
        random: &PtbVariables,
        vocabulary: &Vocabulary,
    ) -> Result<tf::Variables> {
        let Some(words) = found.words.as_ref().filter(|words| *words != vocabulary) else {
            return Ok(variables);
        };
        let (matched, new) = match_rows(&variables, words, vocabulary, &random.to_tensorflow()?)?;
        self.say(&format!(
            "{}: the model has another vocabulary, of {} words; rows are matched by word, and \
             {new} of the {} words of the training text are not in it and begin at random",
            shown(&self.args.init_from),
            found.model.shapes.vocab_size,
            vocabulary.len()
        ));
        Ok(matched)
    }

    /// The error of a save path whose run cannot be resumed, with what to do.
    fn cannot_resume(&self, error: anyhow::Error) -> anyhow::Error {
        let folder = shown(&self.args.save_path);
        let same = match error.downcast_ref::<Misfit>() {
            Some(Misfit::Run(differences)) => self.flags_of_run(differences),
            Some(Misfit::Data(_)) => "--data-path to resume it".to_owned(),
            _ => return error.context(format!("{folder}: cannot be resumed")),
        };
        anyhow!(
            "{folder}: cannot be resumed: {error:#}. Give the same {same}, or another --save-path \
             for a new run"
        )
    }

    /// Which flags continue the run of the save path, and the command that has all of them.
    fn flags_of_run(&self, differences: &[Difference]) -> String {
        let flag = |Difference { field, there, .. }: &Difference| {
            let flag = format!("--{}", field.replace('_', "-"));
            match there {
                // It comes from the data and from the limits.
                _ if field == "vocab_size" => None,
                Value::Null => Some(format!("no {flag}")),
                Value::String(text) => Some(format!("{flag} {text}")),
                value => Some(format!("{flag} {value}")),
            }
        };
        let flags: Vec<String> = differences.iter().filter_map(flag).collect();
        let mut same = match flags.is_empty() {
            true => "--data-path to resume it".to_owned(),
            false => format!("flags to resume it: {}", flags.join(", ")),
        };
        let path = self.args.save_path.as_deref().unwrap_or(Path::new(""));
        if path.join("metrics.jsonl").is_file() {
            let path = shell_word(path.as_os_str());
            same += &format!(
                " (`ptb-word-lm train --config {path} --save-path {path}` has all of them)"
            );
        }
        same
    }

    /// `--init-from`, for messages.
    fn init_from(&self) -> String {
        format!("--init-from {}", shown(&self.args.init_from))
    }
}

/// Refuses a folder with checkpoints of TensorFlow's and none of this program's: the original would
/// continue that run.
pub(super) fn refuse_tensorflow_s(save_path: &Path) -> Result<()> {
    let trace = tf::trace_of_checkpoints(save_path);
    let Some(name) = trace.filter(|_| !has_checkpoint(save_path)) else { return Ok(()) };
    let folder = save_path.display();
    bail!(
        "--save-path {folder}: it holds checkpoints of TensorFlow's ({name}), which are not \
         continued there. `import {folder} --save-path NEW` makes a model for this program of \
         the newest, `train --init-from {folder}` starts a run from it, and a new run needs \
         another --save-path"
    );
}

/// The flags with which a new model has the sizes and the cells of the one in a file.
fn flags_for(OtherSizes { found, same_sizes, same_cell }: &OtherSizes) -> String {
    let (hidden, layers) = (found.hidden_size, found.num_layers);
    let mut flags = Vec::new();
    if !same_cell {
        flags.push(format!("--cell {}", found.cell.trim_end_matches("_cell")));
    }
    if !same_sizes {
        let preset = model_of_size(hidden, layers);
        let preset = preset.map_or(String::new(), |model| format!("--model {model} or "));
        flags.push(format!("{preset}--hidden-size {hidden} --num-layers {layers}"));
    }
    flags.join(" and ")
}

/// A path for messages.
fn shown(path: &Option<PathBuf>) -> Display<'_> {
    path.as_deref().unwrap_or("".as_ref()).display()
}
