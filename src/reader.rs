//! The original's `reader.py`: words, vocabulary, raw data, and the producer of batches.
//!
//! A text is read once, in pieces, and kept as token ids: memory is 4 bytes a token and the vocabulary, whatever the files' size and
//! however long their lines.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{collections::HashMap, fmt};

use anyhow::{Context, Result, bail, ensure};
use hashbrown::hash_table::{Entry, HashTable};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::sample;

/// The token that stands for every line's end.
pub const EOS: &str = "<eos>";

/// The token that stands for a word outside of the vocabulary.
pub const UNK: &str = "<unk>";

/// The value of `--data-path` that means the sample corpus embedded in this program instead of a folder.
pub const SAMPLE: &str = "sample";

/// The usual names of the three texts, `*` standing for `train`, `valid` and `test`: PTB's, plain ones, WikiText's and its raw form's.
pub const NAMINGS: [&str; 4] = ["ptb.*.txt", "*.txt", "wiki.*.tokens", "wiki.*.raw"];

/// Bytes asked of a file at once.
const PIECE: usize = 1 << 18;
/// A word of more bytes than this is no word.
const MAX_WORD: usize = 1 << 20;

/// Words and their ids: the rank by (count descending, word ascending) in the training text.
///
/// The words stand in one string, one after another, and the table finds their ids by their hash: a million words are a few megabytes.
#[derive(Clone, Default)]
pub struct Vocabulary {
    text: String,
    /// Where each word ends in `text`; it begins where the one before it ends.
    ends: Vec<usize>,
    ids: HashTable<i32>,
    hasher: RandomState,
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.ends == other.ends
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.words()).finish()
    }
}

impl Vocabulary {
    /// The original's `_build_vocab`: sorts by count, ties by the word (by code point, as Python compares strings).
    pub fn from_counts(counts: HashMap<String, u64>) -> Self {
        let (words, counts): (Vec<String>, Vec<u64>) = counts.into_iter().unzip();
        rank(Self::from_words(words), counts, Limits::default()).vocabulary
    }

    /// A vocabulary whose ids are the positions in `words`. Of a word that occurs twice the first position is its id.
    pub fn from_words(words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut vocabulary = Vocabulary::default();
        for word in words {
            let id = vocabulary.len() as i32;
            if vocabulary.insert(word.as_ref()) != id {
                vocabulary.push(word.as_ref());
            }
        }
        vocabulary
    }

    fn push(&mut self, word: &str) {
        self.text.push_str(word);
        self.ends.push(self.text.len());
    }

    /// The id of `word`, which is the next free one if it is new.
    fn insert(&mut self, word: &str) -> i32 {
        let id = self.len() as i32;
        let at = |&id: &i32| slice(&self.text, &self.ends, id as usize).unwrap_or_default();
        let hash = |word: &str| self.hasher.hash_one(word);
        match self.ids.entry(hash(word), |id| at(id) == word, |id| hash(at(id))) {
            Entry::Occupied(entry) => return *entry.get(),
            Entry::Vacant(entry) => entry.insert(id),
        };
        self.push(word);
        id
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no word at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The id of `word`, if it is known.
    pub fn id(&self, word: &str) -> Option<i32> {
        self.ids.find(self.hasher.hash_one(word), |&id| self.word(id) == Some(word)).copied()
    }

    /// The word with this id.
    pub fn word(&self, id: i32) -> Option<&str> {
        slice(&self.text, &self.ends, usize::try_from(id).ok()?)
    }

    /// All words, in the order of their ids.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|id| slice(&self.text, &self.ends, id).unwrap_or_default())
    }
}

/// The word of this id in `text`.
fn slice<'a>(text: &'a str, ends: &[usize], id: usize) -> Option<&'a str> {
    let start = if id == 0 { 0 } else { *ends.get(id - 1)? };
    text.get(start..*ends.get(id)?)
}

/// What keeps a vocabulary small: `--max-vocab` and `--min-count`. With either, a word outside of the vocabulary is read as `<unk>`, in all
/// three texts; with neither, the vocabulary is the whole training text's, and the other texts' words outside of it are left out, as in
/// the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Words at most, the most frequent ones; `<unk>` and `<eos>` are among them.
    #[serde(default)]
    pub max_vocab: Option<u64>,
    /// Occurrences in the training text that a word must have.
    #[serde(default)]
    pub min_count: Option<u64>,
}

impl Limits {
    /// Whether there are none: PTB's way.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

/// What [`rank`] makes of counted words.
struct Ranked {
    vocabulary: Vocabulary,
    /// The rank of every old id.
    ranks: Vec<i32>,
    /// Occurrences of words outside of the limits.
    left_out: u64,
}

/// Gives counted words their final ids.
fn rank(mut seen: Vocabulary, mut counts: Vec<u64>, limits: Limits) -> Ranked {
    let unknown = (!limits.is_none()).then(|| seen.insert(UNK));
    counts.resize(seen.len(), 0);
    let sort = |order: &mut Vec<i32>, counts: &[u64]| {
        let count = |id: i32| counts[id as usize];
        order
            .sort_unstable_by(|&a, &b| count(b).cmp(&count(a)).then_with(|| seen.word(a).cmp(&seen.word(b))));
    };
    let mut order: Vec<i32> = (0..seen.len() as i32).collect();
    sort(&mut order, &counts);
    let mut left_out = 0;
    if let Some(unknown) = unknown {
        let eos = seen.id(EOS);
        let always = |id: i32| id == unknown || Some(id) == eos;
        let mut room = limits.max_vocab.unwrap_or(u64::MAX).saturating_sub(1 + u64::from(eos.is_some()));
        order.retain(|&id| {
            let count = counts[id as usize];
            if always(id) {
                return true;
            }
            if room > 0 && count >= limits.min_count.unwrap_or(0) {
                room -= 1;
                return true;
            }
            left_out += count;
            false
        });
        // <unk> takes the rank that all its occurrences give it.
        counts[unknown as usize] += left_out;
        sort(&mut order, &counts);
    }
    let vocabulary = Vocabulary::from_words(order.iter().filter_map(|&id| seen.word(id)));
    let mut ranks = vec![vocabulary.id(UNK).unwrap_or(0); seen.len()];
    for (rank, &id) in order.iter().enumerate() {
        ranks[id as usize] = rank as i32;
    }
    Ranked { vocabulary, ranks, left_out }
}

/// One of the three texts, as token ids.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Where it was read from, for messages.
    pub name: String,
    /// Token ids in the order of the text, every line's end included; shared with the producers made of it.
    pub tokens: Arc<Vec<i32>>,
    /// Words that are not in the vocabulary and were left out, as the original leaves them out.
    pub dropped: u64,
    /// Words that are not in the vocabulary and were read as `<unk>`, because of [`Limits`].
    pub replaced: u64,
    /// MD5 of the file's bytes, in hexadecimal.
    pub md5: String,
}

/// How far the reading of a text is, for who shows it.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The text.
    pub name: &'a str,
    /// Bytes of it that are read.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
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
    /// Reads the train, valid and test text in `data_path`, under any of the [`NAMINGS`]; the word `sample` stands for the embedded corpus.
    ///
    /// # Errors
    /// A folder that is missing, incomplete or ambiguous, an empty file, text that is not UTF-8 (with line and byte), a vocabulary of one word.
    pub fn read(data_path: &str) -> Result<Self> {
        Self::read_with(data_path, Limits::default(), &mut |_| {})
    }

    /// [`Self::read`] with limits on the vocabulary, telling `listen` after every piece how far it is.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(data_path: &str, limits: Limits, listen: &mut dyn FnMut(Progress)) -> Result<Self> {
        let [train, valid, test] = if data_path == SAMPLE {
            let text = |name, text| Source::Text(name, text);
            [
                text("sample/ptb.train.txt", sample::TRAIN),
                text("sample/ptb.valid.txt", sample::VALID),
                text("sample/ptb.test.txt", sample::TEST),
            ]
        } else {
            find(data_path)?.map(Source::File)
        };
        // All three are opened first: a test file that cannot be read should not show after minutes of reading a large training text.
        let [train, valid, test] = [train.open()?, valid.open()?, test.open()?];
        let (train, vocabulary) = read_training(train, limits, listen)?;
        let unknown = if limits.is_none() { None } else { vocabulary.id(UNK) };
        let valid = read_other(valid, &vocabulary, unknown, listen)?;
        let test = read_other(test, &vocabulary, unknown, listen)?;
        Ok(RawData { train, valid, test, vocabulary })
    }
}

/// The three texts in a folder.
fn find(data_path: &str) -> Result<[PathBuf; 3]> {
    let folder = Path::new(data_path);
    let expected = format!(
        "It is the folder that holds a training, a validation and a test text, named in one of these ways, * being train, valid and \
         test: {}. (`make data` looks for PTB; the word `{SAMPLE}` stands for the sample corpus inside this program)",
        NAMINGS.join(", ")
    );
    ensure!(folder.is_dir(), "--data-path {data_path}: no such folder. {expected}");
    let names = NAMINGS.map(|naming| ["train", "valid", "test"].map(|split| naming.replace('*', split)));
    let there = |name: &String| folder.join(name).exists();
    let (complete, partial): (Vec<_>, Vec<_>) =
        names.iter().filter(|n| n.iter().any(there)).partition(|n| n.iter().all(there));
    let list = |sets: &[&[String; 3]], wanted: bool| {
        let names: Vec<&str> =
            sets.iter().copied().flatten().filter(|name| there(name) == wanted).map(String::as_str).collect();
        names.join(", ")
    };
    match (&complete[..], &partial[..]) {
        ([names], _) => Ok(names.each_ref().map(|name| folder.join(name))),
        ([], []) => bail!("--data-path {data_path}: there is no text of a known name in it. {expected}"),
        ([], partial) => bail!(
            "--data-path {data_path}: the texts in it are not complete: there is {}, but no {}. {expected}",
            list(partial, true),
            list(partial, false)
        ),
        (several, _) => bail!(
            "--data-path {data_path}: there is more than one set of texts in it: {}. Leave one of them there, or give each its own folder",
            list(several, true)
        ),
    }
}

/// Where a text comes from: a file or this program itself.
enum Source {
    File(PathBuf),
    Text(&'static str, &'static str),
}

impl Source {
    fn open(self) -> Result<TextReader> {
        match self {
            Source::File(path) => {
                let name = path.display().to_string();
                let cannot = || format!("{name}: cannot be read");
                let file = File::open(&path).with_context(cannot)?;
                let metadata = file.metadata().with_context(cannot)?;
                ensure!(metadata.is_file(), "{name}: is not a file");
                Ok(TextReader { total: metadata.len(), ..TextReader::new(Box::new(file), name) })
            }
            Source::Text(name, text) => Ok(TextReader {
                total: text.len() as u64,
                ..TextReader::new(Box::new(text.as_bytes()), name.into())
            }),
        }
    }
}

/// Reads the training text, counting its words; in one pass, the words numbered as they come and the numbers replaced by ranks afterwards.
fn read_training(
    mut text: TextReader,
    limits: Limits,
    listen: &mut dyn FnMut(Progress),
) -> Result<(Split, Vocabulary)> {
    let mut seen = Vocabulary::default();
    let mut counts: Vec<u64> = Vec::new();
    let mut tokens = token_buffer(text.total);
    while let Some(piece) = text.next_piece()? {
        for word in words(piece) {
            let id = seen.insert(word.unwrap_or(EOS));
            match counts.get_mut(id as usize) {
                Some(count) => *count += 1,
                None => counts.push(1),
            }
            tokens.push(id);
        }
        ensure!(
            seen.len() < i32::MAX as usize - 2 * MAX_WORD,
            "{}: more different words than ids",
            text.name
        );
        listen(text.progress());
    }
    let Ranked { vocabulary, ranks, left_out } = rank(seen, counts, limits);
    for token in &mut tokens {
        *token = ranks[*token as usize];
    }
    let split = text.split(tokens)?;
    ensure!(
        vocabulary.len() > 1,
        "{}: the vocabulary has only {} word; a language model needs at least 2",
        split.name,
        vocabulary.len()
    );
    Ok((Split { replaced: left_out, ..split }, vocabulary))
}

/// Reads another text; words outside of `vocabulary` become `unknown`, or are left out if that is none.
fn read_other(
    mut text: TextReader,
    vocabulary: &Vocabulary,
    unknown: Option<i32>,
    listen: &mut dyn FnMut(Progress),
) -> Result<Split> {
    let mut tokens = token_buffer(text.total);
    let (mut dropped, mut replaced) = (0, 0);
    while let Some(piece) = text.next_piece()? {
        for word in words(piece) {
            match (vocabulary.id(word.unwrap_or(EOS)), unknown) {
                (Some(id), _) => tokens.push(id),
                (None, Some(unknown)) => {
                    tokens.push(unknown);
                    replaced += 1;
                }
                (None, None) => dropped += 1,
            }
        }
        listen(text.progress());
    }
    let split = text.split(tokens)?;
    ensure!(
        !split.tokens.is_empty(),
        "{}: none of its words is in the training text's vocabulary",
        split.name
    );
    Ok(Split { dropped, replaced, ..split })
}

/// Room for the tokens of a text of so many bytes, at 4 bytes a word: a block that is moved as it grows would be there twice. What is
/// never written takes no memory.
fn token_buffer(bytes: u64) -> Vec<i32> {
    let mut tokens = Vec::new();
    // A refusal is no error: then it grows as it goes.
    let _ = tokens.try_reserve_exact((bytes / 4) as usize);
    tokens
}

/// Words of a piece of text; none stands for a line's end.
pub(crate) fn words(piece: &str) -> impl Iterator<Item = Option<&str>> {
    piece
        .split_inclusive('\n')
        .flat_map(|line| line.split_whitespace().map(Some).chain(line.ends_with('\n').then_some(None)))
}

/// A text in pieces of whole words, checked to be UTF-8. Its memory does not grow with the text or with its lines.
pub(crate) struct TextReader {
    reader: Box<dyn Read>,
    name: String,
    /// Bytes in all, if known.
    total: u64,
    buffer: Vec<u8>,
    /// How much of the buffer was handed out.
    handed_out: usize,
    /// Lines and bytes before the buffer.
    lines: u64,
    bytes: u64,
    at_end: bool,
    md5: Md5,
}

impl TextReader {
    /// A text from its beginning; `name` is for messages.
    pub(crate) fn new(reader: Box<dyn Read>, name: String) -> Self {
        TextReader {
            reader,
            name,
            total: 0,
            buffer: Vec::new(),
            handed_out: 0,
            lines: 0,
            bytes: 0,
            at_end: false,
            md5: Md5::new(),
        }
    }

    /// The next piece: as much as could be read at once, up to the last white space.
    ///
    /// # Errors
    /// A failing disk, bytes that are not UTF-8, a word of more than a megabyte.
    pub(crate) fn next_piece(&mut self) -> Result<Option<&str>> {
        self.lines += newlines(&self.buffer[..self.handed_out]);
        self.bytes += self.handed_out as u64;
        self.buffer.drain(..self.handed_out);
        self.handed_out = 0;
        while self.handed_out == 0 {
            if self.at_end && self.buffer.is_empty() {
                return Ok(None);
            }
            if !self.at_end {
                self.read_on()?;
            }
            let text = match str::from_utf8(&self.buffer) {
                Ok(text) => text,
                // A character may be cut by the end of the buffer, not by the end of the text.
                Err(e) if e.error_len().is_none() && !self.at_end => {
                    str::from_utf8(&self.buffer[..e.valid_up_to()]).unwrap_or_default()
                }
                Err(e) => {
                    let at = e.valid_up_to();
                    bail!(
                        "{}: not UTF-8 text: line {}, byte {} of the file (0x{:02x}). Convert the file to UTF-8, e.g. with iconv",
                        self.name,
                        self.lines + newlines(&self.buffer[..at]) + 1,
                        self.bytes + at as u64,
                        self.buffer[at]
                    )
                }
            };
            self.handed_out = if self.at_end {
                text.len()
            } else {
                let last_space = text.char_indices().rfind(|(_, c)| c.is_whitespace());
                last_space.map_or(0, |(at, c)| at + c.len_utf8())
            };
            ensure!(
                self.handed_out > 0 || self.buffer.len() <= MAX_WORD,
                "{}: line {} has a word of more than {MAX_WORD} bytes; words are separated by spaces",
                self.name,
                self.lines + 1
            );
        }
        let piece = str::from_utf8(&self.buffer[..self.handed_out])?;
        // A byte-order mark is no part of the first word.
        let mark = if self.bytes == 0 { piece.strip_prefix('\u{feff}') } else { None };
        Ok(Some(mark.unwrap_or(piece)))
    }

    /// Appends to the buffer what one read gives.
    fn read_on(&mut self) -> Result<()> {
        let had = self.buffer.len();
        self.buffer.resize(had + PIECE, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[had..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        // After an error, such as `WouldBlock`, the reading can go on.
        self.buffer.truncate(had + *read.as_ref().unwrap_or(&0));
        let read = read.with_context(|| format!("{}: reading", self.name))?;
        self.md5.update(&self.buffer[had..]);
        self.at_end = read == 0;
        Ok(())
    }

    fn progress(&self) -> Progress<'_> {
        Progress { name: &self.name, done: self.bytes + self.handed_out as u64, total: self.total }
    }

    /// The text, read to its end, as what it was read into.
    fn split(self, mut tokens: Vec<i32>) -> Result<Split> {
        ensure!(self.bytes > 0, "{}: the file is empty", self.name);
        tokens.shrink_to_fit();
        let md5 = self.md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Split { name: self.name, tokens: tokens.into(), md5, ..Split::default() })
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The original's `ptb_producer`: `batch_size` rows of the text side by side, cut into steps of `num_steps` words.
pub struct Producer {
    rows: Rows,
    batch_size: i64,
    /// Words in a row.
    batch_len: i64,
    num_steps: i64,
    epoch_size: i64,
}

/// Where the text of a producer is.
enum Rows {
    /// The split's own tokens, not copied: a batch is cut out of them when it is asked for.
    Shared(Arc<Vec<i32>>),
    /// `[batch_size, batch_len]` ids on a GPU, so that a step brings nothing there.
    Device(Tensor),
}

impl Producer {
    /// Arranges `split` on `device`; the rest that fills no whole column is left out, as in the original.
    ///
    /// # Errors
    /// A text too short for a single step; a GPU without room for it.
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
        let rows = match device {
            Device::Cpu => Rows::Shared(split.tokens.clone()),
            _ => Rows::Device(
                Tensor::f_from_slice(&split.tokens[..(batch_size * batch_len) as usize])?
                    .view([batch_size, batch_len])
                    .f_to_device(device)?,
            ),
        };
        Ok(Producer { rows, batch_size, batch_len, num_steps, epoch_size })
    }

    /// Steps in an epoch.
    pub fn epoch_size(&self) -> i64 {
        self.epoch_size
    }

    /// Rows side by side.
    pub fn batch_size(&self) -> i64 {
        self.batch_size
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
        self.cut(i * self.num_steps, self.num_steps + 1)
    }

    /// The `len` words that start at each of these columns of these rows, `[places, len]`, int64.
    pub(crate) fn words_at(&self, places: &[(i64, i64)], len: i64) -> Result<Tensor> {
        let words = match &self.rows {
            Rows::Shared(tokens) => {
                let words =
                    |&(row, column)| &tokens[(row * self.batch_len + column) as usize..][..len as usize];
                let words: Vec<&[i32]> = places.iter().map(words).collect();
                Tensor::f_from_slice(&words.concat())?.f_view([places.len() as i64, len])?
            }
            Rows::Device(rows) => {
                let words = |&(row, column)| rows.f_get(row)?.f_narrow(0, column, len);
                Tensor::f_stack(&places.iter().map(words).collect::<Result<Vec<_>, _>>()?, 0)?
            }
        };
        Ok(words.to_kind(Kind::Int64))
    }

    fn slice(&self, start: i64, len: i64) -> (Tensor, Tensor) {
        let columns = self.cut(start, len + 1);
        let ids = |start| columns.narrow(1, start, len).to_kind(Kind::Int64);
        (ids(0), ids(1))
    }

    /// Columns of the text as they lie here, int32.
    fn cut(&self, start: i64, len: i64) -> Tensor {
        match &self.rows {
            Rows::Shared(tokens) => {
                let row = |row: i64| &tokens[(row * self.batch_len + start) as usize..][..len as usize];
                let rows: Vec<&[i32]> = (0..self.batch_size).map(row).collect();
                Tensor::from_slice(&rows.concat()).view([self.batch_size, len])
            }
            Rows::Device(rows) => rows.narrow(1, start, len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_of(tokens: Vec<i32>) -> Split {
        Split { name: "test".into(), tokens: Arc::new(tokens), ..Split::default() }
    }

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
        let words: Vec<&str> = split.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn limits_make_other_words_unknown_in_all_texts() {
        let texts: [&[u8]; 3] = [b"a a a a b b b c c d\nd e <unk>\n", b"a x c\n", b"e\n"];
        let folder = folder(texts);
        let read = |max_vocab, min_count| {
            RawData::read_with(folder.path().to_str().unwrap(), Limits { max_vocab, min_count }, &mut |_| {})
                .unwrap()
        };
        let words = |data: &RawData| data.vocabulary.words().map(str::to_owned).collect::<Vec<_>>();
        // a 4, b 3, and of <eos>, c, d with 2 each only <eos>, which always stays; <unk> is 1 of its own and c, c, d, d, e.
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

        // A training text without <unk>: it is there all the same, last.
        let data = RawData::read_with(
            self::folder([b"a b a\n", b"z\n", b"a\n"]).path().to_str().unwrap(),
            Limits { min_count: Some(1), ..Limits::default() },
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
            assert!(error.contains("more than one set") && error.contains("ptb.valid.txt"), "{error}");
        }
    }

    #[test]
    fn wikitext_is_read_as_it_is() {
        // The beginning of WikiText's format: a blank line, a heading, text with <unk>.
        let text = b" \n = Robert <unk> = \n \n Robert <unk> is an English film , \n \n = = Career = = \n \n";
        let data = data_of([text, text, text]).unwrap();
        assert_eq!(
            in_words(&data, &data.valid),
            "<eos> = Robert <unk> = <eos> <eos> Robert <unk> is an English film , <eos> <eos> = = Career = = <eos> <eos>"
        );
        assert_eq!(data.valid.dropped, 0);
    }

    /// A reader that gives its bytes a few at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all_words(text: &'static [u8], at_once: usize) -> Result<Vec<String>> {
        let mut reader = TextReader::new(Box::new(Trickle(text, at_once)), "trickle".into());
        let mut all = Vec::new();
        while let Some(piece) = reader.next_piece()? {
            all.extend(words(piece).map(|word| word.unwrap_or(EOS).to_owned()));
        }
        Ok(all)
    }

    #[test]
    fn words_do_not_depend_on_where_the_pieces_are_cut() {
        // A byte-order mark, Windows line ends, characters of 1 to 4 bytes, an ideographic space, no newline at the end.
        let text = "\u{feff}eins zwei\r\n\r\n größer\u{3000}日本 𝄞𝄞\tz\n\nend";
        let expected = ["eins", "zwei", EOS, EOS, "größer", "日本", "𝄞𝄞", "z", EOS, EOS, "end"];
        for at_once in [1, 2, 3, 4, 5, 7, 100] {
            assert_eq!(all_words(text.as_bytes(), at_once).unwrap(), expected, "{at_once} bytes at once");
        }
        for at_once in [1, 3, 1000] {
            let error = all_words(b"a b\nc d\n\ne \xe6\x97", at_once).unwrap_err().to_string();
            assert!(error.contains("line 4, byte 11 of the file (0xe6)"), "{error}");
            let error = all_words(b"a b\nc\xff d\n", at_once).unwrap_err().to_string();
            assert!(error.contains("line 2, byte 5 of the file (0xff)"), "{error}");
        }
    }

    #[test]
    fn lines_may_be_long_and_words_may_not() {
        // A line of 10 MB.
        let long = b"word ".repeat(2_000_000);
        let data = data_of([&[&long[..], b"\nend\n"].concat(), b"word\n", b"end\n"]).unwrap();
        assert_eq!(data.train.tokens.len(), 2_000_003);
        assert_eq!(data.vocabulary.words().collect::<Vec<_>>(), ["word", EOS, "end"]);
        let error =
            format!("{:#}", data_of([&[b"a\n", &[b'x'; 3 << 20][..]].concat(), b"a\n", b"a\n"]).unwrap_err());
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
        let mut last: Vec<(String, u64, u64)> = Vec::new();
        RawData::read_with(folder.path().to_str().unwrap(), Limits::default(), &mut |p| {
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
        let words: Vec<_> = data.train.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
        assert_eq!(words, ["a", "b", EOS, "b", EOS, EOS, "c"]);
        assert_eq!(data.test.tokens.len(), 1);
    }

    #[test]
    fn broken_files_are_refused_in_words() {
        let error = |files| format!("{:#}", data_of(files).unwrap_err());
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
        assert!(missing.contains("no text of a known name") && missing.contains("ptb.*.txt"), "{missing}");
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
    fn words_at_a_place_are_those_of_the_batches() {
        let split = split_of((0..103).collect());
        let shared = Producer::new(&split, 2, 7, Device::Cpu).unwrap();
        // As it is on a GPU.
        let rows = Tensor::from_slice(&split.tokens[..102]).view([2, 51]);
        let device =
            Producer { rows: Rows::Device(rows), ..Producer::new(&split, 2, 7, Device::Cpu).unwrap() };
        let (x, y) = shared.batch(3);
        for producer in [shared, device] {
            let words = |column| producer.words_at(&[(0, column), (1, column)], 7).unwrap();
            assert_eq!((words(21), words(22)), (x.copy(), y.copy()));
            let words = producer.words_at(&[(1, 48), (0, 0), (1, 5)], 3).unwrap();
            assert_eq!(Vec::<Vec<i64>>::try_from(words).unwrap(), [[99, 100, 101], [0, 1, 2], [56, 57, 58]]);
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
        assert_eq!(data.vocabulary.words().take(3).collect::<Vec<_>>(), ["the", "<unk>", "<eos>"]);
        assert_eq!(data.train.tokens.len(), 929_589);
        assert_eq!(data.valid.tokens.len(), 73_760);
        assert_eq!(data.test.tokens.len(), 82_430);
        assert_eq!(data.valid.dropped + data.test.dropped, 0);
        assert_eq!(data.train.md5, "f26c4b92c5fdc7b3f8c7cdcb991d8420");
    }
}
