//! `import` and `export`

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tch::{Kind, Tensor};

use super::data::read_data;
use super::flags::{UsageError, load_checkpoint};
use super::imported::Imported;
use super::open_save_path;
use super::pytorch;
use super::report::{line, notice};
use crate::checkpoint::{
    Checkpoint, Progress, Provenance, RunConfig, ensure_same_vocabulary, to_safetensors,
};
use crate::config::{Config, Model};
use crate::files::{make_folder_of, write_atomically};
use crate::optimizer::OptimizerType;
use crate::reader::Limits;
use crate::tf;

#[derive(Args)]
pub struct ImportArgs {
    /// What TensorFlow saved: a checkpoint's prefix (model.ckpt-123), its folder, one of its files,
    /// or a .npz; or a .safetensors of PyTorch's example word_language_model
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Folder for the new checkpoint
    #[arg(long, value_name = "DIR")]
    save_path: PathBuf,
    /// Data that the model was trained on, for its vocabulary; without it `eval` takes the
    /// vocabulary of the data that it is given
    #[arg(long, value_name = "DIR")]
    data_path: Option<String>,
    /// Configuration of the model, for what its variables do not show (num_steps, batch_size and so
    /// on) [default: the one of the same hidden_size]
    #[arg(long, value_enum, hide_possible_values = true)]
    model: Option<Model>,
    /// Constant that its LSTM cells add to their forget gates. TensorFlow's files do not hold it:
    /// 0 in the original, 1 by TensorFlow's default [default: what the file says, otherwise 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    forget_bias: Option<f64>,
    /// Optimizer that the model is to be trained with: sgd, or adam, whose slots come along if the
    /// file has them [default: adam if the file has its slots, otherwise sgd]
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    optimizer: Option<OptimizerType>,
}

impl ImportArgs {
    pub fn run(self) -> Result<()> {
        let from = Imported::read(&self.from)?;
        from.report(&notice);
        let shapes = from.model.shapes;
        let forget_bias = from.forget_bias(self.forget_bias, &notice)?;
        let sizes = [Model::Small, Model::Medium, Model::Large, Model::Test];
        let by_size = sizes.into_iter().find(|m| m.config().hidden_size == shapes.hidden_size);
        let preset = self.model.or(by_size).unwrap_or(Model::Small);
        let config = Config {
            hidden_size: shapes.hidden_size,
            num_layers: shapes.num_layers,
            vocab_size: shapes.vocab_size,
            forget_bias,
            ..preset.config()
        };
        config.validate()?;
        let vocabulary = match &self.data_path {
            Some(path) => {
                let vocabulary = read_data(path, Limits::default())?.vocabulary;
                if vocabulary.len() as i64 != shapes.vocab_size {
                    bail!(
                        "{}: the model has {} words, but --data-path {path} has {}",
                        self.from.display(),
                        shapes.vocab_size,
                        vocabulary.len()
                    );
                }
                if let Some(words) = &from.words {
                    ensure_same_vocabulary(words, &vocabulary)
                        .with_context(|| self.from.display().to_string())?;
                }
                Some(vocabulary)
            }
            None => from.words.clone(),
        };
        // A cell's scope is its name with `_cell`.
        let cell = shapes.cell.trim_end_matches("_cell").to_owned();
        let optimizer = from.optimizer(self.optimizer)?;
        let variables = from.variables(optimizer, &notice)?;
        let run = RunConfig { config, cell, optimizer, seed: 0, limits: Limits::default() };
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
            "{}: {} words, {} layers of {} units",
            path.display(),
            shapes.vocab_size,
            shapes.num_layers,
            shapes.hidden_size
        ));
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// A checkpoint that the original restores: PREFIX.index and PREFIX.data-00000-of-00001
    TfCheckpoint,
    /// NumPy's .npz under TensorFlow's names
    TfNpz,
    /// A safetensors file under TensorFlow's names
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
        if self.format == Format::Pytorch {
            let checkpoint = load_checkpoint(&self.checkpoint)?;
            return pytorch::export(&checkpoint, &self.checkpoint, &self.output);
        }
        let Checkpoint { run, progress, mut variables, .. } = load_checkpoint(&self.checkpoint)?;
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
            Format::TfCheckpoint => tf::write_checkpoint(&self.output, &all, true)?,
            Format::TfNpz => tf::write_npz(&self.output, &variables)?,
            Format::Safetensors | Format::Pytorch => {
                let bytes = to_safetensors(&variables, HashMap::new())?;
                write_atomically(&self.output, |file| Ok(file.write_all(&bytes)?))?;
            }
        }
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        line(&format!("{}: {}", self.output.display(), names.join(", ")));
        Ok(())
    }
}
