//! `generate`

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::Result;
use clap::Args;

use super::flags::numbers::{real, whole};
use super::flags::{SavedFlags, UsageError};
use super::report::notice;
use crate::config::Precision;
use crate::generate::{Generator, NextWord, Sampling};
use crate::reader::{EOS, UNK, Vocabulary};
use crate::text::words;

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// Beginning of the text, words separated by spaces as in the training text; without it a new
    /// sentence begins
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    prompt: String,
    /// Number of words to write after the prompt; the end of a line counts as a word, as in the
    /// perplexity
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    #[arg(value_parser = whole(0u64..))]
    words: u64,
    /// Never write `<unk>`: the other words have its share of the probability
    #[arg(long, help_heading = "Sampling")]
    no_unk: bool,
    /// Below 1 makes likely words likelier, above 1 less likely; 0 always takes the likeliest word
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    #[arg(value_parser = real, help_heading = "Sampling")]
    temperature: f64,
    /// Choose among the N likeliest words only
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(1u64..), help_heading = "Sampling")]
    top_k: Option<u64>,
    /// Choose among the likeliest words only: as few as have a total probability of at least P,
    /// which is above 0 and at most 1
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    #[arg(value_parser = real, help_heading = "Sampling")]
    top_p: f64,
    /// Random seed; the same seed gives the same text (ChaCha8, one number for each word)
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    #[arg(value_parser = whole::<i64>(..), help_heading = "Sampling")]
    seed: i64,
}

impl GenerateArgs {
    pub fn run(self) -> Result<()> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            top_p: self.top_p,
        };
        sampling.validate().map_err(UsageError::from)?;
        self.refuse_ignored_flags()?;
        let saved = self.saved.load()?;
        let vocabulary = &saved.vocabulary;
        let models = saved.views(Precision::Fp32);
        let next = NextWord::new(models.iter().map(|model| model as _).collect());
        let mut generator = Generator::with(next, sampling, self.seed as u64)?;
        if let Some(unk) = vocabulary.id(UNK).filter(|_| self.no_unk) {
            generator = generator.without(unk);
        }
        let mut text = Text { out: io::stdout().lock(), in_line: false };
        let mut put = |id: i32| text.put(vocabulary.word(id).unwrap_or_default());

        let prompt = Prompt::new(&self.prompt, vocabulary);
        prompt.say_unknown(vocabulary);
        for &id in &prompt.ids {
            put(id)?;
        }
        generator.read(&prompt.begin(vocabulary))?;
        for _ in 0..self.words {
            put(generator.next_word()?)?;
        }
        text.end()
    }

    /// Refuses flags that the others leave without effect.
    fn refuse_ignored_flags(&self) -> Result<(), UsageError> {
        let choices = [("top_k", self.top_k.is_some()), ("top_p", self.top_p < 1.0)];
        match choices.iter().find(|(_, given)| *given && self.temperature == 0.0) {
            Some((flag, _)) => Err(UsageError::no_effect(flag, "with --temperature 0")),
            None => Ok(()),
        }
    }
}

/// A text to continue.
pub struct Prompt {
    /// What the model reads. Unknown words are `<unk>` or, where a model has none, left out.
    pub ids: Vec<i32>,
    /// The words that the model does not know, in the order of the text.
    pub unknown: Vec<String>,
}

impl Prompt {
    pub fn new(text: &str, vocabulary: &Vocabulary) -> Self {
        let (mut ids, mut unknown) = (Vec::new(), Vec::new());
        for word in words(text).map(|word| word.unwrap_or(EOS)) {
            if vocabulary.id(word).is_none() {
                unknown.push(word.to_owned());
            }
            ids.extend(vocabulary.id(word).or(vocabulary.id(UNK)));
        }
        Prompt { ids, unknown }
    }

    /// Says which words are unknown, and what became of them.
    pub fn say_unknown(&self, vocabulary: &Vocabulary) {
        let unknown: BTreeSet<&str> = self.unknown.iter().map(String::as_str).collect();
        if unknown.is_empty() {
            return;
        }
        let what = if vocabulary.id(UNK).is_some() {
            "read as <unk>"
        } else {
            "left out, as the model has no <unk>"
        };
        let words: Vec<&str> = unknown.into_iter().collect();
        notice(&format!("not in the model's vocabulary, {what}: {}", words.join(", ")));
    }

    /// What the model reads before it says what comes next: the prompt or, if there is nothing to
    /// read in it, `<eos>`, since a new sentence comes after the end of one. A model of a text
    /// without lines has no `<eos>`: then it is the most frequent word, which is said.
    pub fn begin(&self, vocabulary: &Vocabulary) -> Vec<i32> {
        if !self.ids.is_empty() {
            return self.ids.clone();
        }
        vec![vocabulary.id(EOS).unwrap_or_else(|| {
            let most_frequent = vocabulary.word(0).unwrap_or_default();
            notice(&format!(
                "the model has no {EOS} to begin after: the text goes on after its most frequent \
                 word, {most_frequent}"
            ));
            0
        })]
    }
}

/// Writes words as they come, with `<eos>` as the end of the line that it stands for.
struct Text<W: Write> {
    out: W,
    in_line: bool,
}

impl<W: Write> Text<W> {
    fn put(&mut self, word: &str) -> Result<()> {
        if word == EOS {
            writeln!(self.out)?;
        } else {
            write!(self.out, "{}{word}", if self.in_line { " " } else { "" })?;
        }
        self.in_line = word != EOS;
        Ok(self.out.flush()?)
    }

    /// Ends the last line.
    fn end(&mut self) -> Result<()> {
        if self.in_line {
            writeln!(self.out)?;
        }
        Ok(())
    }
}
