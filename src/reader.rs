//! The original's `reader.py`: words, vocabulary, raw data, and the producer of batches.
//!
//! Text is read line by line and kept as token ids, so memory is bounded by the number of tokens (4 bytes each), not by the text.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use md5::{Digest, Md5};
use tch::{Device, Kind, Tensor};

use crate::sample;

/// The token that stands for every line's end.
pub const EOS: &str = "<eos>";

/// The value of `--data-path` that means the sample corpus embedded in this program instead of a folder.
pub const SAMPLE: &str = "sample";

/// Words and their ids: the rank by (count descending, word ascending) in the training text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, i32>,
}

impl Vocabulary {
    /// The original's `_build_vocab`: sorts by count, ties by the word (by code point, as Python compares strings).
    pub fn from_counts(counts: HashMap<String, u64>) -> Self {
        let mut pairs: Vec<(String, u64)> = counts.into_iter().collect();
        pairs.sort_unstable_by(|(wa, ca), (wb, cb)| cb.cmp(ca).then_with(|| wa.cmp(wb)));
        Self::from_words(pairs.into_iter().map(|(word, _)| word).collect())
    }

    /// A vocabulary whose ids are the positions in `words`.
    pub fn from_words(words: Vec<String>) -> Self {
        let ids = words.iter().enumerate().map(|(id, word)| (word.clone(), id as i32)).collect();
        Vocabulary { words, ids }
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word at all.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The id of `word`, if it is known.
    pub fn id(&self, word: &str) -> Option<i32> {
        self.ids.get(word).copied()
    }

    /// The word with this id.
    pub fn word(&self, id: i32) -> Option<&str> {
        self.words.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// All words, in the order of their ids.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// One of the three texts, as token ids.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Where it was read from, for messages.
    pub name: String,
    /// Token ids in the order of the text, every line's end included.
    pub tokens: Vec<i32>,
    /// Words that are not in the vocabulary and were left out, as the original leaves them out.
    pub dropped: u64,
    /// MD5 of the file's bytes, in hexadecimal.
    pub md5: String,
}

/// The original's `ptb_raw_data`: three texts and the vocabulary of the first.
#[derive(Clone, Debug)]
pub struct RawData {
    /// The training text.
    pub train: Split,
    /// The validation text.
    pub valid: Split,
    /// The test text.
    pub test: Split,
    /// The training text's words.
    pub vocabulary: Vocabulary,
}

impl RawData {
    /// Reads `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt` in `data_path`; the word `sample` stands for the embedded corpus.
    ///
    /// # Errors
    /// A missing folder or file, an empty file, text that is not UTF-8 (with line and byte), a vocabulary of one word.
    pub fn read(data_path: &str) -> Result<Self> {
        if data_path == SAMPLE {
            return Self::from_sources(
                Source::Text("sample/ptb.train.txt", sample::TRAIN),
                Source::Text("sample/ptb.valid.txt", sample::VALID),
                Source::Text("sample/ptb.test.txt", sample::TEST),
            );
        }
        let folder = Path::new(data_path);
        ensure!(
            folder.is_dir(),
            "--data-path {data_path}: no such folder. It is the folder that holds ptb.train.txt, ptb.valid.txt and ptb.test.txt \
             (`make data` looks for them); the word `{SAMPLE}` stands for the sample corpus inside this program"
        );
        let file = |name: &str| Source::File(folder.join(name));
        Self::from_sources(file("ptb.train.txt"), file("ptb.valid.txt"), file("ptb.test.txt"))
    }

    fn from_sources(train: Source, valid: Source, test: Source) -> Result<Self> {
        // All three are opened first: a missing test file should not show after minutes of reading a large training text.
        for source in [&train, &valid, &test] {
            source.open()?;
        }
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut words = WordReader::new(&train)?;
        while let Some(line) = words.next_line()? {
            for word in line {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(word.to_owned(), 1);
                    }
                }
            }
        }
        let vocabulary = Vocabulary::from_counts(counts);
        let split = |source: Source| source.read(&vocabulary);
        let (train, valid, test) = (split(train)?, split(valid)?, split(test)?);
        ensure!(
            vocabulary.len() > 1,
            "{}: the vocabulary has only {} word; a language model needs at least 2",
            train.name,
            vocabulary.len()
        );
        Ok(RawData { train, valid, test, vocabulary })
    }
}

/// Where a text comes from: a file or this program itself.
enum Source {
    File(PathBuf),
    Text(&'static str, &'static str),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Text(name, _) => (*name).to_owned(),
        }
    }

    fn open(&self) -> Result<Box<dyn Read>> {
        match self {
            Source::File(path) => {
                let file = File::open(path).with_context(|| {
                    format!("{}: cannot be read (the data folder holds ptb.train.txt, ptb.valid.txt, ptb.test.txt)", path.display())
                })?;
                ensure!(file.metadata()?.is_file(), "{}: is not a file", path.display());
                Ok(Box::new(file))
            }
            Source::Text(_, text) => Ok(Box::new(text.as_bytes())),
        }
    }

    /// The text as ids; words outside of `vocabulary` are left out.
    fn read(self, vocabulary: &Vocabulary) -> Result<Split> {
        let mut split = Split { name: self.name(), ..Split::default() };
        let mut words = WordReader::new(&self)?;
        while let Some(line) = words.next_line()? {
            for word in line {
                match vocabulary.id(word) {
                    Some(id) => split.tokens.push(id),
                    None => split.dropped += 1,
                }
            }
        }
        ensure!(words.lines > 0, "{}: the file is empty", split.name);
        ensure!(
            !split.tokens.is_empty(),
            "{}: none of its words is in the training text's vocabulary",
            split.name
        );
        split.md5 = words.md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(split)
    }
}

/// Words of a text, a line at a time; every newline becomes the token `<eos>`.
struct WordReader {
    reader: BufReader<Box<dyn Read>>,
    name: String,
    buffer: Vec<u8>,
    lines: u64,
    bytes: u64,
    md5: Md5,
}

impl WordReader {
    fn new(source: &Source) -> Result<Self> {
        Ok(WordReader {
            reader: BufReader::with_capacity(1 << 16, source.open()?),
            name: source.name(),
            buffer: Vec::new(),
            lines: 0,
            bytes: 0,
            md5: Md5::new(),
        })
    }

    fn next_line(&mut self) -> Result<Option<impl Iterator<Item = &str>>> {
        self.buffer.clear();
        let read = self
            .reader
            .read_until(b'\n', &mut self.buffer)
            .with_context(|| format!("{}: reading", self.name))?;
        if read == 0 {
            return Ok(None);
        }
        self.md5.update(&self.buffer);
        let start = self.bytes;
        self.lines += 1;
        self.bytes += read as u64;
        let line = match std::str::from_utf8(&self.buffer) {
            Ok(line) => line,
            Err(e) => bail!(
                "{}: not UTF-8 text: line {}, byte {} of the file (0x{:02x}). Convert the file to UTF-8, e.g. with iconv",
                self.name,
                self.lines,
                start + e.valid_up_to() as u64,
                self.buffer[e.valid_up_to()]
            ),
        };
        // A byte-order mark is no part of the first word.
        let line = if start == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let eos = line.ends_with('\n').then_some(EOS);
        Ok(Some(line.split_whitespace().chain(eos)))
    }
}

/// The original's `ptb_producer`: `batch_size` rows of the text side by side, cut into steps of `num_steps` words.
pub struct Producer {
    /// `[batch_size, batch_len]` ids.
    rows: Tensor,
    num_steps: i64,
    epoch_size: i64,
}

impl Producer {
    /// Arranges `split` on `device`; the rest that fills no whole column is left out, as in the original.
    ///
    /// # Errors
    /// A text too short for a single step.
    pub fn new(split: &Split, batch_size: i64, num_steps: i64, device: Device) -> Result<Self> {
        let batch_len = split.tokens.len() as i64 / batch_size;
        let epoch_size = (batch_len - 1) / num_steps;
        ensure!(
            epoch_size > 0,
            "{}: {} tokens are too few for batch_size {batch_size} and num_steps {num_steps} (at least {} are needed): \
             decrease --batch-size or --num-steps",
            split.name,
            split.tokens.len(),
            batch_size.saturating_mul(num_steps.saturating_add(1)),
        );
        let rows = Tensor::from_slice(&split.tokens[..(batch_size * batch_len) as usize])
            .view([batch_size, batch_len])
            .to_device(device);
        Ok(Producer { rows, num_steps, epoch_size })
    }

    /// Steps in an epoch.
    pub fn epoch_size(&self) -> i64 {
        self.epoch_size
    }

    /// Rows side by side.
    pub fn batch_size(&self) -> i64 {
        self.rows.size()[0]
    }

    /// Words in a step.
    pub fn num_steps(&self) -> i64 {
        self.num_steps
    }

    /// Step `i`'s inputs and targets, each `[batch_size, num_steps]`, int64; the targets are the inputs shifted by one word.
    pub fn batch(&self, i: i64) -> (Tensor, Tensor) {
        self.slice(i * self.num_steps, self.num_steps)
    }

    /// Step `i`'s words, `[batch_size, num_steps + 1]`, as they lie here (int32): the inputs are all but the last column, the targets all but
    /// the first.
    pub(crate) fn columns(&self, i: i64) -> Tensor {
        self.rows.narrow(1, i * self.num_steps, self.num_steps + 1)
    }

    /// All steps of an epoch in longer pieces of at most `max_len` words: the same words in the same order, for evaluation.
    pub fn chunks(&self, max_len: i64) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        let total = self.epoch_size * self.num_steps;
        let len = max_len.max(1);
        (0..total).step_by(len as usize).map(move |start| self.slice(start, len.min(total - start)))
    }

    fn slice(&self, start: i64, len: i64) -> (Tensor, Tensor) {
        let ids = |start| self.rows.narrow(1, start, len).to_kind(Kind::Int64);
        (ids(start), ids(start + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_of(tokens: Vec<i32>) -> Split {
        Split { name: "test".into(), tokens, ..Split::default() }
    }

    fn data(files: [&[u8]; 3]) -> Result<RawData> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in ["train", "valid", "test"].iter().zip(files) {
            std::fs::write(folder.path().join(format!("ptb.{name}.txt")), text).unwrap();
        }
        RawData::read(folder.path().to_str().unwrap())
    }

    #[test]
    fn ids_are_ranks_by_count_then_word() {
        let data = data([b" b a b \n c a b \n", b" a d b \n", b" c \n"]).unwrap();
        // b: 3, then <eos> and a: 2 each ('<' sorts before 'a'), c: 1.
        assert_eq!(data.vocabulary.words(), ["b", "<eos>", "a", "c"]);
        assert_eq!(data.train.tokens, [0, 2, 0, 1, 3, 2, 0, 1]);
        assert_eq!((data.valid.tokens, data.valid.dropped), (vec![2, 0, 1], 1));
        assert_eq!(data.test.tokens, [3, 1]);
    }

    #[test]
    fn line_ends_of_every_kind() {
        // Without padding spaces, with Windows line ends, a byte-order mark, no newline at the end.
        let data = data([b"\xef\xbb\xbfa b\r\nb\n\nc", b"a\n", b"b"]).unwrap();
        let words: Vec<_> = data.train.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
        assert_eq!(words, ["a", "b", EOS, "b", EOS, EOS, "c"]);
        assert_eq!(data.test.tokens.len(), 1);
    }

    #[test]
    fn broken_files_are_refused_in_words() {
        let error = |files| format!("{:#}", data(files).unwrap_err());
        assert!(error([b"a b\n", b"", b"a\n"]).contains("ptb.valid.txt: the file is empty"));
        let e = error([b"a b\nc \xff d\n", b"a\n", b"a\n"]);
        assert!(
            e.contains("ptb.train.txt: not UTF-8") && e.contains("line 2, byte 6 of the file (0xff)"),
            "{e}"
        );
        assert!(error([b"\n\n\n", b"\n", b"\n"]).contains("only 1 word"));
        assert!(error([b"a b\n", b"x", b"a\n"]).contains("none of its words"));
        let missing = format!("{:#}", RawData::read("/nonexistent/folder").unwrap_err());
        assert!(missing.contains("--data-path /nonexistent/folder: no such folder"), "{missing}");
        let empty = tempfile::tempdir().unwrap();
        let missing = format!("{:#}", RawData::read(empty.path().to_str().unwrap()).unwrap_err());
        assert!(missing.contains("ptb.train.txt: cannot be read"), "{missing}");
    }

    #[test]
    fn producer_cuts_as_the_original() {
        // reader_test.py: raw data [4,3,2,1,0,5,6,1,1,1,1,0,3,4,1], batch_size 3, num_steps 2.
        let split = split_of(vec![4, 3, 2, 1, 0, 5, 6, 1, 1, 1, 1, 0, 3, 4, 1]);
        let producer = Producer::new(&split, 3, 2, Device::Cpu).unwrap();
        assert_eq!(producer.epoch_size(), 2);
        let rows = |t: &Tensor| Vec::<Vec<i64>>::try_from(t).unwrap();
        let (x, y) = producer.batch(0);
        assert_eq!(rows(&x), [[4, 3], [5, 6], [1, 0]]);
        assert_eq!(rows(&y), [[3, 2], [6, 1], [0, 3]]);
        let (x, y) = producer.batch(1);
        assert_eq!(rows(&x), [[2, 1], [1, 1], [3, 4]]);
        assert_eq!(rows(&y), [[1, 0], [1, 1], [4, 1]]);
    }

    #[test]
    fn chunks_cover_the_same_words() {
        let split = split_of((0..103).collect());
        let producer = Producer::new(&split, 2, 7, Device::Cpu).unwrap();
        let cat = |pairs: Vec<(Tensor, Tensor)>| {
            let (x, y): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            (Tensor::cat(&x, 1), Tensor::cat(&y, 1))
        };
        let (x, y) = cat((0..producer.epoch_size()).map(|i| producer.batch(i)).collect());
        for len in [1, 7, 10, 1000] {
            let (cx, cy) = cat(producer.chunks(len).collect());
            assert_eq!(x, cx);
            assert_eq!(y, cy);
        }
    }

    #[test]
    fn too_short_a_text_says_what_to_decrease() {
        let split = split_of((0..10).collect());
        let error = Producer::new(&split, 5, 2, Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("decrease --batch-size or --num-steps") && error.contains("15"), "{error}");
    }

    #[test]
    #[ignore = "needs PTB: its folder in PTB_DATA (make test DATA=FOLDER)"]
    fn ptb_counts() {
        let folder = std::env::var("PTB_DATA").expect("PTB_DATA names PTB's folder");
        let data = RawData::read(&folder).unwrap();
        assert_eq!(data.vocabulary.len(), 10_000);
        assert_eq!(data.vocabulary.words()[..3], ["the", "<unk>", "<eos>"]);
        assert_eq!(data.train.tokens.len(), 929_589);
        assert_eq!(data.valid.tokens.len(), 73_760);
        assert_eq!(data.test.tokens.len(), 82_430);
        assert_eq!(data.valid.dropped + data.test.dropped, 0);
        assert_eq!(data.train.md5, "f26c4b92c5fdc7b3f8c7cdcb991d8420");
    }
}
