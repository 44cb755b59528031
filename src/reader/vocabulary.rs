//! Words and their ids.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::text::{TextReader, words};
use super::{EOS, UNK};

/// Words and their ids. An id is a word's rank in the training text, by count in descending order
/// and then by word.
#[derive(Clone, Default)]
pub struct Vocabulary {
    // Shared, since each checkpoint holds the vocabulary.
    words: Arc<IndexSet<SmolStr>>,
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
    /// The original's `_build_vocab`: sorts by count, and words of equal count by code point, as
    /// Python does.
    pub fn from_counts(counts: HashMap<String, u64>) -> Self {
        let counts = counts.into_iter().map(|(word, count)| (word.into(), count));
        Counts(counts.collect()).rank(Limits::default()).vocabulary
    }

    /// A vocabulary whose ids are the positions in `words`. A word that occurs again is skipped.
    pub fn from_words(words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let words: IndexSet<SmolStr> = words.into_iter().map(|word| word.as_ref().into()).collect();
        Vocabulary { words: words.into() }
    }

    /// Reads a list of words from a file: one word a line, whose id is the number of the line,
    /// counted from 0.
    ///
    /// # Errors
    /// As [`Self::from_list`]; a file that cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file =
            File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        Self::from_list(Box::new(file), path.display().to_string())
    }

    /// Reads a list of words, as [`Self::to_list`] writes it. Messages call it `name`.
    ///
    /// # Errors
    /// Text that is not UTF-8; a line of no word or of several, unless it is blank and at the end;
    /// a word that is there twice; fewer than two words.
    pub fn from_list(list: Box<dyn Read>, name: String) -> Result<Self> {
        let mut text = TextReader::new(list, name.clone());
        let mut found: IndexSet<SmolStr> = IndexSet::new();
        let (mut line, mut blank) = (1, None);
        while let Some(piece) = text.next_piece()? {
            let on_line: Vec<&str> = words(piece).flatten().collect();
            match (&on_line[..], blank) {
                ([], _) => blank = blank.or(Some(line)),
                ([_], Some(blank)) => {
                    bail!("{name}: line {blank} is blank; a list of words has one word a line")
                }
                ([word], None) => {
                    let (id, is_new) = found.insert_full((*word).into());
                    ensure!(
                        is_new,
                        "{name}: line {line} has the word {word:?} of line {} again",
                        id + 1
                    );
                }
                (several, _) => bail!(
                    "{name}: line {line} has {} words, {:?} and so on; a list of words has one \
                     word a line",
                    several.len(),
                    several[..2].join(" ")
                ),
            }
            line += 1;
        }
        ensure!(found.len() > 1, "{name}: a list of {} words; expected at least 2", found.len());
        Ok(Vocabulary { words: found.into() })
    }

    /// The words as text, one a line, in the order of their ids.
    pub fn to_list(&self) -> String {
        self.words().flat_map(|word| [word, "\n"]).collect()
    }

    /// True if both have the same words, whatever their ids.
    pub fn has_words_of(&self, other: &Self) -> bool {
        self.len() == other.len() && other.words().all(|word| self.id(word).is_some())
    }

    /// The first difference to the words that are at hand, for a message; none if all words have
    /// the same ids.
    pub fn difference(&self, here: &Self) -> Option<String> {
        let (there, len) = (self.len(), here.len());
        let lengths = (there != len).then(|| format!("it has {there} words, and here are {len}"));
        let differ = |(id, (there, here)): (usize, (&str, &str))| {
            (there != here).then(|| format!("word {id} is {there:?} there and {here:?} here"))
        };
        let word = self.words().zip(here.words()).enumerate().find_map(differ);
        let all: Vec<String> = lengths.into_iter().chain(word).collect();
        (!all.is_empty()).then(|| all.join("; "))
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
    pub left_out: u64,
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

    /// Gives the words their ids.
    pub fn rank(mut self, limits: Limits) -> Ranked {
        if !limits.is_none() {
            for word in [UNK, EOS] {
                self.0.entry(word.into()).or_insert(0);
            }
        }
        let numbers = self.0.len();
        let mut words: Vec<Word> = self
            .0
            .into_iter()
            .enumerate()
            .map(|(number, (word, count))| Word { number, word, count })
            .collect();
        words.sort_unstable_by(Word::by_rank);
        let left_out = if limits.is_none() { 0 } else { limit(&mut words, limits) };

        let unknown = words.iter().position(|word| word.word == UNK).unwrap_or(0);
        let mut ids = vec![unknown as i32; numbers];
        for (id, word) in words.iter().enumerate() {
            ids[word.number] = id as i32;
        }
        let words: IndexSet<SmolStr> = words.into_iter().map(|word| word.word).collect();
        Ranked { vocabulary: Vocabulary { words: words.into() }, ids, left_out }
    }
}

/// A counted word.
struct Word {
    /// Its number in [`Counts`].
    number: usize,
    word: SmolStr,
    count: u64,
}

impl Word {
    fn by_rank(a: &Word, b: &Word) -> std::cmp::Ordering {
        b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word))
    }
}

/// Removes the words outside of the limits, counts them as `<unk>`, and returns how many
/// occurrences they had. `words` is sorted, before and afterwards.
fn limit(words: &mut Vec<Word>, limits: Limits) -> u64 {
    let is_special = |word: &Word| matches!(word.word.as_str(), UNK | EOS);
    let special = words.iter().filter(|word| is_special(word)).count() as u64;
    let mut room = limits.max_vocab.unwrap_or(u64::MAX).saturating_sub(special);
    let mut left_out = 0;
    words.retain(|word| {
        if is_special(word) {
            return true;
        }
        let is_kept = room > 0 && word.count >= limits.min_count.unwrap_or(0);
        if is_kept {
            room -= 1;
        } else {
            left_out += word.count;
        }
        is_kept
    });
    if let Some(unknown) = words.iter_mut().find(|word| word.word == UNK) {
        unknown.count += left_out;
    }
    words.sort_unstable_by(Word::by_rank);
    left_out
}
