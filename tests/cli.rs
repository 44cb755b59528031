//! The program as a person runs it: end to end on the sample corpus, resuming, and what it says to
//! bad input.

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Expect, TINY, checkpoint, metrics, program, repository, text, texts};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The lines of a run up to the test perplexity. With `--save-path` and a test, the original's last
/// line follows, and names the folder.
fn train(more: &[&str]) -> Vec<String> {
    let args = [TINY, more].concat();
    let (out, _) = program(&args).works();
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    let folder = args.iter().skip_while(|arg| **arg != "--save-path").nth(1);
    if let Some(folder) = folder.filter(|_| !args.contains(&"--no-eval")) {
        assert_eq!(lines.pop().unwrap(), format!("Saving model to {folder}."));
    }
    assert!(!lines.iter().any(|line| line.starts_with("Saving")), "{lines:?}");
    lines
}

/// A training of a step.
fn one_step(more: &[&str]) -> Command {
    program(&[TINY, &["--max-steps", "1", "--no-eval"], more].concat())
}

/// The newest checkpoint's variables.
fn saved(folder: &Path) -> BTreeMap<String, Tensor> {
    checkpoint(folder).variables
}

#[test]
fn a_run_prints_the_original_s_lines_and_writes_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics.jsonl");
    let lines = train(&[
        "--max-max-epoch",
        "2",
        "--max-epoch",
        "0",
        "--log-every",
        "20",
        "--metrics",
        text(&file),
    ]);
    let starts = [
        "Epoch: 1 Learning rate: 1.000",
        "Epoch: 1 Train Perplexity: ",
        "Epoch: 1 Valid Perplexity: ",
    ]
    .into_iter()
    .chain([
        "Epoch: 2 Learning rate: 0.500",
        "Epoch: 2 Train Perplexity: ",
        "Epoch: 2 Valid Perplexity: ",
    ])
    .chain(["Test Perplexity: "]);
    let epochs: Vec<&String> = lines.iter().filter(|line| !line.ends_with(" wps")).collect();
    assert_eq!(epochs.len(), 7, "{lines:?}");
    for (line, start) in epochs.iter().zip(starts) {
        assert!(line.starts_with(start), "{line:?} instead of {start:?}");
    }

    let events = metrics(&file);
    let start = &events[0];
    assert_eq!(start["event"], "start");
    assert_eq!(start["config"]["hidden_size"], 16);
    assert_eq!(start["config"]["lr_schedule"], "2016");
    assert_eq!(start["seed"], 0);
    assert_eq!(start["device"], "cpu");
    assert_eq!(start["data"]["train"]["md5"].as_str().unwrap().len(), 32);
    let of = |event: &str| events.iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    for (k, step) in of("step").iter().enumerate() {
        assert_eq!(step["global_step"], 20 * k as i64);
        for key in ["epoch", "step", "cost", "global_norm", "lr", "perplexity", "wps"] {
            assert!(step[key].as_f64().is_some_and(f64::is_finite), "{key} of {step}");
        }
    }
    // The first step's perplexity follows from its cost alone.
    let first = of("step")[0];
    let perplexity = (first["cost"].as_f64().unwrap() / 15.0).exp();
    assert!((first["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-12);
    let splits: Vec<(i64, &str)> = of("epoch")
        .iter()
        .map(|e| (e["epoch"].as_i64().unwrap(), e["split"].as_str().unwrap()))
        .collect();
    assert_eq!(splits, [(1, "train"), (1, "valid"), (2, "train"), (2, "valid")]);
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["split"]), (&"final".into(), &"test".into()));
    // Every word of the test text but the first is predicted.
    let test_tokens = start["data"]["test"]["tokens"].as_i64().unwrap();
    assert_eq!(last["tokens"], test_tokens - 1);
    let printed = format!("Test Perplexity: {:.3}", last["perplexity"].as_f64().unwrap());
    assert_eq!(lines.last().unwrap(), &printed);
}

#[test]
fn a_run_that_is_stopped_and_resumed_is_the_run_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    // A space and a letter that is not ASCII, as in many people's folders.
    let (whole, parts) = (folder.path().join("one piece"), folder.path().join("stückweise"));
    let flags = ["--keep-prob", "0.5", "--max-max-epoch", "2", "--log-every", "1", "--save-path"];
    let whole_lines = train(&[&flags[..], &[text(&whole)]].concat());
    let epoch_size =
        metrics(&whole.join("metrics.jsonl")).iter().filter(|e| e["event"] == "step").count()
            as i64
            / 2;
    // Stopped within the first epoch, at its very end, and within the second.
    for stop in [7, epoch_size, epoch_size + 5] {
        train(
            &[&flags[..], &[text(&parts), "--max-steps", &stop.to_string(), "--no-eval"]].concat(),
        );
    }
    let resumed_lines = train(&[&flags[..], &[text(&parts)]].concat());
    assert_eq!(resumed_lines.last(), whole_lines.last());
    let perplexity =
        |lines: &[String]| lines.iter().find(|l| l.starts_with("Epoch: 2 Train")).unwrap().clone();
    assert_eq!(perplexity(&resumed_lines), perplexity(&whole_lines));
    assert_eq!(saved(&parts), saved(&whole), "the variables are equal to the last bit");
    let steps = |folder: &Path| {
        let of_step = |e: &Value| (e["global_step"].as_i64().unwrap(), e["cost"].to_string());
        metrics(&folder.join("metrics.jsonl"))
            .iter()
            .filter(|e| e["event"] == "step")
            .map(of_step)
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&parts), steps(&whole), "every step's cost, once");

    // Resuming a finished run trains nothing, and says the same.
    let again = train(&[&flags[..], &[text(&parts)]].concat());
    assert_eq!(again, [whole_lines.last().unwrap().clone()]);
    let eval = ["eval", "--checkpoint", text(&parts), "--data-path", "sample", "--device", "cpu"];
    let (evaluated, _) = program(&eval).works();
    let valid = whole_lines.iter().find(|l| l.starts_with("Epoch: 2 Valid")).unwrap();
    assert!(
        evaluated.contains(valid.strip_prefix("Epoch: 2 ").unwrap())
            && evaluated.contains(&whole_lines[whole_lines.len() - 1])
    );
}

#[test]
fn max_steps_0_trains_nothing_and_evaluates() {
    let lines = train(&["--max-steps", "0"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("Epoch 1, step 0 of ")
            && lines[0].contains(": Valid Perplexity ")
            && lines[1].starts_with("Test Perplexity: ")
    );
    let perplexity: f64 = lines[1].rsplit(' ').next().unwrap().parse().unwrap();
    assert!(perplexity > 100.0, "an untrained model cannot be at {perplexity}");
}

#[test]
fn all_modes_and_the_original_s_spelling_give_the_same_run() {
    let final_line = |flags: &[&str]| {
        let args = [&["train", "--data_path=sample", "--max_steps", "20"], &TINY[3..], flags];
        let (out, _) = program(&args.concat()).works();
        out.lines().last().unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let basic = final_line(&["--rnn_mode", "basic"]);
    for mode in ["block", "cudnn", "BLOCK"] {
        assert!((final_line(&["--rnn_mode", mode]) / basic - 1.0).abs() < 1e-3);
    }
}

#[test]
fn variables_go_out_and_come_in_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let flags = ["--max-steps", "30", "--save-path"];
    let lines = train(&[&flags[..], &[text(&at("run"))]].concat());
    for (format, file) in [
        ("tf-npz", "model.npz"),
        ("tf-checkpoint", "model.ckpt-30"),
        ("safetensors", "model.safetensors"),
    ] {
        let output = at(file);
        program(&[
            "export",
            "--checkpoint",
            text(&at("run")),
            "--format",
            format,
            "--output",
            text(&output),
        ])
        .works();
        if format == "safetensors" {
            let bytes = fs::read(&output).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(file.tensor("Model/softmax_w").unwrap().shape()[0], 16);
            continue;
        }
        let started = train(&["--max-steps", "0", "--init-from", text(&output)]);
        assert_eq!(started.last(), lines.last(), "{format}");
        let imported = at(&format!("imported from {format}"));
        program(&["import", text(&output), "--save-path", text(&imported), "--model", "test"])
            .works();
        assert_eq!(saved(&imported), saved(&at("run")));
        let eval = ["--data-path", "sample", "--device", "cpu", "--checkpoint", text(&imported)];
        let (out, _) = program(&[&["eval"], &eval[..]].concat()).works();
        assert!(out.ends_with(&format!("{}\n", lines.last().unwrap())), "{format}");
    }
}

/// A checkpoint of mid-2016, by its folder, its file, and a sharded one's prefix.
#[test]
fn checkpoints_of_format_v1_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fixtures = repository("tests/fixtures/tf_checkpoint");
    // Nine words, as the models have.
    texts(folder.path(), [" a b c d e f g h \n".repeat(50).as_str(); 3]);
    let data = ["--data-path", text(folder.path())];
    for (k, path) in ["v1", "v1/model.ckpt-3", "v1_slices/model.ckpt-5"].iter().enumerate() {
        let path = fixtures.join(path);
        let imported = at(&k.to_string());
        let import = ["import", text(&path), "--save-path", text(&imported), "--model", "test"];
        program(&[&import[..], &data].concat()).works();
        let model = ptb_word_lm::tf::Model::read(&path).unwrap();
        assert_eq!(saved(&imported), model.variables);
        let eval = ["eval", "--checkpoint", text(&imported), "--device", "cpu"];
        let evaluated = program(&[&eval[..], &data].concat()).works().0;
        let train = ["train", "--model", "test", "--hidden-size", "4", "--num-layers", "2"];
        let from = ["--max-steps", "0", "--device", "cpu", "--init-from", text(&path)];
        let started = program(&[&train[..], &from, &data].concat()).works().0;
        assert_eq!(evaluated.lines().last(), started.lines().last());
    }
}

/// Whichever way they come, and whatever they are for.
#[test]
fn variables_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    train(&["--max-steps", "1", "--no-eval", "--save-path", text(&at("good"))]);
    let name = "Model/RNN/multi_rnn_cell/cell_0/basic_lstm_cell/kernel";
    for (value, file) in [(f64::NAN, "nan"), (f64::INFINITY, "infinite")] {
        let mut checkpoint = checkpoint(&at("good"));
        let _ = checkpoint.variables[name].get(3).get(5).fill_(value);
        let npz = at(&format!("{file}.npz"));
        ptb_word_lm::tf::write_npz(&npz, &checkpoint.variables).unwrap();
        let save = at(file);
        checkpoint.variables = ptb_word_lm::tf::read_npz(&npz).unwrap();
        ptb_word_lm::checkpoint::SaveFolder::open(&save, 1).unwrap().save(&checkpoint).unwrap();
        let resumed = [TINY, &["--save-path", text(&save)]].concat();
        for args in [
            &["import", text(&npz), "--save-path", text(&at("imported"))][..],
            &["eval", "--checkpoint", text(&save), "--data-path", "sample"],
            &["generate", "--checkpoint", text(&save)],
            &["score", "--checkpoint", text(&save), text(&at("a text"))],
            &resumed,
        ] {
            fs::write(at("a text"), "the cat\n").unwrap();
            let (code, error) = program(args).fails();
            assert_eq!(code, 1, "{error}");
            let says = format!("variable {name:?}: 1 of its 2048 values are NaN or infinite");
            assert!(error.contains(&says) && error.contains(file), "{args:?}: {error}");
        }
        one_step(&["--init-from", text(&npz)]).fails_with(1, &[name, "--init-from"]);
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    let flags = ["--no-eval", "--save-path", text(&save), "--max-steps"];
    train(&[&flags[..], &["10"]].concat());
    train(&[&flags[..], &["20"]].concat());
    let newest = save.join("model-20.safetensors");
    let whole = fs::read(&newest).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let eval = |save: &Path| {
        program(&["eval", "--data-path", "sample", "--device", "cpu", "--checkpoint", text(save)])
    };
    for damaged in [&whole[..whole.len() - 1], &whole[..100], &[], &flipped] {
        fs::write(&newest, damaged).unwrap();
        let (_, errors) = eval(&save).works();
        assert!(
            errors.contains("model-20.safetensors") && errors.contains("trying the one before it"),
            "{errors}"
        );
        eval(&newest).fails_with(1, &["model-20.safetensors"]);
    }
    fs::write(save.join("model-10.safetensors"), b"").unwrap();
    eval(&save).fails_with(1, &["no checkpoint in it is whole"]);
}

#[test]
fn wrong_flags_are_usage_errors_that_name_the_flag() {
    for (flags, says) in [
        (&["--keep-prob", "0"][..], "--keep-prob is 0"),
        (&["--keep-prob", "1.5"], "--keep-prob is 1.5"),
        (&["--hidden-size", "0"], "--hidden-size is 0"),
        (&["--hidden-size", "9000000000000000000"], "at most 2147483647"),
        (&["--num-layers", "-1"], "--num-layers is -1"),
        (&["--num-steps", "-20"], "--num-steps is -20"),
        (&["--batch-size", "0"], "--batch-size is 0"),
        (&["--batch-size", "many"], "--batch-size"),
        (&["--learning-rate", "nan"], "--learning-rate"),
        (&["--max-grad-norm", "0"], "--max-grad-norm is 0"),
        (&["--device", "tpu"], "auto, cpu, cuda, cuda:N"),
        (&["--threads", "0"], "--threads"),
        (&["--max-steps", "-1"], "--max-steps"),
        (&["--cell", "transformer"], "basic_lstm"),
        (&["--cell", "gru", "--rnn-mode", "cudnn"], "--rnn-mode"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        // The flags above take the place of those of TINY, so each is given once.
        let base = ["train", "--data-path", "sample", "--max-steps", "1", "--no-eval"];
        let base = if flags[0] == "--max-steps" {
            [&base[..3], &base[5..]].concat()
        } else {
            base.to_vec()
        };
        program(&[&base[..], flags].concat()).fails_with(2, &[says]);
    }
    assert_eq!(program(&["train"]).fails().0, 2);
    assert_eq!(program(&[]).fails().0, 2);
}

/// A flag that would be ignored is an error that names it and the flag that it needs or
/// contradicts.
#[test]
fn flags_that_would_be_ignored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (metrics, save) = (at("metrics.jsonl"), at("run"));
    for (flags, says) in [
        (&["--keep", "2"][..], "--keep has no effect without --save-path"),
        (&["--keep=3", "--metrics", text(&metrics)], "--keep has no effect without --save-path"),
        (&["--checkpoint-every", "10m"], "--checkpoint-every has no effect without --save-path"),
        (&["--log-every", "1"], "--log-every has no effect without --metrics or --save-path"),
        (&["--test-on-interrupt"], "--test-on-interrupt has no effect with --no-eval"),
        (
            &["--init-scale", "0.1", "--init-from", "f"],
            "--init-scale has no effect with --init-from",
        ),
        (&["--cell", "gru", "--forget-bias", "1"], "--forget-bias has no effect with --cell gru"),
        (
            &["--cell", "basic_rnn", "--forget_bias=1"],
            "--forget-bias has no effect with --cell basic_rnn",
        ),
        (
            &["--worker-timeout", "9"],
            "--worker-timeout has no effect with one worker; --workers and --num-gpus start several",
        ),
        (
            &["--workers", "1", "--worker-timeout=9"],
            "--worker-timeout has no effect with one worker; --workers and --num-gpus start several",
        ),
        (
            &["--no-cuda-graph"],
            "--no-cuda-graph has no effect on the CPU; --device cuda takes a GPU",
        ),
    ] {
        let (code, error) = one_step(flags).fails();
        assert_eq!(code, 2, "{flags:?}: {error}");
        assert_eq!(error, format!("error: {says}\n"), "{flags:?}")
    }
    // Each has an effect where its company is there, and a value that changes nothing is no error.
    for flags in [
        &[
            "--keep",
            "2",
            "--checkpoint-every",
            "10m",
            "--log-every",
            "1",
            "--save-path",
            text(&save),
        ][..],
        &["--log-every", "1", "--metrics", text(&metrics)],
        &["--log-every", "0"],
        &["--test-on-interrupt"],
        &["--cell", "gru", "--forget-bias", "0"],
        &["--cell", "lstm", "--forget-bias", "1"],
    ] {
        train(&[&["--max-steps", "1"], flags].concat());
    }
    for (args, says) in [
        (
            &["export", "--format", "tf-npz", "--block", "-o", "f"][..],
            "--block has no effect with --format tf-npz",
        ),
        (
            &["export", "--format=safetensors", "--block", "-o", "f"],
            "--block has no effect with --format safetensors",
        ),
        (
            &["generate", "--temperature", "0", "--top-k", "5"],
            "--top-k has no effect with --temperature 0",
        ),
        (
            &["generate", "--temperature", "0", "--top-p", "0.5"],
            "--top-p has no effect with --temperature 0",
        ),
    ] {
        let (code, error) = program(&[args, &["--checkpoint", text(&save)]].concat()).fails();
        assert_eq!((code, error), (2, format!("error: {says}\n")), "{args:?}");
    }
}

/// The command that starts a run from a file resumes it, and no other run.
#[test]
fn init_from_starts_a_run_and_resumes_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let export = |name: &str, file: &Path| {
        let save = at(name);
        let args = ["export", "--checkpoint", text(&save), "--format", "tf-npz", "--output"];
        program(&[&args[..], &[text(file)]].concat()).works();
    };
    let (first, other) = (at("first.npz"), at("other.npz"));
    train(&["--max-steps", "5", "--no-eval", "--save-path", text(&at("plain"))]);
    export("plain", &first);
    train(&["--max-steps", "6", "--no-eval", "--save-path", text(&at("plain"))]);
    export("plain", &other);

    let whole = at("whole");
    let save = at("run");
    let start = |save: &Path, file: &Path, steps: &str| {
        train(&["--init-from", text(file), "--max-steps", steps, "--save-path", text(save)]);
    };
    start(&whole, &first, "20");
    start(&save, &first, "10");
    let copy = at("a copy.npz");
    fs::copy(&first, &copy).unwrap();
    // The same variables at another place are the same; and a resumed run still knows of them.
    start(&save, &copy, "15");
    train(&["--max-steps", "17", "--save-path", text(&save)]);
    start(&save, &first, "20");
    assert_eq!(saved(&save), saved(&whole), "resumed or not, it is the same run");

    for (run, file) in [("run", &other), ("plain", &first)] {
        let (code, error) =
            one_step(&["--init-from", text(file), "--save-path", text(&at(run))]).fails();
        assert_eq!(code, 2, "{error}");
        let begins = format!(
            "error: --init-from {}: the run in --save-path {} ",
            text(file),
            text(&at(run))
        );
        assert!(error.starts_with(&begins), "{error}");
        assert!(error.contains("not known to have started from these variables"), "{error}");
        assert!(error.contains("Without --init-from it is resumed"), "{error}");
    }
}

#[test]
fn bad_input_is_an_error_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let failing = |args: &[&str], says: &[&str]| program(args).fails_with(1, says);
    let huge = ["train", "--data-path", "sample", "--device", "cpu", "--hidden-size", "1000000"];
    failing(&huge, &["no memory for layers of --hidden-size 1000000"]);
    let nowhere = at("nowhere");
    failing(
        &["train", "--data-path", text(&nowhere)],
        &["--data-path", "nowhere", "no such folder"],
    );
    failing(&["eval", "--checkpoint", text(&nowhere), "--data-path", "sample"], &["nowhere"]);

    let data = |name: &str, three: [&[u8]; 3]| -> PathBuf {
        texts(&at(name), three);
        at(name)
    };
    let long = b"a b c d\n".repeat(100);
    let short = data("short", [b"a b c\n", b"a\n", b"a b\n"]);
    failing(
        &["train", "--data-path", text(&short)],
        &["train.txt", "decrease batch_size or num_steps"],
    );
    let empty = data("empty", [&long, b"", &long]);
    failing(&["train", "--data-path", text(&empty)], &["valid.txt", "empty"]);
    let latin = data("latin", [&long, &long, b"a b\n\xe9 c\n"]);
    failing(&["train", "--data-path", text(&latin)], &["test.txt", "UTF-8", "line 2", "byte 4"]);
    let one = data("one", [b"\n\n\n\n", b"\n", b"\n"]);
    failing(&["train", "--data-path", text(&one)], &["1 word"]);
    let missing = data("missing", [&long, &long, &long]);
    fs::remove_file(missing.join("test.txt")).unwrap();
    failing(&["train", "--data-path", text(&missing)], &["test.txt"]);

    // A save path that is a file, and one inside of a file.
    let file = at("a file");
    fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        one_step(&["--save-path", text(&path)]).fails_with(1, &["--save-path", "a file"]);
    }
    one_step(&["--metrics", text(&file.join("m.jsonl"))]).fails_with(1, &["--metrics"]);

    // Variables that are missing, misshapen, damaged.
    let npz = at("some.npz");
    let variables =
        [("Model/embedding".to_owned(), Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)))];
    ptb_word_lm::tf::write_npz(&npz, &variables.into()).unwrap();
    one_step(&["--init-from", text(&npz)]).fails_with(1, &["some.npz", "missing"]);
    fs::write(&npz, b"PK\x03\x04 not a zip").unwrap();
    one_step(&["--init-from", text(&npz)]).fails_with(1, &["some.npz"]);
    one_step(&["--init-from", text(&nowhere)]).fails_with(1, &["nowhere"]);

    // Another configuration, another vocabulary, another run at work.
    let save = at("run");
    train(&["--max-steps", "1", "--no-eval", "--save-path", text(&save)]);
    one_step(&["--save-path", text(&save), "--num-layers", "2"])
        .fails_with(1, &["num_layers is 1 there and 2 here"]);
    let abcd = data("abcd", [&long, &long, &long]);
    failing(&["eval", "--checkpoint", text(&save), "--data-path", text(&abcd)], &["vocabulary"]);
    let lock = fs::File::open(save.join("lock")).unwrap();
    lock.lock().unwrap();
    one_step(&["--save-path", text(&save)]).fails_with(1, &["another run is using this folder"]);
}

#[test]
fn cuda_without_cuda_says_what_is_missing() {
    if tch::Cuda::is_available() || Path::new("/dev/nvidiactl").exists() {
        // With a GPU the same flag must work instead.
        train(&["--max-steps", "1", "--no-eval", "--device", "cuda"]);
        return;
    }
    program(&["train", "--data-path", "sample", "--device", "cuda"])
        .fails_with(1, &["NVIDIA driver", "make train-cpu"]);
}

#[test]
fn compare_shows_a_run_beside_the_published_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("my run");
    fs::create_dir(&run_folder).unwrap();
    let lines = [
        r#"{"event":"start","model":"small","config":{"lr_schedule":"2016"}}"#,
        r#"{"event":"epoch","epoch":1,"split":"train","perplexity":37.99}"#,
        r#"{"event":"epoch","epoch":1,"split":"valid","perplexity":133.529}"#,
        r#"{"event":"final","split":"test","perplexity":110.1145}"#,
    ];
    fs::write(run_folder.join("metrics.jsonl"), lines.join("\n")).unwrap();
    let table = program(&["compare", text(&run_folder)]).works().0;
    let row = table.lines().find(|l| l.starts_with("my run")).unwrap_or_else(|| panic!("{table}"));
    for cell in ["2016", "37.99", "+0.0%", "133.53", "+10.0%", "110.11", "-5.0%"] {
        assert!(row.contains(cell), "{cell} in {row}");
    }
    assert!(table.contains("115.91"), "{table}");
    assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    program(&["compare", text(folder.path())]).fails_with(1, &["metrics.jsonl"]);
}
