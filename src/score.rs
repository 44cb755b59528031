//! How likely a text is to a model: the log-probability of every word after all words before it.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::model::PtbModel;
use crate::reader::{EOS, TextReader, UNK, Vocabulary, words};
use crate::rnn::State;

/// Words that go through the model at once.
const PIECE: usize = 400;

/// A word of a scored text.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As it stands in the text; a line's end is `<eos>`.
    pub word: String,
    /// Whether the vocabulary does not have it: it was then scored as `<unk>`, or left out where there is no `<unk>`.
    pub unknown: bool,
    /// ln p(word | all words before) in nats; none for a word that was not scored: the first of a text, which is only context, or
    /// one left out.
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

/// Scores texts with a model.
pub struct Scorer<'a> {
    /// A view that is not training.
    pub model: &'a PtbModel<'a>,
    /// Its words.
    pub vocabulary: &'a Vocabulary,
    /// Each line is a text of its own: it begins with the zero state after `<eos>`, all its words are scored, and its end is too, even if
    /// the last line has none. Otherwise the text is one, as in the evaluation of a test text: the state goes on from line to line, and the
    /// very first word is only context.
    pub independent: bool,
}

/// Words of the current line that wait for the model.
#[derive(Default)]
struct Pending {
    words: Vec<Word>,
    /// Ids of those that the model reads; `None` in place of one that is left out.
    ids: Vec<Option<i32>>,
}

impl Scorer<'_> {
    /// Scores a text as it comes, telling `listen` every word and every line; in memory that does not grow with the text. `name` is for messages.
    ///
    /// # Errors
    /// An empty text, one that is not UTF-8 (with line and byte), one without a word to score; or what `listen` returns.
    pub fn score(
        &self,
        text: impl Read + 'static,
        name: &str,
        listen: &mut dyn FnMut(Scored) -> Result<()>,
    ) -> Result<Totals> {
        let mut text = TextReader::new(Box::new(text), name.to_owned());
        let eos = self.vocabulary.id(EOS);
        let start =
            if self.independent {
                Some(eos.with_context(|| {
                    format!("the model has no {EOS}, after which an independent line begins")
                })?)
            } else {
                None
            };
        let mut state = self.model.zero_state(1);
        // The word before the next one.
        let mut last = start;
        let (mut total, mut line) = (Totals::default(), Totals::default());
        let mut pending = Pending::default();
        let (mut lines, mut open) = (0u64, false);
        while let Some(piece) = text.next_piece()? {
            for word in words(piece) {
                open = word.is_some();
                self.put(word.unwrap_or(EOS), &mut pending);
                if open && pending.words.len() < PIECE {
                    continue;
                }
                self.flush(&mut pending, &mut last, &mut state, &mut line, &mut total, listen)?;
                if !open {
                    lines += 1;
                    listen(Scored::Line(std::mem::take(&mut line)))?;
                    if self.independent {
                        (last, state) = (start, self.model.zero_state(1));
                    }
                }
            }
        }
        if open {
            // The last line has no newline.
            if self.independent {
                self.put(EOS, &mut pending);
            }
            self.flush(&mut pending, &mut last, &mut state, &mut line, &mut total, listen)?;
            lines += 1;
            listen(Scored::Line(line))?;
        }
        ensure!(lines > 0, "{name}: there is nothing to score: the text is empty");
        Ok(total)
    }

    fn put(&self, word: &str, pending: &mut Pending) {
        let id = self.vocabulary.id(word);
        pending.words.push(Word { word: word.to_owned(), unknown: id.is_none(), log_probability: None });
        pending.ids.push(id.or_else(|| self.vocabulary.id(UNK)));
    }

    /// Runs the model over the words that wait.
    fn flush(
        &self,
        pending: &mut Pending,
        last: &mut Option<i32>,
        state: &mut State,
        line: &mut Totals,
        total: &mut Totals,
        listen: &mut dyn FnMut(Scored) -> Result<()>,
    ) -> Result<()> {
        let Pending { words, ids } = std::mem::take(pending);
        let known: Vec<i64> =
            last.iter().copied().chain(ids.iter().copied().flatten()).map(i64::from).collect();
        let mut log_probs = Vec::new().into_iter();
        if known.len() > 1 {
            let (x, y) = (&known[..known.len() - 1], &known[1..]);
            let (logits, next) = self.model.logits(&Tensor::f_from_slice(x)?.f_unsqueeze(0)?, state)?;
            *state = next;
            let y = Tensor::f_from_slice(y)?.f_unsqueeze(1)?.f_to_device(logits.device())?;
            let scores = logits.f_log_softmax(1, Kind::Float)?.f_gather(1, &y, false)?.f_squeeze_dim(1)?;
            log_probs = Vec::<f64>::try_from(scores.f_to_kind(Kind::Double)?)?.into_iter();
        }
        let mut is_context = last.is_none();
        for (mut word, id) in words.into_iter().zip(ids) {
            if id.is_some() && !std::mem::take(&mut is_context) {
                word.log_probability = log_probs.next();
            }
            line.add(&word);
            total.add(&word);
            listen(Scored::Word(&word))?;
        }
        *last = known.last().map(|&id| id as i32);
        Ok(())
    }
}
