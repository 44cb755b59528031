//! `import` and `export`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use tch::{Kind, Tensor};

use super::data::{read_data, read_data_of};
use super::flags::numbers::real;
use super::flags::{LimitFlags, MarkersFlag, UsageError, advise_markers, load_checkpoint};
use super::imported::Imported;
use super::pytorch;
use super::report::{line, notice, plural, written};
use super::{open_save_path, refuse_checkpoint};
use crate::checkpoint::{Checkpoint, Misfit, Progress, Provenance, RunConfig, to_safetensors};
use crate::config::{Config, Model};
use crate::files::{make_folder_of, write_atomically};
use crate::optimizer::OptimizerType;
use crate::pretrained::{ensure_as_many, metadata, write_words_beside};
use crate::reader::{Limits, Markers, Vocabulary};
use crate::tf::{self, Shapes};

#[derive(Args)]
pub struct ImportArgs {
    /// What TensorFlow saved: a checkpoint's prefix (model.ckpt-123), its folder, one of its files,
    /// a SavedModel's folder, or a .npz; a run of this program: its save path, a checkpoint of it,
    /// or an exported .safetensors; or a .safetensors of PyTorch's example word_language_model
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Folder for the new checkpoint
    #[arg(long, value_name = "DIR")]
    save_path: PathBuf,
    /// Data that the model was trained on: for its vocabulary, if the file brings none; otherwise
    /// to check it. Without words, `eval` takes the vocabulary of the data that it is given
    #[arg(long, value_name = "DIR")]
    data_path: Option<String>,
    /// Words of the model: one a line, in the order of its rows
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Configuration of the model, for what its variables do not show (num_steps, batch_size and so
    /// on) [default: the one of the same hidden_size]
    #[arg(long, value_enum, hide_possible_values = true)]
    model: Option<Model>,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    markers: MarkersFlag,
    /// Constant that its LSTM cells add to their forget gates. TensorFlow's files do not hold it:
    /// 0 in the original, 1 by TensorFlow's default [default: what the file says, otherwise 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = real)]
    forget_bias: Option<f64>,
    /// Optimizer that the model is to be trained with: sgd, or adam, whose slots come along if the
    /// file has them [default: adam if the file has its slots, otherwise sgd]
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    optimizer: Option<OptimizerType>,
}

const LIMITS: &str =
    "--max-vocab and --min-count limit the text's words, as in the model's training";

impl ImportArgs {
    pub fn run(self) -> Result<()> {
        let limits = self.limits.limits();
        let given = [
            ("max_vocab", limits.max_vocab.is_some()),
            ("min_count", limits.min_count.is_some()),
            ("markers", self.markers.given().is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, is)| *is && self.data_path.is_none()) {
            bail!(UsageError::no_effect(flag, "without --data-path"));
        }
        let from = Imported::read(&self.from)?;
        from.report(&notice);
        let (shapes, run) = (from.found.model.shapes, &from.found.run);
        let forget_bias = from.forget_bias(self.forget_bias, &notice)?;
        let sizes = [Model::Small, Model::Medium, Model::Large, Model::Test];
        let by_size = sizes.into_iter().find(|m| m.config().hidden_size == shapes.hidden_size);
        let preset = self.model.or(by_size).unwrap_or(Model::Small);
        let known = run.as_ref().filter(|_| self.model.is_none()).map(|run| run.config);
        let config = Config {
            hidden_size: shapes.hidden_size,
            num_layers: shapes.num_layers,
            vocab_size: shapes.vocab_size,
            forget_bias,
            ..known.unwrap_or(preset.config())
        };
        config.validate()?;
        let known_limits = run.as_ref().map(|run| run.limits).unwrap_or_default();
        let markers = self.markers.given().or(run.as_ref().and_then(|run| run.markers));
        let (vocabulary, limits) =
            self.words(from.found.words.clone(), known_limits, markers, &shapes)?;
        // A cell's scope is its name with `_cell`.
        let by_scope = || shapes.cell.trim_end_matches("_cell").to_owned();
        let cell = run.as_ref().map_or_else(by_scope, |run| run.cell.clone());
        let optimizer = from.optimizer(self.optimizer)?;
        let variables = from.variables(optimizer, &notice)?;
        let run = RunConfig { config, cell, optimizer, seed: 0, limits, markers };
        let in_float = |(name, tensor): (String, Tensor)| (name, tensor.to_kind(Kind::Float));
        let variables = variables.into_iter().map(in_float).collect();
        let checkpoint = Checkpoint {
            run,
            made: Provenance::default(),
            progress: Progress::default(),
            variables,
            state: Vec::new(),
            vocabulary,
        };
        let folder = open_save_path(&self.save_path, 1)?;
        if folder.latest(&mut notice)?.is_some() {
            bail!(
                "--save-path {}: there is a run in this folder already; give another",
                self.save_path.display()
            );
        }
        let path = folder.save(&checkpoint)?;
        line(&format!(
            "{}: {}, {} of {}",
            path.display(),
            plural(shapes.vocab_size, "word"),
            plural(shapes.num_layers, "layer"),
            plural(shapes.hidden_size, "unit")
        ));
        Ok(())
    }

    /// The model's words, if they are known, and the limits with which a text has them. `inside`
    /// are the ones that came with the model.
    fn words(
        &self,
        inside: Option<Vocabulary>,
        known_limits: Limits,
        markers: Option<Markers>,
        shapes: &Shapes,
    ) -> Result<(Option<Vocabulary>, Limits)> {
        let here = || self.from.display().to_string();
        let (asked, markers) = (self.limits.limits(), markers.unwrap_or_default());
        let limits = if asked.is_none() { known_limits } else { asked };
        let mut words = inside;
        if let Some(path) = &self.vocab {
            let listed = Vocabulary::read(path).context("--vocab")?;
            ensure_as_many(&listed, shapes, path).with_context(here)?;
            if let Some(difference) = words.and_then(|words| words.difference(&listed)) {
                bail!("{}: --vocab {} has other words: {difference}", here(), path.display());
            }
            words = Some(listed);
        }
        let Some(data_path) = &self.data_path else { return Ok((words, limits)) };
        if let Some(words) = words {
            let read = read_data_of(&words, data_path, limits, markers);
            let (_, limits) = read.map_err(|error| match error.downcast_ref() {
                Some(Misfit::Vocabulary(difference)) => anyhow!(
                    "{}: the model's vocabulary is not that of --data-path {data_path}: \
                     {difference}. {LIMITS}",
                    here()
                ),
                _ => error,
            })?;
            return Ok((Some(words), limits));
        }
        let data = read_data(data_path, limits, markers, false)?;
        let advice = advise_markers(None, &data, markers);
        let words = data.vocabulary;
        ensure!(
            words.len() as i64 == shapes.vocab_size,
            "{}: the model has {} words, but --data-path {data_path} has {}{advice}. {LIMITS}; \
             --vocab gives a list of the model's words",
            here(),
            shapes.vocab_size,
            words.len()
        );
        Ok((Some(words), limits))
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// A checkpoint that the original restores: PREFIX.index and PREFIX.data-00000-of-00001. The
    /// model's words are beside it, in PREFIX.words.txt
    TfCheckpoint,
    /// NumPy's .npz under TensorFlow's names. The words are in it as words.txt
    TfNpz,
    /// A safetensors file under TensorFlow's names. The words are in its metadata
    Safetensors,
    /// A safetensors file under the names of PyTorch's example word_language_model, and beside it
    /// a model card (README.md) and the words (words.txt)
    Pytorch,
}

#[derive(Args)]
pub struct ExportArgs {
    /// The save path of a run, or one of its checkpoints
    #[arg(long, visible_alias = "save-path", value_name = "DIR")]
    checkpoint: PathBuf,
    /// Format of the file
    #[arg(long, value_enum)]
    format: Format,
    /// File to write; for tf-checkpoint its prefix, such as DIR/model.ckpt-123; for pytorch a name
    /// that ends in .safetensors, or a folder for model.safetensors, README.md and words.txt
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// For tf-checkpoint: name the cells as the original does in block mode, its default, instead
    /// of basic mode
    #[arg(long)]
    block: bool,
}

impl ExportArgs {
    pub fn run(self) -> Result<()> {
        if self.block && self.format != Format::TfCheckpoint {
            let format = self.format.to_possible_value();
            let name = format.as_ref().map_or("", |format| format.get_name());
            bail!(UsageError::no_effect("block", &format!("with --format {name}")));
        }
        let output = self.output.display();
        ensure!(
            self.format == Format::Pytorch || self.output.file_name().is_some(),
            "--output {output}: this is not a file's name"
        );
        refuse_checkpoint("--output", &self.output)?;
        let checkpoint = load_checkpoint(&self.checkpoint)?;
        if self.format == Format::Pytorch {
            return pytorch::export(&checkpoint, &self.checkpoint, &self.output);
        }
        let Checkpoint { run, progress, mut variables, vocabulary, .. } = checkpoint;
        let words = vocabulary.as_ref();
        if run.config.forget_bias != 0.0 {
            let forget_bias = run.config.forget_bias;
            variables.insert(tf::FORGET_BIAS.into(), Tensor::from(forget_bias));
            notice(&format!(
                "the model's forget_bias is {forget_bias}. In TensorFlow it is a constant of the \
                 graph: make the cells with forget_bias={forget_bias}. `import` finds it as {}",
                tf::FORGET_BIAS
            ));
        }
        let epoch = progress.epoch.min(run.config.max_max_epoch - 1);
        let learning_rate = run.config.learning_rate_at(epoch) as f32;
        let all = tf::for_original(&variables, self.block, learning_rate, progress.global_step);
        let variables = tf::names_in_example(&variables, false);
        make_folder_of(&self.output).context("--output")?;
        match self.format {
            Format::TfCheckpoint => {
                // The words first: a checkpoint that is there has them.
                if let Some(file) = write_words_beside(&self.output, words)? {
                    notice(&format!("{}: the model's words", file.display()));
                }
                tf::write_checkpoint(&self.output, &all, true)?;
            }
            Format::TfNpz => {
                let list = words.map(Vocabulary::to_list);
                tf::write_npz_with_words(&self.output, &variables, list.as_deref())?;
            }
            Format::Safetensors | Format::Pytorch => {
                let bytes = to_safetensors(&variables, metadata(&run, words)?)?;
                write_atomically(&self.output, |file| Ok(file.write_all(&bytes)?))?;
            }
        }
        if words.is_none() {
            notice(&format!(
                "{}: its words are not known, so they are not exported; `import` takes them with \
                 --vocab or --data-path",
                self.checkpoint.display()
            ));
        }
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        written(&self.output, &format!("{output}: {}", names.join(", ")));
        Ok(())
    }
}
