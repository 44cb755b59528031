//! `score`

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::flags::numbers::real;
use super::flags::{
    AdaptFlags, MarkersFlag, PrecisionFlag, Saved, SavedFlags, UsageError, describe_markers,
};
use super::report::{notice, say_waiting};
use crate::adapt::{Adaptation, Adaptive};
use crate::average::Mean;
use crate::config::Precision;
use crate::model::PtbModel;
use crate::predictor::{Plain, Predictor};
use crate::reader::{EOS, UNK, Vocabulary};
use crate::score::{Options, Scored, Scorer, Totals, Word};

/// Columns for the beginning of a line beside its figures, on a terminal of 80 columns; `…` takes
/// one more.
const SHOWN: usize = 41;

const EXAMPLES: &str = "\
Examples:
  ptb-word-lm score --checkpoint runs/small my-text/ptb.test.txt
  echo 'the company said' | ptb-word-lm score --checkpoint runs/small --per-word
  ptb-word-lm score --checkpoint runs/small --independent --json sentences.txt
  ptb-word-lm score --checkpoint runs/small --independent --ids nbest.txt
      a speech recognizer's hypotheses; the first word of a line is its id";

const MEANING: &str = r#"
Logarithms are natural, or to the base of --log-base. A word's surprise is
-ln p(word | all words before it); perplexity is exp of the mean surprise. The
end of a line is a word, <eos>, as in training.

The file is one text, as in `eval`: the model's state is carried from line to
line, and the very first word is only context. So the perplexity of the test
text is the one that `eval` prints. (`eval` leaves unknown words out if the
model was trained without --max-vocab and --min-count; here they are scored.)
With --independent every line is a text of its own.

A word that the model does not know always costs something, also as the very
first of a text. If the model has <unk>, the word is read and scored as <unk>:
its log-probability is that of <unk> plus the X of --unknown-logprob, by default
0. If not, it is not read, and its log-probability is X, by default ln(1/V) for
a model of V words. The first word of a text, if unknown, is scored as after
<eos>. To a model without <eos> the ends of lines are no words.

--json prints an object for each line:
  {"event": "line", "line": 1, "log_probability": -55.3, "perplexity": 81.9,
   "words": 12, "unknown": 1, "line_ends": 1, "known_log_probability": -49.1,
   "ppl": 86.8, "ppl1": 135.6}
and then one with the totals:
  {"event": "total", "lines": 1, "log_probability": ..., ...}
`words` is the number of scored words, unknown ones and line ends included;
`perplexity` is theirs, null if there are none. `known_log_probability` leaves
unknown words out, and `ppl` is the perplexity of the other words; `ppl1`
divides the same log-probability among the words that are no line ends. These
two are SRILM's. With --ids the object of a line has its "id".
With --per-word the object of a line also has
  "per_word": [{"word": "the", "log_probability": -2.9, "surprise": 2.9,
                "unknown": false}, ...]
with null for a word that is only context, and for a line's end if the model has
no <eos>."#;

/// Base of the logarithms.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LogBase {
    #[value(name = "e")]
    E,
    #[value(name = "10")]
    Ten,
}

impl LogBase {
    /// The unit of this base in nats.
    fn nats(self) -> f64 {
        match self {
            LogBase::E => 1.0,
            LogBase::Ten => std::f64::consts::LN_10,
        }
    }
}

#[derive(Args)]
#[command(
    after_long_help = format!("{EXAMPLES}\n{MEANING}"),
    after_help = format!("{EXAMPLES}\n\n`--help` explains the figures and the JSON.")
)]
pub struct ScoreArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// File with one sentence per line, words separated by spaces as in the training text
    /// [default: standard input, as with -]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the surprise of every word
    #[arg(long)]
    per_word: bool,
    /// Print JSON: an object for each line and one with the totals
    #[arg(long)]
    json: bool,
    /// Score every line on its own, after `<eos>` and from the zero state
    #[arg(long)]
    independent: bool,
    /// The first field of each line is an id: it is printed and not scored
    #[arg(long)]
    ids: bool,
    /// Base of the logarithms: e or 10
    #[arg(long, value_enum, value_name = "BASE", default_value_t = LogBase::E)]
    #[arg(hide_possible_values = true)]
    log_base: LogBase,
    /// Log-probability of a word that the model does not know, to the base of --log-base: added to
    /// that of `<unk>`, or alone if the model has no `<unk>` [default: 0; without `<unk>` the
    /// logarithm of 1/V for a model of V words]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = real)]
    unknown_logprob: Option<f64>,
    #[command(flatten)]
    markers: MarkersFlag,
    #[command(flatten)]
    precision: PrecisionFlag,
    #[command(flatten)]
    adapt: AdaptFlags,
}

impl ScoreArgs {
    pub fn run(self) -> Result<()> {
        let adaptation = self.adapt.adaptation()?;
        let options = self.options()?;
        // The text is opened first: a wrong name should show before a large model is loaded.
        let (name, text): (String, Box<dyn Read>) = match &self.file {
            Some(path) if path != Path::new("-") => {
                let name = path.display().to_string();
                let file = File::open(path).with_context(|| format!("{name}: cannot be read"))?;
                ensure!(!file.metadata()?.is_dir(), "{name}: is a folder; score takes a file");
                (name, Box::new(file))
            }
            _ => {
                say_waiting("lines to score");
                ("standard input".into(), Box::new(StandardInput::new()?))
            }
        };
        let saved = self.saved.load()?;
        let vocabulary = &saved.vocabulary;
        let precision = self.precision.select(saved.device)?;
        let mut predictor = Mean::of(self.members(&saved, precision, adaptation)?);
        let mut scorer = Scorer { predictor: &mut *predictor, vocabulary, options };
        let mut report = Report::new(&self);
        let (total, markers) = scorer.score(text, &name, &mut |scored| report.show(scored))?;
        if let Some(found) = describe_markers(self.markers.markers(), &markers) {
            notice(&format!("{name}: {found}"));
        }
        self.say_unknown(&name, &total, vocabulary);
        ensure!(
            total.words > 0,
            "{name}: there is no word to score: the first word of a text is only context (with \
             --independent it is scored too)"
        );
        report.end(&total)
    }

    fn options(&self) -> Result<Options, UsageError> {
        let options = Options {
            independent: self.independent,
            ids: self.ids,
            markers: self.markers.markers(),
            unknown_log_probability: self.unknown_logprob,
        };
        // It is checked as it was typed.
        options.validate()?;
        let nats = self.log_base.nats();
        let unknown_log_probability = self.unknown_logprob.map(|x| x * nats);
        Ok(Options { unknown_log_probability, ..options })
    }

    /// Says how unknown words were scored, and that a model has no line ends.
    fn say_unknown(&self, name: &str, total: &Totals, vocabulary: &Vocabulary) {
        if vocabulary.id(EOS).is_none() {
            notice(&format!("the model has no {EOS}: the ends of lines are not scored"));
        }
        if total.unknown == 0 {
            return;
        }
        let how = match (vocabulary.id(UNK), self.unknown_logprob) {
            (Some(_), None) => "scored as <unk>".into(),
            (Some(_), Some(x)) => format!("scored as <unk>, with {x} added to the log-probability"),
            (None, Some(x)) => format!("each scored with the log-probability {x}"),
            (None, None) => {
                let words = vocabulary.len();
                let x = -(words as f64).ln() / self.log_base.nats();
                format!(
                    "each scored as one of {words} words drawn at random, with the \
                     log-probability {x:.3}, as the model has no <unk>; --unknown-logprob sets \
                     another"
                )
            }
        };
        let unknown = total.unknown;
        notice(&format!("{name}: words not in the model's vocabulary: {unknown}, {how}"));
    }
}

/// Prints the scores.
struct Report<'a> {
    args: &'a ScoreArgs,
    out: io::StdoutLock<'static>,
    lines: u64,
    /// The words of the current line, with --per-word.
    words: Vec<Word>,
    shown: Beginning,
}

impl<'a> Report<'a> {
    fn new(args: &'a ScoreArgs) -> Self {
        let (words, shown) = (Vec::new(), Beginning::default());
        Report { args, out: io::stdout().lock(), lines: 0, words, shown }
    }

    fn show(&mut self, scored: Scored) -> Result<()> {
        match scored {
            Scored::Word(word) => {
                self.shown.add(&word.word);
                if self.args.per_word {
                    self.words.push(word.clone());
                }
                Ok(())
            }
            Scored::Line { id, totals } => {
                self.lines += 1;
                if self.args.json {
                    self.line_json(id, &totals)?;
                } else {
                    self.line(id.as_deref(), &totals)?;
                }
                self.out.flush()?;
                self.words.clear();
                self.shown = Beginning::default();
                Ok(())
            }
        }
    }

    /// A logarithm in the base of --log-base.
    fn log(&self, nats: f64) -> f64 {
        nats / self.args.log_base.nats()
    }

    fn line_json(&mut self, id: Option<String>, totals: &Totals) -> Result<()> {
        let mut object = json!({"event": "line", "line": self.lines});
        if let Some(id) = id {
            object["id"] = json!(id);
        }
        self.put(&mut object, totals);
        if self.args.per_word {
            object["per_word"] = self.words.iter().map(|word| self.word_json(word)).collect();
        }
        Ok(writeln!(self.out, "{object}")?)
    }

    fn line(&mut self, id: Option<&str>, totals: &Totals) -> Result<()> {
        if self.lines == 1 {
            let log = if self.args.log_base == LogBase::E { "log-prob" } else { "log10-prob" };
            let text = if id.is_some() { "id and text" } else { "text" };
            writeln!(
                self.out,
                "{:>6} {log:>10} {:>10} {:>7}  {text}",
                "line", "perplexity", "unknown"
            )?;
        }
        let (lines, log_probability) = (self.lines, self.log(totals.log_probability));
        let (perplexity, unknown) = (figure(totals.perplexity()), totals.unknown);
        let id = id.filter(|id| !id.is_empty()).map_or(String::new(), |id| format!("{id} "));
        let text = &self.shown.text;
        writeln!(
            self.out,
            "{lines:>6} {log_probability:>10.3} {perplexity:>10} {unknown:>7}  {id}{text}"
        )?;
        for word in &self.words {
            let surprise =
                word.log_probability.map_or("-".into(), |p| format!("{:.3}", self.log(-p)));
            let unknown = if word.unknown { " (unknown)" } else { "" };
            writeln!(self.out, "{surprise:>17}  {}{unknown}", word.word)?;
        }
        Ok(())
    }

    /// Prints the totals.
    fn end(mut self, total: &Totals) -> Result<()> {
        if self.args.json {
            let mut object = json!({"event": "total", "lines": self.lines});
            self.put(&mut object, total);
            return Ok(writeln!(self.out, "{object}")?);
        }
        let Totals { words, unknown, line_ends, .. } = total;
        let base = if self.args.log_base == LogBase::E { "" } else { " (base 10)" };
        let log = self.log(total.log_probability);
        let known = self.log(total.known_log_probability);
        let [perplexity, ppl, ppl1] = [total.perplexity(), total.ppl(), total.ppl1()].map(figure);
        writeln!(
            self.out,
            "\nLines: {}, words scored: {words}, unknown: {unknown}, line ends: {line_ends}",
            self.lines
        )?;
        writeln!(
            self.out,
            "Without unknown words: log-probability{base} {known:.3}, ppl {ppl}, ppl1 {ppl1}"
        )?;
        writeln!(self.out, "Log-probability{base}: {log:.3}")?;
        Ok(writeln!(self.out, "Perplexity: {perplexity}")?)
    }

    fn put(&self, object: &mut Value, sums: &Totals) {
        object["log_probability"] = json!(self.log(sums.log_probability));
        object["perplexity"] = json!(sums.perplexity());
        object["words"] = json!(sums.words);
        object["unknown"] = json!(sums.unknown);
        object["line_ends"] = json!(sums.line_ends);
        object["known_log_probability"] = json!(self.log(sums.known_log_probability));
        object["ppl"] = json!(sums.ppl());
        object["ppl1"] = json!(sums.ppl1());
    }

    fn word_json(&self, word: &Word) -> Value {
        json!({
            "word": word.word,
            "log_probability": word.log_probability.map(|p| self.log(p)),
            "surprise": word.log_probability.map(|p| self.log(-p)),
            "unknown": word.unknown,
        })
    }
}

fn figure(perplexity: Option<f64>) -> String {
    perplexity.map_or("-".into(), |p| format!("{p:.3}"))
}

impl ScoreArgs {
    /// What gives the words their probabilities, for each model.
    fn members<'a>(
        &self,
        saved: &'a Saved,
        precision: Precision,
        adaptation: Adaptation,
    ) -> Result<Vec<Box<dyn Predictor + 'a>>> {
        let mut members: Vec<Box<dyn Predictor + 'a>> = Vec::new();
        for variables in &saved.models {
            let mode = variables.fastest_mode();
            members.push(if adaptation.is_none() {
                let model = PtbModel::new(variables, false, mode).precision(precision);
                Box::new(Plain::new(model))
            } else {
                Box::new(Adaptive::new(variables, mode, precision, adaptation)?)
            });
        }
        Ok(members)
    }
}

/// Milliseconds without input after which somebody may be waiting for an answer.
const PAUSE: u8 = 50;

/// Standard input. A pause in it is an error of kind `WouldBlock`, once: a line that a person
/// types, or another program writes, is then scored before the next one comes.
struct StandardInput {
    file: File,
    paused: bool,
}

impl StandardInput {
    fn new() -> io::Result<Self> {
        // Without std's buffer, in which `poll` does not see what has been read already.
        Ok(StandardInput { file: io::stdin().as_fd().try_clone_to_owned()?.into(), paused: true })
    }
}

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.paused
            && poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], PAUSE)? == 0
        {
            self.paused = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        self.paused = false;
        self.file.read(buffer)
    }
}

/// The beginning of a line, as far as it is shown.
#[derive(Default)]
struct Beginning {
    text: String,
    chars: usize,
}

impl Beginning {
    fn add(&mut self, word: &str) {
        if self.chars > SHOWN || word == EOS {
            return;
        }
        let space = if self.text.is_empty() { "" } else { " " };
        for c in space.chars().chain(word.chars()) {
            self.chars += console::measure_text_width(c.encode_utf8(&mut [0; 4]));
            if self.chars > SHOWN {
                self.text.push('…');
                return;
            }
            self.text.push(c);
        }
    }
}
