//! What all reports of results share: how figures are written, and what tells runs apart.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::config::Model;

/// By this, a run's data are known to be PTB.
pub(crate) const PTB_TRAIN_MD5: &str = "f26c4b92c5fdc7b3f8c7cdcb991d8420";

/// Words in PTB's vocabulary.
pub(crate) const PTB_WORDS: u64 = 10_000;

/// Fields in which a configuration differs from the one that `model` names.
pub(crate) fn differing_fields(
    model: &str,
    config: &Value,
    cell: &Value,
    optimizer: &Value,
) -> Vec<String> {
    let named = serde_json::from_value::<Model>(json!(model)).ok();
    let Some(named) = named.and_then(|m| serde_json::to_value(m.config()).ok()) else {
        return Vec::new();
    };
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
    for (name, own, usual) in [("cell", cell, "basic_lstm"), ("optimizer", optimizer, "sgd")] {
        if let Some(own) = own.as_str().filter(|own| *own != usual) {
            fields.push(format!("{name} {own} instead of {usual}"));
        }
    }
    fields
}

/// Gives those that have the same name another one.
pub(crate) fn tell_apart<T>(
    all: &mut [T],
    name: impl Fn(&mut T) -> &mut String,
    other: impl Fn(&T) -> String,
) {
    let mut seen = HashSet::new();
    let names: Vec<String> = all.iter_mut().map(|one| name(one).clone()).collect();
    let twice: HashSet<&String> = names.iter().filter(|name| !seen.insert(*name)).collect();
    for (one, own) in all.iter_mut().zip(&names) {
        if twice.contains(own) {
            *name(one) = other(one);
        }
    }
}

/// A text in a cell of a Markdown table.
pub(crate) fn for_markdown(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|")
}

/// A perplexity and its difference, or another value and nothing.
pub(crate) fn cell_for_markdown([value, difference]: &[String; 2]) -> String {
    match difference.as_str() {
        "" => value.clone(),
        difference => format!("{value} ({difference})"),
    }
}

/// A difference in percent; nothing if there is none.
pub(crate) fn percent(difference: Option<f64>) -> String {
    match difference.filter(|d| d.is_finite()) {
        Some(d) if d.abs() < 99.95 => format!("{d:+.1}%"),
        Some(d) => format!("{d:+.0}%"),
        None => String::new(),
    }
}

/// The perplexity of this cost as a power, for one that is too large for a number, in at most 7
/// characters.
pub(crate) fn power(cost: f64) -> String {
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
