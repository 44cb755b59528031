//! What a person and other programs see of a run: the original's lines, the progress bar, the metrics file.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::session::{Evaluation, Event};

/// Writes a line of standard output. A reader that has gone away (`| head`) is no reason to lose a run, so errors are passed over.
pub fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a notice on standard error.
pub fn notice(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The original's line for an event, to the letter, if it prints one.
pub fn tensorflow_line(event: &Event) -> Option<String> {
    match event {
        Event::Epoch { epoch, learning_rate, .. } => {
            Some(format!("Epoch: {epoch} Learning rate: {learning_rate:.3}"))
        }
        Event::Progress { fraction, perplexity, wps } => {
            Some(format!("{fraction:.3} perplexity: {perplexity:.3} speed: {wps:.0} wps"))
        }
        Event::EpochEnd { epoch, split, result, .. } => {
            let name = if *split == "train" { "Train" } else { "Valid" };
            Some(format!("Epoch: {epoch} {name} Perplexity: {:.3}", result.perplexity))
        }
        Event::Final(result) => Some(format!("Test Perplexity: {:.3}", result.perplexity)),
        _ => None,
    }
}

/// An event as a line of the metrics file, if it has one.
pub fn metrics_line(event: &Event) -> Option<Value> {
    let figures = |name: &str, split: &str, r: &Evaluation| json!({"event": name, "split": split, "perplexity": r.perplexity, "tokens": r.tokens, "seconds": r.seconds});
    match event {
        Event::Step { epoch, step, global_step, cost, global_norm, lr, perplexity, wps } => Some(json!({
            "event": "step", "epoch": epoch, "step": step, "global_step": global_step, "cost": cost,
            "global_norm": global_norm, "lr": lr, "perplexity": perplexity, "wps": wps,
        })),
        Event::EpochEnd { epoch, split, result, complete } => {
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
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(cannot)?;
        }
        let mut options = File::options();
        let file = if append { options.append(true) } else { options.write(true).truncate(true) }
            .create(true)
            .open(path)
            .with_context(cannot)?;
        let mut metrics = Metrics { path: path.to_owned(), file };
        if append && fs::read(path).with_context(cannot)?.last().is_some_and(|&byte| byte != b'\n') {
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

/// Shows a run as it goes: the original's lines on standard output, a progress bar on standard error if that is a terminal, the metrics file.
pub struct Reporter {
    metrics: Option<Metrics>,
    bar: ProgressBar,
    max_max_epoch: i64,
}

impl Reporter {
    /// A reporter for a run of `max_max_epoch` epochs.
    pub fn new(metrics: Option<Metrics>, max_max_epoch: i64) -> Self {
        let bar = ProgressBar::hidden();
        Reporter { metrics, bar, max_max_epoch }
    }

    /// Writes a metrics line of its own, such as the `start` event. A full disk ends the metrics, not the run.
    pub fn metric(&mut self, value: &Value) {
        if let Some(metrics) = &mut self.metrics
            && let Err(error) = metrics.write(value)
        {
            notice(&format!("{error:#}; training goes on without them"));
            self.metrics = None;
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        if let Some(text) = tensorflow_line(event) {
            self.bar.suspend(|| line(&text));
        }
        if let Some(value) = metrics_line(event) {
            self.metric(&value);
        }
        match event {
            Event::Epoch { epoch, done, epoch_size, .. } if io::stderr().is_terminal() => {
                let template = "{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}";
                self.bar = ProgressBar::new(*epoch_size as u64)
                    .with_style(
                        ProgressStyle::with_template(template)
                            .unwrap_or_else(|_| ProgressStyle::default_bar()),
                    )
                    .with_prefix(format!("epoch {epoch}/{}", self.max_max_epoch))
                    .with_position(*done as u64);
                self.bar.reset_eta();
                self.bar.enable_steady_tick(Duration::from_millis(250));
            }
            Event::Notice { text } => self.bar.suspend(|| notice(text)),
            Event::SaveFailed { error } => {
                self.bar.suspend(|| {
                    notice(&format!("warning: {error}; training goes on, the earlier checkpoints are kept"))
                });
            }
            Event::Tick { done } => self.bar.set_position(*done as u64),
            Event::Progress { perplexity, wps, .. } | Event::Step { perplexity, wps, .. } => {
                self.bar.set_message(format!("ppl {perplexity:.1} {wps:.0} wps"));
            }
            Event::EpochEnd { split: "train", .. } => self.bar.finish_and_clear(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_original_s_to_the_letter() {
        let result = Evaluation { perplexity: 271.0, tokens: 1, seconds: 1.0 };
        let lines: Vec<String> = [
            Event::Epoch { epoch: 1, learning_rate: 1.0, done: 0, epoch_size: 2323 },
            Event::Progress { fraction: 10.0 / 2323.0, perplexity: 4852.2139, wps: 2876.4 },
            Event::EpochEnd { epoch: 1, split: "train", result, complete: true },
            Event::EpochEnd {
                epoch: 1,
                split: "valid",
                result: Evaluation { perplexity: 178.0, ..result },
                complete: true,
            },
            Event::Final(Evaluation { perplexity: 115.9099, ..result }),
        ]
        .iter()
        .filter_map(tensorflow_line)
        .collect();
        assert_eq!(
            lines,
            [
                "Epoch: 1 Learning rate: 1.000",
                "0.004 perplexity: 4852.214 speed: 2876 wps",
                "Epoch: 1 Train Perplexity: 271.000",
                "Epoch: 1 Valid Perplexity: 178.000",
                "Test Perplexity: 115.910",
            ]
        );
    }
}
