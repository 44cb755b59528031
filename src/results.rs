//! Finished runs, read from their metrics, beside the published TensorFlow numbers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// `data/reference.json`: what TensorFlow reached.
const REFERENCE: &str = include_str!("../data/reference.json");

#[derive(Deserialize)]
struct Reference {
    published: Vec<Published>,
}

/// One row of the original's own table.
#[derive(Deserialize)]
struct Published {
    name: String,
    model: String,
    epochs: i64,
    train: f64,
    valid: f64,
    test: f64,
    lr_schedule: String,
}

/// What a metrics file says of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// The file's name, or the folder's.
    pub name: String,
    /// `small`, `medium`, `large` or `test`.
    pub model: String,
    /// `2016` or `2017`.
    pub lr_schedule: String,
    /// Perplexity by epoch (from 1) in training.
    pub train: BTreeMap<i64, f64>,
    /// Perplexity by epoch on the validation text.
    pub valid: BTreeMap<i64, f64>,
    /// Test perplexity at the end; none while the run is not over.
    pub test: Option<f64>,
}

impl Run {
    /// Reads a metrics file, or `metrics.jsonl` in a run's folder. A line that is not whole, as a killed process leaves one, is passed over
    /// with a word to `notice`.
    ///
    /// # Errors
    /// A file that is missing, or that is not a run's metrics.
    pub fn read(path: &Path, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{}: cannot be read as a run's metrics", file.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut run = Run { name, ..Run::default() };
        for (number, line) in text.lines().enumerate() {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                notice(&format!(
                    "{}: line {} is not a whole metrics line and is passed over",
                    file.display(),
                    number + 1
                ));
                continue;
            };
            let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let perplexity = value["perplexity"].as_f64().unwrap_or(f64::NAN);
            let epoch = value["epoch"].as_i64().unwrap_or_default();
            match (value["event"].as_str(), value["split"].as_str()) {
                (Some("start"), _) => {
                    run.model = string(&value["model"]);
                    run.lr_schedule = string(&value["config"]["lr_schedule"]);
                }
                (Some("epoch"), Some("train")) => drop(run.train.insert(epoch, perplexity)),
                (Some("epoch"), Some("valid")) => drop(run.valid.insert(epoch, perplexity)),
                (Some("final"), _) => run.test = Some(perplexity),
                _ => {}
            }
        }
        ensure!(
            !run.model.is_empty(),
            "{}: it has no start event, so it is not a run's metrics",
            file.display()
        );
        Ok(run)
    }

    fn epochs(&self) -> i64 {
        self.train.keys().next_back().copied().unwrap_or_default()
    }
}

/// All metrics files of a folder, by name.
///
/// # Errors
/// No such folder, or none in it.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{}: no such folder of results; name the runs", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    ensure!(!files.is_empty(), "{}: there are no metrics (*.jsonl) in it; name the runs", folder.display());
    files.sort();
    Ok(files)
}

/// The table: for every model among `runs`, TensorFlow's published numbers and each run's, with the difference in percent.
///
/// # Errors
/// A broken data/reference.json.
pub fn table(runs: &[Run]) -> Result<String> {
    let reference: Reference = serde_json::from_str(REFERENCE).context("data/reference.json")?;
    let mut out = String::new();
    let mut models: Vec<&str> = runs.iter().map(|run| run.model.as_str()).collect();
    models.sort();
    models.dedup();
    for model in models {
        writeln!(
            out,
            "{:<30} {:>6} {:>5} {:>15} {:>15} {:>15}",
            model, "epochs", "lr", "train", "valid", "test"
        )?;
        let published = reference.published.iter().find(|row| row.model == model);
        if let Some(p) = published {
            let cells = [p.train, p.valid, p.test].map(|v| format!("{v:>8.2}{:>7}", ""));
            writeln!(
                out,
                "{:<30} {:>6} {:>5} {}",
                p.name,
                p.epochs,
                p.lr_schedule,
                cells.join(" ").trim_end()
            )?;
        }
        for run in runs.iter().filter(|run| run.model == model) {
            let last = |epochs: &BTreeMap<i64, f64>| epochs.values().next_back().copied();
            let cell = |value: Option<f64>, published: Option<f64>| match (value, published) {
                (Some(v), Some(p)) => format!("{v:>8.2} {:>6}", format!("{:+.1}%", 100.0 * (v / p - 1.0))),
                (Some(v), None) => format!("{v:>8.2}{:>7}", ""),
                (None, _) => format!("{:>8}{:>7}", "-", ""),
            };
            let cells = [
                cell(last(&run.train), published.map(|p| p.train)),
                cell(last(&run.valid), published.map(|p| p.valid)),
                cell(run.test, published.map(|p| p.test)),
            ];
            writeln!(
                out,
                "{:<30} {:>6} {:>5} {}",
                run.name,
                run.epochs(),
                run.lr_schedule,
                cells.join(" ").trim_end()
            )?;
        }
        writeln!(out)?;
    }
    Ok(out)
}
