//! The terminal: the original's lines, and the progress bar.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::event::Event;

/// The line that the original prints for an event, if it prints one.
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

/// The progress bar of a whole run, in one line of 80 columns:
/// `epoch 3/13  step 1200/2323  ppl 103.4  10362 wps  [====>        ]  1h02m left`.
pub(super) struct Bar {
    pub(super) line: ProgressBar,
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
    pub(super) fn new(epochs: i64, max_steps: Option<i64>) -> Self {
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
    pub(super) fn suspend(&self, write: impl FnOnce()) {
        self.line.suspend(write);
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Epoch { epoch, done, epoch_size, .. } => {
                (self.epoch, self.epoch_size) = (*epoch, *epoch_size);
                self.pace.pause();
                let terminal = io::stderr().is_terminal()
                    && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
                if self.line.is_hidden() && terminal {
                    let style = ProgressStyle::with_template("{msg}  [{wide_bar}]  {prefix}");
                    self.line = ProgressBar::new(self.steps() as u64).with_style(
                        style
                            .unwrap_or_else(|_| ProgressStyle::default_bar())
                            .progress_chars("=> "),
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
            Event::EpochEnd { split: "train", .. } => {
                self.draw(self.epoch_size, Some("evaluating"))
            }
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
        let message = format!(
            "epoch {}/{}  {}{}",
            self.epoch,
            self.epochs,
            doing.unwrap_or(&steps),
            self.figures
        );
        self.line.set_message(message);
        self.line.set_prefix(match self.pace.mean {
            Some(mean) => {
                format!("{} left", duration(mean * (self.steps() - position).max(0) as f64))
            }
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
    use crate::event::Evaluation;

    #[test]
    fn durations_are_short() {
        let cases = [
            (0.0, "0s"),
            (59.4, "59s"),
            (59.6, "1m"),
            (3569.0, "59m"),
            (3599.0, "1h00m"),
            (3720.0, "1h02m"),
        ];
        for (seconds, text) in cases.into_iter().chain([(3.0 * 86400.0 + 4.0 * 3600.0, "3d04h")]) {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn lines_are_the_original_s_to_the_letter() {
        let result = Evaluation { cost: 5.6, perplexity: 271.0, tokens: 1, seconds: 1.0 };
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
