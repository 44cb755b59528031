//! Checkpoints: all that is needed to resume a run with the same result, in one file.
//!
//! A checkpoint is a safetensors file, `model-<global_step>.safetensors`: the variables under
//! TensorFlow's names and in TensorFlow's layout, the LSTM's state, and as metadata the
//! configuration, the vocabulary, the position in the run and a SHA-256 over it all. It is written
//! beside its place, synced and renamed into it, and the previous one is kept, so a crash at any
//! moment leaves a good one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};
use thiserror::Error;

use crate::config::Config;
use crate::files::{self, with_suffix, write_atomically};
use crate::lock::FolderLock;
use crate::optimizer::OptimizerType;
use crate::reader::{Limits, Markers, Vocabulary};
use crate::rnn::{CellType, State};
use crate::tf;

const FORMAT: &str = "ptb-word-lm 1";

/// Position in a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch being trained, counted from 0.
    pub epoch: i64,
    /// Steps of it that are done.
    pub step: i64,
    /// Steps done in all epochs.
    pub global_step: i64,
    /// Sum of the epoch's costs so far.
    pub costs: f64,
}

/// Configuration that identifies a run. A checkpoint can be resumed only with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Hyperparameters.
    #[serde(flatten)]
    pub config: Config,
    /// Which recurrent cell.
    pub cell: String,
    /// Which optimizer.
    #[serde(default)]
    pub optimizer: OptimizerType,
    /// Random seed for the initial variables and the dropout masks.
    pub seed: i64,
    /// Limits on the vocabulary: data read with the same has the same ids.
    #[serde(flatten)]
    pub limits: Limits,
    /// How marks of other toolkits in the text were read. `None` if that is not known, as of a
    /// checkpoint that was written before it was recorded.
    #[serde(default)]
    pub markers: Option<Markers>,
}

/// Data and machine that a run's numbers depend on. A difference is reported when a run is resumed,
/// or refused where it would make another run of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// MD5 of the training, validation and test texts.
    pub data: Option<[String; 3]>,
    /// [`digest_of`] the variables that the run started from, unless they were random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Device, threads, rnn mode, precision. With others the numbers agree to rounding only.
    pub with: BTreeMap<String, String>,
}

impl Provenance {
    /// Refuses other texts than the checkpoint's.
    ///
    /// # Errors
    /// Names those that differ.
    pub fn ensure_same_data(&self, here: &Provenance) -> Result<(), Misfit> {
        let (Some(there), Some(here)) = (&self.data, &here.data) else { return Ok(()) };
        let splits = ["training", "validation", "test"].into_iter().zip(there.iter().zip(here));
        let differ: Vec<&str> =
            splits.filter(|(_, (there, here))| there != here).map(|(name, _)| name).collect();
        if differ.is_empty() { Ok(()) } else { Err(Misfit::Data(differ.join(" and the "))) }
    }

    /// A line for each difference that costs bitwise equality, such as `threads was 2, is 1`.
    pub fn differences(&self, here: &Provenance) -> Vec<String> {
        let differ = |(name, is): (&String, &String)| {
            let was = self.with.get(name).filter(|was| *was != is)?;
            Some(format!("{name} was {was}, is {is}"))
        };
        here.with.iter().filter_map(differ).collect()
    }
}

/// Why a checkpoint cannot be continued with the configuration or the data at hand.
#[derive(Debug, Error)]
pub enum Misfit {
    /// The differences in the configuration.
    #[error(
        "the checkpoint is of another run: {}",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Run(Vec<Difference>),
    /// Which of the texts differ.
    #[error("the {0} text is not the one that the checkpoint was made from (its MD5 is another)")]
    Data(String),
    /// The first difference between the vocabularies.
    #[error("the checkpoint was trained with another vocabulary: {0}")]
    Vocabulary(String),
}

/// A field of [`RunConfig`] that a checkpoint has another value of: `num_layers is 1 there and 2
/// here`. A value that is not set is null.
#[derive(Debug)]
pub struct Difference {
    /// The field's name.
    pub field: String,
    /// The checkpoint's value.
    pub there: Value,
    /// The run's value.
    pub here: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let text = |value: &Value| match value {
            Value::Null => "not set".into(),
            value => value.to_string(),
        };
        write!(f, "{} is {} there and {} here", self.field, text(&self.there), text(&self.here))
    }
}

/// The error of a folder without checkpoints.
#[derive(Debug, Error)]
#[error("{}: there is no checkpoint (model-*.safetensors) in this folder", .0.display())]
pub struct NoCheckpoint(PathBuf);

/// The error of a safetensors file that is no checkpoint.
#[derive(Debug, Error)]
#[error("not a checkpoint of this program: its format is {0:?}, expected {FORMAT:?}")]
pub struct OtherFormat(String);

/// The error of a model that another program saved.
#[derive(Debug, Error)]
#[error("{}: not a checkpoint of this program but {kind}", .path.display())]
pub struct OtherProgram {
    path: PathBuf,
    /// What it is.
    kind: &'static str,
}

/// A run at one moment.
#[derive(Debug)]
pub struct Checkpoint {
    /// The run's configuration.
    pub run: RunConfig,
    /// Data and machine of the run.
    pub made: Provenance,
    /// Position in the run.
    pub progress: Progress,
    /// The variables under TensorFlow's names.
    pub variables: tf::Variables,
    /// The LSTM's state; empty at an epoch's start, where it is zero.
    pub state: State,
    /// The words, if known: weights from another program come without.
    pub vocabulary: Option<Vocabulary>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    run: RunConfig,
    #[serde(default)]
    made: Provenance,
    progress: Progress,
    /// Of the epoch, for other readers: it follows from the rest.
    #[serde(default)]
    learning_rate: f64,
}

impl Checkpoint {
    /// The cell, parsed.
    pub fn cell(&self) -> Result<CellType> {
        Ok(self.run.cell.parse()?)
    }

    /// True if the model was imported and has not been trained since: resuming it starts a run.
    pub fn is_imported(&self) -> bool {
        self.progress == Progress::default() && self.made == Provenance::default()
    }

    /// Whether there are slots of an optimizer.
    pub fn has_slots(&self) -> bool {
        self.variables.keys().any(|name| tf::is_slot_name(name))
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors: tf::Variables =
            self.variables.iter().map(|(k, v)| (k.clone(), v.shallow_clone())).collect();
        tensors.extend(
            self.state.iter().enumerate().map(|(k, t)| (format!("state/{k}"), t.shallow_clone())),
        );
        let meta = Meta {
            run: self.run.clone(),
            made: self.made.clone(),
            progress: self.progress.clone(),
            learning_rate: self.run.config.learning_rate_at(self.progress.epoch),
        };
        let mut metadata: HashMap<String, String> =
            [("format".into(), FORMAT.into()), ("meta".into(), serde_json::to_string(&meta)?)]
                .into();
        if let Some(vocabulary) = &self.vocabulary {
            metadata.insert("vocabulary".into(), vocabulary.words().collect::<Vec<_>>().join("\n"));
        }
        to_safetensors(&tensors, metadata)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (loaded, metadata) = from_safetensors(bytes)?;
        Self::from_loaded(loaded, &metadata)
    }

    /// The checkpoint in what [`from_safetensors`] read.
    pub(crate) fn from_loaded(
        loaded: tf::Loaded,
        metadata: &HashMap<String, String>,
    ) -> Result<Self> {
        let format = metadata.get("format").map_or("none", String::as_str);
        ensure!(format == FORMAT, OtherFormat(format.to_owned()));
        if let Some((name, why)) = loaded.skipped.first_key_value() {
            bail!("variable {name}: {why}");
        }
        ensure!(
            metadata.contains_key("sha256") || cfg!(fuzzing),
            "it has no SHA-256: the file is damaged"
        );
        let meta = metadata.get("meta").map_or("", String::as_str);
        let Meta { run, made, progress, .. } =
            serde_json::from_str(meta).context("its metadata cannot be read")?;
        // What another program may have written: it has the right checksum all the same.
        run.config.validate().context("its configuration is invalid")?;
        run.cell.parse::<CellType>().context("its cell")?;
        let Progress { epoch, step, global_step, costs } = progress;
        ensure!(
            epoch >= 0 && step >= 0 && global_step >= step && costs.is_finite(),
            "its position in the run is invalid: {progress:?}"
        );
        let vocabulary = match metadata.get("vocabulary") {
            Some(words) => {
                let (count, expected) = (words.split('\n').count(), run.config.vocab_size);
                ensure!(count as i64 == expected, "it has {count} words, expected {expected}");
                let vocabulary = Vocabulary::from_words(words.split('\n'));
                ensure!(vocabulary.len() == count, "a word is in its vocabulary twice");
                Some(vocabulary)
            }
            None => None,
        };
        let mut variables = tf::Variables::new();
        let mut state = BTreeMap::new();
        for (name, tensor) in loaded.variables {
            let kind = tensor.kind();
            ensure!(
                matches!(kind, Kind::Float | Kind::Double),
                "variable {name} has type {kind:?}; expected float32 or float64"
            );
            match name.strip_prefix("state/") {
                Some(k) => drop(state.insert(k.parse::<usize>().context("state")?, tensor)),
                None => drop(variables.insert(name, tensor)),
            }
        }
        Ok(Checkpoint {
            run,
            made,
            progress,
            variables,
            state: state.into_values().collect(),
            vocabulary,
        })
    }

    /// Reads and verifies one file.
    ///
    /// # Errors
    /// A file that cannot be read or is not whole.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        Self::from_bytes(&bytes).with_context(|| format!("checkpoint {}", path.display()))
    }

    /// The newest good checkpoint of a folder, or the file itself if `path` is one. Damaged ones
    /// are passed over and reported to `notice`.
    ///
    /// # Errors
    /// No good checkpoint there; or one that cannot be read at all; [`OtherProgram`].
    pub fn load(path: &Path, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        if path.is_file() {
            tf::refuse_pickle(path)?;
        }
        if let Some(kind) = tf::kind_of(path).filter(|_| !path.is_dir()) {
            bail!(OtherProgram { path: path.to_owned(), kind });
        }
        if path.is_file() {
            return Self::read(path);
        }
        ensure!(path.is_dir(), "{}: there is no such checkpoint folder", path.display());
        Ok(Self::latest(path, notice, false)?.ok_or_else(|| NoCheckpoint(path.to_owned()))?)
    }

    /// The newest good checkpoint of `folder`, if it has any file of that name. Damaged ones may be
    /// `set_aside` for it: renamed, so that they are not counted among those that are kept.
    fn latest(
        folder: &Path,
        notice: &mut dyn FnMut(&str),
        set_aside: bool,
    ) -> Result<Option<Self>> {
        let mut last_error = None;
        let mut damaged: Vec<PathBuf> = Vec::new();
        for (_, path) in list(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => {
                    for path in damaged.iter().filter(|_| set_aside) {
                        let aside = with_suffix(path, ".damaged");
                        files::rename(path, &aside)
                            .with_context(|| format!("{}: cannot be set aside", path.display()))?;
                        notice(&format!("the damaged file is now {}", aside.display()));
                    }
                    return Ok(Some(checkpoint));
                }
                Err(error) => {
                    notice(&format!("{error:#}; trying the one before it"));
                    last_error = Some(error);
                    damaged.push(path);
                }
            }
        }
        match last_error {
            Some(error) => {
                Err(error.context(format!("{}: no checkpoint in it is whole", folder.display())))
            }
            None => Ok(None),
        }
    }
}

/// Tensors and metadata as a safetensors file, with a SHA-256 of it all among the metadata.
///
/// # Errors
/// A tensor that is neither float32 nor float64.
pub fn to_safetensors(
    tensors: &tf::Variables,
    mut metadata: HashMap<String, String>,
) -> Result<Vec<u8>> {
    let bytes = bytes_of(tensors)?;
    let views = views(tensors, &bytes)?;
    metadata.insert("sha256".into(), digest(&metadata, &views));
    let mut bytes = safetensors::serialize(views, Some(metadata))?;
    sort_metadata(&mut bytes)?;
    Ok(bytes)
}

/// The tensors and the metadata of a safetensors file. If it has a SHA-256 among the metadata, as
/// [`to_safetensors`] writes it, that is compared. Tensors of a type that libtorch does not have
/// are skipped.
///
/// # Errors
/// A file that is not whole, or not what was written.
pub fn from_safetensors(bytes: &[u8]) -> Result<(tf::Loaded, HashMap<String, String>)> {
    let (_, header) = SafeTensors::read_metadata(bytes)
        .map_err(|e| anyhow!("not a whole safetensors file: {e}"))?;
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| anyhow!("not a whole safetensors file: {e}"))?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    let tensors = file.tensors();
    let views: BTreeMap<&String, TensorView> =
        tensors.iter().map(|(name, view)| (name, view.clone())).collect();
    if let Some(written) = metadata.remove("sha256") {
        ensure!(
            digest(&metadata, &views) == written || cfg!(fuzzing),
            "its SHA-256 does not fit its content: the file is damaged"
        );
        metadata.insert("sha256".into(), written);
    }
    let mut loaded = tf::Loaded::default();
    for (name, view) in views {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::I8 => Kind::Int8,
            Dtype::U8 => Kind::Uint8,
            Dtype::I16 => Kind::Int16,
            Dtype::I32 => Kind::Int,
            Dtype::I64 => Kind::Int64,
            Dtype::BOOL => Kind::Bool,
            dtype => {
                let why = format!("its type is {dtype:?}, which is not read");
                loaded.skipped.insert(name.clone(), why);
                continue;
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
        let tensor = tf::tensor_from_bytes(view.data(), &shape, kind)?;
        loaded.variables.insert(name.clone(), tensor);
    }
    Ok((loaded, metadata))
}

/// Puts the metadata of a safetensors file in the order of their names. The crate writes them in
/// that of a hash map, which differs from process to process; equal runs should write equal files.
fn sort_metadata(bytes: &mut [u8]) -> Result<()> {
    let (length, rest) = bytes.split_first_chunk_mut::<8>().context("no header")?;
    let header = &mut rest[..u64::from_le_bytes(*length) as usize];
    let mut sorted: Value = serde_json::from_slice(header)?;
    if let Some(Value::Object(metadata)) = sorted.get_mut("__metadata__") {
        metadata.sort_keys();
    }
    let sorted = sorted.to_string();
    // (The same entries in another order are as long; what follows is padding.)
    let (json, padding) =
        header.split_at_mut_checked(sorted.len()).context("the header has grown")?;
    json.copy_from_slice(sorted.as_bytes());
    padding.fill(b' ');
    Ok(())
}

/// A SHA-256 over the names, shapes and values of variables, in float32 whatever their type.
pub fn digest_of(variables: &tf::Variables) -> Result<String> {
    let float =
        |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.f_to_kind(Kind::Float)?));
    let variables: tf::Variables = variables.iter().map(float).collect::<Result<_>>()?;
    let bytes = bytes_of(&variables)?;
    Ok(digest(&HashMap::new(), &views(&variables, &bytes)?))
}

fn bytes_of(tensors: &tf::Variables) -> Result<Vec<Vec<u8>>> {
    tensors.values().map(tf::tensor_to_bytes).collect()
}

/// The tensors as safetensors has them; `bytes` are theirs, in the same order.
fn views<'a>(
    tensors: &'a tf::Variables,
    bytes: &'a [Vec<u8>],
) -> Result<BTreeMap<&'a String, TensorView<'a>>> {
    let mut views = BTreeMap::new();
    for ((name, tensor), bytes) in tensors.iter().zip(bytes) {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            kind => bail!("variable {name} is {kind:?}; checkpoints hold float32 and float64"),
        };
        let shape = tensor.size().iter().map(|&d| d as usize).collect();
        views.insert(name, TensorView::new(dtype, shape, bytes)?);
    }
    Ok(views)
}

/// A digest over metadata and tensors, whatever their order in the file.
fn digest(metadata: &HashMap<String, String>, views: &BTreeMap<&String, TensorView>) -> String {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (key, value) in metadata.iter().collect::<BTreeMap<_, _>>() {
        put(key.as_bytes());
        put(value.as_bytes());
    }
    for (name, view) in views {
        put(name.as_bytes());
        put(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        put(view.data());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// True if the folder has a checkpoint, good or damaged.
pub fn has_checkpoint(folder: &Path) -> bool {
    list(folder).is_ok_and(|found| !found.is_empty())
}

/// True if a safetensors file with these metadata is a checkpoint, and not a model by itself.
pub(crate) fn is_checkpoint(metadata: &HashMap<String, String>) -> bool {
    metadata.get("format").is_some_and(|format| format == FORMAT)
}

/// The checkpoints of a folder by global step, oldest first.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))?
    {
        let path = entry?.path();
        let step = path.file_name().and_then(|name| {
            name.to_str()?.strip_prefix("model-")?.strip_suffix(".safetensors")?.parse().ok()
        });
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

/// The folder that a run saves to: checked to be writable, and locked for as long as this value
/// lives.
pub struct SaveFolder {
    path: PathBuf,
    /// Number of checkpoints to keep.
    keep: usize,
    lock: FolderLock,
}

impl SaveFolder {
    /// Locks the folder, and creates it if it does not exist. The newest `keep` checkpoints are
    /// kept, at least 1.
    ///
    /// # Errors
    /// A place that cannot be written, or that another run is using. The error begins with the
    /// path.
    pub fn open(path: &Path, keep: usize) -> Result<Self> {
        let cannot = || format!("{}: cannot be written", path.display());
        files::make_folder(path).with_context(cannot)?;
        let lock = FolderLock::acquire(path).with_context(|| path.display().to_string())?;
        write_atomically(&path.join("probe"), |_| Ok(())).with_context(cannot)?;
        fs::remove_file(path.join("probe")).with_context(cannot)?;
        // Half a checkpoint of a process that was killed while it wrote.
        for entry in fs::read_dir(path).with_context(cannot)? {
            let half = entry?.path();
            let name = half.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(".model-") && name.ends_with(".safetensors.tmp") {
                fs::remove_file(&half)
                    .with_context(|| format!("{}: cannot be removed", half.display()))?;
            }
        }
        Ok(SaveFolder { path: path.to_owned(), keep: keep.max(1), lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A warning if the file system has no locks.
    pub fn warning(&self) -> Option<String> {
        self.lock.warning()
    }

    /// The newest good checkpoint, if there is any. Damaged ones that are newer get `.damaged` to
    /// their names and are reported to `notice`.
    ///
    /// # Errors
    /// Checkpoints are there, but none is whole.
    pub fn latest(&self, notice: &mut dyn FnMut(&str)) -> Result<Option<Checkpoint>> {
        Checkpoint::latest(&self.path, notice, true)
    }

    /// The newest checkpoint's file, unread.
    pub fn newest(&self) -> Option<PathBuf> {
        list(&self.path).ok()?.pop().map(|(_, path)| path)
    }

    /// Writes a checkpoint, reads it back to prove it, then removes the oldest.
    ///
    /// # Errors
    /// A disk that is full or gone, or does not give back what was written; the earlier checkpoints
    /// are then untouched.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let path = self.path.join(format!("model-{}.safetensors", checkpoint.progress.global_step));
        let bytes = checkpoint.to_bytes()?;
        write_atomically(&path, |file| Ok(file.write_all(&bytes)?))?;
        let there =
            fs::read(&path).with_context(|| format!("{}: cannot be read back", path.display()))?;
        ensure!(
            there == bytes,
            "{}: reads back as something else than was written",
            path.display()
        );
        let all = list(&self.path)?;
        for (_, old) in
            all[..all.len().saturating_sub(self.keep)].iter().filter(|(_, old)| *old != path)
        {
            fs::remove_file(old)
                .with_context(|| format!("{}: could not be removed", old.display()))?;
        }
        Ok(path)
    }
}

/// Refuses to continue `saved` as `wanted` where they differ in more than the number of epochs,
/// naming each difference. A model that was only imported may be trained in any way that fits it.
///
/// # Errors
/// They differ: [`Misfit::Run`].
pub fn ensure_same_run(saved: &Checkpoint, wanted: &RunConfig) -> Result<()> {
    let model = ["vocab_size", "hidden_size", "num_layers", "cell", "forget_bias"];
    // With them a text has the model's words.
    let reading = ["max_vocab", "min_count", "markers"];
    let other_words = saved.run.config.vocab_size != wanted.config.vocab_size;
    let matters = |name: &str| match (name, saved.is_imported()) {
        ("markers", _) if saved.run.markers.is_none() => false,
        (_, true) => {
            model.contains(&name)
                || name == "optimizer" && saved.has_slots()
                || reading.contains(&name) && other_words
        }
        (_, false) => name != "max_max_epoch",
    };
    let fields = |run: &RunConfig| serde_json::to_value(run);
    let (saved, wanted) = (fields(&saved.run)?, fields(wanted)?);
    let mut differences = Vec::new();
    for (name, value) in wanted.as_object().into_iter().flatten() {
        if matters(name) && saved.get(name) != Some(value) {
            let there = saved.get(name).cloned().unwrap_or_default();
            differences.push(Difference { field: name.clone(), there, here: value.clone() });
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(Misfit::Run(differences).into()) }
}

/// Refuses data whose words are not the ones that the checkpoint was trained with.
pub fn ensure_same_vocabulary(saved: &Vocabulary, data: &Vocabulary) -> Result<(), Misfit> {
    saved.difference(data).map_or(Ok(()), |difference| Err(Misfit::Vocabulary(difference)))
}
