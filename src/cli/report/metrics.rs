//! The metrics file: a run as JSON lines.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cli::refuse_checkpoint;
use crate::event::{Evaluation, Event};
use crate::files::{make_folder, open_stream};

/// An event as a line of the metrics file, if it has one.
pub fn metrics_line(event: &Event) -> Option<Value> {
    let figures = |name: &str, split: &str, r: &Evaluation| {
        json!({
            "event": name, "split": split, "perplexity": r.perplexity, "cost_per_word": r.cost,
            "tokens": r.tokens, "seconds": r.seconds,
        })
    };
    match event {
        Event::Step { epoch, step, global_step, cost, global_norm, lr, perplexity, wps } => {
            Some(json!({
                "event": "step", "epoch": epoch, "step": step, "global_step": global_step,
                "cost": cost, "global_norm": global_norm, "lr": lr, "perplexity": perplexity,
                "wps": wps,
            }))
        }
        Event::EpochEnd { epoch, split, result, complete, .. } => {
            let mut line = figures("epoch", split, result);
            line["epoch"] = json!(epoch);
            line["complete"] = json!(complete);
            Some(line)
        }
        Event::Final(result) => Some(figures("final", "test", result)),
        _ => None,
    }
}

/// A metrics file being written: JSON lines.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Starts a new file, or goes on at the end of an old one when a run is resumed.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(path: &Path, append: bool) -> Result<Self> {
        let cannot = || format!("--metrics {}: cannot be written", path.display());
        refuse_checkpoint("--metrics", path)?;
        if let Some(folder) = path.parent() {
            make_folder(folder).with_context(cannot)?;
        }
        if let Some(stream) = open_stream(path).with_context(cannot)? {
            return Ok(Metrics { path: path.to_owned(), file: stream });
        }
        let mut options = File::options();
        let file = if append { options.append(true) } else { options.write(true).truncate(true) }
            .create(true)
            .open(path)
            .with_context(cannot)?;
        let mut metrics = Metrics { path: path.to_owned(), file };
        if append && !ends_with_line(path).with_context(cannot)? {
            // A process that was killed left half a line: the next one starts on its own.
            metrics.file.write_all(b"\n").with_context(cannot)?;
        }
        Ok(metrics)
    }

    /// Writes one line, whole.
    ///
    /// # Errors
    /// A disk that is full or gone.
    pub fn write(&mut self, value: &Value) -> Result<()> {
        let mut line = value.to_string();
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("{}: the metrics could not be written", self.path.display()))
    }
}

/// True if a file is empty or ends with a line's end.
fn ends_with_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
