//! `predict`

use std::io::{self, Write};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::flags::numbers::whole;
use super::flags::{Saved, SavedFlags};
use super::generate::Prompt;
use super::report::say_waiting;
use crate::config::Precision;
use crate::generate::{NextWord, Sampling};
use crate::model::PtbModel;
use crate::text::{TextReader, words};

#[derive(Args)]
pub struct PredictArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// Text that the next word follows, words separated by spaces as in the training text; an empty
    /// one is the beginning of a sentence [default: standard input, where each line is a prompt]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Number of words to print
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    #[arg(value_parser = whole(1u32..))]
    top: u32,
    /// Print JSON: an object for each prompt
    #[arg(long)]
    json: bool,
}

impl PredictArgs {
    pub fn run(self) -> Result<()> {
        if self.prompt.is_none() {
            say_waiting("prompts");
        }
        let saved = self.saved.load()?;
        let models = saved.views(Precision::Fp32);
        if let Some(prompt) = &self.prompt {
            return self.answer(prompt, &saved, &models);
        }
        let mut text = TextReader::new(Box::new(io::stdin()), "standard input".into());
        let (mut line, mut is_open, mut lines) = (Vec::<String>::new(), false, 0);
        while let Some(piece) = text.next_piece()? {
            for word in words(piece) {
                is_open = word.is_some();
                if let Some(word) = word {
                    line.push(word.to_owned());
                } else {
                    self.answer(&std::mem::take(&mut line).join(" "), &saved, &models)?;
                    lines += 1;
                }
            }
        }
        if is_open {
            self.answer(&line.join(" "), &saved, &models)?;
            lines += 1;
        }
        ensure!(lines > 0, "standard input: there is no prompt: the text is empty");
        Ok(())
    }

    /// Prints what comes after a prompt.
    fn answer(&self, text: &str, saved: &Saved, models: &[PtbModel]) -> Result<()> {
        let vocabulary = &saved.vocabulary;
        let prompt = Prompt::new(text, vocabulary);
        prompt.say_unknown(vocabulary);
        let mut next = NextWord::new(models.iter().map(|model| model as _).collect());
        next.read(&prompt.begin(vocabulary))?;
        let likeliest = Sampling::default().distribution(&next.logits()?)?;
        let likeliest = likeliest.iter().take(self.top as usize);
        let word = |id: usize| vocabulary.word(id as i32).unwrap_or_default();
        let mut out = io::stdout().lock();
        if self.json {
            let next: Vec<Value> = likeliest
                .map(|&(id, probability)| {
                    let log_probability = probability.ln();
                    json!({
                        "word": word(id),
                        "probability": probability,
                        "log_probability": log_probability,
                    })
                })
                .collect();
            let object = json!({
                "event": "prediction",
                "prompt": text,
                "unknown": prompt.unknown.len(),
                "next": next,
            });
            writeln!(out, "{object}")?;
        } else {
            if self.prompt.is_none() {
                // A line of standard input is shown above its answer.
                writeln!(out, "> {text}")?;
            }
            for &(id, probability) in likeliest {
                writeln!(out, "{probability:.6} {}", word(id))?;
            }
        }
        Ok(out.flush()?)
    }
}
