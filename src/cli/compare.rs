//! `compare`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::refuse_checkpoint;
use super::report::html;
use super::report::plots;
use super::report::results::{self, Comparison, MetricsFile};
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
  table1      the paper's averages for the models of evaluations on PTB, one
              object per row:
    model, models, valid, test, source
  evaluations one object per evaluation, with the fields of its line:
    name, path, line    the file, and the line in it, from 1
    model               null if the models do not have one preset's sizes
    lr_schedule         null if it is not known, or not the same for all models
    models              number of models averaged
    members             [{checkpoint, seed, epochs, valid, test, config, cell,
                        optimizer}]: each model, with its own perplexities; null
                        if the checkpoint does not tell
    valid, test         the perplexities; null if not a finite number
    cost_per_word       {valid, test}, in nats
    dynamic             {rate, steps, decay}, or null
    cache               {size, theta, lambda}, or null
    seconds             to load the models and to read both texts
    precision, device, threads, vocab_size, versions, data
                        as in the start event of a run
    difference_percent  {valid, test}, from the paper's; null if the models
                        adapt to the text, if the paper has no average of so
                        many, or if the text is not PTB with its 10,000 words
    remarks, damage     as for a run

Examples:
  ptb-word-lm compare runs/small runs/medium
  ptb-word-lm compare evaluations.jsonl --plot bars.svg
  ptb-word-lm compare a.jsonl b.jsonl --plot curves.svg --html report.html
  ptb-word-lm compare runs/small --format json | jq '.runs[0].valid'")]
pub struct CompareArgs {
    /// Metrics files of `train` and `eval`, or save paths of runs [default: all files in results/]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Format of the table: text, markdown or json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
    /// Draw training and validation perplexity by epoch, or if there are no runs the evaluations as
    /// bars, to FILE.svg or FILE.png; may be given more than once
    #[arg(long, value_name = "FILE", value_parser = picture)]
    plot: Vec<PathBuf>,
    /// Write a report: an HTML file with the tables, the curves and bars, and every run's
    /// configuration
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
        let read = |path: &PathBuf| MetricsFile::read(path, &mut notice);
        let comparison = Comparison::new(paths.iter().map(read).collect::<Result<_>>()?)?;
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
            refuse_checkpoint("--html", path)?;
            make_folder_of(path).context("--html")?;
            let report = html::report(&comparison)?;
            write_atomically(path, |file| Ok(file.write_all(report.as_bytes())?))?;
        }
        Ok(())
    }
}
