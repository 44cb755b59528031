//! The original's `reader.py`: three texts as token ids, their vocabulary, and the producer of
//! batches.
//!
//! A text is read once, line by line, and kept as token ids. Memory is 4 bytes a token and the
//! vocabulary, whatever the size of the files.

mod limits;
mod producer;
mod vocabulary;
mod word_list;

use std::sync::Arc;

use anyhow::{Result, ensure};

pub use crate::text::{EOS, MarkerCounts, Markers, NAMINGS, NoTexts, ReadProgress, SAMPLE, UNK};
use crate::text::{TextReader, open_texts};
pub use limits::Limits;
pub use producer::Producer;
pub(crate) use producer::inputs_and_targets;
pub use vocabulary::Vocabulary;
use vocabulary::{Counts, Ranked};

/// One of the three texts, as token ids.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// The file's path, for messages.
    pub name: String,
    /// Token ids in the order of the text, with `<eos>` for each line's end. Producers share them.
    pub tokens: Arc<Vec<i32>>,
    /// Words outside of the vocabulary that were dropped, as the original drops them.
    pub dropped: u64,
    /// Words outside of the vocabulary that were read as `<unk>`, because of [`Limits`].
    pub replaced: u64,
    /// Marks of other toolkits in it.
    pub markers: MarkerCounts,
    /// MD5 of the file's bytes, in hexadecimal.
    pub md5: String,
}

/// The original's `ptb_raw_data`: three texts, and the vocabulary of the training text.
#[derive(Clone, Debug)]
pub struct RawData {
    /// The training text.
    pub train: Split,
    /// The validation text.
    pub valid: Split,
    /// The test text.
    pub test: Split,
    /// Words of the training text.
    pub vocabulary: Vocabulary,
}

impl RawData {
    /// Reads the training, validation and test text in the folder `data_path`, which has them under
    /// one of the [`NAMINGS`]. [`SAMPLE`] stands for the embedded corpus.
    ///
    /// # Errors
    /// [`NoTexts`] for a folder that is missing, incomplete or ambiguous; an empty file; text that
    /// is not UTF-8 (with line and byte); a vocabulary of one word.
    pub fn read(data_path: &str) -> Result<Self> {
        Self::read_with(data_path, Limits::default(), Markers::Keep, &mut |_| {})
    }

    /// Reads as [`Self::read`] does, with limits on the vocabulary, and reports the progress to
    /// `listen`. `markers` says what becomes of other toolkits' marks.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(
        data_path: &str,
        limits: Limits,
        markers: Markers,
        listen: &mut dyn FnMut(ReadProgress),
    ) -> Result<Self> {
        let [train, valid, test] = open_texts(data_path)?;
        // The training text's words are first numbered in the order in which they occur. When all
        // are counted, ids replace the numbers.
        let mut counts = Counts::default();
        let mut number = |word: &str| counts.add(word).map(Some);
        let mut train = Split::read(train, markers, &|_| false, listen, &mut number)?;
        let Ranked { vocabulary, ids, replaced } = counts.rank(limits);
        ensure!(
            vocabulary.len() > 1,
            "{}: the vocabulary has {}; a language model needs at least 2, separated by \
             spaces",
            train.name,
            if vocabulary.len() == 1 { "only 1 word" } else { "no words" }
        );
        train.renumber(&ids);
        train.replaced = replaced;
        let unk_id = if limits.is_none() { None } else { vocabulary.id(UNK) };
        let is_known = |word: &str| vocabulary.id(word).is_some();
        let mut read = |text| {
            let mut unknown_words = 0;
            let split = Split::read(text, markers, &is_known, listen, &mut |word| {
                let id = vocabulary.id(word);
                unknown_words += u64::from(id.is_none());
                Ok(id.or(unk_id))
            })?;
            ensure!(
                !split.tokens.is_empty(),
                "{}: none of its words is in the training text's vocabulary",
                split.name
            );
            let (dropped, replaced) = match unk_id {
                Some(_) => (0, unknown_words),
                None => (unknown_words, 0),
            };
            Ok(Split { dropped, replaced, ..split })
        };
        let (valid, test) = (read(valid)?, read(test)?);
        Ok(RawData { train, valid, test, vocabulary })
    }
}

impl Split {
    /// Reads a text. `id` gives each word its id; a word without one is left out.
    fn read(
        mut text: TextReader,
        markers: Markers,
        is_known: &dyn Fn(&str) -> bool,
        listen: &mut dyn FnMut(ReadProgress),
        id: &mut dyn FnMut(&str) -> Result<Option<i32>>,
    ) -> Result<Self> {
        let mut tokens = Vec::new();
        // A vector that grows is copied, and is then in memory twice. So this one gets room for
        // words of 4 bytes on average. Pages that are never written take no memory. If the system
        // refuses that much, the vector grows as needed.
        let _ = tokens.try_reserve_exact((text.total() / 4) as usize);
        let markers = text.for_each_word(markers, is_known, listen, &mut |word| {
            tokens.extend(id(word)?);
            Ok(())
        })?;
        tokens.shrink_to_fit();
        let (name, md5) = text.finish()?;
        Ok(Split { name, tokens: tokens.into(), markers, md5, ..Split::default() })
    }

    /// Replaces each token by its entry in `ids`.
    fn renumber(&mut self, ids: &[i32]) {
        for token in Arc::make_mut(&mut self.tokens) {
            *token = ids[*token as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: [&[u8]; 3]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in ["train", "valid", "test"].iter().zip(files) {
            std::fs::write(folder.path().join(format!("ptb.{name}.txt")), text).unwrap();
        }
        folder
    }

    fn data_of(files: [&[u8]; 3]) -> Result<RawData> {
        RawData::read(folder(files).path().to_str().unwrap())
    }

    #[test]
    fn ids_are_ranks_by_count_then_word() {
        let data = data_of([b" b a b \n c a b \n", b" a d b \n", b" c \n"]).unwrap();
        // b: 3, then <eos> and a: 2 each ('<' sorts before 'a'), c: 1.
        assert_eq!(data.vocabulary.words().collect::<Vec<_>>(), ["b", "<eos>", "a", "c"]);
        assert_eq!(*data.train.tokens, [0, 2, 0, 1, 3, 2, 0, 1]);
        assert_eq!((&**data.valid.tokens, data.valid.dropped), (&[2, 0, 1][..], 1));
        assert_eq!(*data.test.tokens, [3, 1]);
        let counts = [("b", 3), (EOS, 2), ("a", 2), ("c", 1)].map(|(word, n)| (word.to_owned(), n));
        assert_eq!(Vocabulary::from_counts(counts.into()), data.vocabulary);
        for (id, word) in data.vocabulary.words().enumerate() {
            assert_eq!(data.vocabulary.id(word), Some(id as i32));
        }
        assert_eq!(
            (data.vocabulary.id("d"), data.vocabulary.word(4), data.vocabulary.word(-1)),
            (None, None, None)
        );
    }

    /// A split's tokens as words again.
    fn in_words(data: &RawData, split: &Split) -> String {
        let words: Vec<&str> =
            split.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn limits_make_other_words_unknown_in_all_texts() {
        let texts: [&[u8]; 3] = [b"a a a a b b b c c d\nd e <unk>\n", b"a x c\n", b"e\n"];
        let folder = folder(texts);
        let read = |max_vocab, min_count| {
            RawData::read_with(
                folder.path().to_str().unwrap(),
                Limits { max_vocab, min_count },
                Markers::Keep,
                &mut |_| {},
            )
            .unwrap()
        };
        let words = |data: &RawData| data.vocabulary.words().map(str::to_owned).collect::<Vec<_>>();
        // a 4, b 3, and of <eos>, c, d with 2 each only <eos>, which always stays; <unk> is 1 of
        // its own and c, c, d, d, e.
        let data = read(Some(4), None);
        assert_eq!(words(&data), [UNK, "a", "b", EOS]);
        assert_eq!(
            in_words(&data, &data.train),
            "a a a a b b b <unk> <unk> <unk> <eos> <unk> <unk> <unk> <eos>"
        );
        assert_eq!(in_words(&data, &data.valid), "a <unk> <unk> <eos>");
        assert_eq!((data.train.replaced, data.valid.replaced, data.test.replaced), (5, 2, 1));
        assert_eq!(data.valid.dropped + data.test.dropped, 0);
        // c and d occur as often, and so do <unk>, now 4, and a; the word decides.
        assert_eq!(words(&read(Some(5), None)), [UNK, "a", "b", EOS, "c"]);
        assert_eq!(words(&read(None, Some(3))), [UNK, "a", "b", EOS]);
        assert_eq!(words(&read(Some(2), Some(3))), [UNK, EOS]);
        // Limits that leave nothing out change nothing but what becomes of x.
        let (all, plain) = (read(Some(100), None), data_of(texts).unwrap());
        assert_eq!((&all.vocabulary, &all.train.tokens), (&plain.vocabulary, &plain.train.tokens));
        assert_eq!(
            (in_words(&all, &all.valid), in_words(&plain, &plain.valid)),
            ("a <unk> c <eos>".into(), "a c <eos>".into())
        );

        // A training text in one line: <eos> and <unk> are there all the same.
        for text in [&b"a b a"[..], b"a b a\tb b"] {
            let folder = self::folder([text, b"a\nz\n", b"a"]);
            let path = folder.path().to_str().unwrap();
            let limits = Limits { max_vocab: Some(50), ..Limits::default() };
            let data = RawData::read_with(path, limits, Markers::Keep, &mut |_| {}).unwrap();
            let vocabulary = words(&data);
            assert_eq!(
                (vocabulary.len(), &vocabulary[2..]),
                (4, &[EOS, UNK].map(String::from)[..])
            );
            assert_eq!(data.vocabulary.id(EOS), Some(2));
            assert_eq!(in_words(&data, &data.valid), "a <eos> <unk> <eos>");
            // Without limits they are not: the original's vocabulary is the text's.
            let plain = RawData::read(path).unwrap();
            assert_eq!((plain.vocabulary.len(), plain.vocabulary.id(EOS)), (2, None));
            assert_eq!((in_words(&plain, &plain.valid), plain.valid.dropped), ("a".into(), 3));
        }

        // A training text without <unk>: it is there all the same, last.
        let data = RawData::read_with(
            self::folder([b"a b a\n", b"z\n", b"a\n"]).path().to_str().unwrap(),
            Limits { min_count: Some(1), ..Limits::default() },
            Markers::Keep,
            &mut |_| {},
        )
        .unwrap();
        assert_eq!(words(&data), ["a", EOS, "b", UNK]);
        assert_eq!(in_words(&data, &data.valid), "<unk> <eos>");
    }

    #[test]
    fn texts_are_found_by_their_usual_names() {
        let plain = data_of([b"a b\n", b"a\n", b"b\n"]).unwrap();
        for naming in NAMINGS {
            let folder = tempfile::tempdir().unwrap();
            let put = |split: &str, text: &str| {
                std::fs::write(folder.path().join(naming.replace('*', split)), text).unwrap();
            };
            let read = || RawData::read(folder.path().to_str().unwrap());
            put("train", "a b\n");
            put("valid", "a\n");
            let error = format!("{:#}", read().unwrap_err());
            let names = ["train", "valid", "test"].map(|split| naming.replace('*', split));
            let there = format!("there is {}, {}, but no {}.", names[0], names[1], names[2]);
            assert!(error.contains(&there) && error.contains("wiki.*.tokens"), "{error}");
            put("test", "b\n");
            // Others beside them are no matter, unless they are whole too.
            std::fs::write(folder.path().join("wiki.test.tokens"), "b\n").unwrap();
            std::fs::write(folder.path().join("test.txt"), "b\n").unwrap();
            let data = read().unwrap();
            assert_eq!(
                (data.vocabulary, data.train.tokens),
                (plain.vocabulary.clone(), plain.train.tokens.clone())
            );
            for split in ["train", "valid", "test"] {
                for other in ["ptb.*.txt", "*.txt"] {
                    std::fs::write(folder.path().join(other.replace('*', split)), "b a\n").unwrap();
                }
            }
            let error = format!("{:#}", read().unwrap_err());
            assert!(
                error.contains("more than one set") && error.contains("ptb.valid.txt"),
                "{error}"
            );
        }
    }

    #[test]
    fn wikitext_is_read_as_it_is() {
        // The beginning of WikiText's format: a blank line, a heading, text with <unk>.
        let text = b" \n = Robert <unk> = \n \n Robert <unk> is an English film , \n \n \
                     = = Career = = \n \n";
        let data = data_of([text, text, text]).unwrap();
        assert_eq!(
            in_words(&data, &data.valid),
            "<eos> = Robert <unk> = <eos> <eos> Robert <unk> is an English film , <eos> <eos> \
             = = Career = = <eos> <eos>"
        );
        assert_eq!(data.valid.dropped, 0);
    }

    #[test]
    fn lines_may_be_long_and_words_may_not() {
        // A line of 10 MB.
        let long = b"word ".repeat(2_000_000);
        let data = data_of([&[&long[..], b"\nend\n"].concat(), b"word\n", b"end\n"]).unwrap();
        assert_eq!(data.train.tokens.len(), 2_000_003);
        assert_eq!(data.vocabulary.words().collect::<Vec<_>>(), ["word", EOS, "end"]);
        let error = format!(
            "{:#}",
            data_of([&[b"a\n", &[b'x'; 3 << 20][..]].concat(), b"a\n", b"a\n"]).unwrap_err()
        );
        assert!(error.contains("ptb.train.txt: line 2 has a word of more than"), "{error}");
    }

    #[test]
    fn a_million_words() {
        let text: String = (0..1_000_000).map(|i| format!("w{i}\n")).collect();
        let data = data_of([text.as_bytes(), b"w999999\n", b"w0 w1 nothing\n"]).unwrap();
        assert_eq!(data.vocabulary.len(), 1_000_001);
        assert_eq!(in_words(&data, &data.valid), "w999999 <eos>");
        assert_eq!(data.test.dropped, 1);
    }

    #[test]
    fn progress_goes_from_nothing_to_all() {
        let folder = folder([&b"a b\n".repeat(200_000), b"a\n", b"b\n"]);
        let path = folder.path().to_str().unwrap();
        let mut last: Vec<(String, u64, u64)> = Vec::new();
        RawData::read_with(path, Limits::default(), Markers::Keep, &mut |p| {
            let file = p.name.rsplit('/').next().unwrap().to_owned();
            match last.last_mut() {
                Some((name, done, _)) if *name == file => {
                    assert!(*done < p.done && p.done <= p.total);
                    *done = p.done;
                }
                _ => last.push((file, p.done, p.total)),
            }
        })
        .unwrap();
        let expected = [("ptb.train.txt", 800_000), ("ptb.valid.txt", 2), ("ptb.test.txt", 2)];
        assert_eq!(last, expected.map(|(name, bytes)| (name.to_owned(), bytes, bytes)));
    }

    #[test]
    fn line_ends_of_every_kind() {
        // Without padding spaces, with Windows line ends, a byte-order mark, no newline at the end.
        let data = data_of([b"\xef\xbb\xbfa b\r\nb\n\nc", b"a\n", b"b"]).unwrap();
        let words: Vec<_> =
            data.train.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
        assert_eq!(words, ["a", "b", EOS, "b", EOS, EOS, "c"]);
        assert_eq!(data.test.tokens.len(), 1);
    }

    #[test]
    fn lines_may_end_with_a_carriage_return_alone() {
        let text = b"a b\nb\n\nc a";
        let with = |end: &[u8]| text.split(|&b| b == b'\n').collect::<Vec<_>>().join(end);
        let plain = data_of([text, text, text]).unwrap();
        for end in [&b"\r"[..], b"\r\n"] {
            let text = &with(end)[..];
            let data = data_of([text, text, text]).unwrap();
            assert_eq!(
                (&data.vocabulary, &data.train.tokens),
                (&plain.vocabulary, &plain.train.tokens)
            );
            assert_eq!(data.test.tokens, plain.test.tokens);
        }
    }

    #[test]
    fn marks_of_other_toolkits_are_kept_or_mapped() {
        let texts: [&[u8]; 3] =
            [b"<s> a b </s>\n<s> a <UNK> </s>\n", b"a [UNK] <eos>\n", b"<s> b </s>"];
        let folder = folder(texts);
        let read = |markers| {
            let path = folder.path().to_str().unwrap();
            RawData::read_with(path, Limits::default(), markers, &mut |_| {}).unwrap()
        };
        let counts = |data: &RawData| {
            [&data.train, &data.valid, &data.test].map(|split| {
                let MarkerCounts { starts, ends, eos, unknown } = split.markers;
                [starts, ends, eos, unknown]
            })
        };
        let kept = read(Markers::Keep);
        assert_eq!(in_words(&kept, &kept.train), "<s> a b </s> <eos> <s> a <UNK> </s> <eos>");
        assert_eq!(in_words(&kept, &kept.valid), "a <eos> <eos>");
        // What the training text has are words.
        assert_eq!(counts(&kept), [[2, 2, 0, 1], [0, 0, 1, 1], [0; 4]]);
        let mapped = read(Markers::Map);
        assert_eq!(in_words(&mapped, &mapped.train), "a b <eos> a <unk> <eos>");
        assert_eq!(in_words(&mapped, &mapped.valid), "a <unk> <eos>");
        assert_eq!(in_words(&mapped, &mapped.test), "b <eos>");
        assert_eq!(counts(&mapped), [[2, 2, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0]]);
    }

    #[test]
    fn broken_files_are_refused_in_words() {
        let error = |files| format!("{:#}", data_of(files).unwrap_err());
        assert!(error([b"a b\n", b"", b"a\n"]).contains("ptb.valid.txt: the file is empty"));
        let e = error([b"a b\nc \xff d\n", b"a\n", b"a\n"]);
        assert!(
            e.contains("ptb.train.txt: not UTF-8")
                && e.contains("line 2, byte 6 of the file (0xff)"),
            "{e}"
        );
        assert!(error([b"\n\n\n", b"\n", b"\n"]).contains("only 1 word"));
        assert!(error([b"a b\n", b"x", b"a\n"]).contains("none of its words"));
        let missing = format!("{:#}", RawData::read("/nonexistent/folder").unwrap_err());
        assert!(missing.starts_with("/nonexistent/folder: no such folder"), "{missing}");
        let empty = tempfile::tempdir().unwrap();
        let missing = format!("{:#}", RawData::read(empty.path().to_str().unwrap()).unwrap_err());
        assert!(
            missing.contains("no text of a known name") && missing.contains("ptb.*.txt"),
            "{missing}"
        );
    }

    #[test]
    #[ignore = "needs PTB: its folder in PTB_DATA (make test DATA=FOLDER)"]
    fn ptb_counts() {
        let folder = std::env::var("PTB_DATA").expect("PTB_DATA names PTB's folder");
        let data = RawData::read(&folder).unwrap();
        assert_eq!(data.vocabulary.len(), 10_000);
        assert_eq!(data.vocabulary.words().take(3).collect::<Vec<_>>(), ["the", "<unk>", "<eos>"]);
        assert_eq!(data.train.tokens.len(), 929_589);
        assert_eq!(data.valid.tokens.len(), 73_760);
        assert_eq!(data.test.tokens.len(), 82_430);
        assert_eq!(data.valid.dropped + data.test.dropped, 0);
        assert_eq!(data.train.md5, "f26c4b92c5fdc7b3f8c7cdcb991d8420");
    }
}
