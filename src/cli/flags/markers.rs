//! Marks of other toolkits in a text.

use clap::Args;

use crate::reader::{MarkerCounts, Markers, RawData, Vocabulary};
use crate::text::is_mark;

#[derive(Args)]
pub struct MarkersFlag {
    /// What becomes of other toolkits' marks: keep reads them as words, as the original does; map
    /// leaves out `<s>` at a line's start, takes `</s>` or `<eos>` at a line's end for that end,
    /// and reads `<UNK>`, `[UNK]`, `<UNKNOWN>` and the like as `<unk>` [default: keep; `eval` and
    /// `import` read the text as the model's run did]
    #[arg(long, value_enum, value_name = "WAY")]
    #[arg(hide_possible_values = true, help_heading = "Reading the text (not in the original)")]
    markers: Option<Markers>,
}

impl MarkersFlag {
    pub fn markers(&self) -> Markers {
        self.given().unwrap_or_default()
    }

    /// The flag's value, if it was given.
    pub fn given(&self) -> Option<Markers> {
        self.markers
    }
}

/// What was found in a text, and what became of it; none if there is nothing to say.
pub fn describe_markers(markers: Markers, counts: &MarkerCounts) -> Option<String> {
    let MarkerCounts { starts, ends, eos, unknown } = *counts;
    let found = [
        (starts, "<s> or the like at a line's start"),
        (ends, "</s> or the like at a line's end"),
        (eos, "<eos> written before the newline that is one"),
        (unknown, "<UNK> or the like"),
    ];
    let found: Vec<String> = found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{what}: {count}"))
        .collect();
    let became = match markers {
        Markers::Keep => "read as words; --markers map reads them as what they mean",
        Markers::Map => "read as what they mean",
    };
    (!found.is_empty())
        .then(|| format!("marks of other toolkits ({}) are {became}", found.join(", ")))
}

/// What to say of marks where the words of a text are not the model's: the way to read them with
/// which they may be. Empty if they are not the cause.
pub fn advise_markers(model: Option<&Vocabulary>, data: &RawData, markers: Markers) -> String {
    let has_marks = |words: &Vocabulary| words.words().any(is_mark);
    match markers {
        Markers::Keep if data.train.markers != MarkerCounts::default() => {
            "; its text has marks of other toolkits, and --markers map reads them as what they mean"
        }
        Markers::Map if model.is_some_and(has_marks) => {
            "; the model has marks of other toolkits among its words, and --markers keep reads \
             them as words"
        }
        _ => "",
    }
    .to_owned()
}
