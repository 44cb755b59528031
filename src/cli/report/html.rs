//! A comparison as one HTML file that needs no other files: tables, curves and bars, every epoch,
//! every run's configuration, every model of an average.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::evaluated::{EvalEvent, Member, Table, TableRow};
use super::plots::{self, Picture};
use super::results::{Comparison, Group, Row, SPLITS, figure};

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 940px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
.scroll { overflow-x: auto; margin-bottom: 1.2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em; text-align: right; white-space: nowrap }
th, td { border-bottom: 1px solid #e2e2e2 }
th { font-weight: 600 } th:first-child, td:first-child { text-align: left; padding-left: 0 }
.config td { text-align: left } .config th { text-align: left }
.published td { color: #5a5a5a } td.difference { color: #5a5a5a; font-size: .88em; padding-left: 0 }
.differs td { background: #fff6d6 }
svg { max-width: 100%; height: auto }
summary { cursor: pointer; margin: .6em 0 }
footer { color: #5a5a5a; font-size: .88em; margin-top: 3em }
";

/// The report as one document.
///
/// # Errors
/// The curves could not be drawn.
pub fn report(comparison: &Comparison) -> Result<String> {
    let mut out = String::new();
    let title = "Runs beside TensorFlow's published perplexities";
    out += "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    let _ = write!(
        out,
        "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    out += "<p>Perplexities per word; in percent, the difference to the published ones.</p>\n";
    for group in &comparison.groups {
        if !group.runs.is_empty() {
            table(&mut out, group);
        }
        group.evaluation_tables().iter().for_each(|table| evaluations(&mut out, table));
    }
    list(&mut out, &comparison.remarks());
    let (has_runs, has_evaluations) =
        (comparison.runs().next().is_some(), comparison.evaluations().next().is_some());
    if has_runs {
        out += "<h2>Perplexity by epoch</h2>\n";
        picture(&mut out, comparison, Picture::Curves)?;
        comparison.groups.iter().for_each(|group| epochs(&mut out, group));
        out += "<h2>Configurations</h2>\n<p>Marked: what differs between the runs.</p>\n";
        settings(&mut out, comparison.runs().map(|run| (&run.name, run.start.clone())));
    }
    if has_evaluations {
        out += "<h2>Evaluations</h2>\n";
        picture(&mut out, comparison, Picture::Bars)?;
        members(&mut out, comparison);
        out += "<p>Marked: what differs between the evaluations.</p>\n";
        settings(&mut out, comparison.evaluations().map(|e| (&e.name, settings_of(&e.event))));
    }
    // The evaluations of a file have the same.
    let mut damage: Vec<String> = Vec::new();
    let of_runs = comparison.runs().map(|run| (&run.path, &run.damage));
    for (path, found) in of_runs.chain(comparison.evaluations().map(|e| (&e.path, &e.damage))) {
        for found in found.iter().map(|found| format!("{}: {found}", path.display())) {
            if !damage.contains(&found) {
                damage.push(found);
            }
        }
    }
    list(&mut out, &damage);
    let _ = write!(
        out,
        "<footer>ptb-word-lm {}</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    Ok(out)
}

fn table(out: &mut String, group: &Group) {
    let heads = ["epochs", "lr schedule"].into_iter().chain(SPLITS);
    let heads = heads.map(|head| {
        format!("<th>{head}</th>{}", if SPLITS.contains(&head) { "<th></th>" } else { "" })
    });
    let heads: String = heads.collect();
    let _ = write!(
        out,
        "<div class=\"scroll\"><table>\n<tr><th>{}</th>{heads}</tr>\n",
        escape(&group.model)
    );
    for (i, Row { name, epochs, lr_schedule, cells }) in group.rows().into_iter().enumerate() {
        let class = if i == 0 && group.published.is_some() { " class=\"published\"" } else { "" };
        let cells: String = cells
            .iter()
            .map(|[value, difference]| {
                format!("<td>{value}</td><td class=\"difference\">{difference}</td>")
            })
            .collect();
        let (name, lr_schedule) = (escape(&name), escape(&lr_schedule));
        let _ = writeln!(
            out,
            "<tr{class}><td>{name}</td><td>{epochs}</td><td>{lr_schedule}</td>{cells}</tr>"
        );
    }
    *out += "</table></div>\n";
}

fn evaluations(out: &mut String, table: &Table) {
    let heads = table.columns.iter().map(|(head, _, difference)| {
        format!("<th>{head}</th>{}", if *difference > 0 { "<th></th>" } else { "" })
    });
    let (caption, heads) = (escape(&table.caption), heads.collect::<String>());
    let _ = write!(out, "<div class=\"scroll\"><table>\n<tr><th>{caption}</th>{heads}</tr>\n");
    for TableRow { name, published, cells } in &table.rows {
        let class = if *published { " class=\"published\"" } else { "" };
        let cells = cells.iter().zip(&table.columns).map(|([value, percent], (_, _, width))| {
            let percent = match width {
                0 => String::new(),
                _ => format!("<td class=\"difference\">{percent}</td>"),
            };
            format!("<td>{value}</td>{percent}")
        });
        let (name, cells) = (escape(name), cells.collect::<String>());
        let _ = writeln!(out, "<tr{class}><td>{name}</td>{cells}</tr>");
    }
    *out += "</table></div>\n";
}

fn picture(out: &mut String, comparison: &Comparison, picture: Picture) -> Result<()> {
    *out += "<figure style=\"margin:0\">\n";
    *out += &plots::svg(comparison, picture)?;
    *out += "\n</figure>\n";
    Ok(())
}

/// Every model of every average.
fn members(out: &mut String, comparison: &Comparison) {
    *out += "<details><summary>Every model</summary>\n<div class=\"scroll\"><table>\n";
    *out += "<tr><th>evaluation</th><th>checkpoint</th><th>seed</th><th>epochs</th>\
             <th>valid</th><th>test</th></tr>\n";
    let whole = |number: &Option<i64>| number.map_or("-".to_owned(), |n| n.to_string());
    let real = |number: &Option<f64>| number.map_or("-".to_owned(), figure);
    for e in comparison.evaluations() {
        for Member { checkpoint, seed, epochs, valid, test, .. } in &e.event.members {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&e.name),
                escape(checkpoint.as_deref().unwrap_or("-")),
                whole(seed),
                whole(epochs),
                real(valid),
                real(test)
            );
        }
    }
    *out += "</table></div></details>\n";
}

/// What an evaluation was made with, without what it found.
fn settings_of(event: &EvalEvent) -> Value {
    let found = ["members", "valid", "test", "cost_per_word", "seconds"];
    let mut settings = json!(event);
    if let Some(fields) = settings.as_object_mut() {
        found.iter().for_each(|field| drop(fields.remove(*field)));
    }
    settings
}

fn epochs(out: &mut String, group: &Group) {
    let last = group.runs.iter().flat_map(|run| run.train.keys().chain(run.valid.keys())).max();
    let Some(&last) = last else { return };
    let _ = write!(
        out,
        "<details><summary>{}: every epoch</summary>\n<div class=\"scroll\"><table>\n",
        escape(&group.model)
    );
    let heads = group
        .runs
        .iter()
        .map(|run| format!("<th>{0} train</th><th>{0} valid</th>", escape(&run.name)));
    let _ = writeln!(out, "<tr><th>epoch</th>{}</tr>", heads.collect::<String>());
    let has = |epoch| {
        group.runs.iter().any(|r| r.train.contains_key(&epoch) || r.valid.contains_key(&epoch))
    };
    for epoch in (1..=last).filter(|&epoch| has(epoch)) {
        let cells =
            group.runs.iter().flat_map(|run| [run.train.get(&epoch), run.valid.get(&epoch)]);
        let cells = cells.map(|p| format!("<td>{}</td>", p.map_or("-".to_owned(), |&p| figure(p))));
        let _ = writeln!(out, "<tr><td>{epoch}</td>{}</tr>", cells.collect::<String>());
    }
    *out += "</table></div></details>\n";
}

/// One row per setting, one column per run or evaluation.
fn settings<'a>(out: &mut String, columns: impl Iterator<Item = (&'a String, Value)>) {
    let (names, events): (Vec<&String>, Vec<Value>) = columns.unzip();
    let settings: Vec<Vec<(String, String)>> = events
        .iter()
        .map(|event| {
            let mut settings = Vec::new();
            flatten("", event, &mut settings);
            settings
        })
        .collect();
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in settings.iter().flatten() {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    *out += "<div class=\"scroll\"><table class=\"config\">\n<tr><th></th>";
    names.iter().for_each(|name| *out += &format!("<th>{}</th>", escape(name)));
    *out += "</tr>\n";
    for key in keys {
        let values =
            settings.iter().map(|run| run.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v));
        let values: Vec<&str> = values.collect();
        let mut given = values.iter().filter(|value| !value.is_empty());
        let first = given.next();
        let class = if given.any(|value| Some(value) != first) { " class=\"differs\"" } else { "" };
        let cells: String =
            values.iter().map(|value| format!("<td>{}</td>", escape(value))).collect();
        let _ = writeln!(out, "<tr{class}><td>{}</td>{cells}</tr>", escape(key));
    }
    *out += "</table></div>\n";
}

/// `{"config": {"num_layers": 2}}` -> `num_layers`, `2`.
fn flatten(prefix: &str, value: &Value, settings: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            // The flags say again what the rest says.
            for (key, value) in
                fields.iter().filter(|(key, _)| !["event", "flags"].contains(&key.as_str()))
            {
                let key = match prefix {
                    "" | "config" => key.clone(),
                    _ => format!("{prefix} {key}"),
                };
                flatten(&key, value, settings);
            }
        }
        Value::Null => {}
        Value::String(text) => settings.push((prefix.to_owned(), text.clone())),
        other => settings.push((prefix.to_owned(), other.to_string())),
    }
}

fn list(out: &mut String, items: &[String]) {
    if !items.is_empty() {
        let items: String =
            items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
        let _ = writeln!(out, "<ul>\n{items}</ul>");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
