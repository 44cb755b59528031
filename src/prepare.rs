//! One text made into three: training, validation and test, by lines, and words set apart.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use thiserror::Error;

use crate::files::{make_folder, write_atomically};
use crate::text::{NAMINGS, is_mark, open, words};

/// The files that are written.
pub(crate) const FILES: [&str; 3] = ["train.txt", "valid.txt", "test.txt"];

/// Percent of the lines in each of [`FILES`].
pub(crate) const SHARES: [u64; 3] = [80, 10, 10];

/// What is done to the words.
#[derive(Clone, Copy, Default)]
pub(crate) struct Changes {
    /// Makes all letters lower case.
    pub lower: bool,
    /// Sets punctuation apart, and characters of scripts without spaces.
    pub tokenize: bool,
}

/// The error of a file that is there already.
#[derive(Debug, Error)]
#[error("{}: there is such a file already", .0.display())]
pub(crate) struct Exists(PathBuf);

/// One of the files that were written.
#[derive(Clone, Default)]
pub(crate) struct Part {
    pub path: PathBuf,
    /// Lines, and the words in them.
    pub lines: u64,
    pub words: u64,
}

/// Splits `text` into three files in `folder`: the first lines are for training, those after them
/// for validation, the last for the test. Either all three files are written or none.
///
/// # Errors
/// A text that cannot be read or has fewer than three lines; files that are there already, unless
/// `overwrite`; a full disk.
pub(crate) fn split(
    text: &Path,
    folder: &Path,
    changes: Changes,
    overwrite: bool,
) -> Result<[Part; 3]> {
    let paths = FILES.map(|name| folder.join(name));
    let total = count_lines(text)?;
    ensure!(
        total >= 3,
        "{}: it has {total} line{}, and a text is split between lines: at least 3 are needed, such \
         as one for every sentence",
        text.display(),
        if total == 1 { "" } else { "s" }
    );
    refuse_others(text, folder, &paths, overwrite)?;
    make_folder(folder)
        .with_context(|| format!("{}: the folder could not be made", folder.display()))?;
    let mut parts = paths.clone().map(|path| Part { path, ..Part::default() });
    let [train, valid, test] = &paths;
    // Each file is renamed into its place after all three are written.
    write_atomically(train, |train| {
        write_atomically(valid, |valid| {
            write_atomically(test, |test| {
                write_parts(text, total, changes, [&mut *train, &mut *valid, test], &mut parts)?;
                Ok([train, valid].into_iter().try_for_each(|file| file.flush())?)
            })
        })
    })?;
    Ok(parts)
}

/// The number of the part that a line belongs to, of `total` lines counted from 0. No part is
/// empty.
fn part_of(line: u64, total: u64) -> usize {
    let share = |percent: u64| (total * percent / 100).max(1);
    let test = total - share(SHARES[2]);
    let valid = test - share(SHARES[1]);
    usize::from(line >= valid) + usize::from(line >= test)
}

/// Lines that have a word.
fn count_lines(path: &Path) -> Result<u64> {
    let mut text = open(path)?;
    let mut lines = Lines::default();
    while let Some(piece) = text.next_piece()? {
        lines.take(piece);
    }
    Ok(lines.number())
}

/// Counts lines that have a word. A long line comes in several pieces.
#[derive(Default)]
struct Lines {
    ended: u64,
    /// Whether the current line has a word.
    has_word: bool,
}

impl Lines {
    /// Takes in the next piece. Returns the number of the line that it is part of.
    fn take(&mut self, piece: &str) -> u64 {
        let number = self.ended;
        self.has_word |= !piece.trim().is_empty();
        if piece.ends_with('\n') {
            self.ended += u64::from(self.has_word);
            self.has_word = false;
        }
        number
    }

    fn number(&self) -> u64 {
        self.ended + u64::from(self.has_word)
    }
}

fn write_parts(
    path: &Path,
    total: u64,
    changes: Changes,
    files: [&mut BufWriter<File>; 3],
    parts: &mut [Part; 3],
) -> Result<()> {
    let mut text = open(path)?;
    let mut lines = Lines::default();
    let mut changed = String::new();
    // Whether the next piece goes on in the line of the last one.
    let mut in_line = false;
    while let Some(piece) = text.next_piece()? {
        let part = part_of(lines.take(piece).min(total - 1), total);
        let piece = if changes.lower { piece.to_lowercase() } else { piece.to_owned() };
        changed.clear();
        match changes.tokenize {
            true => {
                changed.push_str(if in_line { " " } else { "" });
                tokenize(&piece, &mut changed);
            }
            false => changed.push_str(&piece),
        }
        in_line = !piece.ends_with('\n');
        parts[part].lines += u64::from(piece.ends_with('\n'));
        parts[part].words += words(&changed).filter(Option::is_some).count() as u64;
        files[part].write_all(changed.as_bytes())?;
    }
    if lines.has_word {
        parts[2].lines += 1;
        files[2].write_all(b"\n")?;
    }
    Ok(())
}

/// Errors if something would be overwritten that should not be.
fn refuse_others(text: &Path, folder: &Path, paths: &[PathBuf; 3], overwrite: bool) -> Result<()> {
    let place = text.canonicalize().ok();
    let is_text = |path: &PathBuf| place.is_some() && path.canonicalize().ok() == place;
    if let Some(path) = paths.iter().find(|path| is_text(path)) {
        bail!(
            "{}: it would be overwritten by a part of itself; choose another folder",
            path.display()
        );
    }
    if let Some(path) = paths.iter().find(|path| path.exists() && !overwrite) {
        bail!(Exists(path.clone()));
    }
    let names = NAMINGS.iter().flat_map(|n| ["train", "valid", "test"].map(|s| n.replace('*', s)));
    let other = names.filter(|name| !FILES.contains(&&**name)).find(|n| folder.join(n).exists());
    if let Some(name) = other {
        bail!(
            "{}: there is another text in this folder; choose a folder of its own",
            folder.join(name).display()
        );
    }
    Ok(())
}

/// Sets words apart, with one space between them and the line ends as they are:
///
/// - letters and digits stay together, with an apostrophe, a hyphen or an underscore between two of
///   them (`don't`, `well-known`), and a point or a comma between two digits (`3.14`, `10,000`);
/// - `<unk>`, `</s>` and other names in angle brackets stay as they are, and so do marks such as
///   `[UNK]`;
/// - a Chinese or Japanese character is a word;
/// - so is every other character, such as a comma.
pub(crate) fn tokenize(text: &str, out: &mut String) {
    let chars: Vec<char> = text.chars().collect();
    let mut k = 0;
    while k < chars.len() {
        let c = chars[k];
        if c.is_whitespace() {
            if c == '\n' {
                out.push('\n');
            }
            k += 1;
            continue;
        }
        let end = token_end(&chars, k);
        if out.chars().next_back().is_some_and(|last| !matches!(last, '\n' | ' ')) {
            out.push(' ');
        }
        out.extend(&chars[k..end]);
        k = end;
    }
}

/// The end of the word that begins at `start`.
fn token_end(chars: &[char], start: usize) -> usize {
    if let '<' | '[' = chars[start] {
        let slash = usize::from(chars[start] == '<' && chars.get(start + 1) == Some(&'/'));
        let name = chars[start + 1 + slash..].iter().take_while(|c| c.is_ascii_alphanumeric());
        let name = name.count();
        let end = start + 1 + slash + name;
        let is_name = match chars.get(end) {
            Some('>') => chars[start] == '<' && name > 0,
            Some(']') => is_mark(&chars[start..=end].iter().collect::<String>()),
            _ => false,
        };
        if is_name {
            return end + 1;
        }
    }
    if !is_letter(chars[start]) {
        return start + 1;
    }
    let mut end = start + 1;
    while end < chars.len() {
        let after = chars.get(end + 1);
        let joins = match chars[end] {
            '\'' | '’' | '-' | '_' => after.copied().is_some_and(is_letter),
            '.' | ',' => {
                let digit = |c: &char| c.is_numeric();
                digit(&chars[end - 1]) && after.is_some_and(digit)
            }
            c => is_letter(c),
        };
        if !joins {
            break;
        }
        end += 1;
    }
    end
}

/// Letters, digits, and the marks that belong to a letter, of scripts with spaces between words.
fn is_letter(c: char) -> bool {
    let is_mark = matches!(
        c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}'
            | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{963}'
            | '\u{966}'..='\u{dff}' | '\u{e31}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}'
            | '\u{1dc0}'..='\u{1dff}' | '\u{200c}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}'
    );
    !is_east_asian(c) && (c.is_alphanumeric() || is_mark)
}

/// Characters of Chinese and Japanese, which have no spaces between words.
fn is_east_asian(c: char) -> bool {
    matches!(
        c,
        '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_set_apart() {
        for (text, expected) in [
            ("Hello, world!\n", "Hello , world !\n"),
            ("don't \"stop\" (now).", "don't \" stop \" ( now ) ."),
            ("well-known - 3.14, 10,000.\n", "well-known - 3.14 , 10,000 .\n"),
            ("the <unk> said: <b\n\n a", "the <unk> said : < b\n\na"),
            ("<s> a</s>[UNK],<UNK>[1] </> <a/>", "<s> a </s> [UNK] , <UNK> [ 1 ] < / > < a / >"),
            ("我爱你。\r\n", "我 爱 你 。\n"),
            ("カタカナと漢字", "カ タ カ ナ と 漢 字"),
            ("naïve café e\u{301}t", "naïve café e\u{301}t"),
            ("हिन्दी।", "हिन्दी ।"),
            ("  a\tb  \n", "a b\n"),
            ("x_1 'quoted' rock 'n' roll", "x_1 ' quoted ' rock ' n ' roll"),
            ("", ""),
        ] {
            let mut out = String::new();
            tokenize(text, &mut out);
            assert_eq!(out, expected, "{text:?}");
        }
    }

    #[test]
    fn every_part_has_its_share_of_the_lines() {
        for total in 3..500 {
            let parts: Vec<usize> = (0..total).map(|line| part_of(line, total)).collect();
            assert!(parts.is_sorted(), "the parts are whole blocks");
            let share = |part| parts.iter().filter(|&&p| p == part).count() as u64;
            assert_eq!([share(1), share(2)], [(total / 10).max(1); 2]);
            assert_eq!(share(0), total - 2 * (total / 10).max(1));
        }
    }
}
