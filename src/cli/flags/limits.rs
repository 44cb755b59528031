//! Limits on the vocabulary.

use clap::Args;

use super::numbers::whole;
use crate::reader::Limits;

#[derive(Args)]
#[command(next_help_heading = "Vocabulary (without these flags: all words, as in the original)")]
pub struct LimitFlags {
    /// Keep the N most frequent words, including `<unk>` and `<eos>`; all others are read as
    /// `<unk>`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(2u64..))]
    max_vocab: Option<u64>,
    /// Keep the words that occur at least N times in the training text; all others are read as
    /// `<unk>`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(1u64..))]
    min_count: Option<u64>,
}

impl LimitFlags {
    pub fn limits(&self) -> Limits {
        Limits { max_vocab: self.max_vocab, min_count: self.min_count }
    }
}
