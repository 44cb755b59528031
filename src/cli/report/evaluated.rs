//! Evaluations in metrics files: the `eval` event, written by `eval` and read by `compare`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::figures::{PTB_TRAIN_MD5, PTB_WORDS, differing_fields, tell_apart};
use super::{plural, with_commas};
use crate::adapt::Dynamic;
use crate::cache::Cache;

/// With the training text's, by these an evaluation is known to be on PTB.
const PTB_VALID_MD5: &str = "aa0affc06ff7c36e977d7cd49e3839bf";
const PTB_TEST_MD5: &str = "8b80168b89c18661a38ef683c0dc3721";

/// A line of a metrics file: an evaluation of one model, or of the average of several.
///
/// A perplexity or cost that is not a finite number is null there and `None` here. A file may lack
/// whatever has a default here.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EvalEvent {
    /// `eval`.
    pub event: String,
    /// `small`, `medium`, `large` or `test`, if all models have its sizes and cell.
    #[serde(default)]
    pub model: Option<String>,
    /// `2016` or `2017`, if all models are known to be trained with it.
    #[serde(default)]
    pub lr_schedule: Option<String>,
    /// Number of models.
    pub models: u64,
    /// Each of them.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Perplexity of the validation text.
    pub valid: Option<f64>,
    /// Perplexity of the test text.
    pub test: Option<f64>,
    /// Their logarithms.
    #[serde(default)]
    pub cost_per_word: Costs,
    /// Settings of dynamic evaluation.
    #[serde(default)]
    pub dynamic: Option<Dynamic>,
    /// Settings of the neural cache.
    #[serde(default)]
    pub cache: Option<Cache>,
    /// Time to load the models and to read both texts with them.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// As in a run's `start` event, like all below.
    #[serde(default)]
    pub precision: Value,
    /// The device's name.
    #[serde(default)]
    pub device: Value,
    /// Number of threads.
    #[serde(default)]
    pub threads: Value,
    /// Words in the vocabulary.
    #[serde(default)]
    pub vocab_size: Option<u64>,
    /// Versions of the program and its libraries.
    #[serde(default)]
    pub versions: Value,
    /// Path, and each text's file, number of words and MD5.
    #[serde(default)]
    pub data: Value,
}

impl EvalEvent {
    /// The name of the event.
    pub const NAME: &str = "eval";

    /// True if the models adapted themselves to the text.
    pub fn is_adapted(&self) -> bool {
        self.dynamic.is_some() || self.cache.is_some()
    }
}

/// Costs per word in nats.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Costs {
    /// Of the validation text.
    pub valid: Option<f64>,
    /// Of the test text.
    pub test: Option<f64>,
}

/// One of the models. What the checkpoint does not tell is null.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Member {
    /// The checkpoint, as it was given.
    pub checkpoint: Option<String>,
    /// The seed of its run.
    pub seed: Option<i64>,
    /// Epochs that it was trained for.
    pub epochs: Option<i64>,
    /// Perplexity of the validation text with this model alone.
    pub valid: Option<f64>,
    /// Perplexity of the test text with this model alone.
    pub test: Option<f64>,
    /// The run's configuration, as in its `start` event, like all below.
    pub config: Value,
    /// The recurrent cell.
    pub cell: Value,
    /// The optimizer.
    pub optimizer: Value,
}

/// An evaluation in a metrics file.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// The file's name; with the line, if there are several in the file.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// Number of its line, from 1.
    pub line: usize,
    /// What the line says.
    pub event: EvalEvent,
    /// Messages about damaged lines of the file, which are left out.
    pub damage: Vec<String>,
}

impl Evaluated {
    /// Whether a line of a metrics file is to be an evaluation.
    pub(crate) fn is_one(line: &Value) -> bool {
        line["event"] == EvalEvent::NAME
    }

    /// The evaluation in line `number` of a file, of this name and path; none if the line is
    /// damaged.
    pub(crate) fn new(line: Value, number: usize, name: &str, path: &Path) -> Option<Self> {
        let mut event: EvalEvent = serde_json::from_value(line).ok()?;
        event.model = event.model.filter(|model| !model.is_empty());
        let (name, path) = (name.to_owned(), path.to_owned());
        (event.models > 0).then_some(Evaluated { name, path, line: number, event, damage: vec![] })
    }

    /// All evaluations of some files, each under a name of its own: files of one name are told
    /// apart by their paths, and the evaluations of one file by their lines.
    pub(crate) fn tell_apart(mut files: Vec<Vec<Evaluated>>) -> Vec<Evaluated> {
        files.retain(|file| !file.is_empty());
        tell_apart(&mut files, |file| &mut file[0].name, |file| file[0].path.display().to_string());
        for file in files.iter_mut().filter(|file| file.len() > 1) {
            let name = file[0].name.clone();
            file.iter_mut().for_each(|e| e.name = format!("{name}:{}", e.line));
        }
        files.into_iter().flatten().collect()
    }

    /// Perplexities of the validation and the test text. One that is not a number is NaN.
    pub(crate) fn perplexities(&self) -> [f64; 2] {
        [self.event.valid, self.event.test].map(|perplexity| perplexity.unwrap_or(f64::NAN))
    }

    /// The costs of perplexities that are too large for a number: validation, test.
    pub(crate) fn overflown(&self) -> [Option<f64>; 2] {
        let Costs { valid, test } = self.event.cost_per_word;
        [valid.filter(|_| self.event.valid.is_none()), test.filter(|_| self.event.test.is_none())]
    }

    /// Number of words and the texts' MD5: two evaluations with the same compare.
    pub(crate) fn words_and_texts(&self) -> (Option<u64>, [Option<&str>; 3]) {
        (self.event.vocab_size, ["train", "valid", "test"].map(|split| self.md5(split)))
    }

    fn md5(&self, split: &str) -> Option<&str> {
        self.event.data[split]["md5"].as_str()
    }

    fn is_on_ptb(&self) -> bool {
        let ptb = [("train", PTB_TRAIN_MD5), ("valid", PTB_VALID_MD5), ("test", PTB_TEST_MD5)];
        ptb.into_iter().all(|(split, md5)| self.md5(split) == Some(md5))
    }

    /// True if its perplexities compare with the paper's: known to be on PTB with PTB's vocabulary,
    /// of models that do not adapt to the text.
    pub fn compares(&self) -> bool {
        let event = &self.event;
        !event.is_adapted() && event.vocab_size == Some(PTB_WORDS) && self.is_on_ptb()
    }

    /// What one has to know to read its numbers.
    pub fn remarks(&self) -> Vec<String> {
        let event = &self.event;
        let mut remarks = Vec::new();
        let words = event.vocab_size.map_or(String::new(), |words| {
            format!(" with a vocabulary of {} words", with_commas(words))
        });
        if !self.is_on_ptb() {
            let path = event.data["path"].as_str().unwrap_or("a text that is not known");
            remarks.push(format!(
                "evaluated on {path}{words}, not on PTB: the paper's numbers do not compare"
            ));
        } else if event.vocab_size != Some(PTB_WORDS) {
            remarks.push(format!(
                "evaluated on PTB{words} instead of {}: the paper's numbers do not compare",
                with_commas(PTB_WORDS)
            ));
        }
        let mut of_models = BTreeSet::new();
        for Member { epochs, config, cell, optimizer, .. } in &event.members {
            if let (Some(done), Some(all)) = (epochs, config["max_max_epoch"].as_i64())
                && *done < all
            {
                of_models.insert(format!("trained for {done} of {all} epochs"));
            }
            let model = event.model.as_deref().unwrap_or_default();
            let fields = differing_fields(model, config, cell, optimizer);
            if !fields.is_empty() {
                let fields = fields.join(", ");
                of_models.insert(format!("its configuration differs from {model}'s: {fields}"));
            }
        }
        let whose = if event.models == 1 { "" } else { "one of its models: " };
        remarks.extend(of_models.into_iter().map(|remark| format!("{whose}{remark}")));
        if self.perplexities().into_iter().any(|p| !p.is_finite()) {
            remarks.push("has perplexities that are not finite numbers".to_owned());
        }
        remarks
    }

    /// What was evaluated: `2 models averaged, dynamic evaluation and cache`.
    pub(crate) fn label(&self) -> String {
        let models = plural(self.event.models, "model");
        let averaged = if self.event.models > 1 { " averaged" } else { "" };
        let adapted = match (self.event.dynamic, self.event.cache) {
            (Some(_), Some(_)) => ", dynamic evaluation and cache",
            (Some(_), None) => ", dynamic evaluation",
            (None, Some(_)) => ", cache",
            (None, None) => "",
        };
        format!("{models}{averaged}{adapted}")
    }

    /// The line's fields, and what `compare` adds to them.
    pub(crate) fn json(&self, differences: [Option<f64>; 2]) -> Value {
        let mut fields = json!({
            "name": self.name, "path": self.path.to_string_lossy(), "line": self.line,
        });
        if let Value::Object(event) = json!(self.event) {
            for (name, value) in event.into_iter().filter(|(name, _)| name != "event") {
                fields[name] = value;
            }
        }
        fields["difference_percent"] = json!({"valid": differences[0], "test": differences[1]});
        fields["remarks"] = json!(self.remarks());
        fields["damage"] = json!(self.damage);
        fields
    }
}
