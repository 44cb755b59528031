//! How likely a text is to a model: the log-probability of every word after all words before it.

use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Error, Result, ensure};

use crate::predictor::Predictor;
use crate::reader::{EOS, TextReader, UNK, Vocabulary, words};

/// Words that are scored together, so that the memory does not grow with the text.
const WINDOW: usize = 1 << 17;

/// A word of a scored text.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As it stands in the text; a line's end is `<eos>`.
    pub word: String,
    /// Whether the vocabulary does not have it: it was then scored as `<unk>`, or left out where
    /// there is no `<unk>`.
    pub unknown: bool,
    /// ln p(word | all words before) in nats; none for a word that was not scored: the first of a
    /// text, which is only context, or one left out.
    pub log_probability: Option<f64>,
}

/// Sums over a text or a line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// ln p(text), in nats.
    pub log_probability: f64,
    /// Words that were scored, lines' ends included.
    pub words: u64,
    /// Words that the vocabulary does not have.
    pub unknown: u64,
}

impl Totals {
    /// `exp(-log_probability / words)`; none if no word was scored.
    pub fn perplexity(&self) -> Option<f64> {
        (self.words > 0).then(|| (-self.log_probability / self.words as f64).exp())
    }

    fn add(&mut self, word: &Word) {
        self.log_probability += word.log_probability.unwrap_or(0.0);
        self.words += u64::from(word.log_probability.is_some());
        self.unknown += u64::from(word.unknown);
    }
}

/// What is told of a text while it is scored.
pub enum Scored<'a> {
    /// One word, in order.
    Word(&'a Word),
    /// A line is over; its sums.
    Line(Totals),
}

/// Scores texts.
pub struct Scorer<'a> {
    /// Gives the words their probabilities: a model, or several.
    pub predictor: &'a mut dyn Predictor,
    /// Its words.
    pub vocabulary: &'a Vocabulary,
    /// Each line is a text of its own: it begins with the zero state after `<eos>`, all its words
    /// are scored, and its end is too, even if the last line has none. Otherwise the text is one,
    /// as in the evaluation of a test text: the state goes on from line to line, and the very first
    /// word is only context.
    pub independent: bool,
}

impl Scorer<'_> {
    /// Scores a text, telling `listen` every word and every line in order; in memory that does not
    /// grow with the text. `name` is for messages.
    ///
    /// Many words are scored together. Where somebody waits for an answer, `text` should fail with
    /// [`ErrorKind::WouldBlock`] at a pause: all words before it are then scored, and reading goes
    /// on.
    ///
    /// # Errors
    /// An empty text, one that is not UTF-8 (with line and byte), one without a word to score; or
    /// what `listen` returns.
    pub fn score(
        &mut self,
        text: impl Read + 'static,
        name: &str,
        listen: &mut dyn FnMut(Scored) -> Result<()>,
    ) -> Result<Totals> {
        let mut text = TextReader::new(Box::new(text), name.to_owned());
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
            words(piece).try_for_each(|word| scoring.put(word))?;
        }
        let total = scoring.finish()?;
        total.with_context(|| format!("{name}: there is nothing to score: the text is empty"))
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
    independent: bool,
    listen: &'a mut dyn FnMut(Scored) -> Result<()>,
    /// The word that an independent line follows.
    start: Option<i32>,
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
        let Scorer { predictor, vocabulary, independent } = scorer;
        let eos = vocabulary.id(EOS);
        ensure!(
            eos.is_some() || !*independent,
            "the model has no {EOS}, after which an independent line begins"
        );
        let start = eos.filter(|_| *independent);
        predictor.reset()?;
        Ok(Scoring {
            predictor: *predictor,
            vocabulary,
            independent: *independent,
            listen,
            start,
            waiting: Vec::new(),
            is_open: false,
            last: start,
            within_line: false,
            line: Totals::default(),
            total: Totals::default(),
            lines: 0,
        })
    }

    /// Adds the next word; none is a line's end.
    fn put(&mut self, word: Option<&str>) -> Result<()> {
        let (text, vocabulary) = (word.unwrap_or(EOS), self.vocabulary);
        let id = vocabulary.id(text);
        self.waiting.push(Waiting {
            word: Word { word: text.to_owned(), unknown: id.is_none(), log_probability: None },
            id: id.or_else(|| vocabulary.id(UNK)),
            ends_line: word.is_none(),
        });
        self.is_open = word.is_some();
        if self.waiting.len() >= WINDOW { self.flush() } else { Ok(()) }
    }

    /// Scores the rest. Returns the sums, or none if there was no line at all.
    fn finish(mut self) -> Result<Option<Totals>> {
        let is_open = self.is_open;
        if is_open && self.independent {
            // The last line has no newline, but its end is scored.
            self.put(None)?;
        }
        self.flush()?;
        if is_open && !self.independent {
            self.end_line()?;
        }
        Ok((self.lines > 0).then_some(self.total))
    }

    /// Scores the words that wait.
    fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut is_context = self.last.is_none();
        let mut costs = self.costs(&waiting)?.into_iter();
        for Waiting { mut word, id, ends_line } in waiting {
            if id.is_some() && !std::mem::take(&mut is_context) {
                word.log_probability = costs.next().map(|cost| -cost);
            }
            self.line.add(&word);
            self.total.add(&word);
            (self.listen)(Scored::Word(&word))?;
            if ends_line {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        self.lines += 1;
        (self.listen)(Scored::Line(std::mem::take(&mut self.line)))
    }

    /// The costs, in nats, of the words that the model reads.
    fn costs(&mut self, words: &[Waiting]) -> Result<Vec<f64>> {
        if !self.independent {
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
