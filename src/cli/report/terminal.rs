//! The terminal: the original's lines, the progress bar, and text that is wrapped to its width.

use std::time::{Duration, Instant};

use console::{Term, measure_text_width, truncate_str};
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
        // A part of an epoch is not the original's, so programs that read its lines must not take
        // it for an epoch.
        Event::EpochEnd { epoch, split, result, steps: (done, steps), .. } if done < steps => {
            let name =
                if *split == "train" { "Train Perplexity so far" } else { "Valid Perplexity" };
            let perplexity = result.perplexity;
            Some(format!("Epoch {epoch}, step {done} of {steps}: {name} {perplexity:.3}"))
        }
        Event::EpochEnd { epoch, split, result, .. } => {
            let name = if *split == "train" { "Train" } else { "Valid" };
            Some(format!("Epoch: {epoch} {name} Perplexity: {:.3}", result.perplexity))
        }
        Event::Final(result) => Some(format!("Test Perplexity: {:.3}", result.perplexity)),
        _ => None,
    }
}

/// Columns of a terminal, or `None` if the stream is none.
fn columns(terminal: &Term) -> Option<usize> {
    terminal.is_term().then(|| terminal.size_checked().map_or(80, |(_, columns)| columns.into()))
}

/// A text for standard error: wrapped if that is a terminal, as it is if not.
pub fn for_stderr(text: &str) -> String {
    columns(&Term::stderr()).map_or_else(|| text.to_owned(), |width| wrap(text, width, 0))
}

/// As [`for_stderr`], for standard output. `indent` is how far the lines that follow are set in.
pub fn for_stdout(text: &str, indent: usize) -> String {
    columns(&Term::stdout()).map_or_else(|| text.to_owned(), |width| wrap(text, width, indent))
}

/// Breaks lines between words, so that none is wider than `width`. The lines that follow a break
/// begin with `indent` spaces more than the line that was broken. A command in backquotes is not
/// broken if it fits on a line.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| wrap_line(line, width, indent)).collect();
    lines.join("\n")
}

fn wrap_line(line: &str, width: usize, indent: usize) -> String {
    if measure_text_width(line) <= width {
        return line.to_owned();
    }
    let start = &line[..line.len() - line.trim_start().len()];
    let indent = format!("{start}{:indent$}", "");
    let mut out = String::new();
    let mut column = 0;
    for word in pieces(line, width - indent.len().min(width)) {
        let wide = measure_text_width(word.trim_end());
        if column > indent.len() && column + wide > width {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&indent);
            column = indent.len();
        }
        out.push_str(word);
        column += measure_text_width(word);
    }
    out
}

/// The words of a line, each with the spaces after it; a quoted command of at most `width` columns
/// is one of them.
fn pieces(line: &str, width: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let blank = rest.len() - rest.trim_start().len();
        let word_end = |from: usize| rest[from..].find(' ').map_or(rest.len(), |at| from + at);
        let mut end = word_end(blank);
        if let Some(open) = rest[blank..end].find('`').map(|at| blank + at)
            && let Some(close) = rest[open + 1..].find('`').map(|at| open + 1 + at)
        {
            let whole = word_end(close);
            if measure_text_width(&rest[blank..whole]) <= width {
                end = end.max(whole);
            }
        }
        let spaces = rest[end..].len() - rest[end..].trim_start_matches(' ').len();
        let (piece, after) = rest.split_at(end + spaces);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The progress bar of a whole run, in one line:
/// `epoch 3/13  step 1200/2323  ppl 103.4  10362 wps  [====>        ]  1h02m left`.
/// Where the terminal is narrow, figures are left out.
pub(super) struct Bar {
    pub(super) line: ProgressBar,
    epochs: i64,
    max_steps: i64,
    /// Of the epoch being trained.
    epoch: i64,
    epoch_size: i64,
    /// Steps of the run that are done.
    position: i64,
    figures: Vec<String>,
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
            position: 0,
            figures: Vec::new(),
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
                let terminal = Term::stderr().is_term()
                    && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
                if self.line.is_hidden() && terminal {
                    // The line is drawn here; indicatif redraws it and takes it away.
                    let style = ProgressStyle::with_template("{msg}");
                    self.line = ProgressBar::new(self.steps() as u64)
                        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                }
                self.figures.clear();
                self.draw(*done);
            }
            Event::Tick { done } => {
                self.pace.step();
                if self.drawn.elapsed() >= Duration::from_millis(100) {
                    self.draw(*done);
                }
            }
            Event::Progress { perplexity, wps, .. } | Event::Step { perplexity, wps, .. } => {
                self.figures = vec![format!("ppl {perplexity:.1}"), format!("{wps:.0} wps")];
            }
            Event::Evaluating { split } => {
                self.figures.clear();
                self.set_line(&[format!("evaluating {split}")], "");
            }
            _ => {}
        }
    }

    /// Draws the line: the epoch and these parts, the bar, the time that is left.
    fn set_line(&self, parts: &[String], left: &str) {
        let epoch = format!("epoch {}/{}", self.epoch, self.epochs);
        let columns = columns(&Term::stderr()).unwrap_or(80).saturating_sub(ECHO);
        let done = self.position as f64 / self.steps().max(1) as f64;
        self.line.set_message(bar_line(&[&[epoch], parts].concat(), done, left, columns));
    }

    /// Steps of the whole run.
    fn steps(&self) -> i64 {
        self.epochs.saturating_mul(self.epoch_size).min(self.max_steps)
    }

    fn draw(&mut self, done: i64) {
        self.drawn = Instant::now();
        self.position = ((self.epoch - 1) * self.epoch_size + done).min(self.steps());
        let rest = (self.steps() - self.position) as f64;
        let left = self.pace.mean.map(|mean| format!("{} left", duration(mean * rest)));
        let steps = format!("step {done}/{}", self.epoch_size);
        let parts = [&[steps], &self.figures[..]].concat();
        self.set_line(&parts, left.as_deref().unwrap_or_default());
    }
}

/// Columns at the line's end that stay empty: there the terminal echoes `^C`, once or twice. A
/// full line would be broken by it, and its first part would stay when the bar is taken away.
const ECHO: usize = 4;

/// The bar's line, of at most `columns`, where `done` is the part of the run that is done.
fn bar_line(parts: &[String], done: f64, left: &str, columns: usize) -> String {
    let text = fitting(parts, columns);
    let width = columns.saturating_sub(text.len() + "  []  ".len() + left.len());
    let filled = ((width as f64 * done) as usize).clamp(1, width.max(1));
    let bar = "=".repeat(filled - 1) + ">";
    let line = format!("{text}  [{bar:<width$}]  {left}");
    truncate_str(line.trim_end(), columns, "").into_owned()
}

/// As many parts as leave room for the bar itself and the time that is left.
fn fitting(parts: &[String], columns: usize) -> String {
    const REST: usize = "  [==]  1h02m left".len();
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() && text.len() + 2 + part.len() + REST > columns {
            break;
        }
        if !text.is_empty() {
            text.push_str("  ");
        }
        text.push_str(part);
    }
    text
}

/// Takes what a progress bar has drawn away, for a process that ends at once.
pub fn clear_line() {
    let terminal = Term::stderr();
    if terminal.is_term() {
        let _ = terminal.clear_line();
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
    fn text_is_wrapped_between_words() {
        let text = "error: one two three, `ptb-word-lm train --seed 1` and wörter of 日本語 text";
        for width in 20..100 {
            let wrapped = wrap(text, width, 2);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&wrapped), words(text));
            for line in wrapped.lines() {
                assert!(measure_text_width(line) <= width, "{width}: {line:?}");
                assert_eq!(line, line.trim_end());
            }
            assert_eq!(wrapped.contains("`ptb-word-lm train --seed 1`"), width >= 30, "{wrapped}");
        }
        assert_eq!(wrap("a\n\n  b c", 80, 4), "a\n\n  b c");
        assert_eq!(wrap("  aaa bbb", 6, 1), "  aaa\n   bbb");
        // A word that is wider stays whole, and colours take no room.
        assert_eq!(wrap("aaaaaaaaa b", 4, 0), "aaaaaaaaa\nb");
        assert_eq!(wrap("\x1b[1mab\x1b[0m cd", 5, 0), "\x1b[1mab\x1b[0m cd");
    }

    #[test]
    fn the_bar_leaves_out_what_has_no_room() {
        let parts = ["epoch 1/13", "step 1200/2323", "ppl 103.4", "10362 wps"].map(str::to_owned);
        assert_eq!(fitting(&parts, 80), "epoch 1/13  step 1200/2323  ppl 103.4  10362 wps");
        assert_eq!(fitting(&parts, 60), "epoch 1/13  step 1200/2323  ppl 103.4");
        assert_eq!(fitting(&parts, 50), "epoch 1/13  step 1200/2323");
        assert_eq!(fitting(&parts, 40), "epoch 1/13");
        assert_eq!(fitting(&parts, 5), "epoch 1/13");
        for columns in 1..120 {
            for left in ["", "45s left", "1h02m left"] {
                let line = bar_line(&parts, 0.5, left, columns);
                assert!(line.len() <= columns, "{columns}: {line:?}");
                assert!(columns < 46 || line.contains(">") && line.ends_with(left), "{line:?}");
            }
        }
        let line = |done| bar_line(&parts[..1], done, "1m left", 32);
        assert_eq!(line(0.0), "epoch 1/13  [>        ]  1m left");
        assert_eq!(line(1.0), "epoch 1/13  [========>]  1m left");
    }

    #[test]
    fn a_part_of_an_epoch_does_not_look_like_an_epoch() {
        let result = Evaluation { cost: 2.6584, perplexity: 14.2734, tokens: 1, seconds: 1.0 };
        let line = |split, complete| {
            let steps = (345, 2323);
            let event = Event::EpochEnd { epoch: 2, split, result, complete, steps };
            tensorflow_line(&event).unwrap()
        };
        let train = "Epoch 2, step 345 of 2323: Train Perplexity so far 14.273";
        assert_eq!(line("train", false), train);
        assert_eq!(line("valid", true), "Epoch 2, step 345 of 2323: Valid Perplexity 14.273");
    }

    #[test]
    fn lines_are_the_original_s_to_the_letter() {
        let result = Evaluation { cost: 5.6, perplexity: 271.0, tokens: 1, seconds: 1.0 };
        let steps = (2323, 2323);
        let lines: Vec<String> = [
            Event::Epoch { epoch: 1, learning_rate: 1.0, done: 0, epoch_size: 2323 },
            Event::Progress { fraction: 10.0 / 2323.0, perplexity: 4852.2139, wps: 2876.4 },
            Event::EpochEnd { epoch: 1, split: "train", result, complete: true, steps },
            Event::EpochEnd {
                epoch: 1,
                split: "valid",
                result: Evaluation { perplexity: 178.0, ..result },
                complete: true,
                steps,
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
