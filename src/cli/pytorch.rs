//! `export --format pytorch`: a safetensors file for PyTorch's `word_language_model`, and its card.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::flags::UsageError;
use super::report::results::Run;
use super::report::{notice, written};
use crate::checkpoint::{Checkpoint, to_safetensors};
use crate::files::{make_folder, write_atomically};
use crate::tf;

/// The beginning of every model card that is written here.
const HEAD: &str = "\
---
library_name: pytorch
pipeline_tag: text-generation
tags:
- lstm
- word-language-model
---

# A word language model by ptb-word-lm
";

/// The files of an exported model.
struct Files {
    model: PathBuf,
    card: PathBuf,
    words: PathBuf,
}

impl Files {
    /// `output` is the model's file, if its name ends in `.safetensors`, otherwise a folder.
    fn new(output: &Path) -> Result<Self> {
        let extension = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["bin", "pt", "pth"].contains(&extension) {
            bail!(UsageError(format!(
                "--output {}: --format pytorch writes FILE.safetensors, or model.safetensors in a \
                 folder",
                output.display()
            )));
        }
        let parent = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        let (folder, model) = match extension {
            "safetensors" => (parent.unwrap_or(Path::new(".")), output.to_owned()),
            _ => (output, output.join("model.safetensors")),
        };
        make_folder(folder)
            .with_context(|| format!("--output {}: cannot be made", folder.display()))?;
        let (card, words) = (folder.join("README.md"), folder.join("words.txt"));
        let files = Files { model, card, words };
        files.ensure_ours()?;
        Ok(files)
    }

    /// Refuses to overwrite the words of another model in the folder.
    fn ensure_same_words(&self, list: Option<&str>) -> Result<()> {
        let Ok(there) = fs::read(&self.words) else { return Ok(()) };
        let folder = self.words.parent().unwrap_or(Path::new("."));
        let other =
            fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
                path.extension().is_some_and(|extension| extension == "safetensors")
                    && path.file_name() != self.model.file_name()
            });
        if let Some(other) = other.filter(|_| list.map(str::as_bytes) != Some(&there)) {
            bail!(
                "{}: these are the words of another model, {}, and this one has other words; give \
                 --output another folder",
                self.words.display(),
                other.display()
            );
        }
        Ok(())
    }

    /// Refuses to overwrite a README.md, or a word list, that was not written here.
    fn ensure_ours(&self) -> Result<()> {
        let ours = fs::read(&self.card).is_ok_and(|card| card.starts_with(HEAD.as_bytes()));
        for file in [&self.card, &self.words] {
            ensure!(
                ours || !file.exists(),
                "{}: this file is there already, and is not of an exported model; give --output \
                 another folder",
                file.display()
            );
        }
        Ok(())
    }
}

/// Writes the model of `checkpoint`, which was read from `from`.
pub fn export(checkpoint: &Checkpoint, from: &Path, output: &Path) -> Result<()> {
    let Checkpoint { run, variables, vocabulary, .. } = checkpoint;
    let tensors = tf::to_pytorch(variables, run.config.forget_bias)
        .with_context(|| format!("--checkpoint {}", from.display()))?;
    let files = Files::new(output)?;
    let words: Option<Vec<&str>> = vocabulary.as_ref().map(|words| words.words().collect());
    let list = words.as_ref().map(|words| words.join("\n") + "\n");
    files.ensure_same_words(list.as_deref())?;
    // Programs that read such files expect this format.
    let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    metadata.extend(words.as_ref().map(|words| ("vocabulary".to_owned(), words.join("\n"))));
    let bytes = to_safetensors(&tensors, metadata)?;
    write_atomically(&files.model, |file| Ok(file.write_all(&bytes)?))?;
    match &list {
        Some(list) => {
            write_atomically(&files.words, |file| Ok(file.write_all(list.as_bytes())?))?;
        }
        None => {
            notice("the model's words are not known, so there is no words.txt");
            // Of an earlier model.
            let _ = fs::remove_file(&files.words);
        }
    }
    let card = card(checkpoint, from, &files.model)?;
    write_atomically(&files.card, |file| Ok(file.write_all(card.as_bytes())?))?;
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    written(&files.model, &format!("{}: {}", files.model.display(), names.join(", ")));
    Ok(())
}

/// The model card: what the model is, how PyTorch loads it, its configuration, data and
/// perplexities.
fn card(checkpoint: &Checkpoint, from: &Path, model: &Path) -> Result<String> {
    let config = &checkpoint.run.config;
    let (vocab, hidden, layers) = (config.vocab_size, config.hidden_size, config.num_layers);
    let file = model.file_name().unwrap_or_default().to_string_lossy();
    let metrics = metrics(from);
    let mut card = HEAD.to_owned();
    write!(
        card,
        "
The model of TensorFlow's `ptb_word_lm.py` (Zaremba, Sutskever, Vinyals, \"Recurrent Neural Network
Regularization\", arXiv 1409.2329): {vocab} words, {layers} LSTM layers of {hidden} units. The file
has the names and the layout of PyTorch's example `word_language_model`, whose `RNNModel` loads it:

```python
from safetensors.torch import load_file
from model import RNNModel  # word_language_model/model.py

model = RNNModel(\"LSTM\", {vocab}, {hidden}, {hidden}, {layers}, dropout={dropout})
model.load_state_dict(load_file(\"{file}\"))
model.eval()
```
",
        dropout = 1.0 - config.keep_prob,
    )?;
    let words = match checkpoint.vocabulary {
        Some(_) => "Line k of `words.txt`, from 0, is the word with the id k",
        None => "Which words the ids stand for is not known",
    };
    writeln!(
        card,
        "\n{words}. A line of a text ends with the word `<eos>`. The model was\ntrained with its \
         state carried from each piece of the text to the next."
    )?;
    if config.forget_bias != 0.0 {
        let bias = config.forget_bias;
        writeln!(card, "\nThe forget gates' constant of {bias} is in `rnn.bias_hh_l*`.")?;
    }
    card += "\n## Perplexities\n\n";
    let known = metrics.as_ref().map(|run| perplexities(checkpoint, run, from.is_dir()));
    match known.filter(|known| !known.is_empty()) {
        Some(known) => {
            card += "| text | perplexity |\n|---|---|\n";
            for (text, perplexity) in known {
                writeln!(card, "| {text} | {perplexity:.3} |")?;
            }
        }
        None => card += "Not known: there are no metrics of this model beside its checkpoint.\n",
    }
    card += "\n## Data\n\n";
    let path = metrics.as_ref().and_then(|run| run.start["data"]["path"].as_str());
    match path {
        Some(path) => writeln!(card, "Trained on `{path}`.")?,
        None if checkpoint.made.data.is_none() => card += "Not known.\n",
        None => {}
    }
    if let Some(digests) = &checkpoint.made.data {
        card += "\n| text | MD5 |\n|---|---|\n";
        for (text, digest) in ["training", "validation", "test"].iter().zip(digests) {
            writeln!(card, "| {text} | {digest} |")?;
        }
    }
    card += "\n## Configuration\n\n| | |\n|---|---|\n";
    if let Value::Object(fields) = serde_json::to_value(&checkpoint.run)? {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(card, "| {name} | {value} |")?;
        }
    }
    let progress = &checkpoint.progress;
    writeln!(card, "| steps trained | {} |", progress.global_step)?;
    Ok(card)
}

/// The metrics beside a checkpoint.
fn metrics(from: &Path) -> Option<Run> {
    let folder = if from.is_dir() { from } else { from.parent()? };
    let path = folder.join("metrics.jsonl");
    path.is_file().then(|| Run::read(&path, &mut notice).ok()).flatten()
}

/// The perplexities of the checkpoint's own model. One of an unfinished epoch is known only of the
/// run's `newest` checkpoint.
fn perplexities(checkpoint: &Checkpoint, run: &Run, newest: bool) -> Vec<(String, f64)> {
    let at = &checkpoint.progress;
    let epoch = if at.step > 0 { at.epoch + 1 } else { at.epoch };
    let last = run.train.keys().next_back() == Some(&epoch);
    if at.step > 0 && !(newest && last && run.partial == Some(epoch)) {
        return Vec::new();
    }
    let train = run.train.get(&epoch).map(|p| (format!("training, epoch {epoch}"), *p));
    let valid = run.valid.get(&epoch).map(|p| ("validation".to_owned(), *p));
    let test = run.test.filter(|_| last).map(|p| ("test".to_owned(), p));
    let known = [train, valid, test].into_iter().flatten();
    known.filter(|(_, perplexity)| perplexity.is_finite()).collect()
}
