//! TensorBoard's event files: the original's scalars under the original's tags, and further ones.
//!
//! `tensorboard --logdir SAVE_PATH` shows them. An event's step is the number of training steps
//! done, as TensorFlow counts it.
//!
//! | tag | when | what |
//! |---|---|---|
//! | `Train/Training_Loss` | every `--log-every` steps | cost: cross entropy, summed over time |
//! | `Train/Learning_Rate` | " | |
//! | `Model/global_step/sec` | " | steps per second since the event before it in the epoch |
//! | `Train/Gradient_Norm` | " | TensorFlow's global norm before clipping |
//! | `Train/Running_Perplexity` | " | of the epoch so far |
//! | `Train/Words_Per_Second` | " | of the epoch so far |
//! | `Train/Perplexity` | every epoch | of the training text, or of what was done of it |
//! | `Valid/Perplexity` | " | of the validation text |
//! | `Valid/Validation_Loss` | " | cost: mean over all batches, where the original takes one |
//! | `Test/Perplexity` | at the end | of the test text |
//!
//! The first three and `Valid/Validation_Loss` are the original's. A file is a sequence of records
//! (tensorflow/core/lib/io/record_writer.h), each an `Event` message
//! (tensorflow/core/util/event.proto). Every process begins a file of its own with a `SessionLog`.
//! By this TensorBoard drops what a killed process had written after the checkpoint from which the
//! run is resumed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;

use crate::event::Event;
use crate::tf::masked_crc32c;

// The messages, as far as they are used here; prost skips what else there is.

/// `Event`; the last three fields are one `oneof` there, which is the same on the wire.
#[derive(Clone, PartialEq, Message)]
struct EventProto {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`
const START: i32 = 1;

/// One value in an event file.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// Under which name.
    pub tag: String,
    /// Training steps done.
    pub step: i64,
    /// The value.
    pub value: f32,
    /// Seconds since 1970.
    pub wall_time: f64,
}

/// The event files of a folder, oldest first.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("{}: cannot be read", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if entry.file_name().to_string_lossy().contains(".tfevents.") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The scalars of an event file, up to the first record that is not whole, as a killed process may
/// leave one.
///
/// # Errors
/// A file that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Scalar>> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut scalars = Vec::new();
    let mut rest = &bytes[..];
    while let Some((record, after)) = record(rest) {
        rest = after;
        let Ok(event) = EventProto::decode(record) else { break };
        for Value { tag, simple_value } in event.summary.unwrap_or_default().value {
            if let Some(value) = simple_value {
                scalars.push(Scalar { tag, step: event.step, value, wall_time: event.wall_time });
            }
        }
    }
    Ok(scalars)
}

/// The first record's data and what comes after it; none if it is not whole.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let whole = |bytes: &[u8], crc: &[u8; 4]| masked_crc32c(bytes) == u32::from_le_bytes(*crc);
    if !whole(length, crc) {
        return None;
    }
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    whole(data, crc).then_some((data, rest))
}

/// The event file that a run is writing.
pub struct EventFile {
    path: PathBuf,
    file: File,
    num_steps: i64,
    /// Steps done in all.
    step: i64,
    /// Steps done when the current epoch began.
    epoch_start: i64,
    /// When the steps per second were last written, and at which step.
    since: (i64, Instant),
    /// The last step under every tag: none is written twice.
    written: HashMap<String, i64>,
}

impl EventFile {
    /// Starts a new file in `folder`, for a run of `num_steps` words per step that has done `step`
    /// steps. What earlier processes wrote up to there stays valid and is not written again.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(folder: &Path, num_steps: i64, step: i64) -> Result<Self> {
        let mut written = HashMap::new();
        for file in files(folder)? {
            for scalar in read(&file)?.into_iter().filter(|scalar| scalar.step <= step) {
                let last = written.entry(scalar.tag).or_insert(scalar.step);
                *last = scalar.step.max(*last);
            }
        }
        // TensorBoard reads a folder's files in the order of their names.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{:010}.{:06}", now.as_secs(), now.subsec_micros());
        let path = folder.join(name);
        let file = File::create_new(&path)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        let since = (step, Instant::now());
        let mut events =
            EventFile { path, file, num_steps, step, epoch_start: step, since, written };
        let version = Some("brain.Event:2".to_owned());
        events.write(EventProto { file_version: version, ..EventProto::default() })?;
        let session_log = Some(SessionLog { status: START });
        events.write(EventProto { step: step + 1, session_log, ..EventProto::default() })?;
        Ok(events)
    }

    /// Writes what an event of the session says, if it has scalars.
    ///
    /// # Errors
    /// A disk that is full or gone.
    pub fn show(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Epoch { epoch, done, epoch_size, .. } => {
                self.epoch_start = (epoch - 1) * epoch_size;
                self.step = self.epoch_start + done;
                self.since = (self.step, Instant::now());
                Ok(())
            }
            Event::Tick { done } => {
                self.step = self.epoch_start + done;
                Ok(())
            }
            Event::Step { global_step, cost, global_norm, lr, perplexity, wps, .. } => {
                self.step = global_step + 1;
                let (step, time) = self.since;
                self.since = (self.step, Instant::now());
                let steps_per_second = (self.step - step) as f64 / time.elapsed().as_secs_f64();
                self.scalars(&[
                    ("Train/Training_Loss", *cost),
                    ("Train/Learning_Rate", *lr),
                    ("Model/global_step/sec", steps_per_second),
                    ("Train/Gradient_Norm", *global_norm),
                    ("Train/Running_Perplexity", *perplexity),
                    ("Train/Words_Per_Second", *wps),
                ])
            }
            Event::EpochEnd { split: "train", result, .. } => {
                self.scalars(&[("Train/Perplexity", result.perplexity)])
            }
            Event::EpochEnd { result, .. } => self.scalars(&[
                ("Valid/Perplexity", result.perplexity),
                ("Valid/Validation_Loss", result.cost * self.num_steps as f64),
            ]),
            Event::Final(result) => self.scalars(&[("Test/Perplexity", result.perplexity)]),
            _ => Ok(()),
        }
    }

    fn scalars(&mut self, scalars: &[(&str, f64)]) -> Result<()> {
        let step = self.step;
        let mut value = Vec::new();
        for &(tag, scalar) in scalars {
            if self.written.get(tag).is_none_or(|&last| last < step) {
                self.written.insert(tag.to_owned(), step);
                value.push(Value { tag: tag.to_owned(), simple_value: Some(scalar as f32) });
            }
        }
        if value.is_empty() {
            return Ok(());
        }
        self.write(EventProto { step, summary: Some(Summary { value }), ..EventProto::default() })
    }

    /// Writes one record, whole, so that TensorBoard can follow a run.
    fn write(&mut self, mut event: EventProto) -> Result<()> {
        event.wall_time =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let [length_crc, data_crc] = [&length[..], &data].map(|b| masked_crc32c(b).to_le_bytes());
        let record = [&length[..], &length_crc, &data, &data_crc].concat();
        self.file.write_all(&record).with_context(|| {
            format!("{}: TensorBoard's events could not be written", self.path.display())
        })
    }
}
