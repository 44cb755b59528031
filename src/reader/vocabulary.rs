//! Words and their ids.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use indexmap::{IndexMap, IndexSet};
use smol_str::SmolStr;

use super::limits::Limits;
use crate::text::UNK;

/// The words of a model. A word's id is its position; [`RawData::read`](super::RawData::read) ranks
/// them by count, then by word.
#[derive(Clone, Default)]
pub struct Vocabulary {
    // Shared, since each checkpoint holds the vocabulary.
    pub(super) words: Arc<IndexSet<SmolStr>>,
}

/// Two vocabularies are equal if they give the same words the same ids.
impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.words.as_slice() == other.words.as_slice()
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.words()).finish()
    }
}

impl Vocabulary {
    /// The vocabulary of words with these counts, ranked as in the original's `_build_vocab`.
    pub fn from_counts(counts: HashMap<String, u64>) -> Self {
        let counts = counts.into_iter().map(|(word, count)| (word.into(), count));
        Counts(counts.collect()).rank(Limits::default()).vocabulary
    }

    /// A vocabulary whose ids are the positions in `words`. A word that occurs again is skipped.
    pub fn from_words(words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let words: IndexSet<SmolStr> = words.into_iter().map(|word| word.as_ref().into()).collect();
        Vocabulary { words: words.into() }
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns true if there are no words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Returns the id of `word`, or `None` if the word is unknown.
    pub fn id(&self, word: &str) -> Option<i32> {
        self.words.get_index_of(word).map(|id| id as i32)
    }

    /// Returns the word with this id.
    pub fn word(&self, id: i32) -> Option<&str> {
        self.words.get_index(usize::try_from(id).ok()?).map(SmolStr::as_str)
    }

    /// All words in the order of their ids.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        self.words.iter().map(SmolStr::as_str)
    }
}

/// Words of the training text and their counts, numbered in the order of their first occurrence.
#[derive(Default)]
pub(super) struct Counts(IndexMap<SmolStr, u64>);

/// Result of [`Counts::rank`].
pub(super) struct Ranked {
    pub vocabulary: Vocabulary,
    /// The id of each word by its number in [`Counts`].
    pub ids: Vec<i32>,
    /// Occurrences of words outside of the limits.
    pub replaced: u64,
}

impl Counts {
    /// Counts one occurrence of `word`, and returns the word's number.
    pub fn add(&mut self, word: &str) -> Result<i32> {
        let number = match self.0.get_full_mut(word) {
            Some((number, _, count)) => {
                *count += 1;
                number
            }
            None => self.0.insert_full(word.into(), 1).0,
        };
        i32::try_from(number).context("the text has more different words than there are ids")
    }

    /// Gives the words their ids: the original's `_build_vocab`, which sorts by count, and words of
    /// equal count by code point, as Python does.
    pub fn rank(mut self, limits: Limits) -> Ranked {
        limits.add_special(&mut self.0);
        let numbers = self.0.len();
        let mut words: Vec<Word> = self
            .0
            .into_iter()
            .enumerate()
            .map(|(number, (word, count))| Word { number, word, count })
            .collect();
        words.sort_unstable_by(Word::by_rank);
        let replaced = limits.apply(&mut words);

        // Without limits every word gets an id of its own.
        let unk_id = words.iter().position(|word| word.word == UNK).unwrap_or_default();
        let mut ids = vec![unk_id as i32; numbers];
        for (id, word) in words.iter().enumerate() {
            ids[word.number] = id as i32;
        }
        let words: IndexSet<SmolStr> = words.into_iter().map(|word| word.word).collect();
        Ranked { vocabulary: Vocabulary { words: words.into() }, ids, replaced }
    }
}

/// A counted word.
pub(super) struct Word {
    /// Its number in [`Counts`].
    number: usize,
    pub word: SmolStr,
    pub count: u64,
}

impl Word {
    /// The order of the ids: by count, descending, then by word.
    pub fn by_rank(a: &Word, b: &Word) -> Ordering {
        b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word))
    }
}
