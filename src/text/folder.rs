//! The folder of the three texts, and the sample corpus inside this program.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use thiserror::Error;

use super::TextReader;
use crate::sample;

/// A data path that means the sample corpus inside this program instead of a folder.
pub const SAMPLE: &str = "sample";

/// The usual names of the three texts: PTB's, plain ones, WikiText's, and those of WikiText's raw
/// form. `*` stands for `train`, `valid` and `test`.
pub const NAMINGS: [&str; 4] = ["ptb.*.txt", "*.txt", "wiki.*.tokens", "wiki.*.raw"];

/// A data path that does not lead to three texts. The message begins with the path.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NoTexts(String);

/// Opens the training, validation and test text of `data_path`, a folder or [`SAMPLE`].
///
/// All three are opened before one is read, so that a test file that cannot be read is reported at
/// the start and not after minutes of reading a large training text.
///
/// # Errors
/// [`NoTexts`] for a folder that is missing, incomplete or ambiguous; a file that cannot be read.
pub(crate) fn open_texts(data_path: &str) -> Result<[TextReader; 3]> {
    if data_path == SAMPLE {
        let texts = [("train", sample::TRAIN), ("valid", sample::VALID), ("test", sample::TEST)];
        return Ok(texts.map(embedded));
    }
    let [train, valid, test] = find(data_path)?;
    Ok([open(&train)?, open(&valid)?, open(&test)?])
}

/// Finds the three texts in a folder.
fn find(data_path: &str) -> Result<[PathBuf; 3], NoTexts> {
    let folder = Path::new(data_path);
    let expected = format!(
        "It is the folder that holds a training, a validation and a test text, named in one of \
         these ways, * being train, valid and test: {}. (`make data` looks for PTB; the word \
         `{SAMPLE}` stands for the sample corpus inside this program)",
        NAMINGS.join(", ")
    );
    let error = |what: String| Err(NoTexts(format!("{data_path}: {what}")));
    if !folder.is_dir() {
        let what = if folder.exists() { "it is a file, not a folder" } else { "no such folder" };
        return error(format!("{what}. {expected}"));
    }
    let names =
        NAMINGS.map(|naming| ["train", "valid", "test"].map(|split| naming.replace('*', split)));
    let is_there = |name: &String| folder.join(name).exists();
    let (complete, partial): (Vec<_>, Vec<_>) = names
        .iter()
        .filter(|set| set.iter().any(is_there))
        .partition(|set| set.iter().all(is_there));
    let list = |sets: &[&[String; 3]], there: bool| {
        let names = sets.iter().copied().flatten().filter(|name| is_there(name) == there);
        names.map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    match (&complete[..], &partial[..]) {
        ([names], _) => Ok(names.each_ref().map(|name| folder.join(name))),
        ([], []) => {
            error(format!("there is no text of a known name in it{}. {expected}", others(folder)))
        }
        ([], partial) => error(format!(
            "the texts in it are not complete: there is {}, but no {}{}. {expected}",
            list(partial, true),
            list(partial, false),
            others(folder)
        )),
        (several, _) => error(format!(
            "there is more than one set of texts in it: {}. Leave one of them there, or give each \
             its own folder",
            list(several, true)
        )),
    }
}

/// What is in a folder instead of the texts, for messages: files that only need another name or to
/// be unpacked, or else all of them.
fn others(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    if names.is_empty() {
        return "; it is empty".to_owned();
    }
    let packed = names.iter().any(|name| {
        [".gz", ".bz2", ".xz", ".zip", ".zst", ".tgz", ".tar"].iter().any(|e| name.ends_with(e))
    });
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let mut text = format!(". In it: {}", names.join(", "));
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text += match packed {
        true => ". Unpack what is compressed, and rename what has another name",
        false => ". Rename what has another name (val, dev, capitals)",
    };
    text
}

/// Opens a file.
pub(crate) fn open(path: &Path) -> Result<TextReader> {
    let name = path.display().to_string();
    let cannot = || format!("{name}: cannot be read");
    let file = File::open(path).with_context(cannot)?;
    let metadata = file.metadata().with_context(cannot)?;
    ensure!(metadata.is_file(), "{name}: is not a file");
    Ok(TextReader::new(Box::new(file), name).with_total(metadata.len()))
}

/// A text inside this program.
fn embedded((split, text): (&str, &'static str)) -> TextReader {
    let name = format!("{SAMPLE}/ptb.{split}.txt");
    TextReader::new(Box::new(text.as_bytes()), name).with_total(text.len() as u64)
}
