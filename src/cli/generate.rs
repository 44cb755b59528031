//! `generate`

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::Args;

use super::report::notice;
use super::saved::{Saved, SavedFlags};
use crate::generate::{Generator, Sampling};
use crate::model::PtbModel;
use crate::reader::{EOS, UNK, Vocabulary, words};

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// What the text begins with, words separated by spaces as in the training text; without it a new sentence begins
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    prompt: String,
    /// Words to write after the prompt; a line's end is one, as in the perplexity
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    words: u64,
    /// Below 1 likely words become likelier, above 1 less so; 0 always takes the likeliest word
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    temperature: f64,
    /// Choose among the N likeliest words only
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Sampling")]
    top_k: Option<u64>,
    /// Choose among the fewest likeliest words whose probabilities add up to P, above 0 and at most 1
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    top_p: f64,
    /// The same seed gives the same text (ChaCha8, one number for every word)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    seed: i64,
}

impl GenerateArgs {
    pub fn run(self) -> Result<()> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            top_p: self.top_p,
        };
        sampling.validate()?;
        let Saved { vocabulary, variables, mode } = self.saved.load()?;
        let model = PtbModel::new(&variables, false, mode);
        let mut generator = Generator::new(&model, sampling, self.seed as u64)?;
        let mut text = Text { out: io::stdout().lock(), in_line: false };
        let mut put = |id: i32| text.put(vocabulary.word(id).unwrap_or_default());

        let prompt = prompt_ids(&self.prompt, &vocabulary);
        for &id in &prompt {
            put(id)?;
        }
        if prompt.is_empty() {
            // A new sentence comes after the end of one.
            let eos = vocabulary.id(EOS);
            generator.read(&[eos.with_context(|| {
                format!("the model has no {EOS} to begin after: give it a --prompt of words that it knows")
            })?])?;
        }
        generator.read(&prompt)?;
        for _ in 0..self.words {
            put(generator.next_word()?)?;
        }
        text.end()
    }
}

/// The ids of a prompt's words. Unknown words become `<unk>` or, where a model has none, are left out; that is said.
fn prompt_ids(prompt: &str, vocabulary: &Vocabulary) -> Vec<i32> {
    let mut unknown = BTreeSet::new();
    let mut ids = Vec::new();
    for word in words(prompt).map(|word| word.unwrap_or(EOS)) {
        if vocabulary.id(word).is_none() {
            unknown.insert(word);
        }
        ids.extend(vocabulary.id(word).or(vocabulary.id(UNK)));
    }
    if !unknown.is_empty() {
        let what = if vocabulary.id(UNK).is_some() {
            "read as <unk>"
        } else {
            "left out, as the model has no <unk>"
        };
        let words: Vec<&str> = unknown.into_iter().collect();
        notice(&format!("not in the model's vocabulary, {what}: {}", words.join(", ")));
    }
    ids
}

/// Words on standard output as they come, with `<eos>` as the line's end that it stands for.
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
