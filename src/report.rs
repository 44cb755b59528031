//! What a person and other programs see of a run: the original's lines, the progress bar, the metrics file.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::events::EventFile;
use crate::session::{Evaluation, Event};

/// The first error of [`line()`].
static LINE_FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes a line of standard output. A full disk there, or a reader that has gone away (`| head`),
/// is no reason to lose a run: the error is kept for [`ensure_written`].
pub fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        let _ = LINE_FAILED.set(error);
    }
}

/// Errors if some [`line()`] could not be written.
///
/// # Errors
/// The first error of a `line`, such as a full disk.
pub fn ensure_written() -> io::Result<()> {
    match LINE_FAILED.get() {
        Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        None => io::stdout().flush(),
    }
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

/// Shows a run as it goes: the original's lines on standard output, a progress bar on standard error if that is a terminal, the metrics file,
/// TensorBoard's events.
pub struct Reporter {
    metrics: Option<Metrics>,
    events: Option<EventFile>,
    bar: Bar,
    /// If quiet: the last lines for the training, validation and test texts, for the end.
    quiet: Option<[Option<String>; 3]>,
}

impl Reporter {
    /// A reporter for a run of `max_max_epoch` epochs, or of `max_steps` steps if that is less.
    pub fn new(
        metrics: Option<Metrics>,
        events: Option<EventFile>,
        max_max_epoch: i64,
        max_steps: Option<i64>,
    ) -> Self {
        Reporter { metrics, events, bar: Bar::new(max_max_epoch, max_steps), quiet: None }
    }

    /// If `quiet`, nothing is shown but warnings, and at the end the final perplexities.
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet.then(Default::default);
        self
    }

    /// Writes a metrics line of its own, such as the `start` event. A full disk ends the metrics, not the run.
    pub fn metric(&mut self, value: &Value) {
        if let Some(metrics) = &mut self.metrics
            && let Err(error) = metrics.write(value)
        {
            self.bar.suspend(|| notice(&format!("{error:#}; training goes on without them")));
            self.metrics = None;
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        if self.quiet.is_none() {
            self.bar.show(event);
        }
        match (&mut self.quiet, tensorflow_line(event)) {
            (None, Some(text)) => self.bar.suspend(|| line(&text)),
            (Some(held), text) => match event {
                Event::EpochEnd { split: "train", .. } => held[0] = text,
                Event::EpochEnd { .. } => held[1] = text,
                Event::Final(_) => held[2] = text,
                _ => {}
            },
            (None, None) => {}
        }
        if let Some(value) = metrics_line(event) {
            self.metric(&value);
        }
        if let Some(events) = &mut self.events
            && let Err(error) = events.show(event)
        {
            self.bar.suspend(|| notice(&format!("{error:#}; training goes on without them")));
            self.events = None;
        }
        let word = match event {
            Event::SaveFailed { error } => {
                Some(format!("warning: {error}; training goes on, the earlier checkpoints are kept"))
            }
            Event::Notice { text } => Some(text.clone()),
            _ => None,
        };
        if let Some(text) = word {
            self.bar.suspend(|| notice(&text));
        }
    }

    /// The run is over: takes the progress bar away; if quiet, prints the final perplexities.
    pub fn finish(self) {
        self.bar.line.finish_and_clear();
        self.quiet.into_iter().flatten().flatten().for_each(|text| line(&text));
    }
}

/// The progress bar of a whole run, in one line of 80 columns:
/// `epoch 3/13  step 1200/2323  ppl 103.4  10362 wps  [====>        ]  1h02m left`.
struct Bar {
    line: ProgressBar,
    epochs: i64,
    max_steps: i64,
    /// Of the epoch being trained.
    epoch: i64,
    epoch_size: i64,
    figures: String,
    pace: Pace,
    drawn: Instant,
}

impl Bar {
    fn new(epochs: i64, max_steps: Option<i64>) -> Self {
        let now = Instant::now();
        Bar {
            line: ProgressBar::hidden(),
            epochs,
            max_steps: max_steps.unwrap_or(i64::MAX),
            epoch: 0,
            epoch_size: 0,
            figures: String::new(),
            pace: Pace::default(),
            drawn: now,
        }
    }

    /// Takes the bar away while something else is written.
    fn suspend(&self, write: impl FnOnce()) {
        self.line.suspend(write);
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Epoch { epoch, done, epoch_size, .. } => {
                (self.epoch, self.epoch_size) = (*epoch, *epoch_size);
                self.pace.pause();
                let terminal =
                    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
                if self.line.is_hidden() && terminal {
                    let style = ProgressStyle::with_template("{msg}  [{wide_bar}]  {prefix}");
                    self.line = ProgressBar::new(self.steps() as u64).with_style(
                        style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
                    );
                }
                self.draw(*done, None);
            }
            Event::Tick { done } => {
                self.pace.step();
                if self.drawn.elapsed() >= Duration::from_millis(100) {
                    self.draw(*done, None);
                }
            }
            Event::Progress { perplexity, wps, .. } | Event::Step { perplexity, wps, .. } => {
                self.figures = format!("  ppl {perplexity:.1}  {wps:.0} wps");
            }
            Event::EpochEnd { split: "train", .. } => self.draw(self.epoch_size, Some("evaluating")),
            _ => {}
        }
    }

    /// Steps of the whole run.
    fn steps(&self) -> i64 {
        self.epochs.saturating_mul(self.epoch_size).min(self.max_steps)
    }

    fn draw(&mut self, done: i64, doing: Option<&str>) {
        self.drawn = Instant::now();
        let position = (self.epoch - 1) * self.epoch_size + done;
        let steps = format!("step {done}/{}", self.epoch_size);
        let message =
            format!("epoch {}/{}  {}{}", self.epoch, self.epochs, doing.unwrap_or(&steps), self.figures);
        self.line.set_message(message);
        self.line.set_prefix(match self.pace.mean {
            Some(mean) => format!("{} left", duration(mean * (self.steps() - position).max(0) as f64)),
            None => String::new(),
        });
        self.line.set_position(position.min(self.steps()) as u64);
    }
}

/// Seconds per training step, lately; what lies between the epochs does not count.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    mean: Option<f64>,
    steps: f64,
}

impl Pace {
    fn pause(&mut self) {
        self.last = None;
    }

    fn step(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            // The plain mean at first, then a moving one.
            self.steps = (self.steps + 1.0).min(300.0);
            let mean = self.mean.unwrap_or_default();
            self.mean = Some(mean + ((now - last).as_secs_f64() - mean) / self.steps);
        }
    }
}

/// `45s`, `12m`, `1h02m`, `3d04h`.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match (minutes / 60 / 24, minutes / 60 % 24, minutes % 60) {
        _ if seconds < 59.5 => format!("{seconds:.0}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let cases =
            [(0.0, "0s"), (59.4, "59s"), (59.6, "1m"), (3569.0, "59m"), (3599.0, "1h00m"), (3720.0, "1h02m")];
        for (seconds, text) in cases.into_iter().chain([(3.0 * 86400.0 + 4.0 * 3600.0, "3d04h")]) {
            assert_eq!(duration(seconds), text);
        }
    }

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
