//! `score`

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::flags::{AdaptFlags, PrecisionFlag, Saved, SavedFlags};
use super::report::notice;
use crate::adapt::{Adaptation, Adaptive};
use crate::average::Mean;
use crate::config::Precision;
use crate::model::PtbModel;
use crate::predictor::{Plain, Predictor};
use crate::reader::{EOS, UNK};
use crate::score::{Scored, Scorer, Totals, Word};

/// Columns for the beginning of a line beside its figures, on a terminal of 80 columns; `…` takes
/// one more.
const SHOWN: usize = 41;

const EXAMPLES: &str = "\
Examples:
  ptb-word-lm score --checkpoint runs/small my-text/ptb.test.txt
  echo 'the company said' | ptb-word-lm score --checkpoint runs/small --per-word
  ptb-word-lm score --checkpoint runs/small --independent --json sentences.txt";

const MEANING: &str = r#"
All logarithms are natural. A word's surprise is -ln p(word | all words
before it); perplexity is exp of the mean surprise. The end of a line is a
word, <eos>, as in training.

The file is one text, as in `eval`: the model's state is carried from line to
line, and the very first word is only context. So the perplexity of the test
text is the one that `eval` prints. (`eval` leaves unknown words out if the
model was trained without --max-vocab and --min-count; here they are read as
<unk>, if the model has that word.) With --independent every line is a text of
its own.

--json prints an object for each line:
  {"event": "line", "line": 1, "log_probability": -55.3, "perplexity": 81.9,
   "words": 12, "unknown": 0}
and then one with the totals:
  {"event": "total", "lines": 1, "log_probability": ..., "perplexity": ...,
   "words": ..., "unknown": ...}
`words` is the number of scored words; `perplexity` is null if there are none.
With --per-word the object of a line also has
  "per_word": [{"word": "the", "log_probability": -2.9, "surprise": 2.9,
                "unknown": false}, ...]
with null for a word that is only context, or that is left out because the
model has no <unk>."#;

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
    #[command(flatten)]
    precision: PrecisionFlag,
    #[command(flatten)]
    adapt: AdaptFlags,
}

impl ScoreArgs {
    pub fn run(self) -> Result<()> {
        let adaptation = self.adapt.adaptation()?;
        // The text is opened first: a wrong name should show before a large model is loaded.
        let (name, text): (String, Box<dyn Read>) = match &self.file {
            Some(path) if path != Path::new("-") => {
                let name = path.display().to_string();
                let file = File::open(path).with_context(|| format!("{name}: cannot be read"))?;
                ensure!(!file.metadata()?.is_dir(), "{name}: is a folder; score takes a file");
                (name, Box::new(file))
            }
            _ => {
                if io::stdin().is_terminal() {
                    notice("reading lines to score from the terminal; Ctrl-D ends the text");
                }
                ("standard input".into(), Box::new(StandardInput::new()?))
            }
        };
        let saved = self.saved.load()?;
        let vocabulary = &saved.vocabulary;
        let precision = self.precision.select(saved.device)?;
        let mut predictor = Mean::of(self.members(&saved, precision, adaptation)?);
        let mut scorer =
            Scorer { predictor: &mut *predictor, vocabulary, independent: self.independent };
        let mut out = io::stdout().lock();
        let mut lines = 0;
        let mut words: Vec<Word> = Vec::new();
        let mut shown = Beginning::default();
        let total = scorer.score(text, &name, &mut |scored| {
            match scored {
                Scored::Word(word) => {
                    shown.add(&word.word);
                    if self.per_word {
                        words.push(word.clone());
                    }
                }
                Scored::Line(sums) => {
                    lines += 1;
                    if self.json {
                        let mut object = json!({"event": "line", "line": lines});
                        put(&mut object, &sums);
                        if self.per_word {
                            object["per_word"] = words.iter().map(word_json).collect();
                        }
                        writeln!(out, "{object}")?;
                    } else {
                        if lines == 1 {
                            writeln!(
                                out,
                                "{:>6} {:>10} {:>10} {:>7}  text",
                                "line", "log-prob", "perplexity", "unknown"
                            )?;
                        }
                        let Totals { log_probability, unknown, .. } = sums;
                        let perplexity = perplexity(&sums);
                        let text = &shown.text;
                        writeln!(
                            out,
                            "{lines:>6} {log_probability:>10.3} {perplexity:>10} {unknown:>7}  \
                             {text}"
                        )?;
                        for word in &words {
                            let surprise =
                                word.log_probability.map_or("-".into(), |p| format!("{:.3}", -p));
                            let unknown = if word.unknown { " (unknown)" } else { "" };
                            writeln!(out, "{surprise:>17}  {}{unknown}", word.word)?;
                        }
                    }
                    out.flush()?;
                    words.clear();
                    shown = Beginning::default();
                }
            }
            Ok(())
        })?;
        if total.unknown > 0 {
            let what = match vocabulary.id(UNK) {
                Some(_) => "scored as <unk>",
                None => "left out, as the model has no <unk>",
            };
            notice(&format!(
                "{name}: words not in the model's vocabulary: {}, {what}",
                total.unknown
            ));
        }
        ensure!(
            total.words > 0,
            "{name}: there is no word to score: the first word of a text is only context (with \
             --independent it is scored too)"
        );
        if self.json {
            let mut object = json!({"event": "total", "lines": lines});
            put(&mut object, &total);
            writeln!(out, "{object}")?;
        } else {
            writeln!(out)?;
            writeln!(
                out,
                "Lines: {lines}, words scored: {}, unknown: {}",
                total.words, total.unknown
            )?;
            writeln!(out, "Log-probability: {:.3}", total.log_probability)?;
            writeln!(out, "Perplexity: {}", perplexity(&total))?;
        }
        Ok(())
    }
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
        for (variables, mode) in &saved.models {
            members.push(if adaptation.is_none() {
                let model = PtbModel::new(variables, false, *mode).precision(precision);
                Box::new(Plain::new(model))
            } else {
                Box::new(Adaptive::new(variables, *mode, precision, adaptation)?)
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

fn perplexity(sums: &Totals) -> String {
    sums.perplexity().map_or("-".into(), |p| format!("{p:.3}"))
}

fn put(object: &mut Value, sums: &Totals) {
    object["log_probability"] = json!(sums.log_probability);
    object["perplexity"] = json!(sums.perplexity());
    object["words"] = json!(sums.words);
    object["unknown"] = json!(sums.unknown);
}

fn word_json(word: &Word) -> Value {
    json!({
        "word": word.word,
        "log_probability": word.log_probability,
        "surprise": word.log_probability.map(|p| -p),
        "unknown": word.unknown,
    })
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
