//! The tables of a comparison: for a terminal and for a Markdown page.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::evaluated::{EvalEvent, Evaluated};
use super::figures::{cell_for_markdown, figure, for_markdown, percent, power};
use super::results::{Comparison, Group};

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
    /// The tables for a terminal: one block per model, with differences in percent, and one for
    /// its averages, and one for those that adapt.
    pub fn text(&self) -> String {
        let rows: Vec<Vec<Row>> = self.groups.iter().map(Group::rows).collect();
        let names = rows.iter().flatten().map(|row| row.name.chars().count());
        let width = names.chain([12]).max().unwrap_or_default();
        let mut out = String::new();
        for (group, rows) in self.groups.iter().zip(rows) {
            if !rows.is_empty() {
                group.runs_text(&rows, width, &mut out);
            }
            group.evaluation_tables().iter().for_each(|table| table.text(&mut out));
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "{remark}");
        }
        out
    }

    /// The same tables for a Markdown page.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for group in &self.groups {
            if !group.runs.is_empty() {
                group.runs_markdown(&mut out);
            }
            group.evaluation_tables().iter().for_each(|table| table.markdown(&mut out));
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "- {}", for_markdown(&remark));
        }
        out
    }
}

impl Group {
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
                    let value = match overflown[i] {
                        Some(cost) => power(cost),
                        None => finals[i].map_or("-".to_owned(), figure),
                    };
                    [value, percent(differences[i])]
                }),
            }
        });
        published.chain(runs).collect()
    }

    fn runs_text(&self, rows: &[Row], width: usize, out: &mut String) {
        let widths = [0, 1, 2].map(|k| widths((8, 7), rows.iter().map(|row| &row.cells[k])));
        let splits = [0, 1, 2].map(|k| {
            let (value, difference) = widths[k];
            format!("{:>value$}{:difference$}", SPLITS[k], "")
        });
        let mut lines = vec![format!("{:<width$}  epochs    lr{}", self.model, splits.concat())];
        for Row { name, epochs, lr_schedule, cells } in rows {
            let cells = [0, 1, 2].map(|k| {
                let ([value, difference], (value_width, difference_width)) = (&cells[k], widths[k]);
                format!("{value:>value_width$}{difference:>difference_width$}")
            });
            lines.push(format!("{name:<width$} {epochs:>7}{lr_schedule:>6}{}", cells.concat()));
        }
        for line in lines {
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }

    fn runs_markdown(&self, out: &mut String) {
        let model = for_markdown(&self.model);
        let _ = writeln!(out, "| {model} | epochs | lr | train | valid | test |");
        let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|");
        for Row { name, epochs, lr_schedule, cells } in self.rows() {
            let cells = cells.map(|cell| cell_for_markdown(&cell));
            let (name, cells) = (for_markdown(&name), cells.join(" | "));
            let _ = writeln!(out, "| {name} | {epochs} | {lr_schedule} | {cells} |");
        }
        out.push('\n');
    }

    /// The averages beside the paper's, and the models that adapt to the text; each if there are
    /// any.
    pub(crate) fn evaluation_tables(&self) -> Vec<Table> {
        [Table::of_averages(self), Table::of_adapted(self)].into_iter().flatten().collect()
    }
}

/// A table of evaluations.
pub(crate) struct Table {
    pub caption: String,
    /// Each column's name and width, and the width of the differences in it.
    pub columns: Vec<(&'static str, usize, usize)>,
    pub rows: Vec<TableRow>,
}

pub(crate) struct TableRow {
    pub name: String,
    /// True for a row of the paper's.
    pub published: bool,
    /// A value, and its difference to the published one.
    pub cells: Vec<[String; 2]>,
}

impl Table {
    /// The evaluations of models that do not adapt to the text, by the number of models, each
    /// number's after the paper's row.
    pub fn of_averages(group: &Group) -> Option<Table> {
        let plain = || group.evaluations.iter().filter(|e| !e.event.is_adapted());
        let numbers: BTreeSet<u64> = plain().map(|e| e.event.models).collect();
        let mut rows = Vec::new();
        for models in numbers {
            let of_number = || plain().filter(|e| e.event.models == models);
            let row = |name: &str, published, [valid, test]: [[String; 2]; 2], seconds| TableRow {
                name: name.to_owned(),
                published,
                cells: vec![cell(models.to_string()), valid, test, cell(seconds)],
            };
            if let Some(paper) = of_number().find_map(|e| group.paper_row(e)) {
                let perplexities = [paper.valid, paper.test].map(|p| cell(figure(p)));
                rows.push(row("paper, Table 1", true, perplexities, String::new()));
            }
            for e in of_number() {
                let perplexities = perplexity_cells(e, group.evaluation_differences(e));
                rows.push(row(&e.name, false, perplexities, seconds(e)));
            }
        }
        let columns = vec![("models", 7, 0), ("valid", 10, 7), ("test", 10, 7), ("seconds", 9, 0)];
        let caption = format!("{}: averages of models", group.model);
        (!rows.is_empty()).then_some(Table { caption, columns, rows })
    }

    /// The evaluations of models that adapt to the text.
    pub fn of_adapted(group: &Group) -> Option<Table> {
        let adapted = group.evaluations.iter().filter(|e| e.event.is_adapted());
        let row = |e: &Evaluated| {
            let EvalEvent { models, dynamic, cache, .. } = e.event;
            let [valid, test] = perplexity_cells(e, [None; 2]);
            let cells = vec![
                cell(models.to_string()),
                cell(optional(dynamic.map(|dynamic| dynamic.rate))),
                cell(optional(cache.map(|cache| cache.size))),
                cell(optional(cache.map(|cache| cache.theta))),
                cell(optional(cache.map(|cache| cache.lambda))),
                valid,
                test,
                cell(seconds(e)),
            ];
            TableRow { name: e.name.clone(), published: false, cells }
        };
        let rows: Vec<TableRow> = adapted.map(row).collect();
        let columns = vec![
            ("models", 7, 0),
            ("rate", 6, 0),
            ("cache", 7, 0),
            ("theta", 6, 0),
            ("lambda", 7, 0),
            ("valid", 8, 0),
            ("test", 8, 0),
            ("seconds", 8, 0),
        ];
        let caption = format!("{}: models that adapt to the text (not in the paper)", group.model);
        (!rows.is_empty()).then_some(Table { caption, columns, rows })
    }

    /// The table for a terminal.
    pub fn text(&self, out: &mut String) {
        let names = self.rows.iter().map(|row| row.name.chars().count());
        let width = names.max().unwrap_or_default();
        let _ = writeln!(out, "{}", self.caption);
        let columns = self.columns.iter().enumerate().map(|(k, &(head, value, difference))| {
            let cells = self.rows.iter().map(|row| &row.cells[k]);
            let (value, difference) = widths((value, difference), cells);
            (head, value, difference)
        });
        let columns: Vec<(&str, usize, usize)> = columns.collect();
        let heads: String = columns
            .iter()
            .map(|(head, value, difference)| format!("{head:>value$}{:difference$}", ""))
            .collect();
        let mut lines = vec![format!("{:width$}{heads}", "")];
        for TableRow { name, cells, .. } in &self.rows {
            let cells = cells.iter().zip(&columns);
            let cells: String = cells
                .map(|([value, difference], (_, value_width, difference_width))| {
                    format!("{value:>value_width$}{difference:>difference_width$}")
                })
                .collect();
            lines.push(format!("{name:width$}{cells}"));
        }
        for line in lines {
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }

    /// The table for a Markdown page.
    pub fn markdown(&self, out: &mut String) {
        let heads: Vec<&str> = self.columns.iter().map(|(head, ..)| *head).collect();
        let _ = writeln!(out, "| {} | {} |", for_markdown(&self.caption), heads.join(" | "));
        let _ = writeln!(out, "|---{}|", "|---:".repeat(heads.len()));
        for TableRow { name, cells, .. } in &self.rows {
            let cells: Vec<String> = cells.iter().map(cell_for_markdown).collect();
            let _ = writeln!(out, "| {} | {} |", for_markdown(name), cells.join(" | "));
        }
        out.push('\n');
    }
}

/// Widths of a column's values and differences: at least these, and a space before the longest.
fn widths<'a>(
    (value, difference): (usize, usize),
    cells: impl Iterator<Item = &'a [String; 2]>,
) -> (usize, usize) {
    let room = |text: &str| if text.is_empty() { 0 } else { text.chars().count() + 1 };
    cells.fold((value, difference), |(value, difference), cell| {
        (value.max(room(&cell[0])), difference.max(room(&cell[1])))
    })
}

/// Perplexities of the validation and the test text, with these differences.
fn perplexity_cells(e: &Evaluated, differences: [Option<f64>; 2]) -> [[String; 2]; 2] {
    let (perplexities, overflown) = (e.perplexities(), e.overflown());
    [0, 1].map(|i| {
        let value = match overflown[i] {
            Some(cost) => power(cost),
            None => figure(perplexities[i]),
        };
        [value, percent(differences[i])]
    })
}

fn seconds(e: &Evaluated) -> String {
    optional(e.event.seconds.map(|seconds| format!("{seconds:.1}")))
}

/// A value without a difference.
fn cell(value: String) -> [String; 2] {
    [value, String::new()]
}

/// A value, or that there is none.
fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}
