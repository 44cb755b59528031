//! Evaluations in metrics files: what `eval --metrics` writes, and how `compare` shows it.

mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use program::{
    Expect, checkpoint, json_lines, metrics, perplexities, program, repository, short_sample, text,
};
use ptb_word_lm::cli::report::html;
use ptb_word_lm::cli::report::results::{Comparison, MetricsFile};
use serde_json::{Value, json};

fn train(data: &Path, save: &Path, more: &[&str]) {
    let base = ["train", "--device", "cpu", "--no-eval", "--quiet", "--data-path", text(data)];
    program(&[&base[..], &["--save-path", text(save)], more].concat()).works();
}

fn assert_close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
}

#[test]
fn eval_appends_a_line_for_each_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, b, written) = (at("a"), at("b"), at("new/eval.jsonl"));
    let tiny = ["--model", "test", "--hidden-size", "12", "--max-steps", "60"];
    let data = at("texts");
    short_sample(&data);
    train(&data, &a, &[&tiny[..], &["--seed", "3"]].concat());
    train(&data, &b, &[&tiny[..], &["--cell", "gru", "--lr-schedule", "2017"]].concat());
    let base = ["eval", "--device", "cpu", "--threads", "1", "--data-path", text(&data)];
    let of = |saves: &[&PathBuf], more: &[&str]| {
        let mut args = base.to_vec();
        saves.iter().for_each(|save| args.extend(["--checkpoint", text(save)]));
        args.extend(["--metrics", text(&written)]);
        args.extend(more);
        perplexities(&program(&args).works().0)
    };
    let adapt = ["--dynamic", "0.1", "--cache", "50", "--cache-theta", "0.4"];
    let alone = of(&[&a], &[]);
    let other = of(&[&b], &[]);
    let both = of(&[&a, &b], &[]);
    let adapted = of(&[&a], &adapt);
    let off = of(&[&a], &["--dynamic", "0", "--cache", "0"]);

    let found = metrics(&written);
    assert_eq!(found.len(), 5);
    for (line, [valid, test]) in found.iter().zip([alone, other, both, adapted, off]) {
        assert_eq!(line["event"], "eval");
        for (split, perplexity) in [("valid", valid), ("test", test)] {
            assert_close(&line[split], perplexity);
            assert_close(&line["cost_per_word"][split], perplexity.ln());
        }
        assert!(line["seconds"].as_f64().unwrap() > 0.0);
    }
    // What a run's start event has under the same names.
    let start = &metrics(&a.join("metrics.jsonl"))[0];
    for field in ["device", "versions", "data", "precision"] {
        assert_eq!(found[0][field], start[field], "{field}");
    }
    assert!(found[0]["data"]["test"]["md5"].as_str().unwrap().len() == 32);
    assert_eq!((&found[0]["threads"], &found[0]["vocab_size"]), (&json!(1), &json!(305)));
    let member = &found[0]["members"][0];
    for field in ["seed", "config", "cell", "optimizer"] {
        assert_eq!(member[field], start[field], "{field}");
    }
    assert_eq!(member["checkpoint"], text(&a));
    assert_eq!((&found[0]["models"], &found[2]["models"]), (&json!(1), &json!(2)));
    // No preset has these sizes. The schedule is that of all, if they have the same.
    assert_eq!(found[0]["model"], Value::Null);
    let schedules = [0, 1, 2].map(|k| found[k]["lr_schedule"].clone());
    assert_eq!(schedules, [json!("2016"), json!("2017"), Value::Null]);
    for (k, alone) in [alone, other].iter().enumerate() {
        assert_close(&found[2]["members"][k]["valid"], alone[0]);
        assert_close(&found[2]["members"][k]["test"], alone[1]);
    }
    for k in [0, 1, 2, 4] {
        assert_eq!((&found[k]["dynamic"], &found[k]["cache"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(found[3]["dynamic"], json!({"rate": 0.1, "steps": 20, "decay": 0.0}));
    // Theta is given, lambda is the default.
    assert_eq!(found[3]["cache"], json!({"size": 50, "theta": 0.4, "lambda": 0.2}));

    // `compare` reads them: there is no paper's row for such models and such a text.
    let (shown, _) = program(&["compare", text(&written)]).works();
    assert!(shown.contains("other sizes: averages of models"), "{shown}");
    let says = format!("evaluated on {} with a vocabulary of 305 words", data.display());
    assert!(shown.contains(&says), "{shown}");
    assert!(shown.contains("trained for 0 of 1 epochs"), "{shown}");
    assert!(!shown.contains('%') && !shown.contains("Table 1"), "{shown}");

    let fails_with = |more: &[&str], code: i32, says: &str| {
        let args = [&base[..], &["--checkpoint", text(&a)], more].concat();
        program(&args).fails_with(code, &[says]);
    };
    let below = written.join("more.jsonl");
    fails_with(&["--tune", "--metrics", text(&written)], 2, "--metrics has no effect with --tune");
    fails_with(&["--metrics", text(&below)], 1, "--metrics");
    assert_eq!(metrics(&written).len(), 5);
}

/// The checkpoint of an imported model does not tell its seed; a perplexity may be too large for a
/// number.
#[test]
fn what_is_not_known_is_null() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (save, file, imported) = (at("run"), at("model.npz"), at("imported"));
    let data = at("texts");
    short_sample(&data);
    train(&data, &save, &["--model", "test", "--max-steps", "2", "--seed", "7"]);
    let args = ["export", "--format", "tf-npz", "--checkpoint", text(&save), "-o", text(&file)];
    program(&args).works();
    let args = ["import", text(&file), "--save-path", text(&imported), "--model", "test"];
    program(&args).works();
    let written = at("eval.jsonl");
    let eval = |save: &Path| {
        let flags = ["--device", "cpu", "--data-path", text(&data), "--metrics", text(&written)];
        program(&[&["eval", "--checkpoint", text(save)], &flags[..]].concat()).works();
        metrics(&written).pop().unwrap()
    };
    let line = eval(&imported);
    assert_eq!((&line["model"], &line["lr_schedule"]), (&json!("test"), &Value::Null));
    for field in ["seed", "epochs", "config", "cell", "optimizer"] {
        assert_eq!(line["members"][0][field], Value::Null, "{field}");
    }
    assert!(line["valid"].as_f64().unwrap() > 1.0);

    // Costs that are finite, and perplexities that are too large for a number.
    let wild = at("wild");
    let mut checkpoint = checkpoint(&save);
    for variable in checkpoint.variables.values_mut() {
        *variable = &*variable * 1e6;
    }
    let saves = ptb_word_lm::checkpoint::SaveFolder::open(&wild, 2).unwrap();
    saves.save(&checkpoint).unwrap();
    drop(saves);
    let line = eval(&wild);
    for value in [&line["valid"], &line["members"][0]["test"]] {
        assert_eq!(*value, Value::Null, "{line}");
    }
    let cost = line["cost_per_word"]["test"].as_f64().unwrap();
    assert!(cost > 1000.0, "{line}");
    let (shown, _) = program(&["compare", text(&written)]).works();
    assert!(shown.contains("has perplexities that are not finite numbers"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("eval:2 ") && line.contains(" e^")));
}

/// An evaluation of `models` models of small on PTB.
fn on_ptb(models: u64, valid: f64, test: f64) -> Value {
    let members: Vec<Value> = (1..=models).map(|seed| json!({"seed": seed})).collect();
    json!({
        "event": "eval", "model": "small", "models": models, "members": members, "valid": valid,
        "test": test, "vocab_size": 10_000,
        "data": {
            "path": "ptb",
            "train": {"md5": "f26c4b92c5fdc7b3f8c7cdcb991d8420"},
            "valid": {"md5": "aa0affc06ff7c36e977d7cd49e3839bf"},
            "test": {"md5": "8b80168b89c18661a38ef683c0dc3721"},
        },
    })
}

fn run_of_small() -> String {
    let start = json!({"event": "start", "model": "small", "config": {"lr_schedule": "2016"}});
    let epoch = json!({"event": "epoch", "epoch": 1, "split": "train", "perplexity": 268.5});
    format!("{start}\n{epoch}\n")
}

fn write(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.join(name);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&path, text).unwrap();
    path
}

/// What `compare` makes of some files: text, Markdown, JSON; the report; and its notices.
struct Shown {
    text: String,
    markdown: String,
    json: Value,
    html: String,
    errors: String,
}

fn compare(files: &[&Path]) -> Shown {
    let mut errors = String::new();
    let mut notice = |text: &str| errors += text;
    let files = files.iter().map(|file| MetricsFile::read(file, &mut notice).unwrap()).collect();
    let comparison = Comparison::new(files).unwrap();
    Shown {
        text: comparison.text(),
        markdown: comparison.markdown(),
        json: comparison.json(),
        html: html::report(&comparison).unwrap(),
        errors,
    }
}

/// The words of the line that begins with `name`.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("{name} in {text}"))[name.len()..].split_whitespace().collect()
}

#[test]
fn the_committed_evaluations_stand_beside_the_paper() {
    let folder = tempfile::tempdir().unwrap();
    let results = |name: &str| repository("results").join(name);
    let adapt = results("adapt-small-cpu.jsonl");
    let shown = compare(&[&adapt, &results("averages-small-cuda.jsonl")]);
    let Shown { text: table, json, .. } = &shown;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let paper: Vec<&str> = table.lines().filter(|line| line.starts_with("paper")).collect();
    assert_eq!(paper.len(), 3, "{table}");
    for (line, [models, valid, test]) in paper.iter().zip([
        ["1", "120.70", "114.50"],
        ["2", "100.40", "96.10"],
        ["5", "87.90", "84.10"],
    ]) {
        assert_eq!(row(line, "paper, Table 1"), [models, valid, test]);
    }
    assert_eq!(
        row(table, "averages-small-cuda:1 ")[..5],
        ["1", "122.59", "+1.6%", "117.03", "+2.2%"]
    );
    assert_eq!(
        row(table, "averages-small-cuda:3 ")[..5],
        ["5", "87.26", "-0.7%", "83.44", "-0.8%"]
    );
    assert_eq!(row(table, "adapt-small-cpu:5 ")[..5], ["2", "100.72", "+0.3%", "96.26", "+0.2%"]);
    let adapted = row(table, "adapt-small-cpu:7 ");
    assert_eq!(adapted[..7], ["2", "0.1", "2000", "0.8", "0.15", "83.12", "81.42"]);
    assert_eq!(json["runs"], json!([]));
    assert_eq!(json["table1"].as_array().unwrap().len(), 4);
    assert_eq!(
        json["table1"][3],
        json!({"model": "small", "models": 10, "valid": 83.5,
        "test": 80.0, "source": "Zaremba, Sutskever, Vinyals, arXiv 1409.2329, Table 1"})
    );
    let evaluations = json["evaluations"].as_array().unwrap();
    assert_eq!(evaluations.len(), 10);
    for evaluation in evaluations {
        let adapts = !evaluation["dynamic"].is_null() || !evaluation["cache"].is_null();
        assert_eq!(evaluation["difference_percent"]["test"].is_null(), adapts, "{evaluation}");
        assert_eq!((&evaluation["remarks"], &evaluation["damage"]), (&json!([]), &json!([])));
        // No path of the machine on which it was made.
        for member in evaluation["members"].as_array().unwrap() {
            assert!(!member["checkpoint"].as_str().unwrap_or_default().starts_with('/'));
        }
    }
    let difference = evaluations[4]["difference_percent"]["valid"].as_f64().unwrap();
    let valid = evaluations[4]["valid"].as_f64().unwrap();
    assert!((difference - 100.0 * (valid / 100.4 - 1.0)).abs() < 1e-9);
    assert_eq!(shown.errors, "");

    // The document has these tables and this picture.
    let document = fs::read_to_string(repository("docs/results.md")).unwrap();
    let of_file = |file: &Path| compare(&[file]).markdown;
    for markdown in [of_file(&adapt), of_file(&results("averages-small-cuda.jsonl"))] {
        for line in markdown.lines() {
            assert!(document.contains(line), "docs/results.md does not have: {line}");
        }
    }
    let [svg, png] = ["bars.svg", "bars.png"].map(|name| folder.path().join(name));
    let args = ["compare", text(&adapt), "--plot", text(&svg), "--plot", text(&png)];
    program(&args).works();
    let svg = fs::read_to_string(svg).unwrap();
    for label in [
        "1 model",
        "2 models averaged",
        "1 model, cache",
        "1 model, dynamic evaluation",
        "2 models averaged, dynamic evaluation and cache",
        "117.45",
        "81.42",
        "black marks",
    ] {
        assert!(svg.contains(label), "{label} in {svg}");
        assert!(shown.html.contains(label), "{label}");
    }
    // Two bars for each evaluation, and two marks for each average that the paper has.
    assert_eq!(svg.matches("<rect").count(), 1 + 2 * 7 + 2 * 2);
    assert_eq!(svg, fs::read_to_string(repository("docs/adapt-small-cpu.svg")).unwrap());
    let picture = png::Decoder::new(std::io::BufReader::new(fs::File::open(png).unwrap()));
    let mut reader = picture.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let blue = pixels.chunks(3).filter(|pixel| *pixel == [0, 114, 178]).count();
    assert!(blue > 10_000, "{blue} pixels of the averages' colour");
}

/// Runs and evaluations in one folder, and in one file.
#[test]
fn runs_and_evaluations_are_shown_together() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    fs::create_dir(&results).unwrap();
    fs::write(results.join("run.jsonl"), run_of_small()).unwrap();
    let mut cached = on_ptb(2, 80.0, 78.0);
    cached["cache"] = json!({"size": 500, "theta": 0.25, "lambda": 0.125});
    write(&results, "averages.jsonl", &[on_ptb(2, 101.404, 95.139), cached, on_ptb(3, 95.0, 90.0)]);
    let both = format!("{}{}\n", run_of_small(), on_ptb(10, 83.5, 80.0));
    fs::write(results.join("zz.jsonl"), both).unwrap();
    // All files of results/.
    let (table, errors) = program(&["compare"]).current_dir(folder.path()).works();
    assert_eq!(errors, "");
    let position = |text: &str| table.find(text).unwrap_or_else(|| panic!("{text} in {table}"));
    let in_order = [
        "TensorFlow, published",
        "run ",
        "zz ",
        "small: averages of models",
        "paper, Table 1      2",
        "averages:1",
        "averages:3",
        "paper, Table 1     10",
        "small: models that adapt",
        "averages:2",
    ];
    let places = in_order.map(position);
    assert!(places.is_sorted(), "{places:?}: {table}");
    assert_eq!(row(&table, "averages:1 "), ["2", "101.40", "+1.0%", "95.14", "-1.0%", "-"]);
    // The paper has no average of three.
    assert_eq!(row(&table, "averages:3 "), ["3", "95.00", "90.00", "-"]);
    assert_eq!(row(&table, "averages:2 ")[..5], ["2", "-", "500", "0.25", "0.125"]);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");

    let files = ["run.jsonl", "averages.jsonl", "zz.jsonl"].map(|name| results.join(name));
    let shown = compare(&files.each_ref().map(PathBuf::as_path));
    assert_eq!(shown.json["runs"].as_array().unwrap().len(), 2);
    let of = |k: usize, field: &str| shown.json["evaluations"][k][field].clone();
    assert_eq!([0, 1, 2, 3].map(|k| of(k, "line")), [json!(1), json!(2), json!(3), json!(3)]);
    assert_eq!(of(1, "cache"), json!({"size": 500, "theta": 0.25, "lambda": 0.125}));
    assert_eq!((of(3, "name"), of(3, "models")), (json!("zz"), json!(10)));
    assert_eq!(shown.html.matches("<svg").count(), 2, "curves and bars");
    for cell in ["101.40", "95.14", "0.125", "paper, Table 1", "268.50"] {
        assert!(shown.html.contains(cell) && shown.markdown.contains(cell), "{cell}");
    }
    assert!(shown.markdown.contains("| averages:1 | 2 | 101.40 (+1.0%) | 95.14 (-1.0%) | - |"));
    // With runs the picture is that of their curves.
    let svg = folder.path().join("curves.svg");
    let args = ["compare", text(&files[0]), text(&files[1]), "--plot", text(&svg)];
    program(&args).works();
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.contains("run train 268.50") && !svg.contains("averaged"), "{svg}");
    // The metrics of a run with evaluations behind them still repeat the run.
    let config = ["train", "--config", text(&files[2]), "--data-path", "sample"];
    program(&[&config[..], &["--device", "cpu", "--max-steps", "0", "--no-eval"]].concat()).works();
}

#[test]
fn damaged_evaluations_are_passed_over_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torn.jsonl");
    let good = on_ptb(1, 120.7, 114.5).to_string();
    let broken = [
        &good[..good.len() - 20],
        r#"{"event": "eval", "models": 0, "valid": 1.5, "test": 1.5}"#,
        r#"{"event": "eval", "models": "two", "valid": 1.5, "test": 1.5}"#,
        r#"{"event": "eval", "models": 2, "valid": "low", "test": 1.5}"#,
        r#"{"event": "eval", "models": 1, "valid": 1.5, "test": 1.5, "cache": 7}"#,
        r#"{"event": "eval", "models": 1, "valid": 1.5, "test": 1.5, "members": [1]}"#,
        "[\"eval\"]",
        "\u{0}",
    ];
    for broken in broken {
        fs::write(&path, format!("\u{feff}{good}\n\n{broken}\n{good}\n{broken}")).unwrap();
        let shown = compare(&[&path]);
        let says = "2 lines, the first is line 3, are not whole metrics lines";
        assert!(shown.errors.contains("torn.jsonl") && shown.errors.contains(says));
        assert!(shown.html.contains(says));
        let evaluations = shown.json["evaluations"].as_array().unwrap();
        assert_eq!(evaluations.len(), 2, "{broken}");
        assert!(evaluations[0]["damage"][0].as_str().unwrap().contains(says));
        assert_eq!(row(&shown.text, "torn:1 "), ["1", "120.70", "+0.0%", "114.50", "+0.0%", "-"]);
        fs::write(&path, broken).unwrap();
        let error = MetricsFile::read(&path, &mut |_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("no start event"), "{error:#}");
    }
    program(&["compare", text(&path)]).fails_with(1, &["no start event"]);
}

/// Only what is on PTB with its 10,000 words stands beside the paper's numbers.
#[test]
fn other_texts_do_not_compare() {
    let folder = tempfile::tempdir().unwrap();
    let changed = |field: &str, value: Value| {
        let mut line = on_ptb(2, 100.0, 96.0);
        *line.pointer_mut(field).unwrap() = value;
        line
    };
    for (line, says) in [
        (changed("/data/train/md5", json!("0")), "vocabulary of 10,000 words, not on PTB"),
        (changed("/data/valid/md5", json!("0")), "not on PTB"),
        (changed("/data/test/md5", json!("0")), "not on PTB"),
        (changed("/data", Value::Null), "a text that is not known"),
        (changed("/vocab_size", json!(9_999)), "9,999 words instead of 10,000"),
        (changed("/vocab_size", Value::Null), "evaluated on PTB instead of 10,000"),
    ] {
        let path = write(folder.path(), "other.jsonl", &[line]);
        let shown = compare(&[&path]);
        assert!(shown.text.contains(says), "{says}: {}", shown.text);
        for shown in [&shown.text, &shown.markdown, &shown.html] {
            assert!(shown.contains("the paper's numbers do not compare"), "{shown}");
            assert!(!shown.contains("Table 1") && !shown.contains("+0."), "{shown}");
        }
        assert_eq!(shown.json["table1"], json!([]));
        assert_eq!(shown.json["evaluations"][0]["difference_percent"]["valid"], Value::Null);
        assert!(!shown.html.contains("marks"), "no marks on the bars");

        // Beside one that is on PTB, which still compares.
        let ptb = write(folder.path(), "ptb.jsonl", &[on_ptb(2, 100.4, 96.1)]);
        let table = compare(&[&ptb, &path]).text;
        assert_eq!(row(&table, "ptb "), ["2", "100.40", "+0.0%", "96.10", "+0.0%", "-"]);
        assert_eq!(row(&table, "other "), ["2", "100.00", "96.00", "-"]);
        assert!(table.contains("perplexities do not compare with each other"), "{table}");
    }
}

#[test]
fn long_figures_stand_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut line = on_ptb(2, 98765.25, 96.0);
    line["dynamic"] = json!({"rate": 0.0625, "steps": 20, "decay": 0.0});
    line["cache"] = json!({"size": 2000, "theta": 0.3125, "lambda": 0.0625});
    let shown = compare(&[&write(folder.path(), "long.jsonl", &[line])]).text;
    let expected = ["2", "0.0625", "2000", "0.3125", "0.0625", "98765.25", "96.00", "-"];
    assert_eq!(row(&shown, "long "), expected, "{shown}");
    let mut run = json_lines(&run_of_small());
    run.iter_mut().for_each(|event| event["perplexity"] = json!(98765.25));
    let shown = compare(&[&write(folder.path(), "run.jsonl", &run)]).text;
    assert_eq!(row(&shown, "run ")[..3], ["1", "2016", "98765.25"], "{shown}");
}

#[test]
fn evaluations_of_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|parent| {
        let parent = folder.path().join(parent);
        fs::create_dir(&parent).unwrap();
        write(&parent, "eval.jsonl", &[on_ptb(1, 121.0, 115.0), on_ptb(1, 122.0, 116.0)])
    });
    let shown = compare(&[&files[0], &files[1]]);
    let names = shown.json["evaluations"].as_array().unwrap().iter();
    let names: BTreeSet<&str> = names.map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4);
    for file in &files {
        for line in 1..=2 {
            assert!(names.contains(format!("{}:{line}", text(file)).as_str()), "{names:?}");
        }
    }
    // In the picture, their names follow labels that are the same.
    let svg = folder.path().join("bars.svg");
    program(&["compare", text(&files[0]), "--plot", text(&svg)]).works();
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.contains("1 model (eval:1)") && svg.contains("1 model (eval:2)"), "{svg}");
}
