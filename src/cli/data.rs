//! Reading the data, with a progress bar if that takes long.

use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::flag_error;
use super::flags::MarkersFlag;
use super::report::notice;
use crate::reader::{Limits, NoTexts, Progress, RawData};

/// [`RawData::read_marked`]; an error about the folder names the flag.
pub fn read_with(
    data_path: &str,
    limits: Limits,
    markers: &MarkersFlag,
    listen: &mut dyn FnMut(Progress),
) -> Result<RawData> {
    RawData::read_marked(data_path, limits, markers.markers(), listen).map_err(|error| match error
        .downcast::<NoTexts>(
    ) {
        Ok(error) => flag_error("--data-path")(error.into()),
        Err(error) => error,
    })
}

/// [`read_marked`] with all marks kept.
pub fn read_data(data_path: &str, limits: Limits) -> Result<RawData> {
    read_marked(data_path, limits, &MarkersFlag::default())
}

/// Reads the data with a progress bar on a terminal, which appears after a second, and reports how
/// many words are unknown, and which marks of other toolkits there are.
pub fn read_marked(data_path: &str, limits: Limits, markers: &MarkersFlag) -> Result<RawData> {
    let start = Instant::now();
    let mut bar = ProgressBar::hidden();
    let mut of = String::new();
    let data = read_with(data_path, limits, markers, &mut |Progress { name, done, total }| {
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
    let data = data?;
    for split in [&data.train, &data.valid, &data.test] {
        if let Some(found) = markers.describe(&split.markers) {
            notice(&format!("{}: {found}", split.name));
        }
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
    Ok(data)
}

/// The last part of a path: the bar has one line for itself.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
