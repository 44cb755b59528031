//! Vocabularies as lists of words, their differences, and data with the ids of another vocabulary.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use indexmap::IndexSet;
use smol_str::SmolStr;

use super::{RawData, Vocabulary};
use crate::text::{TextReader, words};

impl Vocabulary {
    /// Reads a list of words from a file: one word a line, whose id is the number of the line,
    /// counted from 0.
    ///
    /// # Errors
    /// As [`Self::from_list`]; a file that cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // It may be a pipe.
        let file = File::open(path).with_context(|| format!("{name}: cannot be read"))?;
        Self::from_list(Box::new(file), name)
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
        let words = if found.len() == 1 { "word" } else { "words" };
        ensure!(found.len() > 1, "{name}: a list of {} {words}; expected at least 2", found.len());
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
}

impl RawData {
    /// Gives the words the ids that they have in `vocabulary`.
    ///
    /// # Errors
    /// A word that `vocabulary` does not have.
    pub fn renumber(&mut self, vocabulary: &Vocabulary) -> Result<()> {
        if self.vocabulary == *vocabulary {
            return Ok(());
        }
        let id = |word| {
            let id = vocabulary.id(word);
            id.with_context(|| format!("the word {word:?} is not in the vocabulary"))
        };
        let ids = self.vocabulary.words().map(id).collect::<Result<Vec<i32>>>()?;
        for split in [&mut self.train, &mut self.valid, &mut self.test] {
            split.renumber(&ids);
        }
        self.vocabulary = vocabulary.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_list_may_come_through_a_pipe() {
        let (list, mut program) = std::io::pipe().unwrap();
        program.write_all(b"a\nb\n").unwrap();
        drop(program);
        let words = Vocabulary::read(format!("/dev/fd/{}", list.as_raw_fd())).unwrap();
        assert_eq!(words.to_list(), "a\nb\n");
    }
}
