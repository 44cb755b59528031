//! Finished runs and evaluations, read from their metrics, beside the published numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::evaluated::Evaluated;
use super::figures::{PTB_TRAIN_MD5, PTB_WORDS, differing_fields, power, tell_apart};
use super::with_commas;

/// `data/reference.json`: what TensorFlow reached.
const REFERENCE: &str = include_str!("../../../data/reference.json");

/// Heading of models that have no preset's sizes.
const OTHER_SIZES: &str = "other sizes";

/// A line of a metrics file with a later epoch than this is taken for damage.
const MAX_EPOCHS: i64 = 1_000_000;

#[derive(Deserialize)]
struct Reference {
    published: Vec<Published>,
    zaremba2014_table1: Table1,
}

/// The paper's averages.
#[derive(Deserialize)]
struct Table1 {
    source: String,
    small: Vec<PaperRow>,
    medium: Vec<PaperRow>,
    large: Vec<PaperRow>,
}

impl Table1 {
    fn rows(&self, model: &str) -> &[PaperRow] {
        match model {
            "small" => &self.small,
            "medium" => &self.medium,
            "large" => &self.large,
            _ => &[],
        }
    }
}

/// One row of the paper's Table 1: an average of models that differ in their seeds only.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct PaperRow {
    /// Number of models.
    pub models: u64,
    /// Perplexity of the validation text.
    pub valid: f64,
    /// Perplexity of the test text.
    pub test: f64,
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
    /// Messages about damaged lines of the file, which are left out.
    pub damage: Vec<String>,
}

/// What a metrics file holds: a run, evaluations, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsFile {
    /// The run, if there is a `start` event.
    pub run: Option<Run>,
    /// The `eval` events.
    pub evaluations: Vec<Evaluated>,
}

impl MetricsFile {
    /// Reads a metrics file, or `metrics.jsonl` in a run's folder. Lines that are not whole, as a
    /// killed process may leave one, are left out and reported to `notice`.
    ///
    /// # Errors
    /// A file that is missing, or that holds neither a run's metrics nor evaluations.
    pub fn read(path: &Path, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
        let bytes = fs::read(&file)
            .with_context(|| format!("{}: cannot be read as a run's metrics", file.display()))?;
        let mut run = Run { name: name(&file), path: path.to_owned(), ..Run::default() };
        let mut evaluations = Vec::new();
        let mut damaged = Vec::new();
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let number = number + 1;
            if !line.trim_ascii().is_empty()
                && take(line, number, &mut run, &mut evaluations).is_none()
            {
                damaged.push(number);
            }
        }
        ensure!(
            !run.model.is_empty() || !evaluations.is_empty(),
            "{}: it has no start event, so it is not a run's metrics, and it has no evaluations",
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
            evaluations.iter_mut().for_each(|e: &mut Evaluated| e.damage.push(text.clone()));
            run.damage.push(text);
        }
        let run = (!run.model.is_empty()).then_some(run);
        Ok(MetricsFile { run, evaluations })
    }
}

/// Takes in line `number` of a metrics file; none if it is damaged.
fn take(line: &[u8], number: usize, run: &mut Run, evaluations: &mut Vec<Evaluated>) -> Option<()> {
    // Some editors begin a file with a byte-order mark.
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    let value: Value = serde_json::from_slice(line).ok()?;
    match Evaluated::is_one(&value) {
        true => evaluations.push(Evaluated::new(value, number, &run.name, &run.path)?),
        false => run.take(value)?,
    }
    Some(())
}

impl Run {
    /// Reads the metrics of a run: [`MetricsFile::read`].
    ///
    /// # Errors
    /// A file that is missing, or that is not a run's metrics.
    pub fn read(path: &Path, notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let file = MetricsFile::read(path, notice)?;
        file.run.with_context(|| {
            format!("{}: it has no start event, so it is not a run's metrics", path.display())
        })
    }

    /// Takes in a line of a metrics file; none if it is damaged.
    fn take(&mut self, value: Value) -> Option<()> {
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
            "step" => {
                self.last_step = Some((epoch()?, perplexity));
                self.forget_test();
            }
            "epoch" => match value["split"].as_str()? {
                "train" => {
                    let epoch = epoch()?;
                    self.forget_test();
                    // One that is there is of a part of this epoch.
                    self.valid.remove(&epoch);
                    self.costs[1] = None;
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

    /// Training goes on, so that the test perplexity is that of an earlier model.
    fn forget_test(&mut self) {
        (self.test, self.costs[2]) = (None, None);
    }

    /// Epochs that were trained to their end.
    pub fn epochs(&self) -> i64 {
        let last = self.train.keys().next_back().copied().unwrap_or_default();
        if self.partial == Some(last) { last - 1 } else { last }
    }

    /// The last perplexities: train, valid, test. A validation perplexity of an earlier epoch than
    /// the last one that was trained is not among them.
    pub fn finals(&self) -> [Option<f64>; 3] {
        let last = |epochs: &BTreeMap<i64, f64>| epochs.iter().next_back().map(|(e, p)| (*e, *p));
        let (train, valid) = (last(&self.train), last(&self.valid));
        let valid = valid.filter(|(epoch, _)| train.is_none_or(|(trained, _)| *epoch >= trained));
        [train.map(|(_, p)| p), valid.map(|(_, p)| p), self.test]
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
        match self.finals() {
            [_, None, None] if self.valid.is_empty() => remarks.push("not evaluated".to_owned()),
            [_, None, None] => remarks.push("not evaluated after its last epoch".to_owned()),
            [_, Some(_), None] => remarks.push("no test perplexity".to_owned()),
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
        let start = &self.start;
        let fields =
            differing_fields(&self.model, &start["config"], &start["cell"], &start["optimizer"]);
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

/// The runs and evaluations of one model, and what was published of it.
#[derive(Debug)]
pub struct Group {
    /// `small`, `medium`, `large` or `test`, or that it is none of them.
    pub model: String,
    /// The original's row, if it has one for this model and some run compares with it.
    pub published: Option<Published>,
    /// In the order in which they were named.
    pub runs: Vec<Run>,
    /// The paper's averages, if it has any of this model and some evaluation compares with them.
    pub paper: Vec<PaperRow>,
    /// In the order in which they were named.
    pub evaluations: Vec<Evaluated>,
}

/// Runs and evaluations beside the published numbers, by model.
#[derive(Debug)]
pub struct Comparison {
    /// Small, medium and large first.
    pub groups: Vec<Group>,
    /// Where the paper's averages come from.
    paper_source: String,
}

impl Comparison {
    /// Groups what the files hold by its model. Runs of the same name are told apart by their
    /// paths, and so are evaluations.
    ///
    /// # Errors
    /// A broken data/reference.json.
    pub fn new(files: Vec<MetricsFile>) -> Result<Self> {
        let reference: Reference =
            serde_json::from_str(REFERENCE).context("data/reference.json")?;
        let (mut runs, mut evaluations) = (Vec::new(), Vec::new());
        for file in files {
            runs.extend(file.run);
            evaluations.push(file.evaluations);
        }
        let path = |run: &Run| run.path.display().to_string();
        tell_apart(&mut runs, |run| &mut run.name, path);
        let mut evaluations = Evaluated::tell_apart(evaluations);
        let order = |model: &str| {
            ["small", "medium", "large"].iter().position(|&m| m == model).unwrap_or(3)
        };
        let model_of = |e: &Evaluated| e.event.model.clone().unwrap_or(OTHER_SIZES.to_owned());
        let mut models: Vec<String> = runs.iter().map(|run| run.model.clone()).collect();
        models.extend(evaluations.iter().map(model_of));
        models.sort_by_key(|model| (order(model), model.clone()));
        models.dedup();
        let Table1 { source: paper_source, .. } = &reference.zaremba2014_table1;
        let groups = models.into_iter().map(|model| {
            let runs: Vec<Run> = runs.extract_if(.., |run| run.model == model).collect();
            let published = reference.published.iter().find(|row| row.model == model).cloned();
            let published = published.filter(|_| runs.iter().any(Run::compares));
            let evaluations: Vec<Evaluated> =
                evaluations.extract_if(.., |e| model_of(e) == model).collect();
            let paper = match evaluations.iter().any(Evaluated::compares) {
                true => reference.zaremba2014_table1.rows(&model).to_vec(),
                false => Vec::new(),
            };
            Group { published, runs, paper, evaluations, model }
        });
        Ok(Comparison { groups: groups.collect(), paper_source: paper_source.clone() })
    }

    /// All runs, as the table shows them.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.groups.iter().flat_map(|group| &group.runs)
    }

    /// All evaluations.
    pub fn evaluations(&self) -> impl Iterator<Item = &Evaluated> {
        self.groups.iter().flat_map(|group| &group.evaluations)
    }

    /// What one has to know to read the tables: the remarks of each run and evaluation after its
    /// name, and whether they compare with each other.
    pub fn remarks(&self) -> Vec<String> {
        let remarks = self.runs().map(|run| (&run.name, run.remarks()));
        let remarks = remarks.chain(self.evaluations().map(|e| (&e.name, e.remarks())));
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
        let texts: BTreeSet<_> = self.evaluations().map(Evaluated::words_and_texts).collect();
        if texts.len() > 1 {
            remarks.push(
                "The evaluations are of different texts or vocabularies: their perplexities do \
                 not compare with each other"
                    .to_owned(),
            );
        }
        remarks
    }

    /// The comparison as one JSON object: `published`, the original's rows for these models, and
    /// `runs`; `table1`, the paper's rows for these models, and `evaluations`. `ptb-word-lm compare
    /// --help` names their fields. What is missing or not a finite number is null.
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
        let table1 = self.groups.iter().flat_map(|group| {
            let of_paper = |row: &PaperRow| {
                json!({
                    "model": group.model, "models": row.models, "valid": row.valid,
                    "test": row.test, "source": self.paper_source,
                })
            };
            group.paper.iter().map(of_paper)
        });
        let evaluations = self.groups.iter().flat_map(|group| {
            group.evaluations.iter().map(|e| e.json(group.evaluation_differences(e)))
        });
        json!({
            "published": published,
            "runs": runs.collect::<Vec<_>>(),
            "table1": table1.collect::<Vec<_>>(),
            "evaluations": evaluations.collect::<Vec<_>>(),
        })
    }
}

impl Group {
    /// In percent of the published numbers.
    pub(crate) fn differences(&self, run: &Run) -> [Option<f64>; 3] {
        let published = self.published.as_ref().filter(|_| run.compares());
        let published = published.map(|p| [p.train, p.valid, p.test]);
        let finals = run.finals();
        [0, 1, 2].map(|i| Some(100.0 * (finals[i]? / published?[i] - 1.0)))
    }

    /// The paper's row that an evaluation compares with: that of as many models.
    pub(crate) fn paper_row(&self, evaluation: &Evaluated) -> Option<&PaperRow> {
        let same = |row: &&PaperRow| row.models == evaluation.event.models;
        self.paper.iter().find(same).filter(|_| evaluation.compares())
    }

    /// In percent of the paper's numbers: valid, test.
    pub(crate) fn evaluation_differences(&self, evaluation: &Evaluated) -> [Option<f64>; 2] {
        let paper = self.paper_row(evaluation).map(|row| [row.valid, row.test]);
        let own = evaluation.perplexities();
        [0, 1].map(|i| Some(100.0 * (own[i] / paper?[i] - 1.0)))
    }
}
