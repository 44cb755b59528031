//! Finished runs, read from their metrics, beside the published TensorFlow numbers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::with_commas;
use crate::config::Model;

/// `data/reference.json`: what TensorFlow reached.
const REFERENCE: &str = include_str!("../../../data/reference.json");

/// By this, a run's data are known to be PTB.
const PTB_TRAIN_MD5: &str = "f26c4b92c5fdc7b3f8c7cdcb991d8420";

/// Words in PTB's vocabulary.
const PTB_WORDS: u64 = 10_000;

/// A line of a metrics file with a later epoch than this is taken for damage.
const MAX_EPOCHS: i64 = 1_000_000;

#[derive(Deserialize)]
struct Reference {
    published: Vec<Published>,
}

/// One row of the original's own table.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Published {
    /// Whose numbers.
    pub name: String,
    /// `small`, `medium` or `large`.
    pub model: String,
    /// Epochs trained.
    pub epochs: i64,
    /// Perplexity of the last epoch in training.
    pub train: f64,
    /// Perplexity on the validation text after it.
    pub valid: f64,
    /// Perplexity on the test text.
    pub test: f64,
    /// `2016` or `2017`.
    pub lr_schedule: String,
    /// Where it stands.
    pub source: String,
}

/// What a metrics file says of a run. A perplexity that is not a number is NaN here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// The file's name, or the folder's.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// The `start` event: model, configuration, device, versions, data; the last one of a run that
    /// was resumed.
    pub start: Value,
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
    /// The last costs per word in nats, of the training, validation and test text. A cost is
    /// finite where its perplexity is too large for a number.
    pub costs: [Option<f64>; 3],
    /// The last epoch of `train`, if the run stopped within it: its perplexity is that of a part.
    pub partial: Option<i64>,
    /// Where the run was when its last step was logged: epoch, and perplexity of the epoch so far.
    pub last_step: Option<(i64, f64)>,
    /// What in the file was damaged and passed over, in words.
    pub damage: Vec<String>,
}

impl Run {
    /// Reads a metrics file, or `metrics.jsonl` in a run's folder. Lines that are not whole, as a
    /// killed process may leave one, are left out and reported to `notice`.
    ///
    /// # Errors
    /// A file that is missing, or that is not a run's metrics.
    pub fn read(path: &Path, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
        let bytes = fs::read(&file)
            .with_context(|| format!("{}: cannot be read as a run's metrics", file.display()))?;
        let mut run = Run { name: name(&file), path: path.to_owned(), ..Run::default() };
        let mut damaged = Vec::new();
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if !line.trim_ascii().is_empty() && run.take(line).is_none() {
                damaged.push(number + 1);
            }
        }
        ensure!(
            !run.model.is_empty(),
            "{}: it has no start event, so it is not a run's metrics",
            file.display()
        );
        if let Some(first) = damaged.first() {
            let text = match damaged.len() {
                1 => format!("line {first} is not a whole metrics line and is passed over"),
                n => format!(
                    "{n} lines, the first is line {first}, are not whole metrics lines and are \
                     passed over"
                ),
            };
            notice(&format!("{}: {text}", file.display()));
            run.damage.push(text);
        }
        Ok(run)
    }

    /// Takes in one line of a metrics file; none if it is damaged.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        // Some editors begin a file with a byte-order mark.
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        let value: Value = serde_json::from_slice(line).ok()?;
        // NaN and infinity are null in JSON.
        let perplexity = match &value["perplexity"] {
            Value::Null => f64::NAN,
            number => number.as_f64()?,
        };
        let cost = value["cost_per_word"].as_f64();
        let epoch = || value["epoch"].as_i64().filter(|epoch| (1..=MAX_EPOCHS).contains(epoch));
        match value["event"].as_str()? {
            "start" => {
                self.model = value["model"].as_str().filter(|model| !model.is_empty())?.to_owned();
                self.lr_schedule =
                    value["config"]["lr_schedule"].as_str().unwrap_or_default().to_owned();
                self.start = value;
            }
            "step" => self.last_step = Some((epoch()?, perplexity)),
            "epoch" => match value["split"].as_str()? {
                "train" => {
                    let epoch = epoch()?;
                    self.train.insert(epoch, perplexity);
                    self.costs[0] = cost;
                    self.partial = (value["complete"] == false).then_some(epoch);
                }
                "valid" => {
                    self.valid.insert(epoch()?, perplexity);
                    self.costs[1] = cost;
                }
                _ => {}
            },
            "final" => (self.test, self.costs[2]) = (Some(perplexity), cost),
            _ => {}
        }
        Some(())
    }

    /// Epochs that were trained to their end.
    pub fn epochs(&self) -> i64 {
        let last = self.train.keys().next_back().copied().unwrap_or_default();
        if self.partial == Some(last) { last - 1 } else { last }
    }

    /// The last perplexities: train, valid, test.
    pub fn finals(&self) -> [Option<f64>; 3] {
        let last = |epochs: &BTreeMap<i64, f64>| epochs.values().next_back().copied();
        [last(&self.train), last(&self.valid), self.test]
    }

    /// The costs of the last perplexities that are too large for a number: train, valid, test.
    pub fn overflown(&self) -> [Option<f64>; 3] {
        let finals = self.finals();
        [0, 1, 2].map(|i| self.costs[i].filter(|_| finals[i].is_some_and(|p| !p.is_finite())))
    }

    /// True if it was trained on PTB, as the published runs were, or if the file does not say on
    /// what.
    pub fn on_ptb(&self) -> bool {
        self.training_text().is_none_or(|md5| md5 == PTB_TRAIN_MD5)
    }

    /// MD5 of its training text.
    fn training_text(&self) -> Option<&str> {
        self.start["data"]["train"]["md5"].as_str()
    }

    /// Number of words in its vocabulary, if the file says it.
    pub fn vocabulary(&self) -> Option<u64> {
        self.start["config"]["vocab_size"].as_u64()
    }

    /// True if its perplexities compare with the published ones: it is on PTB, with PTB's
    /// vocabulary.
    pub fn compares(&self) -> bool {
        self.on_ptb() && self.vocabulary().is_none_or(|words| words == PTB_WORDS)
    }

    /// Fields in which its configuration differs from the one that its model names.
    fn differing_fields(&self) -> Vec<String> {
        let model = serde_json::from_value::<Model>(json!(self.model)).ok();
        let Some(named) = model.and_then(|m| serde_json::to_value(m.config()).ok()) else {
            return Vec::new();
        };
        let config = &self.start["config"];
        let mut fields = Vec::new();
        for (field, named) in named.as_object().into_iter().flatten() {
            let own = &config[field];
            let is_same = match (own.as_f64(), named.as_f64()) {
                (Some(own), Some(named)) => own == named,
                _ => own == named,
            };
            // The vocabulary and the schedule are shown for every run.
            if !own.is_null() && !is_same && !["vocab_size", "lr_schedule"].contains(&&**field) {
                fields.push(format!("{field} {own} instead of {named}"));
            }
        }
        let own = |name: &str, usual: &str| {
            let value = self.start[name].as_str().filter(|value| *value != usual)?;
            Some(format!("{name} {value} instead of {usual}"))
        };
        fields.extend([own("cell", "basic_lstm"), own("optimizer", "sgd")].into_iter().flatten());
        fields
    }

    /// What one has to know to read its numbers.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let words = self.vocabulary().map_or(String::new(), |words| {
            format!(" with a vocabulary of {} words", with_commas(words))
        });
        if !self.on_ptb() {
            let path = self.start["data"]["path"].as_str().unwrap_or("another text");
            remarks.push(format!(
                "trained on {path}{words}, not on PTB: the published numbers do not compare"
            ));
        } else if !self.compares() {
            remarks.push(format!(
                "trained on PTB{words} instead of {}: the published numbers do not compare",
                with_commas(PTB_WORDS)
            ));
        }
        let epochs = self.start["config"]["max_max_epoch"].as_i64().unwrap_or_default();
        let of = if epochs > 0 { format!(" of {epochs}") } else { String::new() };
        let done = self.epochs();
        match (self.partial, self.last_step) {
            (Some(epoch), _) => remarks.push(format!("stopped within epoch {epoch}{of}")),
            (None, Some((epoch, perplexity))) if epoch > done => {
                let at = if perplexity.is_finite() {
                    format!(", at perplexity {perplexity:.2}")
                } else {
                    String::new()
                };
                remarks.push(format!("within epoch {epoch}{of} when last heard of{at}"));
            }
            _ if done < epochs => remarks.push(format!("{done}{of} epochs are there")),
            _ => {}
        }
        match (self.valid.is_empty(), self.test) {
            (true, None) => remarks.push("not evaluated".to_owned()),
            (false, None) => remarks.push("no test perplexity".to_owned()),
            _ => {}
        }
        let perplexities = self.train.values().chain(self.valid.values()).chain(&self.test);
        if perplexities.into_iter().any(|perplexity| !perplexity.is_finite()) {
            remarks.push("has perplexities that are not finite numbers".to_owned());
            if let Some(cost) = self.overflown().into_iter().flatten().next() {
                remarks.push(format!(
                    "{} is a perplexity that is too large for a number, of {cost:.1} nats a word",
                    power(cost)
                ));
            }
        }
        let fields = self.differing_fields();
        if !fields.is_empty() {
            let fields = fields.join(", ");
            remarks.push(format!("its configuration differs from {}'s: {fields}", self.model));
        }
        remarks
    }
}

/// A run's name: its file's, or its folder's for a `metrics.jsonl`.
fn name(file: &Path) -> String {
    let absolute = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    let name = match folder.filter(|_| absolute.file_name().is_some_and(|f| f == "metrics.jsonl")) {
        Some(folder) => folder,
        None => absolute.file_stem().unwrap_or_default(),
    };
    name.to_string_lossy().into_owned()
}

/// All metrics files of a folder, by name.
///
/// # Errors
/// No such folder, or none in it.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| {
        format!("{}: no such folder of results; name the runs", folder.display())
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    ensure!(
        !files.is_empty(),
        "{}: there are no metrics (*.jsonl) in it; name the runs",
        folder.display()
    );
    files.sort();
    Ok(files)
}

/// The runs of one model, and what TensorFlow reached with it.
#[derive(Debug)]
pub struct Group {
    /// `small`, `medium`, `large` or `test`.
    pub model: String,
    /// The original's row, if it has one for this model and some run compares with it.
    pub published: Option<Published>,
    /// In the order in which they were named.
    pub runs: Vec<Run>,
}

/// Runs beside the published numbers, by model.
#[derive(Debug)]
pub struct Comparison {
    /// Small, medium and large first.
    pub groups: Vec<Group>,
}

/// The table's columns of perplexities.
pub const SPLITS: [&str; 3] = ["train", "valid", "test"];

/// One row of the table, ready to print.
pub(crate) struct Row {
    pub name: String,
    pub epochs: String,
    pub lr_schedule: String,
    /// Perplexity, and its difference to the published one.
    pub cells: [[String; 2]; 3],
}

impl Comparison {
    /// Groups runs by their model. Runs of the same name are told apart by their paths.
    ///
    /// # Errors
    /// A broken data/reference.json.
    pub fn new(mut runs: Vec<Run>) -> Result<Self> {
        let reference: Reference =
            serde_json::from_str(REFERENCE).context("data/reference.json")?;
        let mut seen = HashSet::new();
        let twice: HashSet<String> = runs
            .iter()
            .filter(|run| !seen.insert(run.name.clone()))
            .map(|run| run.name.clone())
            .collect();
        for run in runs.iter_mut().filter(|run| twice.contains(&run.name)) {
            run.name = run.path.display().to_string();
        }
        let order = |model: &str| {
            ["small", "medium", "large"].iter().position(|&m| m == model).unwrap_or(3)
        };
        let mut models: Vec<String> = runs.iter().map(|run| run.model.clone()).collect();
        models.sort_by_key(|model| (order(model), model.clone()));
        models.dedup();
        let groups = models.into_iter().map(|model| {
            let runs: Vec<Run> = runs.extract_if(.., |run| run.model == model).collect();
            let published = reference.published.iter().find(|row| row.model == model).cloned();
            let published = published.filter(|_| runs.iter().any(Run::compares));
            Group { published, runs, model }
        });
        Ok(Comparison { groups: groups.collect() })
    }

    /// All runs, as the table shows them.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.groups.iter().flat_map(|group| &group.runs)
    }

    /// What one has to know to read the table: each run's remarks after its name, and whether the
    /// runs compare with each other.
    pub fn remarks(&self) -> Vec<String> {
        let remarks = self.runs().map(|run| (&run.name, run.remarks()));
        let remarks = remarks.filter(|(_, r)| !r.is_empty());
        let mut remarks: Vec<String> =
            remarks.map(|(name, r)| format!("{name}: {}", r.join("; "))).collect();
        let sizes: BTreeSet<u64> = self.runs().filter_map(Run::vocabulary).collect();
        let texts: BTreeSet<&str> = self.runs().filter_map(Run::training_text).collect();
        if sizes.len() > 1 {
            let sizes: Vec<String> = sizes.into_iter().map(with_commas).collect();
            remarks.push(format!(
                "The runs have vocabularies of different sizes ({} words): their perplexities do \
                 not compare with each other",
                sizes.join(", ")
            ));
        } else if texts.len() > 1 {
            remarks.push(
                "The runs were trained on different texts: their perplexities do not compare with \
                 each other"
                    .to_owned(),
            );
        }
        remarks
    }

    /// The table for a terminal: one block per model, with differences in percent.
    pub fn text(&self) -> String {
        let rows: Vec<Vec<Row>> = self.groups.iter().map(Group::rows).collect();
        let names = rows.iter().flatten().map(|row| row.name.chars().count());
        let width = names.chain([12]).max().unwrap_or_default();
        let mut out = String::new();
        for (group, rows) in self.groups.iter().zip(rows) {
            let splits = SPLITS.map(|split| format!("{split:>8}{:7}", ""));
            let mut lines =
                vec![format!("{:<width$}  epochs    lr{}", group.model, splits.concat())];
            for Row { name, epochs, lr_schedule, cells } in rows {
                let cells = cells.map(|[value, difference]| format!("{value:>8}{difference:>7}"));
                lines.push(format!("{name:<width$} {epochs:>7}{lr_schedule:>6}{}", cells.concat()));
            }
            for line in lines {
                let _ = writeln!(out, "{}", line.trim_end());
            }
            out.push('\n');
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "{remark}");
        }
        out
    }

    /// The same table for a Markdown page.
    pub fn markdown(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|");
        let mut out = String::new();
        for group in &self.groups {
            let _ =
                writeln!(out, "| {} | epochs | lr | train | valid | test |", escape(&group.model));
            let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|");
            for Row { name, epochs, lr_schedule, cells } in group.rows() {
                let cells = cells.map(|[value, difference]| match difference.as_str() {
                    "" => value,
                    difference => format!("{value} ({difference})"),
                });
                let _ = writeln!(
                    out,
                    "| {} | {epochs} | {lr_schedule} | {} |",
                    escape(&name),
                    cells.join(" | ")
                );
            }
            out.push('\n');
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "- {}", escape(&remark));
        }
        out
    }

    /// The comparison as one JSON object: `published`, the original's rows for these models, and
    /// `runs`. `ptb-word-lm compare --help` names the fields of a run. What is missing or not a
    /// finite number is null.
    pub fn json(&self) -> Value {
        let published: Vec<&Published> =
            self.groups.iter().filter_map(|group| group.published.as_ref()).collect();
        let runs =
            self.groups.iter().flat_map(|group| group.runs.iter().map(move |run| (group, run)));
        let runs = runs.map(|(group, run)| {
            let mut epochs: Vec<i64> = run.train.keys().chain(run.valid.keys()).copied().collect();
            epochs.sort();
            epochs.dedup();
            let curve = epochs.iter().map(|epoch| {
                json!({
                    "epoch": epoch, "train": run.train.get(epoch), "valid": run.valid.get(epoch),
                    "complete": run.partial != Some(*epoch),
                })
            });
            let [train, valid, test] = run.finals();
            let [d_train, d_valid, d_test] = group.differences(run);
            json!({
                "name": run.name,
                "path": run.path.to_string_lossy(),
                "model": run.model,
                "lr_schedule": run.lr_schedule,
                "epochs": run.epochs(),
                "train": train,
                "valid": valid,
                "test": test,
                "cost_per_word": {
                    "train": run.costs[0], "valid": run.costs[1], "test": run.costs[2],
                },
                "difference_percent": {"train": d_train, "valid": d_valid, "test": d_test},
                "curve": curve.collect::<Vec<_>>(),
                "remarks": run.remarks(),
                "damage": run.damage,
                "start": run.start,
            })
        });
        json!({"published": published, "runs": runs.collect::<Vec<_>>()})
    }
}

impl Group {
    /// In percent of the published numbers.
    fn differences(&self, run: &Run) -> [Option<f64>; 3] {
        let published = self.published.as_ref().filter(|_| run.compares());
        let published = published.map(|p| [p.train, p.valid, p.test]);
        let finals = run.finals();
        [0, 1, 2].map(|i| Some(100.0 * (finals[i]? / published?[i] - 1.0)))
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let published = self.published.iter().map(|p| Row {
            name: p.name.clone(),
            epochs: p.epochs.to_string(),
            lr_schedule: p.lr_schedule.clone(),
            cells: [p.train, p.valid, p.test].map(|value| [figure(value), String::new()]),
        });
        let runs = self.runs.iter().map(|run| {
            let (finals, differences) = (run.finals(), self.differences(run));
            let overflown = run.overflown();
            Row {
                name: run.name.clone(),
                // `3+`: and a part of the next.
                epochs: format!("{}{}", run.epochs(), if run.partial.is_some() { "+" } else { "" }),
                lr_schedule: run.lr_schedule.clone(),
                cells: [0, 1, 2].map(|i| {
                    let difference =
                        differences[i].filter(|d| d.is_finite()).map(|d| match d.abs() {
                            ..99.95 => format!("{d:+.1}%"),
                            _ => format!("{d:+.0}%"),
                        });
                    let value = match overflown[i] {
                        Some(cost) => power(cost),
                        None => finals[i].map_or("-".to_owned(), figure),
                    };
                    [value, difference.unwrap_or_default()]
                }),
            }
        });
        published.chain(runs).collect()
    }
}

/// The perplexity of this cost as a power, for one that is too large for a number, in at most 7
/// characters.
fn power(cost: f64) -> String {
    if cost < 999.95 { format!("e^{cost:.1}") } else { format!("e^{cost:.1e}") }
}

/// A perplexity in at most 8 characters.
pub(crate) fn figure(perplexity: f64) -> String {
    match perplexity {
        p if !p.is_finite() => "nan".to_owned(),
        p if p.abs() < 99_999.0 => format!("{p:.2}"),
        p => format!("{p:.1e}"),
    }
}
