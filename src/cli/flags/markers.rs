//! Marks of other toolkits in a text.

use clap::Args;

use crate::reader::{MarkerCounts, Markers};

#[derive(Args, Default)]
pub struct MarkersFlag {
    /// What becomes of other toolkits' marks: keep reads them as words, as the original does; map
    /// leaves out `<s>` at a line's start, takes `</s>` or `<eos>` at a line's end for that end,
    /// and reads `<UNK>`, `[UNK]`, `<UNKNOWN>` and the like as `<unk>`
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Markers::Keep)]
    #[arg(hide_possible_values = true, help_heading = "Reading the text (not in the original)")]
    markers: Markers,
}

impl MarkersFlag {
    pub fn markers(&self) -> Markers {
        self.markers
    }

    /// What was found in a text, and what became of it; none if there is nothing to say.
    pub fn describe(&self, counts: &MarkerCounts) -> Option<String> {
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
            .map(|(count, what)| format!("{count} times {what}"))
            .collect();
        let became = match self.markers {
            Markers::Keep => "read as words; --markers map reads them as what they mean",
            Markers::Map => "read as what they mean",
        };
        (!found.is_empty()).then(|| format!("{}: {became}", found.join(", ")))
    }
}
