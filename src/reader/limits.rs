//! A vocabulary that is smaller than the training text's.

use std::cmp::Ordering;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::text::{EOS, UNK};

/// Limits on the size of the vocabulary.
///
/// With a limit, a word outside of the vocabulary is read as `<unk>` in all three texts; `<unk>`
/// and `<eos>` are always in it, even if the training text does not have them. Without one, the
/// vocabulary has all words of the training text, and words of the other texts that are not in it
/// are dropped, as in the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest number of words, including `<unk>` and `<eos>`. The most frequent words are kept.
    #[serde(default)]
    pub max_vocab: Option<u64>,
    /// Smallest number of occurrences of a word in the training text.
    #[serde(default)]
    pub min_count: Option<u64>,
}

impl Limits {
    /// True if no limit is set, as for PTB.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }

    /// Counts `<unk>` and `<eos>`, which are always in a limited vocabulary.
    pub(super) fn add_special(&self, counts: &mut IndexMap<SmolStr, u64>) {
        if !self.is_none() {
            for word in [UNK, EOS] {
                counts.entry(word.into()).or_insert(0);
            }
        }
    }

    /// Removes the words outside of the limits, counts them as `<unk>`, and returns how many
    /// occurrences they had. `words` is sorted, before and afterwards.
    pub(super) fn apply(&self, words: &mut Vec<Word>) -> u64 {
        if self.is_none() {
            return 0;
        }
        let is_special = |word: &Word| matches!(word.word.as_str(), UNK | EOS);
        let special = words.iter().filter(|word| is_special(word)).count() as u64;
        let mut room = self.max_vocab.unwrap_or(u64::MAX).saturating_sub(special);
        let mut replaced = 0;
        words.retain(|word| {
            if is_special(word) {
                return true;
            }
            let is_kept = room > 0 && word.count >= self.min_count.unwrap_or(0);
            if is_kept {
                room -= 1;
            } else {
                replaced += word.count;
            }
            is_kept
        });
        if let Some(unknown) = words.iter_mut().find(|word| word.word == UNK) {
            unknown.count += replaced;
        }
        words.sort_unstable_by(Word::by_rank);
        replaced
    }
}

/// A counted word.
pub(super) struct Word {
    /// Its number, in the order of the first occurrences.
    pub number: usize,
    pub word: SmolStr,
    pub count: u64,
}

impl Word {
    /// The order of the ids: by count, descending, then by word.
    pub fn by_rank(a: &Word, b: &Word) -> Ordering {
        b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word))
    }
}
