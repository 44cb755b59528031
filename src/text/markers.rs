//! Marks that other toolkits write into their text: `<s>` and `</s>` around a line, a written
//! `<eos>` before the newline that is one, other spellings of `<unk>`.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{EOS, UNK};

/// What becomes of such marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Markers {
    /// They are words, as in the original.
    #[default]
    Keep,
    /// A mark of a line's start is left out, one of its end is the line's end, and other spellings
    /// of `<unk>` are `<unk>`.
    Map,
}

/// How many of these marks a text has. With [`Markers::Keep`], marks that are words of the model
/// are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkerCounts {
    /// `<s>` and the like at the start of a line.
    pub starts: u64,
    /// `</s>` and the like at the end of a line.
    pub ends: u64,
    /// A written `<eos>` before the newline, so that the line has two ends.
    pub eos: u64,
    /// `<UNK>`, `[UNK]`, `<UNKNOWN>` and the like, anywhere.
    pub unknown: u64,
}

const STARTS: [&str; 3] = ["<s>", "<bos>", "<sos>"];
const ENDS: [&str; 2] = ["</s>", EOS];
const UNKNOWN: [&str; 6] = ["<unk>", "<unknown>", "<oov>", "[unk]", "[unknown]", "[oov]"];

fn is_one_of(marks: &[&str], word: &str) -> bool {
    word.starts_with(['<', '[']) && marks.iter().any(|mark| mark.eq_ignore_ascii_case(word))
}

/// Whether a word is a mark that [`Markers::Map`] changes.
pub(crate) fn is_mark(word: &str) -> bool {
    let all = [&STARTS[..], &ENDS, &UNKNOWN];
    word != EOS && word != UNK && all.iter().any(|marks| is_one_of(marks, word))
}

/// Finds the marks in a text.
pub(crate) struct MarkerFilter<'a> {
    markers: Markers,
    /// Says which marks are words of the model: if they are kept, they do not count.
    is_known: &'a dyn Fn(&str) -> bool,
    counts: MarkerCounts,
    within_line: bool,
    /// A mark of a line's end, until the word after it is known.
    held: Option<SmolStr>,
}

impl<'a> MarkerFilter<'a> {
    pub(crate) fn new(markers: Markers, is_known: &'a dyn Fn(&str) -> bool) -> Self {
        let counts = MarkerCounts::default();
        MarkerFilter { markers, is_known, counts, within_line: false, held: None }
    }

    /// Takes the next word, or `None` for a line's end. Passes on to `each` what is to be read.
    pub(crate) fn put(
        &mut self,
        word: Option<&str>,
        each: &mut dyn FnMut(Option<&str>) -> Result<()>,
    ) -> Result<()> {
        if let Some(held) = self.held.take() {
            if word.is_none() {
                self.count_end(&held);
            }
            if word.is_some() || self.markers == Markers::Keep {
                each(Some(&held))?;
            }
        }
        let is_first = !std::mem::replace(&mut self.within_line, word.is_some());
        let Some(text) = word else { return each(None) };
        let map = self.markers == Markers::Map;
        if is_one_of(&ENDS, text) {
            self.held = Some(text.into());
            Ok(())
        } else if is_first && is_one_of(&STARTS, text) {
            self.counts.starts += self.one(text);
            if map { Ok(()) } else { each(word) }
        } else if text != UNK && is_one_of(&UNKNOWN, text) {
            self.counts.unknown += self.one(text);
            each(if map { Some(UNK) } else { word })
        } else {
            each(word)
        }
    }

    /// Passes on the rest of a text that ends without a newline. Returns what was found.
    pub(crate) fn finish(
        mut self,
        each: &mut dyn FnMut(Option<&str>) -> Result<()>,
    ) -> Result<MarkerCounts> {
        if let Some(held) = self.held.take() {
            // A written <eos> is here the only end of its line.
            if held != EOS {
                self.count_end(&held);
            }
            each((self.markers == Markers::Keep).then_some(&held))?;
        }
        Ok(self.counts)
    }

    fn count_end(&mut self, mark: &str) {
        if mark == EOS {
            self.counts.eos += 1;
        } else {
            self.counts.ends += self.one(mark);
        }
    }

    /// 1 for a mark that counts, 0 for one that is a word.
    fn one(&self, mark: &str) -> u64 {
        u64::from(self.markers == Markers::Map || !(self.is_known)(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    /// What is read of a text, `|` for a line's end, and what was found in it.
    fn read(text: &str, markers: Markers, known: &[&str]) -> (String, [u64; 4]) {
        let is_known = |word: &str| known.contains(&word);
        let mut filter = MarkerFilter::new(markers, &is_known);
        let mut found = Vec::new();
        let mut each = |word: Option<&str>| {
            found.push(word.unwrap_or("|").to_owned());
            Ok(())
        };
        words(text).try_for_each(|word| filter.put(word, &mut each)).unwrap();
        let MarkerCounts { starts, ends, eos, unknown } = filter.finish(&mut each).unwrap();
        (found.join(" "), [starts, ends, eos, unknown])
    }

    #[test]
    fn marks_are_counted_and_mapped() {
        let text =
            "<s> a <UNK> </s>\n<s> b [unk] <s> </s> c\n\nd <unk> <UNKNOWN> <eos>\n<s> e </s>";
        let kept =
            "<s> a <UNK> </s> | <s> b [unk] <s> </s> c | | d <unk> <UNKNOWN> <eos> | <s> e </s>";
        assert_eq!(read(text, Markers::Keep, &[]), (kept.into(), [3, 2, 1, 3]));
        let mapped = "a <unk> | b <unk> <s> </s> c | | d <unk> <unk> | e |";
        assert_eq!(read(text, Markers::Map, &[]), (mapped.into(), [3, 2, 1, 3]));
        // Words of the model are no marks, unless they are mapped.
        let known = ["<s>", "</s>", "<UNK>", EOS, UNK];
        assert_eq!(read(text, Markers::Keep, &known), (kept.into(), [0, 0, 1, 2]));
        assert_eq!(read(text, Markers::Map, &known), (mapped.into(), [3, 2, 1, 3]));
    }

    #[test]
    fn other_spellings_and_places() {
        let read = |text, markers| read(text, markers, &[]);
        assert_eq!(read("<BOS> a <EOS>\n<sos> b </S>\n", Markers::Map).0, "a | b |");
        assert_eq!(read("<s> </s>\n<s>\n</s>\n", Markers::Map), ("| | |".into(), [2, 2, 0, 0]));
        // The only end of the last line is no second one.
        assert_eq!(read("a <eos>", Markers::Keep), ("a <eos>".into(), [0; 4]));
        assert_eq!(read("a <eos>", Markers::Map), ("a |".into(), [0; 4]));
        assert_eq!(read("a <eos> b <eos> <eos>\n", Markers::Keep).1, [0, 0, 1, 0]);
        assert_eq!(read("a <eos> b <eos> <eos>\n", Markers::Map).0, "a <eos> b <eos> |");
        let plain = "the <unk> <N> s> [ a ] <sss> eos\n";
        let shown = "the <unk> <N> s> [ a ] <sss> eos |";
        for markers in [Markers::Keep, Markers::Map] {
            assert_eq!(read(plain, markers), (shown.into(), [0; 4]));
        }
    }
}
