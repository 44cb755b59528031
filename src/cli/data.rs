//! Reading the data, with a progress bar if that takes long.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::flag_error;
use super::report::notice;
use crate::checkpoint::ensure_same_vocabulary;
use crate::reader::{Limits, NoTexts, Progress, RawData, SAMPLE, UNK, Vocabulary};

/// [`RawData::read_with`]; an error about the folder names the flag.
pub fn read_with(
    data_path: &str,
    limits: Limits,
    listen: &mut dyn FnMut(Progress),
) -> Result<RawData> {
    RawData::read_with(data_path, limits, listen).map_err(|error| {
        match error.downcast::<NoTexts>() {
            Ok(error) => flag_error("--data-path")(error.into()),
            Err(error) => error,
        }
    })
}

/// Reads the data with a progress bar on a terminal, which appears after a second, and reports how
/// many words are unknown.
pub fn read_data(data_path: &str, limits: Limits) -> Result<RawData> {
    let data = read_with_bar(data_path, limits)?;
    report_words(data_path, &data);
    Ok(data)
}

/// Reads the data of a model with these words, under the model's ids. Returns the limits with which
/// the data have the words: those that are given, or if none are, perhaps those of a vocabulary of
/// the model's size.
///
/// # Errors
/// Data that have other words.
pub fn read_data_of(
    words: &Vocabulary,
    data_path: &str,
    limits: Limits,
) -> Result<(RawData, Limits)> {
    let mut data = read_with_bar(data_path, limits)?;
    let mut found = limits;
    // A file of TensorFlow's does not say with what limits its words were found. The most frequent
    // words are the same whichever limit left them.
    if limits.is_none() && data.vocabulary.len() != words.len() && words.id(UNK).is_some() {
        let of_size = Limits { max_vocab: Some(words.len() as u64), min_count: None };
        let limited = read_with_bar(data_path, of_size)?;
        if words.has_words_of(&limited.vocabulary) {
            (data, found) = (limited, of_size);
        }
    }
    if !words.has_words_of(&data.vocabulary) {
        ensure_same_vocabulary(words, &data.vocabulary)?;
    }
    data.renumber(words)?;
    report_words(data_path, &data);
    Ok((data, found))
}

/// Reads the data with a progress bar on a terminal, which appears after a second.
fn read_with_bar(data_path: &str, limits: Limits) -> Result<RawData> {
    let start = Instant::now();
    let mut bar = ProgressBar::hidden();
    let mut of = String::new();
    let data = read_with(data_path, limits, &mut |Progress { name, done, total }| {
        if start.elapsed() < Duration::from_secs(1) {
            return;
        }
        if of != name {
            of = name.to_owned();
            bar.finish_and_clear();
            let template = "{prefix} {wide_bar} {bytes}/{total_bytes} eta {eta}";
            let style = ProgressStyle::with_template(template);
            // On standard error, and only if that is a terminal.
            bar = ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(format!("reading {}", file_name(name)))
                .with_position(done);
            bar.reset_eta();
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    data
}

/// Reports that the name of the sample corpus does not mean the folder of that name.
pub fn report_folder_of_that_name(data_path: &str) {
    if data_path == SAMPLE && Path::new(SAMPLE).is_dir() {
        notice(&format!(
            "`{SAMPLE}` is the corpus inside this program; the folder of this name is ./{SAMPLE}"
        ));
    }
}

/// Reports which data these are, if that could be mistaken, and how many words are unknown.
fn report_words(data_path: &str, data: &RawData) {
    report_folder_of_that_name(data_path);
    for split in [&data.train, &data.valid, &data.test] {
        let all = split.tokens.len() as u64 + split.dropped;
        let percent = |words: u64| 100.0 * words as f64 / all as f64;
        if split.replaced > 0 {
            let n = split.replaced;
            notice(&format!(
                "{}: {n} words ({:.2}%) outside of the vocabulary are read as <unk>",
                split.name,
                percent(n)
            ));
        }
        if split.dropped > 0 {
            notice(&format!(
                "{}: {} words are not in the training text and are left out",
                split.name, split.dropped
            ));
        }
    }
}

/// The last part of a path: the bar has one line for itself.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
