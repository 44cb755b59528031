//! What people expect of a command line: --config, --version, completions, colours, help at 80
//! columns, doctor.

mod program;

use std::fs;
use std::path::Path;
use std::process::Command;

use program::{Expect, metrics, on_a_terminal, program, text, texts};
use serde_json::{Value, json};

/// Flags that make the sample corpus a matter of a second, as a file of `--config` has them.
fn tiny() -> Value {
    json!({
        "data_path": "sample", "device": "cpu", "model": "test", "hidden_size": 16,
        "num-steps": 15, "batch_size": 100,
    })
}

/// What a run computed: every figure of its metrics but the times.
fn figures(path: &Path) -> Vec<String> {
    let of = |mut event: Value| {
        for timing in ["wps", "seconds"] {
            event.as_object_mut().unwrap().remove(timing);
        }
        event.to_string()
    };
    metrics(path).into_iter().filter(|event| event["event"] != "start").map(of).collect()
}

#[test]
fn a_config_file_gives_flags_and_the_command_line_wins() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut keys = tiny();
    for (key, value) in [
        ("lr_schedule", json!(2017)),
        ("learning-rate", json!(0.5)),
        ("keep_prob", json!(1)),
        ("seed", json!(-7)),
        ("max_steps", json!(3)),
        ("no_eval", json!(true)),
        ("test_on_interrupt", json!(false)),
        ("use_fp16", json!(false)),
        ("checkpoint_every", json!(500)),
        ("init_from", Value::Null),
        ("metrics", json!(text(&at("from file.jsonl")))),
    ] {
        keys[key] = value;
    }
    let file = at("run.json");
    fs::write(&file, keys.to_string()).unwrap();
    program(&["train", "--config", text(&file)]).works();
    let start = &metrics(&at("from file.jsonl"))[0];
    assert_eq!((&start["seed"], &start["config"]["hidden_size"]), (&json!(-7), &json!(16)));
    assert_eq!(
        (&start["config"]["lr_schedule"], &start["config"]["learning_rate"]),
        (&json!("2017"), &json!(0.5))
    );
    assert_eq!(start["flags"]["checkpoint_every"], "500");
    // One training event, and no evaluation.
    assert_eq!(
        figures(&at("from file.jsonl")).iter().filter(|line| line.contains("\"epoch\",")).count(),
        1
    );

    // Before and after --config, in both spellings, with and without `=`.
    let output = text(&at("wins.jsonl")).to_owned();
    let args = [
        "train",
        "--seed=5",
        &format!("--config={}", text(&file)),
        "--learning_rate",
        "0.25",
        "--metrics",
        &output,
    ];
    program(&args).works();
    let start = &metrics(Path::new(&output))[0];
    assert_eq!((&start["seed"], &start["config"]["learning_rate"]), (&json!(5), &json!(0.25)));
    assert_eq!(start["config"]["lr_schedule"], "2017");
}

#[test]
fn what_is_wrong_with_a_config_file_is_told_by_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    for (content, says) in [
        (json!({"hiden_size": 16}).to_string(), &["\"hiden_size\"", "no such flag"][..]),
        (json!({"config": "other.json"}).to_string(), &["\"config\""]),
        (json!({"config": {"depth": 2}}).to_string(), &["\"depth\""]),
        (json!({"seed": "one"}).to_string(), &["\"seed\"", "a number", "\"one\""]),
        (json!({"seed": "1"}).to_string(), &["\"seed\"", "a number"]),
        (json!({"hidden_size": 1.5}).to_string(), &["\"hidden_size\"", "1.5"]),
        (json!({"hidden_size": [1]}).to_string(), &["\"hidden_size\"", "a number"]),
        (json!({"threads": 0}).to_string(), &["\"threads\"", "0"]),
        (json!({"no_eval": "yes"}).to_string(), &["\"no_eval\"", "true or false"]),
        (json!({"use_fp16": 1}).to_string(), &["\"use_fp16\"", "true or false"]),
        (json!({"data_path": 3}).to_string(), &["\"data_path\"", "text"]),
        (json!({"model": "huge"}).to_string(), &["\"model\"", "huge", "small"]),
        (json!({"device": true}).to_string(), &["\"device\"", "text"]),
        (json!({"cell": "transformer"}).to_string(), &["\"cell\"", "basic_lstm"]),
        ("[1, 2]".into(), &["JSON object"]),
        ("{\"seed\": 1".into(), &["not JSON", "line 1"]),
        ("{\"seed\": 1}\n{\"seed\": 2}".into(), &["than one JSON object"]),
        ("{\"event\": \"final\"}".into(), &["start"]),
        (String::new(), &["JSON object"]),
    ] {
        fs::write(&file, &content).unwrap();
        let (code, error) =
            program(&["train", "--data-path", "sample", "--config", text(&file)]).fails();
        assert_eq!(code, 2, "{content}: {error}");
        for words in [&["run.json"], says].concat() {
            assert!(error.contains(words), "{content} should say {words:?}: {error}");
        }
    }
    let nowhere = folder.path().join("nowhere.json");
    program(&["train", "--data-path", "sample", "--config", text(&nowhere)])
        .fails_with(2, &["nowhere.json"]);
    // What the values come to is checked as if they were flags.
    fs::write(&file, json!({"data_path": "sample", "keep_prob": 0}).to_string()).unwrap();
    program(&["train", "--config", text(&file)]).fails_with(2, &["--keep-prob is 0"]);
}

#[test]
fn the_start_event_repeats_a_run_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let first = at("first");
    let flags = [
        "--keep-prob", "0.5", "--lr-decay", "0.8695652173913044", "--max-max-epoch", "2",
        "--max-epoch", "0",
    ];
    let more =
        ["--seed", "11", "--log-every", "7", "--init-scale", "0.07", "--save-path", text(&first)];
    fs::write(at("tiny.json"), tiny().to_string()).unwrap();
    let tiny_file = at("tiny.json");
    let base = ["train", "--config", text(&tiny_file)];
    program(&[&base[..], &flags, &more].concat()).works();
    let recorded = first.join("metrics.jsonl");
    let expected = figures(&recorded);
    assert!(expected.len() > 20, "{expected:?}");

    // Its first line alone, the whole file, the save path, a file cut off in the middle of a line.
    let whole = fs::read_to_string(&recorded).unwrap();
    fs::write(at("start.json"), whole.lines().next().unwrap()).unwrap();
    fs::write(at("cut.jsonl"), &whole[..whole.len() / 2]).unwrap();
    for (k, config) in
        [at("start.json"), recorded.clone(), first.clone(), at("cut.jsonl")].iter().enumerate()
    {
        let again = at(&format!("again {k}"));
        program(&["train", "--config", text(config), "--save-path", text(&again)]).works();
        assert_eq!(figures(&again.join("metrics.jsonl")), expected, "{}", config.display());
    }
    // The copy's own start event says the same as the first one's.
    let start = |path: &Path| {
        let mut start = metrics(&path.join("metrics.jsonl")).remove(0);
        // Given as a flag or found out, what comes of it is the same.
        for key in ["rnn_mode", "lr_schedule", "threads"] {
            start["flags"].as_object_mut().unwrap().remove(key);
        }
        start
    };
    for key in [
        "model", "config", "cell", "rnn_mode", "precision", "seed", "device", "threads", "data",
        "versions",
    ] {
        assert_eq!(start(&at("again 1"))[key], start(&first)[key], "{key}");
    }

    // A flag wins over it, too; and then it is another run.
    let other = at("other.jsonl");
    let args = [
        "train",
        "--config",
        text(&first),
        "--seed",
        "12",
        "--num_gpus=0",
        "--max-steps",
        "20",
        "--metrics",
        text(&other),
    ];
    program(&args).works();
    let other = figures(&other);
    assert!(other.len() > 3 && other[0] != expected[0]);
}

/// A file may have more flags than a run needs, as a start event has all: only what stands on the
/// command line is refused if it has no effect.
#[test]
fn flags_without_effect_are_refused_on_the_command_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (file, first, metrics) = (at("tiny.json"), at("first"), at("metrics.jsonl"));
    fs::write(&file, tiny().to_string()).unwrap();
    let flags =
        ["--keep", "3", "--checkpoint-every", "50", "--log-every", "7", "--test-on-interrupt"];
    let base = ["train", "--config", text(&file), "--max-steps", "3", "--save-path", text(&first)];
    program(&[&base[..], &flags].concat()).works();
    // Nothing is saved, logged or evaluated now, and the run had one worker.
    let repeat = ["train", "--config", text(&first), "--no-eval"];
    program(&repeat).works();
    program(&[&repeat[..], &["--metrics", text(&metrics)]].concat()).works();
    // As the metrics of a run on a GPU, and of one that began from a file, may have them.
    let mut start = self::metrics(&metrics).remove(0);
    for (flag, value) in [("no_cuda_graph", json!(true)), ("worker_timeout", json!(9))] {
        start["flags"][flag] = value;
    }
    fs::write(at("start.json"), start.to_string()).unwrap();
    let start = at("start.json");
    program(&["train", "--config", text(&start)]).works();

    for (flags, says) in [
        (&["--keep", "3"][..], "--keep has no effect without --save-path"),
        (&["--test-on-interrupt"], "--test-on-interrupt has no effect with --no-eval"),
        (&["--no-cuda-graph"], "--no-cuda-graph has no effect on the CPU"),
    ] {
        program(&[&repeat[..], flags].concat()).fails_with(2, &[says]);
    }
}

#[test]
fn a_run_that_was_resumed_is_repeated_to_where_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = at("tiny.json");
    fs::write(&file, tiny().to_string()).unwrap();
    let (first, again) = (at("first"), at("again"));
    let base = ["train", "--config", text(&file), "--log-every", "1", "--save-path", text(&first)];
    for steps in ["4", "9"] {
        program(&[&base[..], &["--max-steps", steps, "--no-eval"]].concat()).works();
    }
    program(&["train", "--config", text(&first), "--save-path", text(&again)]).works();
    let steps = |path: &Path| {
        let mut lines = figures(&path.join("metrics.jsonl"));
        lines.retain(|line| line.contains("\"step\",\"epoch\""));
        lines
    };
    assert_eq!(steps(&again).len(), 9);
    assert_eq!(steps(&again), steps(&first));
}

#[test]
fn another_text_in_the_same_place_is_not_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, extra: &str| {
        let text = "a b c d e f g\n".repeat(200) + extra;
        texts(&at(name), [&text; 3]);
    };
    write("texts", "");
    write("moved", "");
    let (texts, moved, recorded) = (at("texts"), at("moved"), at("m.jsonl"));
    let short =
        ["--model", "test", "--max-steps", "2", "--no-eval", "--device", "cpu", "--metrics"];
    program(&[&["train", "--data-path", text(&texts)], &short[..], &[text(&recorded)]].concat())
        .works();
    let again = at("again.jsonl");
    let repeat = ["train", "--config", text(&recorded), "--metrics", text(&again)];
    program(&repeat).works();
    write("texts", "g f e\n");
    program(&repeat).fails_with(1, &["train.txt", "MD5"]);
    // The same text elsewhere will do.
    let elsewhere = [&repeat[..], &["--data-path", text(&moved)]].concat();
    assert!(!program(&elsewhere).works().1.contains("MD5"));
    write("moved", "g f e\n");
    assert!(program(&elsewhere).works().1.contains("MD5"));
}

#[test]
fn the_version_is_that_of_all_parts() {
    for flag in ["--version", "-V"] {
        let text = program(&[flag]).works().0;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("ptb-word-lm {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(lines[1], "tch 0.24.0");
        assert!(
            lines[2].starts_with("libtorch 2.11.0") && lines[2].ends_with("(built against 2.11.0)"),
            "{text}"
        );
        assert!(lines[3].starts_with("CUDA "), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions.bash");
    fs::write(&script, program(&["completions", "bash"]).works().0).unwrap();
    let complete = |words: &[&str]| {
        let ask = format!(
            "source '{}'; COMP_WORDS=({}); COMP_CWORD={}; {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.iter().map(|word| format!("'{word}' ")).collect::<String>(),
            words.len() - 1,
            // The function that the script registers, called as bash calls it.
            format_args!(
                "$(complete -p ptb-word-lm | sed 's/.*-F \\([^ ]*\\).*/\\1/') ptb-word-lm '{}' '{}'",
                words[words.len() - 1],
                words[words.len() - 2]
            ),
        );
        Command::new("bash").args(["--norc", "-c", &ask]).works().0
    };
    let commands = complete(&["ptb-word-lm", ""]);
    for command in ["train", "eval", "compare", "doctor"] {
        assert!(commands.lines().any(|line| line == command), "{commands}");
    }
    assert_eq!(complete(&["ptb-word-lm", "train", "--data"]).trim(), "--data-path");
    let models = complete(&["ptb-word-lm", "train", "--model", ""]);
    assert_eq!(models.split_whitespace().collect::<Vec<_>>(), ["small", "medium", "large", "test"]);
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = program(&["completions", shell]).works().0;
        assert!(script.contains("data-path") && script.contains("lr-schedule"), "{shell}");
    }
    program(&["completions", "cobol"]).fails_with(2, &["zsh"]);
}

#[test]
fn help_fits_a_terminal_and_no_color_is_honoured() {
    let plain =
        |line: &str| on_a_terminal(80, line).env("NO_COLOR", "1").ends().1.replace('\r', "");
    let commands = plain("help");
    let names = commands.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names: Vec<&str> = names
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"train") && names.contains(&"doctor"), "{commands}");
    for name in names.iter().filter(|name| **name != "help") {
        for flag in ["-h", "--help"] {
            let plain = plain(&format!("{name} {flag}"));
            assert!(!plain.contains('\x1b'), "{name}: colours in spite of NO_COLOR");
            assert!(plain.contains("Example"), "{name} {flag} has no example");
            // clap leaves its usage line to the terminal.
            let long = plain
                .lines()
                .find(|line| line.chars().count() > 80 && !line.starts_with("Usage: "));
            assert_eq!(long, None, "{name} {flag}");
            assert!(
                on_a_terminal(80, &format!("{name} {flag}")).works().0.contains('\x1b'),
                "{name}: no colours on a terminal"
            );
        }
    }
    let training = plain("train --help");
    let original = training.find("The original's flags:").unwrap();
    for flag in ["--data-path", "--save-path", "--model", "--rnn-mode"] {
        let at = training.find(&format!("\n      {flag}")).unwrap();
        assert!(at > original && at < training.find("Running:").unwrap(), "{flag}");
    }
    let flags = "train --data-path sample --model test --device cpu --max-steps 3 --no-eval";
    let bar = plain(flags);
    // Moving the cursor is not colour; colour ends with `m`.
    let coloured = bar.split("\x1b[").skip(1).any(|code| {
        code.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
    });
    assert!(!coloured, "{bar:?}");
    let error = plain("train --no-such-flag");
    assert!(error.contains("--no-such-flag") && !error.contains('\x1b'), "{error}");
}

#[test]
fn doctor_says_what_is_here_and_what_is_missing() {
    let doctor = |args: &[&str]| {
        let mut doctor = program(&[&["doctor"], args].concat());
        doctor.current_dir(std::env::temp_dir());
        doctor
    };
    let (text, _) = doctor(&[]).works();
    for name in
        ["ptb-word-lm", "libtorch", "CPU", "memory", "driver", "GPU", "CUDA", "cuDNN", "data"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {text}");
    }
    for words in [
        "libtorch    2.11.0",
        "a training step on the CPU",
        "100001, ",
        "make data",
        "Training on the CPU works",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample");
    let (here, _) = doctor(&["--data-path", data]).works();
    assert!(!here.contains("make data"), "nothing is missing from the data that was named");

    let (code, text, _) = doctor(&["--data-path", "/no/such/folder"]).ends();
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("/no/such/folder")
            && text.contains("-> ")
            && text.ends_with("Training on the CPU works, but not with these texts: see above.\n"),
        "{text}"
    );
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample/ptb.valid.txt");
    let (code, text, _) = doctor(&["--data-path", file]).ends();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("-> `ptb-word-lm prepare FILE --out DIR`"), "{text}");
    assert!(!text.contains("does not work"), "{text}");
}

/// bfloat16 without instructions for it is announced; `doctor` says which precisions are fast.
#[test]
fn slow_bfloat16_is_announced() {
    let said = |args: &[&str], limit: &str| {
        let (out, errors) = program(args).env("ONEDNN_MAX_CPU_ISA", limit).works();
        out + &errors
    };
    let train = "train --data-path sample --model test --device cpu --threads 1 --max-steps 1 \
                 --no-eval --precision bf16";
    let train: Vec<&str> = train.split_whitespace().collect();
    assert!(said(&train, "AVX2").contains("no instructions for bfloat16"));
    assert!(said(&["doctor"], "AVX2").contains("fast precisions: fp32; bf16 would be"));
    let fast = said(&["doctor"], "").contains("fast precisions: fp32, bf16");
    assert_ne!(said(&train, "").contains("no instructions for bfloat16"), fast);
}
