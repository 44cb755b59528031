//! `compare`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::report::html;
use super::report::plots;
use super::report::results::{self, Comparison, Run};
use super::report::{for_stdout, line, notice};
use crate::files::{make_folder_of, write_atomically};

#[derive(Args)]
#[command(after_long_help = "\
--format json prints one object:
  published   TensorFlow's rows for the models of runs on PTB, one object per
              row:
    name, model, epochs, lr_schedule, train, valid, test, source
  runs        one object per run:
    name, path, model, lr_schedule
    epochs              number of finished epochs
    train, valid, test  the last perplexities; null if there is none that is a
                        finite number
    cost_per_word       {train, valid, test}, in nats: their logarithms, finite
                        even where a perplexity is too large for a number; null
                        in older files
    difference_percent  {train, valid, test}, from the published ones; null if
                        the run was not on PTB with its 10,000 words
    curve               [{epoch, train, valid, complete}]; complete is false if
                        the run stopped within the epoch
    remarks             how to read the numbers: the run stopped early, was not
                        evaluated, had another text, vocabulary or
                        configuration
    damage              damaged lines of the file, which are left out
    start               the run's start event: config, seed, device, versions,
                        data

Examples:
  ptb-word-lm compare runs/small runs/medium
  ptb-word-lm compare a.jsonl b.jsonl --plot curves.svg --html report.html
  ptb-word-lm compare runs/small --format json | jq '.runs[0].valid'")]
pub struct CompareArgs {
    /// Metrics files, or save paths of runs [default: all files in results/]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Format of the table: text, markdown or json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
    /// Draw training and validation perplexity by epoch, to FILE.svg or FILE.png; may be given
    /// more than once
    #[arg(long, value_name = "FILE", value_parser = picture)]
    plot: Vec<PathBuf>,
    /// Write a report: an HTML file with the table, the curves and every run's configuration
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    #[value(alias = "md")]
    Markdown,
    Json,
}

fn picture(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    match path.extension().map(|e| e.to_string_lossy().to_lowercase()).as_deref() {
        Some("svg" | "png") => Ok(path),
        _ => Err("the file's name must end in .svg or .png".to_owned()),
    }
}

impl CompareArgs {
    pub fn run(self) -> Result<()> {
        let paths =
            if self.runs.is_empty() { results::in_folder("results".as_ref())? } else { self.runs };
        let runs =
            paths.iter().map(|path| Run::read(path, &mut notice)).collect::<Result<Vec<_>>>()?;
        let comparison = Comparison::new(runs)?;
        line(
            match self.format {
                Format::Text => for_stdout(&comparison.text(), 2),
                Format::Markdown => comparison.markdown(),
                Format::Json => format!("{:#}", comparison.json()),
            }
            .trim_end(),
        );
        for path in &self.plot {
            make_folder_of(path).context("--plot")?;
            plots::write(path, &comparison)?;
        }
        if let Some(path) = &self.html {
            make_folder_of(path).context("--html")?;
            let report = html::report(&comparison)?;
            write_atomically(path, |file| Ok(file.write_all(report.as_bytes())?))?;
        }
        Ok(())
    }
}
