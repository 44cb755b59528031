//! `predict`

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;

use super::flags::SavedFlags;
use super::flags::numbers::whole;
use super::generate::{or_eos, prompt_ids};
use crate::config::Precision;
use crate::generate::{NextWord, Sampling};

#[derive(Args)]
pub struct PredictArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// Text that the next word follows, words separated by spaces as in the training text; without
    /// it a new sentence begins
    #[arg(value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// Number of words to print
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    #[arg(value_parser = whole(1u32..))]
    top: u32,
}

impl PredictArgs {
    pub fn run(self) -> Result<()> {
        let saved = self.saved.load()?;
        let vocabulary = &saved.vocabulary;
        let models = saved.views(Precision::Fp32);
        let mut next = NextWord::new(models.iter().collect());
        next.read(&or_eos(prompt_ids(&self.text, vocabulary), vocabulary)?)?;
        let words = Sampling::default().distribution(&next.logits()?)?;
        let mut out = io::stdout().lock();
        for &(id, probability) in words.iter().take(self.top as usize) {
            writeln!(out, "{probability:.6} {}", vocabulary.word(id as i32).unwrap_or_default())?;
        }
        Ok(out.flush()?)
    }
}
