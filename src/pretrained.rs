//! A trained model out of a file, whoever wrote it: TensorFlow, numpy, PyTorch, or this program.
//!
//! Where its words are:
//!
//! | file | its words |
//! |---|---|
//! | a checkpoint or an exported model of this program (`.safetensors`) | inside |
//! | `.npz` | inside, as the archive's member `words.txt` |
//! | a model of PyTorch's (`.safetensors`) | inside, or beside it in `words.txt` |
//! | any other, or one without words inside | beside it, in `FILE.words.txt` |
//!
//! For a checkpoint of TensorFlow's, FILE is its prefix, such as `model.ckpt-123`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::Tensor;
use thiserror::Error;

use crate::checkpoint::{self, Checkpoint, RunConfig};
use crate::config::Config;
use crate::files::{with_suffix, write_atomically};
use crate::reader::Vocabulary;
use crate::rnn::CellType;
use crate::tf::{self, Shapes};

/// Keys of an exported model's metadata.
const VOCABULARY: &str = "vocabulary";
const RUN: &str = "run";

/// The usual names of the files of a model of PyTorch's.
const PYTORCH_FILE: &str = "model.safetensors";
const PYTORCH_WORDS: &str = "words.txt";

/// A trained model.
#[derive(Debug)]
pub struct Pretrained {
    /// Its variables.
    pub model: tf::Model,
    /// The words of its rows, if they are known.
    pub words: Option<Vocabulary>,
    /// The run that it comes from, if the file says it.
    pub run: Option<RunConfig>,
}

impl Pretrained {
    /// Reads a model: the save path of a run or one of its checkpoints, an exported model in
    /// `.safetensors` or a folder with it as `model.safetensors`, or what [`tf::read`] reads.
    /// `notify` hears of damaged checkpoints.
    ///
    /// # Errors
    /// No such file, or not a model; a list of words that has another length than the model.
    pub fn read(path: impl AsRef<Path>, notify: &mut dyn FnMut(&str)) -> Result<Self> {
        let path = path.as_ref();
        let is_run = path.is_dir() && checkpoint::has_checkpoint(path);
        // A run's folder may have a model that was exported into it earlier.
        let inside = path.join(PYTORCH_FILE);
        let path = if !is_run && inside.is_file() { &inside } else { path };
        let read = if is_run {
            Self::of_checkpoint(Checkpoint::load(path, notify)?, path)?
        } else if is_safetensors(path) {
            Self::read_safetensors(path)?
        } else {
            let model = tf::Model::read(path)?;
            let inside = if tf::is_npz(path) { tf::read_npz_words(path)? } else { None };
            let name = || format!("{}: its words", path.display());
            let list = |bytes| Vocabulary::from_list(Box::new(Cursor::new(bytes)), name());
            Pretrained { model, words: inside.map(list).transpose()?, run: None }
        };
        let beside = words_beside(path).filter(|_| read.words.is_none());
        let (words, place) = match beside {
            Some(beside) => (Some(Vocabulary::read(&beside)?), beside),
            None => (read.words, path.to_owned()),
        };
        if let Some(words) = &words {
            ensure_as_many(words, &read.model.shapes, &place)?;
        }
        Ok(Pretrained { words, ..read })
    }

    fn of_checkpoint(checkpoint: Checkpoint, path: &Path) -> Result<Self> {
        let Checkpoint { run, variables, vocabulary, .. } = checkpoint;
        let loaded = tf::Loaded { variables, ..tf::Loaded::default() };
        let model = tf::Model::of(loaded, path)?;
        Ok(Pretrained { model, words: vocabulary, run: Some(run) })
    }

    fn read_safetensors(path: &Path) -> Result<Self> {
        let here = || path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", here()))?;
        let (loaded, metadata) = checkpoint::from_safetensors(&bytes).with_context(here)?;
        if checkpoint::is_checkpoint(&metadata) {
            let checkpoint = Checkpoint::from_loaded(loaded, &metadata).with_context(here)?;
            return Self::of_checkpoint(checkpoint, path);
        }
        let words = metadata.get(VOCABULARY).map(|words| {
            let list = Box::new(Cursor::new(words.clone().into_bytes()));
            Vocabulary::from_list(list, format!("{}: its words", here()))
        });
        let run = metadata.get(RUN).map(|run| serde_json::from_str(run)).transpose();
        let run = run.with_context(|| format!("{}: its metadata {RUN:?}", here()))?;
        let model = tf::Model::of(loaded, path)?;
        Ok(Pretrained { model, words: words.transpose()?, run })
    }

    /// Refuses a model of other sizes or other cells than `config` and `cell` say.
    ///
    /// # Errors
    /// [`OtherSizes`].
    pub fn ensure_fits(&self, config: &Config, cell: CellType) -> Result<(), OtherSizes> {
        let found = self.model.shapes;
        let sizes = (found.hidden_size, found.num_layers);
        let same_sizes = sizes == (config.hidden_size, config.num_layers);
        // An LSTMCell has a BasicLSTMCell's variables.
        let same_cell = match cell {
            CellType::Lstm => found.cell == "basic_lstm_cell",
            cell => found.cell.strip_suffix("_cell") == Some(cell.name()),
        };
        if same_sizes && same_cell {
            return Ok(());
        }
        Err(OtherSizes { found, same_sizes, same_cell })
    }
}

/// Refuses a list of words that is longer or shorter than the model's rows.
///
/// # Errors
/// Names `list`.
pub fn ensure_as_many(words: &Vocabulary, shapes: &Shapes, list: &Path) -> Result<()> {
    let (words, rows) = (words.len() as i64, shapes.vocab_size);
    ensure!(
        words == rows,
        "{}: a list of {words} words for a model of {rows} words",
        list.display()
    );
    Ok(())
}

/// The error of a model that has other sizes, or other cells, than the one it is to start.
#[derive(Clone, Copy, Debug, Error)]
pub struct OtherSizes {
    /// What the file holds.
    pub found: Shapes,
    /// Whether hidden_size and num_layers are those that were expected.
    pub same_sizes: bool,
    /// Whether the cells are.
    pub same_cell: bool,
}

impl fmt::Display for OtherSizes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Shapes { hidden_size, num_layers, cell, .. } = self.found;
        let count = |n: i64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (layers, units) = (count(num_layers, "layer"), count(hidden_size, "unit"));
        write!(f, "the file holds {layers} of {units}")?;
        if !self.same_cell {
            write!(f, " in {cell}s")?;
        }
        Ok(())
    }
}

/// Whether a file is a `.safetensors`, by this ending or by its first bytes: the length of a header
/// of JSON, and its beginning.
fn is_safetensors(path: &Path) -> bool {
    let header = |start: &[u8]| start.len() == 9 && start[4..8] == [0; 4] && start[8] == b'{';
    path.extension().is_some_and(|e| e == "safetensors") || tf::starts_as(path, header)
}

/// The file with the words of the model in `path`, if there is one beside it.
fn words_beside(path: &Path) -> Option<PathBuf> {
    let prefix = match path.is_dir() {
        true => tf::latest_checkpoint(path).ok()?,
        false => path.to_owned(),
    };
    let places = [words_file(&prefix), words_file(&tf::prefix_of(&prefix))];
    let of_pytorch = path.extension().is_some_and(|e| e == "safetensors");
    let of_pytorch = of_pytorch.then(|| path.with_file_name(PYTORCH_WORDS));
    places.into_iter().chain(of_pytorch).find(|place| place.is_file())
}

/// The file with the words of the checkpoint `prefix`.
pub fn words_file(prefix: &Path) -> PathBuf {
    with_suffix(prefix, ".words.txt")
}

/// The metadata of an exported model.
///
/// # Errors
/// None that a user can cause.
pub fn metadata(run: &RunConfig, words: Option<&Vocabulary>) -> Result<HashMap<String, String>> {
    let mut metadata = HashMap::from([(RUN.to_owned(), serde_json::to_string(run)?)]);
    let list = |words: &Vocabulary| words.words().collect::<Vec<_>>().join("\n");
    metadata.extend(words.map(|words| (VOCABULARY.to_owned(), list(words))));
    Ok(metadata)
}

/// A model's variables for other words than its own: `words` by `words` the rows of those that it
/// knows, and the rows of `fresh` for the others. A variable that has rows by words and is not in
/// `fresh`, such as an optimizer's slot, begins with zeros there. Returns also how many of the new
/// words the model did not know.
///
/// # Errors
/// Variables whose rows are not as many as the words.
pub fn match_rows(
    variables: &tf::Variables,
    known: &Vocabulary,
    words: &Vocabulary,
    fresh: &tf::Variables,
) -> Result<(tf::Variables, usize)> {
    let pairs = words.words().enumerate();
    let pairs: (Vec<i64>, Vec<i64>) =
        pairs.filter_map(|(new, word)| Some((new as i64, i64::from(known.id(word)?)))).unzip();
    let (new, old) = (Tensor::from_slice(&pairs.0), Tensor::from_slice(&pairs.1));
    let count = words.len() as i64;
    let matched = |name: &String, tensor: &Tensor| -> Result<Tensor> {
        let Some(dim) = words_dimension(name) else { return Ok(tensor.shallow_clone()) };
        let mut size = tensor.size();
        let rows = size.get(dim as usize).copied().unwrap_or_default();
        ensure!(
            rows == known.len() as i64,
            "variable {name:?} has {rows} rows, but there are {} words",
            known.len()
        );
        size[dim as usize] = count;
        let begin = match fresh.get(name) {
            Some(fresh) => fresh.f_to_kind(tensor.f_kind()?)?,
            None => Tensor::f_zeros(size, (tensor.f_kind()?, tensor.device()))?,
        };
        Ok(begin.f_index_copy(dim, &new, &tensor.f_index_select(dim, &old)?)?)
    };
    let matched = variables
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), matched(name, tensor)?)))
        .collect::<Result<_>>()?;
    Ok((matched, words.len() - pairs.0.len()))
}

/// The dimension of a variable, or of a slot of it, that counts words.
fn words_dimension(name: &str) -> Option<i64> {
    let is = |variable: &str| {
        name.strip_prefix(variable).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match () {
        () if is("Model/embedding") || is("Model/softmax_b") => Some(0),
        () if is("Model/softmax_w") => Some(1),
        () => None,
    }
}

/// Writes the words of the checkpoint `prefix` beside it. Without words, a list that an earlier
/// checkpoint of that name left there is removed.
///
/// # Errors
/// A place that cannot be written.
pub fn write_words_beside(prefix: &Path, words: Option<&Vocabulary>) -> Result<Option<PathBuf>> {
    let file = words_file(prefix);
    match words {
        Some(words) => {
            let list = words.to_list();
            write_atomically(&file, |to| Ok(to.write_all(list.as_bytes())?))?;
            Ok(Some(file))
        }
        None if file.is_file() => {
            let removed = fs::remove_file(&file);
            removed.with_context(|| format!("{}: cannot be removed", file.display()))?;
            Ok(None)
        }
        None => Ok(None),
    }
}
