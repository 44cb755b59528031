//! What the original does not have: averages of models.

use std::fs;
use std::path::Path;
use std::process::Command;

use ptb_word_lm::checkpoint::Checkpoint;
use ptb_word_lm::config::RnnMode;
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::reader::{RawData, Vocabulary};
use tch::{Device, Kind, Tensor};

/// Runs the program: exit code, standard output and standard error.
fn program(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ptb-word-lm"))
        .args(args)
        .env("OMP_NUM_THREADS", "1")
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs something that must succeed: standard output and standard error.
fn run(args: &[&str]) -> (String, String) {
    let (code, out, errors) = program(args);
    assert_eq!(code, Some(0), "{args:?} failed: {errors}");
    (out, errors)
}

/// Runs something that must fail with this exit code, in these words.
fn fails(code: i32, args: &[&str], says: &[&str]) {
    let (found, _, errors) = program(args);
    assert_eq!(found, Some(code), "{args:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    for words in says {
        assert!(errors.contains(words), "{args:?} should say {words:?}: {errors}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Trains a small model on the sample corpus, for a second.
fn train(save: &Path, more: &[&str]) {
    let base =
        ["train", "--device", "cpu", "--model", "test", "--data-path", "sample", "--no-eval"];
    run(&[&base[..], &["--max-steps", "60", "--save-path", text(save)], more].concat());
}

/// Two runs that differ in cell, layers, size, batch and seed, in folders `a` and `b`.
fn two_runs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(&folder.path().join("a"), &["--hidden-size", "24", "--num-layers", "2", "--seed", "1"]);
    train(
        &folder.path().join("b"),
        &["--hidden-size", "17", "--cell", "gru", "--batch-size", "13"],
    );
    folder
}

/// A run's model in double precision, and its words.
fn load(save: &Path) -> (PtbVariables, Vocabulary) {
    let checkpoint = Checkpoint::load(save, &mut |n| panic!("{n}")).unwrap();
    let cell = checkpoint.cell().unwrap();
    let variables =
        PtbVariables::new(&checkpoint.run.config, cell, Device::Cpu, Kind::Double, 0).unwrap();
    variables.assign(&checkpoint.variables).unwrap();
    (variables, checkpoint.vocabulary.unwrap())
}

/// Probabilities of the words of a row but the first, from zeros, by the plain softmax.
fn probabilities(variables: &PtbVariables, row: &[i32]) -> Vec<f64> {
    let model = PtbModel::new(variables, false, RnnMode::Basic);
    let ids: Vec<i64> = row.iter().map(|&id| i64::from(id)).collect();
    let (mut state, mut found) = (model.zero_state(1), Vec::new());
    for words in (0..ids.len() - 1).collect::<Vec<_>>().chunks(500) {
        let (first, last) = (words[0], words[words.len() - 1]);
        let logits;
        (logits, state) =
            model.logits(&Tensor::from_slice(&ids[first..=last]).unsqueeze(0), &state).unwrap();
        let targets = Tensor::from_slice(&ids[first + 1..=last + 1]).unsqueeze(1);
        let p = logits.softmax(1, Kind::Double).gather(1, &targets, false).squeeze_dim(1);
        found.extend(Vec::<f64>::try_from(p).unwrap());
    }
    found
}

/// Probabilities of the words of a text in so many rows, read in steps of `num_steps` words: what
/// fills no step is dropped.
fn in_rows(variables: &PtbVariables, tokens: &[i32], rows: usize, num_steps: usize) -> Vec<f64> {
    let length = tokens.len() / rows;
    let words = (length - 1) / num_steps * num_steps;
    let rows = tokens.chunks_exact(length).take(rows);
    rows.flat_map(|row| probabilities(variables, &row[..=words])).collect()
}

/// The perplexity of a text whose words have these probabilities with each of some models.
fn of_average(models: &[Vec<f64>]) -> f64 {
    let words = models[0].len();
    let mean = |word: usize| models.iter().map(|p| p[word]).sum::<f64>() / models.len() as f64;
    (-(0..words).map(|word| mean(word).ln()).sum::<f64>() / words as f64).exp()
}

/// The two perplexities that `eval` prints.
fn printed(out: &str) -> [f64; 2] {
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    let value = |line: &str, name: &str| line.strip_prefix(name).unwrap().parse().unwrap();
    [value(lines[0], "Valid Perplexity: "), value(lines[1], "Test Perplexity: ")]
}

fn assert_close(found: f64, expected: f64) {
    // Three decimals are printed.
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
}

#[test]
fn the_average_is_that_of_the_probabilities() {
    let folder = two_runs();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let data = RawData::read("sample").unwrap();
    let models = [&a, &b].map(|save| load(save).0);
    // The first one's rows.
    let rows = models[0].config().batch_size as usize;
    assert_ne!(rows, models[1].config().batch_size as usize);
    let valid = models.each_ref().map(|model| in_rows(model, &data.valid.tokens, rows, 2));
    let test = models.each_ref().map(|model| in_rows(model, &data.test.tokens, 1, 1));

    let base = ["eval", "--device", "cpu", "--data-path", "sample", "--checkpoint"];
    let (a, b) = (text(&a), text(&b));
    let (out, errors) = run(&[&base[..], &[a, "--checkpoint", b]].concat());
    let expected = [of_average(&valid), of_average(&test)];
    for (found, expected) in printed(&out).into_iter().zip(expected) {
        assert_close(found, expected);
    }
    assert!(errors.contains(a) && errors.contains(b), "each model's own figures: {errors}");

    // Each alone; and the average of a model with itself is the model.
    let alone = run(&[&base[..], &[a]].concat());
    assert_eq!(alone.1, "");
    for (found, expected) in printed(&alone.0).into_iter().zip([&valid[0], &test[0]]) {
        assert_close(found, of_average(std::slice::from_ref(expected)));
    }
    assert_eq!(run(&[&base[..], &[a, "--checkpoint", a, "--save_path", a]].concat()).0, alone.0);
}

#[test]
fn models_of_other_words_are_not_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    train(&a, &["--hidden-size", "8"]);
    let eval = |checkpoints: [&Path; 2]| {
        let [a, b] = checkpoints.map(text);
        ["eval", "--device", "cpu", "--data-path", "sample", "--checkpoint", a, "--checkpoint", b]
            .map(str::to_owned)
    };
    let refused = |checkpoints: [&Path; 2], says: &[&str]| {
        let args = eval(checkpoints);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(1, &args, &[&checkpoints.map(text)[..], says].concat());
    };
    // As many words, two of them exchanged.
    let mut other = Checkpoint::load(&a, &mut |n| panic!("{n}")).unwrap();
    let words = other.vocabulary.take().unwrap();
    let mut exchanged: Vec<&str> = words.words().collect();
    exchanged.swap(5, 9);
    let (fifth, ninth) = (format!("{:?}", exchanged[9]), format!("{:?}", exchanged[5]));
    other.vocabulary = Some(Vocabulary::from_words(exchanged));
    ptb_word_lm::checkpoint::SaveFolder::open(&b, 1).unwrap().save(&other).unwrap();
    refused([&a, &b], &["word 5 is ", &fifth, &ninth]);
    // Fewer of them.
    fs::remove_dir_all(&b).unwrap();
    train(&b, &["--hidden-size", "8", "--max-vocab", "100"]);
    refused([&a, &b], &["different words"]);
    refused([&b, &a], &["different words"]);
    let nowhere = folder.path().join("nowhere");
    fails(1, &eval([&a, &nowhere]).each_ref().map(String::as_str), &["nowhere"]);
    fails(2, &["eval", "--data-path", "sample"], &["--checkpoint"]);
}
