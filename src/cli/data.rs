//! Reading the data, with a progress bar if that takes long.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::flags::{advise_markers, describe_markers};
use super::report::{notice, plural};
use crate::checkpoint::{Misfit, ensure_same_vocabulary};
use crate::reader::{
    EOS, Limits, Markers, NoTexts, RawData, ReadProgress, SAMPLE, Split, UNK, Vocabulary,
};

/// What to do with a single text.
pub const PREPARE: &str = "`ptb-word-lm prepare FILE --out DIR` makes three texts of one";

/// Reads the data; an error about the folder names the flag.
pub fn read_with(
    data_path: &str,
    limits: Limits,
    markers: Markers,
    listen: &mut dyn FnMut(ReadProgress),
) -> Result<RawData> {
    let read = RawData::read_with(data_path, limits, markers, listen);
    read.map_err(|error| match error.downcast::<NoTexts>() {
        Ok(error) => match Path::new(data_path).is_file() {
            true => anyhow!("--data-path {error}. {PREPARE}"),
            false => anyhow!("--data-path {error}"),
        },
        Err(error) => error,
    })
}

/// Reads the data with a progress bar on a terminal, which appears after a second, and reports how
/// many words are unknown, and which marks of other toolkits there are; if `quiet`, only warnings.
pub fn read_data(
    data_path: &str,
    limits: Limits,
    markers: Markers,
    quiet: bool,
) -> Result<RawData> {
    let data = read_with_bar(data_path, limits, markers)?;
    report_words(data_path, &data, markers, quiet);
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
    markers: Markers,
) -> Result<(RawData, Limits)> {
    let mut data = read_with_bar(data_path, limits, markers)?;
    let mut found = limits;
    // A file of TensorFlow's does not say with what limits its words were found. The most frequent
    // words are the same whichever limit left them.
    if limits.is_none() && !words.has_words_of(&data.vocabulary) && words.id(UNK).is_some() {
        let of_size = Limits { max_vocab: Some(words.len() as u64), min_count: None };
        let limited = read_with_bar(data_path, of_size, markers)?;
        if words.has_words_of(&limited.vocabulary) {
            (data, found) = (limited, of_size);
        }
    }
    if !words.has_words_of(&data.vocabulary) {
        ensure_same_vocabulary(words, &data.vocabulary).map_err(|error| match error {
            Misfit::Vocabulary(difference) => {
                let advice = advise_markers(Some(words), &data, markers);
                Misfit::Vocabulary(difference + &advice)
            }
            error => error,
        })?;
    }
    data.renumber(words)?;
    report_words(data_path, &data, markers, false);
    Ok((data, found))
}

/// Reads the data with a progress bar on a terminal, which appears after a second.
fn read_with_bar(data_path: &str, limits: Limits, markers: Markers) -> Result<RawData> {
    let start = Instant::now();
    let mut bar = ProgressBar::hidden();
    let mut of = String::new();
    let data = read_with(data_path, limits, markers, &mut |ReadProgress { name, done, total }| {
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

/// The data as a metrics file has them: the path, and each text's file, number of words and MD5.
pub fn data_of_metrics(data_path: &str, data: &RawData) -> Value {
    let digest = |split: &Split| {
        let tokens = split.tokens.len();
        json!({"file": split.name, "tokens": tokens, "md5": split.md5})
    };
    json!({
        "path": data_path,
        "train": digest(&data.train),
        "valid": digest(&data.valid),
        "test": digest(&data.test),
    })
}

/// Reports that the name of the sample corpus does not mean the folder of that name.
pub fn report_folder_of_that_name(data_path: &str) {
    if data_path == SAMPLE && Path::new(SAMPLE).is_dir() {
        notice(&format!(
            "`{SAMPLE}` is the corpus inside this program; the folder of this name is ./{SAMPLE}"
        ));
    }
}

/// Reports which data these are, if that could be mistaken, and how many words are unknown; if
/// `quiet`, only warnings.
fn report_words(data_path: &str, data: &RawData, markers: Markers, quiet: bool) {
    let say = |text: &str| {
        if !quiet {
            notice(text);
        }
    };
    if !quiet {
        report_folder_of_that_name(data_path);
    }
    if let Some(warning) = without_spaces(data) {
        notice(&warning);
    }
    let mut largest: f64 = 0.0;
    for split in [&data.train, &data.valid, &data.test] {
        if let Some(found) = describe_markers(markers, &split.markers) {
            say(&format!("{}: {found}", split.name));
        }
        let all = split.tokens.len() as u64 + split.dropped;
        let percent = |words: u64| 100.0 * words as f64 / all as f64;
        let are = |words: u64| if words == 1 { "is" } else { "are" };
        if split.replaced > 0 {
            let n = split.replaced;
            say(&format!(
                "{}: {} ({:.2}%) outside of the vocabulary {} read as <unk>",
                split.name,
                plural(n, "word"),
                percent(n),
                are(n)
            ));
        }
        if split.dropped > 0 {
            let n = split.dropped;
            largest = largest.max(percent(n));
            // Not only a notice: the text that is read is another.
            notice(&format!(
                "{}: {} ({:.2}%) {} not in the training text and {} left out",
                split.name,
                plural(n, "word"),
                percent(n),
                are(n),
                are(n)
            ));
        }
    }
    if largest > MANY_LEFT_OUT {
        notice(&format!(
            "warning: {largest:.0}% of a text is left out, which are its rarest words, so its \
             perplexity is lower than that of the whole text. `train` with --max-vocab N (such as \
             10000) or --min-count 2 reads rare and unknown words as <unk> instead"
        ));
    }
}

/// Percent of a text from which on a warning is due that its words are left out.
const MANY_LEFT_OUT: f64 = 1.0;

/// Characters per word, on average, from which on a text is taken for one without spaces. English
/// has 5, Finnish 8.
const LONG_WORDS: f64 = 15.0;

/// A warning about a training text whose words are not separated by spaces, as in Chinese: whole
/// lines are then words.
fn without_spaces(data: &RawData) -> Option<String> {
    let lengths: Vec<u64> =
        data.vocabulary.words().map(|word| word.chars().count() as u64).collect();
    let ends_line: Vec<bool> = data.vocabulary.words().map(|word| word == EOS).collect();
    let (mut words, mut lines, mut letters) = (0u64, 0u64, 0u64);
    for &id in data.train.tokens.iter() {
        let id = id as usize;
        match ends_line[id] {
            true => lines += 1,
            false => {
                words += 1;
                letters += lengths[id];
            }
        }
    }
    let mean = letters as f64 / words.max(1) as f64;
    let name = &data.train.name;
    let what = if mean > LONG_WORDS {
        format!("its words have {mean:.0} characters on average")
    } else if words * 2 < lines * 3 {
        "nearly every line of it is a single word".to_owned()
    } else {
        return None;
    };
    Some(format!(
        "warning: {name}: {what}, and words are what spaces separate. A text in Chinese or \
         Japanese needs spaces first: `ptb-word-lm prepare FILE --out DIR --tokenize` makes a word \
         of each of its characters"
    ))
}

/// The last part of a path: the bar has one line for itself.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
