//! The examples, run as their first lines say, by `cargo run --release --example NAME`.

mod program;

use std::fs;
use std::path::Path;
use std::process::Command;

use program::{Expect, program, repository, text};
use ptb_word_lm::sample;
use ptb_word_lm::tf::{self, Variables};

/// Runs an example, which must succeed; its standard output.
fn example(name: &str, args: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--release", "--quiet", "--example", name, "--"]).args(args);
    cargo.current_dir(repository("")).env("OMP_NUM_THREADS", "1").works().0
}

/// The number after `label` in `text`.
fn number(text: &str, label: &str) -> f64 {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("no {label:?} in {text}"));
    let word =
        rest.trim_start().split(|c: char| c.is_whitespace() || c == ',').next().unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("no number after {label:?} in {text}"))
}

#[test]
fn train_learns_and_is_thirty_lines() {
    let text = example("train", &[]);
    let first = number(&text, "Epoch: 1 Valid Perplexity:");
    let second = number(&text, "Epoch: 2 Valid Perplexity:");
    let test = number(&text, "Test Perplexity:");
    // Nobody can be better than the source (8.733); guessing by the words' frequencies alone gives
    // some 100.
    assert!(second < first && second < 40.0 && test < 40.0 && test > 8.733, "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
    let source = include_str!("../examples/train.rs");
    let code = source
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("use "));
    assert!(code.count() <= 30);
}

#[test]
fn a_checkpoint_of_tensorflow_costs_what_tensorflow_says() {
    let text = example("tensorflow_checkpoint", &[]);
    assert!(text.contains("Model/softmax_w [4, 9]"), "{text}");
    assert!(text.contains("not part of the model: Model/global_step: Int64 [] = 3"), "{text}");
    assert!(number(&text, "cost of 8 words:").is_finite());

    // The graph of one row: TensorFlow's cost of the first step, from variables that we hand over
    // in a checkpoint.
    let golden = tf::read_npz(Path::new("tests/fixtures/golden/ptb_one_row.npz")).unwrap();
    let initial = |(name, tensor): (&String, &tch::Tensor)| {
        Some((name.strip_prefix("init/")?.to_owned(), tensor.shallow_clone()))
    };
    let initial: Variables = golden.iter().filter_map(initial).collect();
    let hparams = Vec::<i64>::try_from(&golden["hparams"]).unwrap();
    let num_steps = hparams[4];
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("model.ckpt-0");
    tf::write_checkpoint(&prefix, &initial, true).unwrap();
    let ids = Vec::<i64>::try_from(
        &golden["tokens"].get(0).narrow(0, 0, num_steps + 1).to_kind(tch::Kind::Int64),
    )
    .unwrap();
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    let args: Vec<&str> =
        [prefix.to_str().unwrap()].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let cost =
        number(&example("tensorflow_checkpoint", &args), &format!("cost of {num_steps} words:"));
    let theirs = golden["cost"].double_value(&[0]);
    assert!((cost / theirs - 1.0).abs() < 1e-5, "{cost}, TensorFlow {theirs}");
}

#[test]
fn generate_writes_words_of_the_text_after_the_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let run = text(folder.path());
    let train = "train --data-path sample --device cpu --max-steps 150 --no-eval --hidden-size 64";
    let train: Vec<&str> = train.split_whitespace().collect();
    program(&[&train[..], &["--save-path", run]].concat()).works();
    let text = example("generate", &[run, "the"]);
    let words: Vec<&str> = text.split_whitespace().collect();
    // 40 words, of which those at a line's end are the newline; and the last newline.
    assert_eq!(words.len() + text.matches('\n').count(), 41, "{text}");
    let known: std::collections::HashSet<&str> = sample::TRAIN.split_whitespace().collect();
    assert!(words.iter().all(|word| known.contains(word)), "{text}");
    assert_eq!(example("generate", &[run, "the"]), text, "the same seed");
    assert_ne!(example("generate", &[run]), text, "another beginning");
}

#[test]
fn a_run_that_is_stopped_after_an_epoch_goes_on_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let run = text(folder.path());
    let first = example("resume", &[run]);
    let second = example("resume", &[run]);
    for (text, epoch, other) in [(&first, 1, 2), (&second, 2, 1)] {
        assert!(text.contains(&format!("Epoch: {epoch} train perplexity: ")), "{text}");
        assert!(!text.contains(&format!("Epoch: {other} train")), "{text}");
        assert!(number(text, "Test Perplexity:") > 8.733, "{text}");
    }
    let valid = |text, epoch| number(text, &format!("Epoch: {epoch} valid perplexity:"));
    assert!(valid(&second, 2) < valid(&first, 1), "{first}{second}");
}

#[test]
fn a_model_of_one_s_own_learns_scores_and_writes() {
    let text = example("tied_softmax", &[]);
    let (first, last) =
        (number(&text, "Epoch: 1 Train Perplexity:"), number(&text, "Epoch: 3 Train Perplexity:"));
    let test = number(&text, "Test Perplexity:");
    assert!(last < first && test > 8.733 && test < 40.0, "{text}");
    let written = text.lines().skip(4).collect::<Vec<_>>().join("\n");
    let known: std::collections::HashSet<&str> = sample::TRAIN.split_whitespace().collect();
    let words: Vec<&str> = written.split_whitespace().collect();
    assert!(words.len() > 10 && words.iter().all(|word| known.contains(word)), "{text}");
}

#[test]
fn the_sample_corpus_is_what_its_generator_writes() {
    let folder = tempfile::tempdir().unwrap();
    example("sample_corpus", &[text(folder.path())]);
    for (split, text) in
        [("train", sample::TRAIN), ("valid", sample::VALID), ("test", sample::TEST)]
    {
        assert_eq!(
            fs::read_to_string(folder.path().join(format!("ptb.{split}.txt"))).unwrap(),
            text
        );
    }
}
