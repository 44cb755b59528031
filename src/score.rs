//! How likely a text is to a model: the log-probability of every word after all words before it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Error, Result};

use crate::config::{ConfigError, check};
use crate::predictor::Predictor;
use crate::reader::{EOS, MarkerCounts, Markers, UNK, Vocabulary};
use crate::text::{MarkerFilter, TextReader, words};

/// Words that are scored together, so that the memory does not grow with the text.
const WINDOW: usize = 1 << 17;

/// How a text is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Each line is a text of its own: it begins with the zero state after `<eos>`, all its words
    /// are scored, and its end is too, even if the last line has none. Otherwise the text is one,
    /// as in the evaluation of a test text: the state goes on from line to line, and the very first
    /// word is only context.
    ///
    /// To a model without `<eos>`, line ends are no words, and a line's first word is only context.
    pub independent: bool,
    /// The first field of each line is its id, and not a word.
    pub ids: bool,
    /// What becomes of other toolkits' marks.
    pub markers: Markers,
    /// Log-probability of an unknown word, in nats. If the model has `<unk>`, it is that of the
    /// word among all unknown words, added to the one of `<unk>`; by default nothing is added. If
    /// not, it stands alone; by default it is that of one of the vocabulary's words drawn at
    /// random.
    pub unknown_log_probability: Option<f64>,
}

impl Options {
    /// Checks the fields.
    ///
    /// # Errors
    /// A logarithm that is not one of a probability.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Some(x) = self.unknown_log_probability else { return Ok(()) };
        let allowed = "it is the logarithm of a probability, a number of 0 or below";
        check(x.is_finite() && x <= 0.0, "unknown_logprob", x, allowed)
    }
}

/// A word of a scored text.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As it stands in the text; a line's end is `<eos>`.
    pub word: String,
    /// Whether the vocabulary does not have it. It is then read as `<unk>`, or not at all if there
    /// is no `<unk>`.
    pub unknown: bool,
    /// ln p(word | all words before) in nats. None for what was not scored: the first word of a
    /// text, unless it is unknown; line ends of a model without `<eos>`.
    pub log_probability: Option<f64>,
}

/// Sums over a text or a line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// ln p(text), in nats.
    pub log_probability: f64,
    /// The same without unknown words.
    pub known_log_probability: f64,
    /// Words that were scored, unknown ones and line ends included.
    pub words: u64,
    /// Words that the vocabulary does not have.
    pub unknown: u64,
    /// Line ends that were scored.
    pub line_ends: u64,
}

impl Totals {
    /// `exp(-log_probability / words)`; none if no word was scored.
    pub fn perplexity(&self) -> Option<f64> {
        perplexity(self.log_probability, self.words)
    }

    /// The perplexity without unknown words: SRILM's `ppl`.
    pub fn ppl(&self) -> Option<f64> {
        perplexity(self.known_log_probability, self.words - self.unknown)
    }

    /// The same log-probability, divided among the words without the line ends: SRILM's `ppl1`.
    pub fn ppl1(&self) -> Option<f64> {
        perplexity(self.known_log_probability, self.words - self.unknown - self.line_ends)
    }

    fn add(&mut self, word: &Word) {
        let log_probability = word.log_probability.unwrap_or(0.0);
        self.log_probability += log_probability;
        self.known_log_probability += if word.unknown { 0.0 } else { log_probability };
        self.words += u64::from(word.log_probability.is_some());
        self.unknown += u64::from(word.unknown);
        self.line_ends += u64::from(word.word == EOS && word.log_probability.is_some());
    }
}

fn perplexity(log_probability: f64, words: u64) -> Option<f64> {
    (words > 0).then(|| (-log_probability / words as f64).exp())
}

/// What is told of a text while it is scored.
pub enum Scored<'a> {
    /// One word, in order.
    Word(&'a Word),
    /// A line is over.
    Line {
        /// The line's id, if lines have one; empty for a blank line.
        id: Option<String>,
        /// Sums over the line.
        totals: Totals,
    },
}

/// Scores texts.
pub struct Scorer<'a> {
    /// Gives the words their probabilities: a model, or several.
    pub predictor: &'a mut dyn Predictor,
    /// Its words.
    pub vocabulary: &'a Vocabulary,
    /// How the text is scored.
    pub options: Options,
}

impl Scorer<'_> {
    /// Scores a text, telling `listen` every word and every line in order; in memory that does not
    /// grow with the text. `name` is for messages. Returns the sums, and which marks of other
    /// toolkits the text has.
    ///
    /// Many words are scored together. Where somebody waits for an answer, `text` should fail with
    /// [`ErrorKind::WouldBlock`] at a pause: all words before it are then scored, and reading goes
    /// on.
    ///
    /// # Errors
    /// Options that cannot be used; an empty text, one that is not UTF-8 (with line and byte); or
    /// what `listen` returns.
    pub fn score(
        &mut self,
        text: impl Read + 'static,
        name: &str,
        listen: &mut dyn FnMut(Scored) -> Result<()>,
    ) -> Result<(Totals, MarkerCounts)> {
        self.options.validate()?;
        let mut text = TextReader::new(Box::new(text), name.to_owned());
        let vocabulary = self.vocabulary;
        let is_known = |word: &str| vocabulary.id(word).is_some();
        let mut filter = MarkerFilter::new(self.options.markers, &is_known);
        let mut scoring = Scoring::new(self, listen)?;
        loop {
            let piece = match text.next_piece() {
                Err(error) if is_pause(&error) => {
                    scoring.flush()?;
                    continue;
                }
                piece => piece?,
            };
            let Some(piece) = piece else { break };
            for word in words(piece) {
                if !scoring.takes_id(word) {
                    filter.put(word, &mut |word| scoring.put(word))?;
                }
            }
        }
        let markers = filter.finish(&mut |word| scoring.put(word))?;
        let total = scoring.finish()?;
        let total =
            total.with_context(|| format!("{name}: there is nothing to score: the text is empty"));
        Ok((total?, markers))
    }
}

fn is_pause(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A word that waits for its score.
struct Waiting {
    word: Word,
    /// What the model reads; none for a word that is left out.
    id: Option<i32>,
    ends_line: bool,
}

/// A text that is being scored.
struct Scoring<'a> {
    predictor: &'a mut dyn Predictor,
    vocabulary: &'a Vocabulary,
    options: Options,
    listen: &'a mut dyn FnMut(Scored) -> Result<()>,
    /// The word that an independent line follows.
    start: Option<i32>,
    /// Ids of the lines that are not over.
    ids: VecDeque<String>,
    /// Whether the id of the current line was read.
    has_id: bool,
    waiting: Vec<Waiting>,
    /// Whether the last word that came did not end its line.
    is_open: bool,
    /// The word before those that wait; the predictor has read all before it.
    last: Option<i32>,
    /// Whether it stands within a line that goes on with the words that wait.
    within_line: bool,
    line: Totals,
    total: Totals,
    lines: u64,
}

impl<'a> Scoring<'a> {
    fn new(
        scorer: &'a mut Scorer,
        listen: &'a mut dyn FnMut(Scored) -> Result<()>,
    ) -> Result<Self> {
        let Scorer { predictor, vocabulary, options } = scorer;
        let start = vocabulary.id(EOS).filter(|_| options.independent);
        predictor.reset()?;
        Ok(Scoring {
            predictor: *predictor,
            vocabulary,
            options: *options,
            listen,
            start,
            ids: VecDeque::new(),
            has_id: false,
            waiting: Vec::new(),
            is_open: false,
            last: start,
            within_line: false,
            line: Totals::default(),
            total: Totals::default(),
            lines: 0,
        })
    }

    /// Takes a word, or none for a line's end, if it is the line's id.
    fn takes_id(&mut self, word: Option<&str>) -> bool {
        if !self.options.ids {
            return false;
        }
        let is_first = !std::mem::replace(&mut self.has_id, word.is_some());
        if is_first {
            self.ids.push_back(word.unwrap_or_default().to_owned());
            // A line of an id alone is an empty text.
            self.is_open = word.is_some();
        }
        is_first && word.is_some()
    }

    /// Adds the next word; none is a line's end.
    fn put(&mut self, word: Option<&str>) -> Result<()> {
        let (text, vocabulary) = (word.unwrap_or(EOS), self.vocabulary);
        let id = vocabulary.id(text);
        // A line's end is no word of a model without <eos>.
        let unknown = id.is_none() && text != EOS;
        self.waiting.push(Waiting {
            word: Word { word: text.to_owned(), unknown, log_probability: None },
            id: id.or_else(|| vocabulary.id(UNK).filter(|_| unknown)),
            ends_line: word.is_none(),
        });
        self.is_open = word.is_some();
        if self.waiting.len() >= WINDOW { self.flush() } else { Ok(()) }
    }

    /// Scores the rest. Returns the sums, or none if there was no line at all.
    fn finish(mut self) -> Result<Option<Totals>> {
        let is_open = self.is_open;
        if is_open && self.options.independent {
            // The last line has no newline, but its end is scored.
            self.put(None)?;
        }
        self.flush()?;
        if is_open && !self.options.independent {
            self.end_line()?;
        }
        Ok((self.lines > 0).then_some(self.total))
    }

    /// Scores the words that wait.
    fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut is_context = self.last.is_none();
        let first = waiting.iter().find(|word| word.id.is_some());
        let without_context = match first {
            Some(first) if is_context && first.word.unknown => self.unknown_after_nothing()?,
            _ => self.uniform(),
        };
        let mut costs = self.costs(&waiting)?.into_iter();
        for Waiting { mut word, id, ends_line } in waiting {
            // The model's own log-probability, unless it does not read the word, or reads it as
            // context only.
            let read = id.is_some();
            let scored = if read && !is_context { costs.next().map(|cost| -cost) } else { None };
            is_context &= !read;
            word.log_probability = if !word.unknown {
                scored
            } else {
                let given = self.options.unknown_log_probability;
                Some(match (read, given) {
                    (true, given) => scored.unwrap_or(without_context) + given.unwrap_or(0.0),
                    (false, given) => given.unwrap_or(self.uniform()),
                })
            };
            self.line.add(&word);
            self.total.add(&word);
            (self.listen)(Scored::Word(&word))?;
            if ends_line {
                is_context |= self.options.independent && self.start.is_none();
                self.end_line()?;
            }
        }
        Ok(())
    }

    /// Log-probability of one of the vocabulary's words drawn at random.
    fn uniform(&self) -> f64 {
        -(self.vocabulary.len() as f64).ln()
    }

    /// Log-probability of `<unk>` as the first word of a text: as after `<eos>`, where a sentence
    /// begins. What comes after it is read without that `<eos>`.
    fn unknown_after_nothing(&mut self) -> Result<f64> {
        let (Some(eos), Some(unk)) = (self.vocabulary.id(EOS), self.vocabulary.id(UNK)) else {
            return Ok(self.uniform());
        };
        let costs = self.predictor.line_costs(&[vec![eos, unk]])?.concat();
        self.predictor.reset()?;
        costs.first().map(|cost| -cost).context("the model gave no cost")
    }

    fn end_line(&mut self) -> Result<()> {
        self.lines += 1;
        let id = self.options.ids.then(|| self.ids.pop_front().unwrap_or_default());
        (self.listen)(Scored::Line { id, totals: std::mem::take(&mut self.line) })
    }

    /// The costs, in nats, of the words that the model reads.
    fn costs(&mut self, words: &[Waiting]) -> Result<Vec<f64>> {
        if !self.options.independent {
            return self.read_on(words);
        }
        let is_whole = |line: &&[Waiting]| line.last().is_some_and(|word| word.ends_line);
        let mut costs = Vec::new();
        let mut lines = words.split_inclusive(|word| word.ends_line);
        if self.within_line
            && let Some(line) = lines.next()
        {
            costs = self.read_on(line)?;
            if is_whole(&line) {
                self.last = self.start;
                self.predictor.reset()?;
                self.within_line = false;
            }
        }
        // Only the last line can lack its end.
        let (whole, open): (Vec<_>, Vec<_>) = lines.partition(is_whole);
        let whole: Vec<Vec<i32>> = whole.into_iter().map(|line| after(self.start, line)).collect();
        costs.extend(self.predictor.line_costs(&whole)?.concat());
        for line in open {
            costs.extend(self.read_on(line)?);
            self.within_line = true;
        }
        Ok(costs)
    }

    /// Reads some words. Returns their costs, except that of the very first word of a text, which
    /// is only context.
    fn read_on(&mut self, words: &[Waiting]) -> Result<Vec<f64>> {
        let text = after(self.last, words);
        self.last = text.last().copied();
        self.predictor.costs(&text)
    }
}

/// The word before some words, and those of them that the model reads.
fn after(last: Option<i32>, words: &[Waiting]) -> Vec<i32> {
    last.into_iter().chain(words.iter().filter_map(|word| word.id)).collect()
}
