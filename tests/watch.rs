//! Watching and comparing runs: the terminal, TensorBoard's events, tables, curves, the report.

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{
    Expect, SMALL, TINY, metrics, on_a_terminal, program, repository, text, texts, without_escapes,
};
use ptb_word_lm::cli::report::tensorboard::{self as events, Scalar};
use serde_json::{Value, json};

fn train(more: &[&str]) -> (String, String) {
    program(&[TINY, &["--threads", "1"], more].concat()).works()
}

/// All scalars of a folder's event files, in the order in which they were written.
fn scalars(folder: &Path) -> Vec<Scalar> {
    let files = events::files(folder).unwrap();
    files.iter().flat_map(|file| events::read(file).unwrap()).collect()
}

fn of_tag(scalars: &[Scalar], tag: &str) -> Vec<(i64, f32)> {
    scalars.iter().filter(|s| s.tag == tag).map(|s| (s.step, s.value)).collect()
}

const TAGS: [&str; 10] = [
    "Model/global_step/sec",
    "Test/Perplexity",
    "Train/Gradient_Norm",
    "Train/Learning_Rate",
    "Train/Perplexity",
    "Train/Running_Perplexity",
    "Train/Training_Loss",
    "Train/Words_Per_Second",
    "Valid/Perplexity",
    "Valid/Validation_Loss",
];

#[test]
fn events_that_tensorflow_wrote_are_read() {
    let read = scalars(&repository("tests/fixtures/events"));
    assert_eq!(of_tag(&read, "Train/Training_Loss"), [(1, 184.25), (101, 132.125)]);
    assert_eq!(of_tag(&read, "Train/Learning_Rate"), [(1, 1.0), (101, 1.0)]);
    assert_eq!(read.len(), 4);
}

#[test]
fn a_run_s_events_are_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    train(&[
        "--max-max-epoch",
        "2",
        "--max-epoch",
        "0",
        "--log-every",
        "20",
        "--save-path",
        text(folder.path()),
    ]);
    let scalars = scalars(folder.path());
    let tags: BTreeSet<&str> = scalars.iter().map(|s| s.tag.as_str()).collect();
    assert_eq!(tags.into_iter().collect::<Vec<_>>(), TAGS);
    let metrics = metrics(folder.path());
    let figures = |event: &str, split: &str, key: &str| -> Vec<f32> {
        let of = metrics
            .iter()
            .filter(|m| m["event"] == event && (split.is_empty() || m["split"] == split));
        of.map(|m| m[key].as_f64().unwrap() as f32).collect()
    };
    let values =
        |tag| of_tag(&scalars, tag).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    for (tag, event, split, key) in [
        ("Train/Training_Loss", "step", "", "cost"),
        ("Train/Learning_Rate", "step", "", "lr"),
        ("Train/Gradient_Norm", "step", "", "global_norm"),
        ("Train/Running_Perplexity", "step", "", "perplexity"),
        ("Train/Words_Per_Second", "step", "", "wps"),
        ("Train/Perplexity", "epoch", "train", "perplexity"),
        ("Valid/Perplexity", "epoch", "valid", "perplexity"),
        ("Test/Perplexity", "final", "", "perplexity"),
    ] {
        assert_eq!(values(tag), figures(event, split, key), "{tag}");
        assert!(!values(tag).is_empty(), "{tag}");
    }
    // A step counts as TensorFlow counts it: done.
    let steps =
        of_tag(&scalars, "Train/Training_Loss").into_iter().map(|(step, _)| step as f32 - 1.0);
    assert_eq!(steps.collect::<Vec<_>>(), figures("step", "", "global_step"));
    // Costs are of 15 words each.
    for (loss, perplexity) in values("Valid/Validation_Loss").iter().zip(values("Valid/Perplexity"))
    {
        assert!((loss / 15.0 - perplexity.ln()).abs() < 1e-4);
    }
    assert!(values("Model/global_step/sec").iter().all(|&rate| rate > 0.0 && rate.is_finite()));
}

/// Stops a run at several places, resumes it, and gives the folder.
fn stopped_and_resumed(folder: &Path) -> PathBuf {
    let parts = folder.join("parts");
    let flags = ["--max-max-epoch", "2", "--log-every", "1", "--save-path", text(&parts)];
    train(&[&flags[..], &["--max-steps", "7", "--no-eval"]].concat());
    let epoch_size = metrics(&parts)[0]["data"]["train"]["tokens"].as_i64().unwrap() / 100 / 15;
    // Here the run is told of as far as 20, but only the checkpoint of 7 is left, as after a kill;
    // the last record is torn.
    train(&[&flags[..], &["--max-steps", "20", "--no-eval"]].concat());
    fs::remove_file(parts.join("model-20.safetensors")).unwrap();
    let newest = events::files(&parts).unwrap().pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[..whole.len() - 3]).unwrap();
    for stop in [epoch_size, epoch_size + 5] {
        train(&[&flags[..], &["--max-steps", &stop.to_string(), "--no-eval"]].concat());
    }
    train(&flags);
    // A finished run, evaluated again.
    train(&flags);
    parts
}

/// What TensorBoard does at a `SessionLog`: drop what a killed process had written past where the
/// run goes on.
fn without_orphans(folder: &Path, resumed_at: &[i64]) -> Vec<Scalar> {
    let mut kept: Vec<Scalar> = Vec::new();
    let files = events::files(folder).unwrap();
    assert_eq!(files.len(), resumed_at.len(), "every process has a file of its own");
    for (file, at) in files.iter().zip(resumed_at) {
        kept.retain(|scalar| scalar.step <= *at);
        kept.extend(events::read(file).unwrap());
    }
    kept
}

fn assert_whole(
    parts: &BTreeMap<String, Vec<(i64, f32)>>,
    whole: &BTreeMap<String, Vec<(i64, f32)>>,
) {
    for tag in TAGS {
        let steps: Vec<i64> = parts[tag].iter().map(|point| point.0).collect();
        assert!(steps.is_sorted_by(|a, b| a < b), "{tag}: {steps:?}");
        match tag {
            "Train/Words_Per_Second" | "Model/global_step/sec" => {
                let whole: Vec<i64> = whole[tag].iter().map(|point| point.0).collect();
                assert_eq!(steps, whole, "{tag}");
            }
            // Told at every stop as well.
            "Train/Perplexity" => {
                assert!(whole[tag].iter().all(|point| parts[tag].contains(point)), "{tag}")
            }
            // With --no-eval no epoch but the last was evaluated.
            "Valid/Perplexity" | "Valid/Validation_Loss" => {
                assert_eq!(parts[tag].last(), whole[tag].last(), "{tag}")
            }
            _ => assert_eq!(parts[tag], whole[tag], "{tag}"),
        }
    }
}

fn by_tag(scalars: &[Scalar]) -> BTreeMap<String, Vec<(i64, f32)>> {
    TAGS.iter().map(|tag| (tag.to_string(), of_tag(scalars, tag))).collect()
}

#[test]
fn a_resumed_run_writes_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let parts = stopped_and_resumed(folder.path());
    let whole = folder.path().join("whole");
    train(&["--max-max-epoch", "2", "--log-every", "1", "--save-path", text(&whole)]);
    let resumed_at: Vec<i64> = metrics(&parts)
        .iter()
        .filter(|m| m["event"] == "start")
        .map(|m| m["resumed_at"].as_i64().unwrap_or_default())
        .collect();
    assert_whole(&by_tag(&without_orphans(&parts, &resumed_at)), &by_tag(&scalars(&whole)));
}

/// TensorBoard's own reader sees the same: tests/golden/events.py. Runs where TF_PYTHON names a
/// Python that has TensorFlow 1.15.
#[test]
#[ignore = "needs TensorBoard: TF_PYTHON (make test-tensorflow)"]
fn tensorboard_reads_the_events() {
    let python = std::env::var_os("TF_PYTHON").expect("TF_PYTHON names a Python with TensorBoard");
    let folder = tempfile::tempdir().unwrap();
    let parts = stopped_and_resumed(folder.path());
    let whole = folder.path().join("whole");
    train(&["--max-max-epoch", "2", "--log-every", "1", "--save-path", text(&whole)]);
    let read = |path: &Path| -> BTreeMap<String, Vec<(i64, f32)>> {
        let mut command = Command::new(&python);
        command
            .arg(repository("tests/golden/events.py"))
            .arg(path)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let (out, errors) = command.works();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {errors}"))
    };
    let seen = read(&whole);
    assert_eq!(seen.keys().collect::<Vec<_>>(), TAGS.iter().collect::<Vec<_>>());
    assert_eq!(seen, by_tag(&scalars(&whole)));
    assert_whole(&read(&parts), &seen);
}

#[test]
fn quiet_leaves_the_final_perplexities() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--max-max-epoch", "2", "--metrics"];
    let file = folder.path().join("metrics.jsonl");
    let (loud, _) = train(&[&flags[..], &[text(&file)]].concat());
    let lines = fs::read_to_string(&file).unwrap().lines().count();
    for flag in ["--quiet", "-q"] {
        let (quiet, said) = train(&[&flags[..], &[text(&file), flag]].concat());
        let last: Vec<&str> = loud
            .lines()
            .filter(|l| l.starts_with("Epoch: 2 ") && l.contains("Perplexity"))
            .collect();
        assert_eq!(
            quiet.lines().collect::<Vec<_>>(),
            [last, vec![loud.lines().last().unwrap()]].concat()
        );
        assert_eq!(said, "");
        // The metrics are the same, quiet or not.
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), lines);
    }
    // Words that are read as <unk> are a notice, words that are left out a warning.
    let data = folder.path().join("own");
    texts(&data, ["a b c d\n".repeat(300), "a b x\n".repeat(200), "a b c\n".repeat(200)]);
    let own = ["--data-path", text(&data), "--max-steps", "1", "--no-eval"];
    let small = |more: &[&str]| program(&[SMALL, &own, more].concat()).works().1;
    assert!(small(&["--max-vocab", "4"]).contains("read as <unk>"));
    assert_eq!(small(&["--max-vocab", "4", "--quiet"]), "");
    let said = small(&["--quiet"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("left out") && lines[1].starts_with("warning: "), "{said}");
    assert_eq!(lines.len(), 2, "{said}");
    // Errors are reported.
    program(&["train", "--data-path", "nowhere", "--quiet"]).fails_with(1, &["nowhere"]);
}

/// What stood on each line of a terminal at once.
fn drawn(screen: &str) -> Vec<String> {
    let plain = without_escapes(screen);
    plain.split(['\r', '\n']).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_terminal_shows_a_bar_and_a_pipe_does_not() {
    let steps =
        ["--max-max-epoch", "3", "--hidden-size", "64", "--num-steps", "5", "--batch-size", "20"];
    let args = [&TINY[..7], &["--threads", "1"], &steps].concat();
    let line = args.join(" ");
    let (screen, _) = on_a_terminal(80, &line).works();
    let drawn = drawn(&screen);
    let bars: Vec<&String> = drawn.iter().filter(|line| line.contains(" left")).collect();
    assert!(bars.len() > 3, "{drawn:?}");
    for bar in &bars {
        assert!(bar.chars().count() <= 80, "{bar:?}");
        for part in ["epoch ", "/3 ", "["] {
            assert!(bar.contains(part), "{part:?} in {bar:?}");
        }
    }
    assert!(bars.iter().any(|bar| bar.contains("ppl ") && bar.contains(" wps")), "{bars:?}");
    assert!(bars.iter().any(|bar| bar.contains("step ")));
    // tests/newcomer.rs has what stands there in an evaluation.
    assert!(drawn.iter().any(|line| line.contains("evaluating valid")), "{drawn:?}");
    // The original's lines stand there whole.
    assert!(drawn.iter().any(|line| line.starts_with("Test Perplexity: ")), "{drawn:?}");
    assert_eq!(
        drawn.iter().filter(|line| line.starts_with("Epoch: 3 Valid Perplexity: ")).count(),
        1
    );
    let (dumb, _) = on_a_terminal(80, &line).env("TERM", "dumb").works();
    assert!(!dumb.contains('\x1b') && !dumb.contains(" left"), "{dumb:?}");
    let (out, errors) = program(&args).works();
    for piped in [out, errors] {
        assert!(!piped.contains(['\r', '\x1b']), "{piped:?}");
    }
}

#[test]
fn no_color_is_honoured() {
    let (colored, _) = on_a_terminal(80, "train --help").works();
    assert!(colored.contains("\x1b["), "help is set in bold on a terminal");
    let bar = [TINY, &["--threads", "1", "--max-steps", "30"]].concat().join(" ");
    for line in ["train --help", "train", &bar] {
        let (_, screen, _) = on_a_terminal(80, line).env("NO_COLOR", "1").ends();
        // ESC [ ... m sets colours and weights; others move the cursor.
        let styled = screen.split("\x1b[").skip(1).any(|rest| {
            rest.find(|c: char| c.is_ascii_alphabetic())
                .is_some_and(|end| rest[end..].starts_with('m'))
        });
        assert!(!styled, "{screen:?}");
    }
}

/// A metrics file of given lines.
fn metrics_file(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.join(name);
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

fn start(model: &str) -> Value {
    json!({"event": "start", "model": model, "config": {"max_max_epoch": 13, "lr_schedule": "2016", "num_layers": 2}})
}

fn epoch(epoch: i64, split: &str, perplexity: Value) -> Value {
    json!({"event": "epoch", "epoch": epoch, "split": split, "perplexity": perplexity, "complete": true})
}

/// A comparison in every format: text, Markdown, JSON, SVG, PNG (its pixels), HTML, and what was
/// said on standard error.
struct Compared {
    text: String,
    markdown: String,
    json: Value,
    svg: String,
    pixels: (u32, u32, Vec<u8>),
    html: String,
    errors: String,
}

fn compare(folder: &Path, runs: &[&Path]) -> Compared {
    let runs: Vec<&str> = runs.iter().map(|run| text(run)).collect();
    // A folder that is not there yet.
    let at = |name: &str| folder.join("pictures").join(name);
    let (svg, png, html) = (at("curves.svg"), at("curves.PNG"), at("report.html"));
    let args = [
        &["compare"],
        &runs[..],
        &["--plot", text(&svg), "--plot", text(&png), "--html", text(&html)],
    ]
    .concat();
    let (text, errors) = program(&args).works();
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(&png).unwrap()))
        .read_info()
        .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let format =
        |format: &str| program(&[&["compare", "--format", format], &runs[..]].concat()).works().0;
    let compared = Compared {
        text,
        markdown: format("markdown"),
        json: serde_json::from_str(&format("json")).unwrap(),
        svg: fs::read_to_string(svg).unwrap(),
        pixels: (info.width, info.height, pixels),
        html: fs::read_to_string(html).unwrap(),
        errors,
    };
    assert_eq!(compared.html.matches("<svg").count(), 1);
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!compared.html.contains(outside), "the report needs nothing else: {outside}");
    }
    compared
}

#[test]
fn the_committed_run_is_shown_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let results = repository("results/small-cpu.jsonl");
    let c = compare(folder.path(), &[&results]);
    for cell in
        ["36.77", "121.53", "117.98", "37.99", "121.39", "115.91", "-3.2%", "+0.1%", "+1.8%"]
    {
        for (what, shown) in [("text", &c.text), ("markdown", &c.markdown), ("html", &c.html)] {
            assert!(shown.contains(cell), "{cell} in {what}: {shown}");
        }
    }
    assert!(c.text.lines().all(|line| line.chars().count() <= 80), "{}", c.text);
    assert!(
        c.markdown.contains(
            "| small-cpu | 13 | 2016 | 36.77 (-3.2%) | 121.53 (+0.1%) | 117.98 (+1.8%) |"
        )
    );
    let run = &c.json["runs"][0];
    assert_eq!((&run["name"], &run["epochs"]), (&json!("small-cpu"), &json!(13)));
    assert_eq!(run["curve"].as_array().unwrap().len(), 13);
    assert_eq!(run["curve"][0]["train"], 268.5888780536609);
    assert!((run["valid"].as_f64().unwrap() - 121.53215754768547).abs() < 1e-9);
    assert_eq!(run["start"]["config"]["hidden_size"], 200);
    assert_eq!((&run["remarks"], &run["damage"]), (&json!([]), &json!([])));
    let difference = run["difference_percent"]["test"].as_f64().unwrap();
    assert!((difference - 100.0 * (117.97947868745405 / 115.91 - 1.0)).abs() < 1e-9);
    assert_eq!(c.json["published"][0]["test"], 115.91);
    for label in [
        "small-cpu valid 121.53",
        "small-cpu train 36.77",
        "TensorFlow valid 121.39",
        "TensorFlow train 37.99",
    ] {
        assert!(c.svg.contains(label), "{label}");
        assert!(c.html.contains(label), "{label}");
    }
    // Every epoch has its dot, in two circles; twice for train and valid.
    assert_eq!(c.svg.matches("<circle").count(), 4 * 13);
    let (width, height, pixels) = &c.pixels;
    assert_eq!((*width, *height), (1840, 880));
    let blue = pixels.chunks(3).filter(|pixel| *pixel == [0, 114, 178]).count();
    assert!(blue > 2000, "{blue} pixels of the run's colour");
    assert!(c.html.contains("hidden_size") && c.html.contains("f26c4b92c5fdc7b3f8c7cdcb991d8420"));
    assert_eq!(c.errors, "");
    assert_eq!(
        fs::read_to_string(repository("docs/small-cpu.svg")).unwrap(),
        c.svg,
        "docs/small-cpu.svg is this picture"
    );
}

#[test]
fn a_torn_metrics_file_is_used_as_far_as_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [start("small"), epoch(1, "train", json!(268.5)), epoch(1, "valid", json!(179.25))];
    let path = metrics_file(folder.path(), "torn.jsonl", &lines);
    // Within a letter of two bytes, and within a line.
    for tail in [
        &b"{\"event\":\"start\",\"data\":{\"path\":\"st\xc3"[..],
        b"{\"event\":\"epoch\",\"epoch\":2,\"spl",
    ] {
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.iter().rposition(|&b| b == b'\n').unwrap() + 1);
        bytes.extend(tail);
        fs::write(&path, bytes).unwrap();
        let c = compare(folder.path(), &[&path]);
        let says = "line 4 is not a whole metrics line";
        assert!(c.errors.contains("torn.jsonl") && c.errors.contains(says), "{}", c.errors);
        assert!(c.html.contains(says), "{}", c.html);
        assert!(c.json["runs"][0]["damage"][0].as_str().unwrap().contains(says));
        for shown in [&c.text, &c.markdown, &c.html, &c.svg] {
            assert!(shown.contains("268.50") && shown.contains("179.25"), "{shown}");
        }
    }
}

#[test]
fn cut_off_anywhere_a_file_gives_what_is_whole_or_an_error_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(repository("results/small-cpu.jsonl")).unwrap();
    let path = folder.path().join("cut.jsonl");
    let first = whole.iter().position(|&b| b == b'\n').unwrap();
    let mut told = 0;
    for cut in (0..first).step_by(97).chain((first..whole.len()).step_by(211)) {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut notices = Vec::new();
        match ptb_word_lm::cli::report::results::Run::read(&path, &mut |notice| {
            notices.push(notice.to_owned())
        }) {
            Ok(run) => {
                assert!(cut >= first);
                let newlines = whole[..cut].iter().filter(|&&b| b == b'\n').count();
                assert_eq!(
                    notices.is_empty(),
                    cut == first || whole[cut] == b'\n' || whole[cut - 1] == b'\n',
                    "{notices:?}"
                );
                told += notices.len();
                let epochs = String::from_utf8_lossy(&whole[..cut])
                    .lines()
                    .take(newlines)
                    .filter(|l| l.contains("\"split\":\"train\""))
                    .count();
                assert!(run.train.len() == epochs || run.train.len() == epochs + 1);
            }
            Err(error) => {
                assert!(cut < first && format!("{error:#}").contains("no start event"), "{error:#}")
            }
        }
    }
    assert!(told > 100, "{told}");
}

#[test]
fn what_later_training_made_out_of_date_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut lines = vec![start("small")];
    lines.extend([epoch(1, "train", json!(270.0)), epoch(1, "valid", json!(179.25))]);
    lines.push(json!({"event": "final", "perplexity": 171.5}));
    let whole = metrics_file(at, "whole.jsonl", &lines);
    let step = json!({"event": "step", "epoch": 2, "perplexity": 141.5});
    let within = metrics_file(at, "within.jsonl", &[&lines[..], &[step]].concat());
    lines.push(epoch(2, "train", json!(140.0)));
    let extended = metrics_file(at, "extended.jsonl", &lines);
    lines.push(epoch(2, "valid", json!(130.0)));
    let no_test = metrics_file(at, "no_test.jsonl", &lines);
    let c = compare(at, &[&whole, &within, &extended, &no_test]);
    for (k, (train, valid, test)) in [
        (json!(270.0), json!(179.25), json!(171.5)),
        (json!(270.0), json!(179.25), Value::Null),
        (json!(140.0), Value::Null, Value::Null),
        (json!(140.0), json!(130.0), Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let run = &c.json["runs"][k];
        assert_eq!((&run["train"], &run["valid"], &run["test"]), (&train, &valid, &test), "{k}");
    }
    let row = c.text.lines().find(|line| line.starts_with("extended ")).unwrap();
    assert!(row.ends_with(" -"), "{row}");
    for shown in [&c.text, &c.markdown, &c.html] {
        assert!(shown.contains("not evaluated after its last epoch"), "{shown}");
    }
    // The curve keeps what was measured.
    assert_eq!(c.json["runs"][2]["curve"][0]["valid"], 179.25);
}

#[test]
fn runs_with_missing_pieces_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let killed = metrics_file(
        at,
        "killed.jsonl",
        &[
            start("small"),
            epoch(1, "train", json!(268.5)),
            epoch(1, "valid", json!(179.25)),
            json!({"event": "step", "epoch": 2, "perplexity": 141.5}),
        ],
    );
    let mut part = epoch(2, "train", json!(150.0));
    part["complete"] = json!(false);
    let stopped =
        metrics_file(at, "stopped.jsonl", &[start("small"), epoch(1, "train", json!(270.0)), part]);
    let nothing = metrics_file(at, "nothing.jsonl", &[start("medium")]);
    // NaN is null in JSON; a diverged run; epochs and numbers that no run writes.
    let nan = metrics_file(
        at,
        "nan.jsonl",
        &[
            start("large"),
            epoch(1, "train", Value::Null),
            epoch(2, "train", json!(1e300)),
            epoch(2, "valid", json!(0.0)),
            epoch(i64::MAX, "train", json!(3.0)),
            epoch(-1, "train", json!(3.0)),
            json!({"event": "epoch", "epoch": "x", "split": 7, "perplexity": "high"}),
            json!([1, 2]),
            json!({"event": "final", "perplexity": Value::Null}),
        ],
    );
    let mut other = start("test");
    other["data"] = json!({"path": "sample", "train": {"md5": "0"}});
    let one = metrics_file(
        at,
        "one & <only>.jsonl",
        &[other, epoch(1, "train", json!(20.5)), json!({"event": "final", "perplexity": 21.5})],
    );
    let c = compare(at, &[&killed, &stopped, &nothing, &nan, &one]);
    for remark in [
        "killed: within epoch 2 of 13 when last heard of, at perplexity 141.50; no test perplexity",
        "stopped: stopped within epoch 2 of 13; not evaluated",
        "nothing: 0 of 13 epochs are there; not evaluated",
        "has perplexities that are not finite numbers",
        "trained on sample, not on PTB",
    ] {
        for shown in [&c.text, &c.markdown, &c.html] {
            assert!(shown.contains(remark), "{remark:?} in {shown}");
        }
    }
    assert!(c.errors.contains("nan.jsonl: 4 lines, the first is line 5"), "{}", c.errors);
    let row = |name: &str| {
        c.text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{}", c.text))
    };
    let cells = |name: &str| row(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells("stopped "), ["stopped", "1+", "2016", "150.00", "+295%", "-", "-"]);
    assert_eq!(cells("nothing "), ["nothing", "0", "2016", "-", "-", "-"]);
    assert!(row("nan ").contains("nan"), "{}", row("nan "));
    let of = |name: &str| {
        c.json["runs"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone()
    };
    assert_eq!(of("nan")["curve"][0]["train"], Value::Null);
    assert_eq!(
        (of("stopped")["curve"][1]["complete"].clone(), of("stopped")["epochs"].clone()),
        (json!(false), json!(1))
    );
    assert_eq!(of("one & <only>")["difference_percent"]["train"], Value::Null);
    assert!(c.html.contains("one &amp; &lt;only&gt;") && !c.html.contains("<only>"));
    assert!(c.svg.contains("no finished epoch to draw") && !c.svg.contains("<only>"));
}

#[test]
fn runs_of_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["a", "b"].map(|parent| {
        let run = folder.path().join(parent).join("run");
        fs::create_dir_all(&run).unwrap();
        metrics_file(&run, "metrics.jsonl", &[start("small"), epoch(1, "train", json!(200.0))]);
        run
    });
    let c = compare(folder.path(), &[&runs[0], &runs[1]]);
    for run in &runs {
        assert!(c.text.contains(text(run)), "{}", c.text);
    }
    // A file in the folder is the same run as the folder.
    let (one, _) = program(&["compare", text(&runs[0].join("metrics.jsonl"))]).works();
    assert!(one.lines().any(|line| line.starts_with("run ")), "{one}");
}

#[test]
fn wrong_files_are_errors_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let good = metrics_file(
        folder.path(),
        "good.jsonl",
        &[start("small"), epoch(1, "train", json!(200.0))],
    );
    let fails = |args: &[&str], code: i32, says: &str| {
        program(&[&["compare"], args].concat()).fails_with(code, &[says]);
    };
    let empty = folder.path().join("empty.jsonl");
    fs::write(&empty, b"").unwrap();
    fails(&[text(&empty)], 1, "no start event");
    fails(&[text(&folder.path().join("nowhere"))], 1, "nowhere");
    fails(&[text(&repository("docs/small-cpu.svg"))], 1, "small-cpu.svg");
    fails(&[text(&good), "--plot", "curves.pdf"], 2, ".svg or .png");
    fails(&[text(&good), "--format", "xml"], 2, "markdown");
    let below = good.join("curves.svg");
    fails(&[text(&good), "--plot", text(&below)], 1, "--plot");
    fails(&[text(&good), "--html", text(&below)], 1, "--html");
}
