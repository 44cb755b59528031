//! Texts: the files that they are in, their lines of UTF-8, the words in them.

mod folder;
mod markers;

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use md5::{Digest, Md5};

pub use folder::{NAMINGS, NoTexts, SAMPLE};
pub(crate) use folder::{open, open_texts};
pub use markers::{MarkerCounts, Markers};
pub(crate) use markers::{MarkerFilter, is_mark};

/// The token for the end of a line.
pub const EOS: &str = "<eos>";

/// The token for a word outside of the vocabulary.
pub const UNK: &str = "<unk>";

/// How much of a text has been read.
#[derive(Clone, Copy, Debug)]
pub struct ReadProgress<'a> {
    /// Name of the text.
    pub name: &'a str,
    /// Bytes that have been read.
    pub done: u64,
    /// Bytes in the text.
    pub total: u64,
}

/// Bytes that are read from a file at a time.
const BUFFER: usize = 1 << 18;

/// A line with more bytes than this is read in pieces, and a single word must not have more.
const LONGEST_PIECE: usize = 1 << 20;

/// Splits text into words where Python's `str.split()` does. `None` stands for the end of a line.
///
/// The original reads `text.replace("\n", "<eos>").split()`, so only `\n` ends a line. Every other
/// space, such as `\r`, a form feed or U+2028, separates words. (A text that has no `\n` is another
/// matter: see [`TextReader`].)
pub(crate) fn words(text: &str) -> impl Iterator<Item = Option<&str>> {
    text.split_inclusive('\n').flat_map(|line| {
        let words = line.split(is_space).filter(|word| !word.is_empty());
        words.map(Some).chain(line.ends_with('\n').then_some(None))
    })
}

/// Number of line ends.
fn line_ends(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Python's `str.isspace()`: Unicode's white space and the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    match c {
        '\t'..='\r' | '\u{1c}'..=' ' => true,
        '\0'..='\x7f' => false,
        _ => c.is_whitespace(),
    }
}

/// The first bytes of packed files, what packs them, and what unpacks them. None of these bytes is
/// a line's end, so all of them are in the first piece.
const PACKED: [(&[u8], &str, &str); 9] = [
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x1f\x9d", "compress", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
    (b"Rar!\x1a\x07", "RAR", "unrar x"),
];

/// The program that packed a file which begins with these bytes, and the one that unpacks it.
fn packed(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let is = |magic: &[u8]| {
        // A text may begin with the three letters of bzip2. Its next bytes are a digit, and pi.
        start.starts_with(magic)
            && (magic != b"BZh" || start.get(4..10) == Some(b"\x31\x41\x59\x26\x53\x59"))
    };
    let found = PACKED.iter().find(|(magic, ..)| is(magic));
    // In a tar archive the name of its first file comes first.
    let tar = start.get(257..262) == Some(b"ustar");
    found.map(|&(_, kind, unpack)| (kind, unpack)).or(tar.then_some(("tar", "tar -xf")))
}

/// A text that is read line by line and checked to be UTF-8. Its memory grows neither with the text
/// nor with the length of a line.
///
/// A text with `\r` and without any `\n` has the line ends of old Macs: there `\r` is read as `\n`,
/// where the original has one single line. (The first megabyte decides.)
pub(crate) struct TextReader {
    reader: BufReader<Box<dyn Read>>,
    name: String,
    /// Size of the text in bytes, or 0 if unknown.
    total: u64,
    /// The current piece, and what was read after it. Before it there may be earlier pieces.
    buffer: Vec<u8>,
    /// Where the current piece begins.
    start: usize,
    /// Length of the current piece in bytes.
    piece: usize,
    /// Lines and bytes before the current piece.
    lines: u64,
    bytes: u64,
    md5: Md5,
    /// Whether a `\r` ends a line.
    has_returns: bool,
}

impl TextReader {
    /// Starts at the beginning of a text. Messages call it `name`.
    pub(crate) fn new(reader: Box<dyn Read>, name: String) -> Self {
        TextReader {
            reader: BufReader::with_capacity(BUFFER, reader),
            name,
            total: 0,
            buffer: Vec::new(),
            start: 0,
            piece: 0,
            lines: 0,
            bytes: 0,
            md5: Md5::new(),
            has_returns: false,
        }
    }

    /// Sets the size in bytes.
    fn with_total(self, total: u64) -> Self {
        TextReader { total, ..self }
    }

    /// Reads the next line with its `\n`, or `None` at the end of the text. A line of more than a
    /// megabyte comes in several pieces that end at white space.
    ///
    /// # Errors
    /// A disk error, bytes that are not UTF-8, a word of more than a megabyte.
    pub(crate) fn next_piece(&mut self) -> Result<Option<&str>> {
        let (end, is_cut) = self.fill()?;
        let piece = &self.buffer[self.start..end];
        if piece.is_empty() {
            return Ok(None);
        }
        let is_start = self.bytes == 0;
        if is_start && let Some((kind, unpack)) = packed(&self.buffer) {
            bail!(
                "{}: is not text but packed by {kind}. Unpack it first, e.g. with {unpack}",
                self.name
            );
        }
        let text = match str::from_utf8(piece) {
            Ok(text) => text,
            // The last character of a cut line may be cut too.
            Err(error) if is_cut && error.error_len().is_none() => {
                str::from_utf8(&piece[..error.valid_up_to()])?
            }
            Err(error) => return Err(self.not_utf8(error.valid_up_to())),
        };
        let text = if is_cut { text.trim_end_matches(|c| !is_space(c)) } else { text };
        ensure!(
            !text.is_empty(),
            "{}: line {} has a word of more than {LONGEST_PIECE} bytes; words are separated by \
             spaces",
            self.name,
            self.lines + 1
        );
        self.piece = text.len();
        // A byte-order mark is not part of the first word.
        let without_mark = if is_start { text.strip_prefix('\u{feff}') } else { None };
        Ok(Some(without_mark.unwrap_or(text)))
    }

    /// Drops the current piece, and reads on if no whole line is left in the buffer. Returns where
    /// the next piece ends, and whether it is a part of a line. At the end of the text it is empty.
    fn fill(&mut self) -> Result<(usize, bool)> {
        let piece = &self.buffer[self.start..][..self.piece];
        self.lines += line_ends(piece);
        self.bytes += piece.len() as u64;
        self.start += piece.len();
        self.piece = 0;
        // Many lines are read at once where `\r` ends them.
        if let Some(end) = self.line_end() {
            return Ok((end, false));
        }
        self.buffer.drain(..self.start);
        self.start = 0;

        let rest = self.buffer.len();
        let room = LONGEST_PIECE - rest;
        let read = (&mut self.reader).take(room as u64).read_until(b'\n', &mut self.buffer);
        // What came before an error counts too: after a pause the text goes on.
        self.md5.update(&self.buffer[rest..]);
        if self.bytes == 0 && read.is_ok() {
            self.has_returns = self.buffer.contains(&b'\r') && !self.buffer.contains(&b'\n');
        }
        if self.has_returns {
            let returns = self.buffer.iter_mut().filter(|byte| **byte == b'\r');
            returns.for_each(|byte| *byte = b'\n');
        }
        let read = read.with_context(|| format!("{}: cannot be read", self.name))?;
        Ok(match self.line_end() {
            Some(end) => (end, false),
            None => (self.buffer.len(), read == room && !self.buffer.ends_with(b"\n")),
        })
    }

    /// The end of the first line in the buffer after the pieces that were read, if it is there.
    /// Where only `\n` ends a line, the buffer never has more than one line.
    fn line_end(&self) -> Option<usize> {
        if !self.has_returns {
            return None;
        }
        let at = self.buffer[self.start..].iter().position(|&byte| byte == b'\n')?;
        Some(self.start + at + 1)
    }

    /// The error of a byte of the current piece that is not UTF-8.
    fn not_utf8(&self, at: usize) -> Error {
        if self.bytes == 0 && is_utf16(&self.buffer) {
            return anyhow!(
                "{}: not UTF-8 text: the file is UTF-16. iconv -f UTF-16 -t UTF-8 converts it",
                self.name
            );
        }
        let piece = &self.buffer[self.start..];
        anyhow!(
            "{}: not UTF-8 text: line {}, byte {} of the file (0x{:02x}). Convert the file to \
             UTF-8, e.g. with iconv",
            self.name,
            self.lines + line_ends(&piece[..at]) + 1,
            self.bytes + at as u64,
            piece[at]
        )
    }

    /// Size of the text in bytes, or 0 if unknown.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Calls `each` for every word and every line's end ([`EOS`]) of the text, and `listen` after
    /// every megabyte and at the end. Marks of other toolkits become what `markers` says; those
    /// that `is_known` are words of the model. Returns which marks there were.
    ///
    /// # Errors
    /// As [`Self::next_piece`]; what `each` returns.
    pub(crate) fn for_each_word(
        &mut self,
        markers: Markers,
        is_known: &dyn Fn(&str) -> bool,
        listen: &mut dyn FnMut(ReadProgress),
        each: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<MarkerCounts> {
        let mut filter = MarkerFilter::new(markers, is_known);
        let mut each = |word: Option<&str>| each(word.unwrap_or(EOS));
        let mut due = 1 << 20;
        while let Some(piece) = self.next_piece()? {
            words(piece).try_for_each(|word| filter.put(word, &mut each))?;
            let done = self.bytes + self.piece as u64;
            if done >= due || done == self.total {
                listen(ReadProgress { name: &self.name, done, total: self.total });
                due = done + (1 << 20);
            }
        }
        filter.finish(&mut each)
    }

    /// Name and MD5 of the text, in hexadecimal, after the last piece was read.
    ///
    /// # Errors
    /// An empty text.
    pub(crate) fn finish(self) -> Result<(String, String)> {
        ensure!(self.bytes > 0, "{}: the file is empty", self.name);
        let md5 = self.md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((self.name, md5))
    }
}

/// Whether a file is UTF-16, by its byte-order mark.
fn is_utf16(start: &[u8]) -> bool {
    start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn words_are_split_where_python_splits_them() {
        // [c for c in range(0x110000) if chr(c).isspace()], the same in all versions of Python 3.
        let spaces: Vec<u32> =
            [0x09..=0x0d, 0x1c..=0x20, 0x85..=0x85, 0xa0..=0xa0, 0x1680..=0x1680]
                .into_iter()
                .chain([
                    0x2000..=0x200a,
                    0x2028..=0x2029,
                    0x202f..=0x202f,
                    0x205f..=0x205f,
                    0x3000..=0x3000,
                ])
                .flatten()
                .collect();
        for c in '\0'..=char::MAX {
            let text = format!("a{c}{c}b{c}");
            let expected = match c {
                '\n' => vec![Some("a"), None, None, Some("b"), None],
                _ if spaces.contains(&(c as u32)) => vec![Some("a"), Some("b")],
                _ => vec![Some(text.as_str())],
            };
            assert_eq!(words(&text).collect::<Vec<_>>(), expected, "U+{:04X}", c as u32);
        }
    }

    #[test]
    fn words_do_not_depend_on_the_size_of_reads() {
        // A byte-order mark, Windows line ends, characters of 1 to 4 bytes, an ideographic space, a
        // separator, no newline at the end.
        let text = "\u{feff}eins zwei\r\n\r\n größer\u{3000}日本\u{1e}𝄞𝄞\tz\n\nend";
        let expected = ["eins", "zwei", EOS, EOS, "größer", "日本", "𝄞𝄞", "z", EOS, EOS, "end"];
        for at_once in [1, 2, 3, 4, 5, 7, 100] {
            assert_eq!(
                all_words(text.as_bytes(), at_once).unwrap(),
                expected,
                "{at_once} bytes at once"
            );
        }
        for at_once in [1, 3, 1000] {
            let error = all_words(b"a b\nc d\n\ne \xe6\x97", at_once).unwrap_err().to_string();
            assert!(error.contains("line 4, byte 11 of the file (0xe6)"), "{error}");
            let error = all_words(b"a b\nc\xff d\n", at_once).unwrap_err().to_string();
            assert!(error.contains("line 2, byte 5 of the file (0xff)"), "{error}");
        }
    }

    #[test]
    fn carriage_returns_end_lines_where_nothing_else_does() {
        for at_once in [1, 2, 3, 100] {
            let found = |text: &'static [u8]| all_words(text, at_once).unwrap();
            assert_eq!(found(b"a b\rc\r\rd"), ["a", "b", EOS, "c", EOS, EOS, "d"]);
            assert_eq!(found(b"a b\r\nc\r\n"), ["a", "b", EOS, "c", EOS]);
            // Among newlines it is a space, as in the original.
            assert_eq!(found(b"a\rb\nc\rd\r"), ["a", "b", EOS, "c", "d"]);
            let error = all_words(b"a\rb\rc\rd \xff\r", at_once).unwrap_err().to_string();
            assert!(error.contains("line 4, byte 8 of the file (0xff)"), "{error}");
        }
        // Each line is a piece, whatever ends it.
        for text in ["ab cd\n", "\n", "a"].map(|end| format!("ab cd{end}ef")) {
            let pieces = |text: String| {
                let mut reader =
                    TextReader::new(Box::new(Trickle(text.leak().as_bytes(), 5)), "".into());
                let mut pieces = Vec::new();
                while let Some(piece) = reader.next_piece().unwrap() {
                    pieces.push(piece.to_owned());
                }
                (pieces, reader.finish().unwrap().0)
            };
            assert_eq!(pieces(text.replace('\n', "\r")), pieces(text));
        }
        // More than is read at once, all of it in short lines.
        let found = all_words("ab cd\r".repeat(400_000).leak().as_bytes(), BUFFER).unwrap();
        assert_eq!(found.len(), 1_200_000);
        assert!(found.chunks(3).all(|line| line == ["ab", "cd", EOS]));
    }

    #[test]
    fn long_lines_are_cut_between_words() {
        for space in [" ", "\u{1f}", "\u{3000}"] {
            // The first word moves the cut through the bytes of the others.
            for first in 1..9 {
                let word = format!("日本{space}");
                let count = 2 * LONGEST_PIECE / word.len();
                let text = format!("{}{space}{}\nend", "x".repeat(first), word.repeat(count));
                let found = all_words(text.leak().as_bytes(), BUFFER).unwrap();
                assert_eq!(found.len(), count + 3);
                assert_eq!(found[0].len(), first);
                assert!(found[1..=count].iter().all(|word| word == "日本"));
                assert_eq!(found[count + 1..], [EOS, "end"]);
            }
        }
        // A byte that is wrong within a long line.
        let mut text = b"ab ".repeat(LONGEST_PIECE);
        text[2 * LONGEST_PIECE] = 0xff;
        let error = all_words(text.leak(), BUFFER).unwrap_err().to_string();
        assert!(
            error.contains(&format!("line 1, byte {} of the file (0xff)", 2 * LONGEST_PIECE)),
            "{error}"
        );
    }

    #[test]
    fn packed_files_are_named() {
        let tar = [&b"train.txt"[..], &[0; 248], b"ustar\x0000"].concat();
        for (bytes, says) in [
            (&b"\x1f\x8b\x08\x00\n\n"[..], "packed by gzip. Unpack it first, e.g. with gunzip"),
            (b"\x28\xb5\x2f\xfd\x04", "packed by zstd"),
            (b"\xfd7zXZ\0\0", "packed by xz"),
            (b"BZh91AY&SY\x00", "packed by bzip2"),
            (b"PK\x03\x04\x14", "packed by zip. Unpack it first, e.g. with unzip"),
            (tar.leak(), "packed by tar"),
        ] {
            let error = all_words(bytes, 1000).unwrap_err().to_string();
            assert!(error.starts_with("trickle: is not text") && error.contains(says), "{error}");
        }
        assert_eq!(all_words(b"BZh 1\n", 1000).unwrap(), ["BZh", "1", EOS]);
    }

    #[test]
    fn a_word_has_a_longest_length() {
        let longest = "x".repeat(LONGEST_PIECE - 1);
        let text = format!("a\n{longest}\n{longest} {longest}").leak();
        let found: Vec<usize> =
            all_words(text.as_bytes(), BUFFER).unwrap().iter().map(String::len).collect();
        assert_eq!(found, [1, 5, longest.len(), 5, longest.len(), longest.len()]);
        for text in [format!("a\n{longest}xx\n"), format!("a\n {longest}x b")] {
            let error = all_words(text.leak().as_bytes(), BUFFER).unwrap_err().to_string();
            assert!(
                error.contains("trickle: line 2 has a word of more than 1048576 bytes"),
                "{error}"
            );
        }
    }
}
