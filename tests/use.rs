//! What people do with a model and with their own text: large corpora, other namings, generating,
//! scoring.

mod program;

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use program::{Expect, PROGRAM, SMALL, json_lines, metrics, model, program, repository, text};
use ptb_word_lm::config::{Config, RnnMode};
use ptb_word_lm::generate::{Generator, Sampling};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::predictor::Plain;
use ptb_word_lm::reader::{EOS, RawData, Vocabulary};
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::score::{Options, Scorer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Trains a small model in a second or two; the final test perplexity, unrounded.
fn train(save: &Path, more: &[&str]) -> f64 {
    program(&[SMALL, &["--save-path", text(save)], more].concat()).works();
    let last = metrics(save).pop().unwrap();
    assert_eq!(last["event"], "final");
    last["perplexity"].as_f64().unwrap()
}

/// A run on the sample corpus.
fn sample_run() -> (tempfile::TempDir, f64) {
    let folder = tempfile::tempdir().unwrap();
    let perplexity =
        train(folder.path(), &["--data-path", "sample", "--num-layers", "2", "--max-steps", "150"]);
    (folder, perplexity)
}

/// ln p of every next word after all these, computed from the beginning in the readable mode.
fn log_probs_after(model: &PtbModel, ids: &[i64]) -> Vec<f64> {
    let x = Tensor::from_slice(ids).unsqueeze(0);
    let (logits, _) = model.logits(&x, &model.zero_state(1)).unwrap();
    let last = logits.get(ids.len() as i64 - 1).to_kind(Kind::Double);
    Vec::<f64>::try_from(last.log_softmax(0, Kind::Double)).unwrap()
}

/// Scores text with --json: the lines and the total.
fn score(save: &Path, flags: &[&str], input: &[u8]) -> (Vec<Value>, Value) {
    let args =
        [&["score", "--checkpoint", text(save), "--device", "cpu", "--json"], flags].concat();
    let (out, _) = program(&args).given(input).works();
    let mut objects = json_lines(&out);
    let total = objects.pop().unwrap();
    assert_eq!(total["event"], "total");
    assert_eq!(total["lines"], objects.len());
    for (n, object) in objects.iter().enumerate() {
        assert_eq!((&object["event"], &object["line"]), (&"line".into(), &(n + 1).into()));
    }
    (objects, total)
}

fn close(a: &Value, b: f64, tolerance: f64) {
    let a = a.as_f64().unwrap_or_else(|| panic!("{a} instead of {b}"));
    assert!((a / b - 1.0).abs() < tolerance, "{a} instead of {b}");
}

/// The most memory that this process has had at once, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A test of this file in a process of its own.
fn this_test(name: &str) -> Command {
    let mut test = Command::new(env::current_exe().unwrap());
    test.args(["--exact", name, "--nocapture"]).env("OMP_NUM_THREADS", "1");
    test
}

/// Writes a text of about so many bytes: words of 2 to 7 letters, 4.4 on average, by Zipf's law.
/// Half of it is one single line.
fn write_text(path: &Path, bytes: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut random, mut written) = (1u64, 0);
    while written < bytes {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
        let rank = 50_000f64.powf(uniform) as u64;
        let end = if written > bytes / 2 && random % 25 == 0 { '\n' } else { ' ' };
        let word = format!("w{rank}{end}");
        file.write_all(word.as_bytes()).unwrap();
        written += word.len();
    }
    file.flush().unwrap();
}

/// 80 MB of text: memory for 4 bytes a token and little more, in a process of its own, since its
/// peak is measured.
#[test]
fn a_large_corpus_takes_memory_for_its_ids_and_not_for_its_text() {
    const FOLDER: &str = "READ_THIS_AND_TELL_THE_PEAK";
    const NAME: &str = "a_large_corpus_takes_memory_for_its_ids_and_not_for_its_text";
    if let Ok(folder) = env::var(FOLDER) {
        let before = peak_memory();
        let data = RawData::read(&folder).unwrap();
        println!("\nPEAK {} {}", data.train.tokens.len(), peak_memory() - before);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = 80_000_000;
    write_text(&folder.path().join("train.txt"), bytes);
    for name in ["valid.txt", "test.txt"] {
        write_text(&folder.path().join(name), 1000);
    }
    let (text, _) = this_test(NAME).env(FOLDER, folder.path()).works();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PEAK "))
        .unwrap_or_else(|| panic!("{text}"));
    let figures: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
    let (tokens, peak) = (figures[0], figures[1]);
    assert!(tokens > 13_000_000, "{tokens}");
    assert!(peak < 4 * tokens + 16_000_000, "{tokens} tokens took {peak} bytes");
    assert!(peak < bytes as u64, "{peak} bytes for a text of {bytes}");
}

#[test]
fn generated_words_are_the_ones_that_a_computation_from_scratch_draws() {
    let (folder, _) = sample_run();
    let (variables, vocabulary) = model(folder.path(), Kind::Float);
    // Not the mode that `generate` uses, and always the whole text again.
    let model = PtbModel::new(&variables, false, RnnMode::Basic);
    let prompt = "the company said";
    let base =
        ["generate", "--checkpoint", text(folder.path()), "--device", "cpu", "--words", "40"];
    let whole = Sampling::default();
    for (flags, sampling) in [
        (&["--temperature", "0"][..], Sampling { temperature: 0.0, ..whole }),
        (&["--temperature", "1.5"], Sampling { temperature: 1.5, ..whole }),
        (&["--top-k", "5"], Sampling { top_k: Some(5), ..whole }),
        (&["--top-p", "0.8"], Sampling { top_p: 0.8, ..whole }),
    ] {
        for (seed, prompt) in [(0, prompt), (7, "")] {
            let seed_text = seed.to_string();
            let (out, _) =
                program(&[&base[..], flags, &["--seed", &seed_text, "--prompt", prompt]].concat())
                    .works();
            let begin = if prompt.is_empty() { EOS } else { prompt };
            let mut ids: Vec<i64> =
                begin.split(' ').map(|word| i64::from(vocabulary.id(word).unwrap())).collect();
            let mut expected: Vec<String> = prompt.split_whitespace().map(str::to_owned).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..40 {
                let log_probs = log_probs_after(&model, &ids);
                let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                let next = if sampling.temperature == 0.0 {
                    (0..log_probs.len())
                        .max_by(|&a, &b| log_probs[a].total_cmp(&log_probs[b]))
                        .unwrap()
                } else {
                    drawn(&log_probs, sampling, uniform)
                };
                ids.push(next as i64);
                expected.push(vocabulary.word(next as i32).unwrap().to_owned());
            }
            // A line's end shows as one; after the last there may be one more.
            let shown = out.replace('\n', &format!(" {EOS} "));
            let mut shown: Vec<&str> = shown.split_whitespace().collect();
            if expected.last().is_some_and(|word| word != EOS) {
                assert_eq!(shown.pop(), Some(EOS));
            }
            assert_eq!(shown, expected, "{flags:?}, seed {seed}");
        }
    }
    // The library's Generator is the command's.
    let mut generator = Generator::new(&model, whole, 7).unwrap();
    assert!(generator.next_word().is_err(), "nothing was read yet");
    generator.read(&[vocabulary.id(EOS).unwrap()]).unwrap();
    let words: Vec<&str> =
        (0..40).map(|_| vocabulary.word(generator.next_word().unwrap()).unwrap()).collect();
    let (out, _) = program(&[&base[..], &["--seed", "7"]].concat()).works();
    let shown: Vec<&str> = words.iter().copied().filter(|&word| word != EOS).collect();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), shown);
    assert!(generator.read(&[vocabulary.len() as i32]).is_err() && generator.read(&[-1]).is_err());
}

/// The definition, in the plainest way: sort, cut, walk.
fn drawn(log_probs: &[f64], sampling: Sampling, uniform: f64) -> usize {
    let mut words: Vec<(usize, f64)> =
        log_probs.iter().map(|p| (p / sampling.temperature).exp()).enumerate().collect();
    words.sort_by(|a, b| b.1.total_cmp(&a.1));
    words.truncate(sampling.top_k.unwrap_or(words.len()));
    let sum: f64 = words.iter().map(|w| w.1).sum();
    let mut nucleus = Vec::new();
    let mut covered = 0.0;
    for (word, p) in words {
        if covered < sampling.top_p {
            nucleus.push((word, p / sum));
        }
        covered += p / sum;
    }
    let sum: f64 = nucleus.iter().map(|w| w.1).sum();
    let mut below = 0.0;
    for &(word, p) in &nucleus {
        below += p / sum;
        if uniform < below {
            return word;
        }
    }
    nucleus.last().unwrap().0
}

#[test]
fn generate_says_what_it_makes_of_a_prompt() {
    let (folder, _) = sample_run();
    let base = ["generate", "--save_path", text(folder.path()), "--device", "cpu", "--words", "12"];
    let generate = |flags: &[&str]| program(&[&base[..], flags].concat()).works();
    let (out, errors) = generate(&["--prompt", "  the xyzzy   company "]);
    assert!(out.starts_with("the <unk> company"), "{out}");
    assert!(errors.contains("<unk>: xyzzy"), "{errors}");
    let (out, errors) = generate(&["--prompt", "xyzzy plugh"]);
    assert!(out.starts_with("<unk> <unk>") && errors.contains("plugh, xyzzy"), "{out} {errors}");
    // A line's end in a prompt is one, and so it is in what comes out.
    let (out, errors) = generate(&["--prompt", "the company said\nthe"]);
    assert!(out.starts_with("the company said\nthe ") && errors.is_empty(), "{out} {errors}");
    let (out, errors) = generate(&[]);
    assert!(out.split_whitespace().count() > 3 && errors.is_empty(), "{out} {errors}");
    assert!(out.ends_with('\n') && !out.contains(EOS), "{out}");
    assert_eq!(generate(&["--prompt", ""]).0, out);
    assert_ne!(generate(&["--seed", "-1"]).0, out);
    assert_eq!(
        program(&[&base[..5], &["--words", "0", "--prompt", "the"]].concat()).works().0,
        "the\n"
    );

    // Whoever reads may have enough.
    let script = format!(
        "'{PROGRAM}' generate --checkpoint '{}' --device cpu --words 100000 | head -n 2; echo ${{PIPESTATUS[0]}}",
        text(folder.path())
    );
    let (out, errors) = Command::new("bash").args(["-c", &script]).works();
    assert_eq!((out.lines().last(), errors.as_str()), (Some("0"), ""));

    for (flags, says) in [
        (["--temperature", "-0.5"], "--temperature is -0.5"),
        (["--temperature", "nan"], "--temperature is NaN"),
        (["--temperature", "inf"], "--temperature is inf"),
        (["--temperature", "warm"], "--temperature"),
        (["--top-p", "0"], "--top-p is 0"),
        (["--top-p", "1.1"], "--top-p is 1.1"),
        (["--top-p", "-0.1"], "--top-p is -0.1"),
        (["--top-k", "0"], "--top-k"),
        (["--top-k", "-3"], "--top-k"),
        (["--seed", "x"], "--seed"),
    ] {
        program(&[&base[..], &flags].concat()).fails_with(2, &[says]);
    }
    program(&[&base[..5], &["--words", "-1"]].concat()).fails_with(2, &["--words"]);
    let nowhere = folder.path().join("nowhere");
    program(&["generate", "--checkpoint", text(&nowhere)]).fails_with(1, &["nowhere"]);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            fs::write(path, b"not a checkpoint").unwrap();
        }
    }
    program(&base).fails_with(1, &["no checkpoint in it is whole"]);
}

#[test]
fn scores_are_the_model_s_log_probabilities() {
    let (folder, perplexity) = sample_run();
    let save = folder.path();
    // The sample's test text: what training printed at its end, over the same words.
    let sample = repository("data/sample/ptb.test.txt");
    let (lines, total) = score(save, &[text(&sample)], b"");
    close(&total["perplexity"], perplexity, 1e-6);
    let tokens = RawData::read("sample").unwrap().test.tokens.len();
    assert_eq!((&total["words"], &total["unknown"]), (&(tokens - 1).into(), &0.into()));
    let sum: f64 = lines.iter().map(|line| line["log_probability"].as_f64().unwrap()).sum();
    close(&total["log_probability"], sum, 1e-12);
    // Standard input is the same text. (Where it pauses, other words are scored together.)
    for flags in [&[][..], &["-"]] {
        let (_, read) = score(save, flags, &fs::read(&sample).unwrap());
        close(&read["log_probability"], total["log_probability"].as_f64().unwrap(), 1e-7);
        assert_eq!((&read["words"], &read["unknown"]), (&total["words"], &total["unknown"]));
    }

    // Word by word, against a computation from the beginning for each.
    let (variables, vocabulary) = model(save, Kind::Float);
    let model = PtbModel::new(&variables, false, RnnMode::Basic);
    let input = b" the company said it has xyzzy \n\n the company";
    let words = ["the", "company", "said", "it", "has", "<unk>", EOS, EOS, "the", "company"];
    let ids = words.map(|word| i64::from(vocabulary.id(word).unwrap()));
    let (lines, total) = score(save, &["--per-word"], input);
    let per_word: Vec<&Value> =
        lines.iter().flat_map(|line| line["per_word"].as_array().unwrap()).collect();
    assert_eq!(per_word.len(), words.len());
    assert_eq!(
        per_word[0],
        &serde_json::json!({"word": "the", "log_probability": null, "surprise": null, "unknown": false})
    );
    assert_eq!((&per_word[5]["word"], &per_word[5]["unknown"]), (&"xyzzy".into(), &true.into()));
    let mut sum = 0.0;
    for i in 1..words.len() {
        let expected = log_probs_after(&model, &ids[..i])[ids[i] as usize];
        close(&per_word[i]["log_probability"], expected, 1e-5);
        close(&per_word[i]["surprise"], -expected, 1e-5);
        sum += expected;
    }
    close(&total["log_probability"], sum, 1e-5);
    close(&total["perplexity"], (-sum / 9.0).exp(), 1e-5);
    assert_eq!((&total["words"], &total["unknown"]), (&9.into(), &1.into()));
    assert_eq!(
        (&lines[0]["words"], &lines[1]["words"], &lines[2]["words"]),
        (&6.into(), &1.into(), &2.into())
    );

    // On its own, a line begins after <eos> with nothing remembered, and its end is scored, newline or not.
    let eos = i64::from(vocabulary.id(EOS).unwrap());
    let (lines, total) = score(save, &["--independent"], input);
    assert_eq!(lines[0]["words"], 7);
    let sentence = [eos, ids[8], ids[9], eos];
    let sum: f64 =
        (1..4).map(|i| log_probs_after(&model, &sentence[..i])[sentence[i] as usize]).sum();
    close(&lines[2]["log_probability"], sum, 1e-5);
    close(&lines[2]["perplexity"], (-sum / 3.0).exp(), 1e-5);
    assert_eq!((&lines[2]["words"], &total["words"]), (&3.into(), &11.into()));

    // A line longer than what goes through the model at once goes on where the part before it ended.
    let long = "the company said it ".repeat(3000);
    let at_9000: Vec<i64> = (0..9001).map(|i| ids[i % 4]).collect();
    for (flags, words, before) in [
        (&["--per-word"][..], 11_999, vec![]),
        (&["--per-word", "--independent"], 12_001, vec![eos]),
    ] {
        let (lines, total) = score(save, flags, long.as_bytes());
        assert_eq!(total["words"], words);
        let context = [&before[..], &at_9000[..9000]].concat();
        let expected = log_probs_after(&model, &context)[at_9000[9000] as usize];
        close(&lines[0]["per_word"][9000]["log_probability"], expected, 1e-4);
    }

    // For people.
    let base = ["score", "--checkpoint", text(save), "--device", "cpu"];
    let (out, errors) = program(&[&base[..], &["--per-word"]].concat()).given(input).works();
    assert!(out.contains("xyzzy (unknown)") && out.contains("\nPerplexity: "), "{out}");
    assert!(errors.contains("scored as <unk>"), "{errors}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");

    program(&base).fails_with(1, &["standard input", "empty"]);
    program(&base).given(b"the").fails_with(1, &["standard input", "only context"]);
    program(&base).given(b"a b\nc \xff d\n").fails_with(1, &["not UTF-8", "line 2, byte 6"]);
    let latin = save.join("latin.txt");
    fs::write(&latin, b"caf\xe9\n").unwrap();
    program(&[&base[..], &[text(&latin)]].concat())
        .fails_with(1, &["latin.txt: not UTF-8", "line 1, byte 3"]);
    program(&[&base[..], &[text(save)]].concat()).fails_with(1, &["is a folder"]);
    program(&[&base[..], &["nowhere.txt"]].concat())
        .fails_with(1, &["nowhere.txt: cannot be read"]);
}

/// Somebody who writes a line and waits gets its score, though words are scored many at a time.
#[test]
fn a_line_is_answered_before_the_next_one_comes() {
    let (folder, _) = sample_run();
    let lines = ["the company said", "it has", "the xyzzy"];
    for flags in [&[][..], &["--independent"]] {
        let args =
            [&["score", "--checkpoint", text(folder.path()), "--device", "cpu", "--json"], flags]
                .concat();
        let mut program = program(&args);
        let mut child = program.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (answers, output) = (mpsc::channel(), BufReader::new(child.stdout.take().unwrap()));
        let (send, receive) = answers;
        thread::spawn(move || output.lines().try_for_each(|line| send.send(line.unwrap())));
        let mut input = child.stdin.take().unwrap();
        let mut answers: Vec<Value> = Vec::new();
        for line in lines {
            // A part of the line alone is not answered.
            let (begin, end) = line.split_once(' ').unwrap();
            write!(input, "{begin} ").unwrap();
            assert!(receive.recv_timeout(Duration::from_millis(200)).is_err());
            writeln!(input, "{end}").unwrap();
            let answer = receive.recv_timeout(Duration::from_secs(60)).expect("an answer");
            answers.push(serde_json::from_str(&answer).unwrap());
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        // The same numbers as of the whole text.
        let (expected, _) =
            score(folder.path(), flags, format!("{}\n", lines.join("\n")).as_bytes());
        for (answer, expected) in answers.iter().zip(&expected) {
            close(&answer["log_probability"], expected["log_probability"].as_f64().unwrap(), 1e-6);
            assert_eq!(
                (&answer["line"], &answer["words"]),
                (&expected["line"], &expected["words"])
            );
        }
    }
}

/// A text of so many words, in lines or in a single one.
struct Words {
    left: usize,
    in_lines: bool,
}

impl Read for Words {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut written = 0;
        while self.left > 0 && written + 3 <= buffer.len() {
            self.left -= 1;
            let end = if self.in_lines && self.left.is_multiple_of(20) { b'\n' } else { b' ' };
            buffer[written..written + 3].copy_from_slice(&[
                b'w',
                b'0' + (self.left % 7) as u8,
                end,
            ]);
            written += 3;
        }
        Ok(written)
    }
}

/// Scoring takes the same memory for a text of any length, in a process of its own, since its peak is
/// measured.
#[test]
fn scoring_takes_no_memory_for_the_text() {
    const IN_LINES: &str = "SCORE_AND_TELL_THE_PEAK";
    const NAME: &str = "scoring_takes_no_memory_for_the_text";
    if let Ok(in_lines) = env::var(IN_LINES) {
        let words = ["w0", "w1", "w2", "w3", "w4", "w5", "w6", EOS];
        let config = Config { vocab_size: 8, hidden_size: 8, num_layers: 1, ..Config::SMALL };
        let variables =
            PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0).unwrap();
        let vocabulary = Vocabulary::from_words(words);
        for independent in [false, true] {
            let mut predictor = Plain::new(PtbModel::new(&variables, false, RnnMode::Cudnn));
            let options = Options { independent, ..Options::default() };
            let mut scorer = Scorer { predictor: &mut predictor, vocabulary: &vocabulary, options };
            let mut peak_of = |words| {
                let text = Words { left: words, in_lines: in_lines == "true" };
                let mut told = 0;
                let total = scorer.score(text, "words", &mut |_| {
                    told += 1;
                    Ok(())
                });
                assert!(total.unwrap().0.words as usize >= words - 1 && told >= words);
                peak_memory()
            };
            let before = peak_of(300_000);
            println!("\nPEAK {}", peak_of(700_000) - before);
        }
        return;
    }
    for in_lines in ["true", "false"] {
        let (text, errors) = this_test(NAME).env(IN_LINES, in_lines).works();
        let peaks: Vec<u64> = text
            .lines()
            .filter_map(|l| l.strip_prefix("PEAK "))
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!(peaks.len(), 2, "{text} {errors}");
        // 400,000 words more are 1.2 MB of text, and 30 MB as words with their scores.
        assert!(peaks.iter().all(|&more| more < 8_000_000), "in lines: {in_lines}: {peaks:?}");
    }
}

/// `eval` and `score` find a run's own perplexity if they compute in its precision.
#[test]
fn the_perplexity_of_a_bf16_run_is_reproduced_in_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path();
    let flags = ["--data-path", "sample", "--num-layers", "2", "--max-steps", "150"];
    let perplexity = train(save, &[&flags[..], &["--precision", "bf16"]].concat());
    let eval = ["eval", "--checkpoint", text(save), "--data-path", "sample", "--device", "cpu"];
    let line = format!("Test Perplexity: {perplexity:.3}\n");
    assert!(program(&[&eval[..], &["--precision", "bf16"]].concat()).works().0.ends_with(&line));
    assert!(!program(&eval).works().0.ends_with(&line), "float32 has the same perplexity: {line}");
    let sample = repository("data/sample/ptb.test.txt");
    let (_, total) = score(save, &["--precision", "bf16", text(&sample)], b"");
    close(&total["perplexity"], perplexity, 1e-6);
    for precision in ["tf32", "fp16"] {
        for command in [&eval[..], &["score", "--checkpoint", text(save), "--device", "cpu"]] {
            program(&[command, &["--precision", precision]].concat())
                .given(b"a\n")
                .fails_with(2, &[precision, "needs a GPU"]);
        }
    }
}

#[test]
fn a_corpus_of_one_s_own_with_a_small_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("my text");
    fs::create_dir(&data).unwrap();
    let sample = repository("data/sample");
    for split in ["train", "valid", "test"] {
        let text = fs::read_to_string(sample.join(format!("ptb.{split}.txt"))).unwrap();
        // WikiText's shape: headings and blank lines.
        let text: String = text.lines().map(|line| format!(" = {line}= \n \n{line}\n")).collect();
        fs::write(data.join(format!("wiki.{split}.tokens")), text).unwrap();
    }
    let save = folder.path().join("run");
    let flags = ["--data-path", text(&data), "--max-vocab", "50", "--min-count", "3"];
    let perplexity = train(&save, &[&flags[..], &["--max-steps", "40"]].concat());
    let (_, vocabulary) = model(&save, Kind::Float);
    assert_eq!(vocabulary.len(), 50);
    let eval = ["eval", "--checkpoint", text(&save), "--data-path", text(&data), "--device", "cpu"];
    let (out, errors) = program(&eval).works();
    assert!(out.contains(&format!("Test Perplexity: {perplexity:.3}\n")), "{out}");
    assert!(errors.contains("wiki.test.tokens") && errors.contains("<unk>"), "{errors}");
    // Every word outside of the vocabulary is read as <unk>, in training, eval and score alike.
    let (_, total) = score(&save, &[text(&data.join("wiki.test.tokens"))], b"");
    close(&total["perplexity"], perplexity, 1e-6);
    assert!(total["unknown"].as_u64().unwrap() > 1000, "{total}");
    program(&["generate", "--checkpoint", text(&save), "--device", "cpu", "--words", "5"]).works();
    // Resumed with the same, and only with the same.
    train(&save, &[&flags[..], &["--max-steps", "45"]].concat());
    let resume = |flags: &[&str], says: &[&str]| {
        let args =
            [SMALL, &["--save-path", text(&save), "--data-path", text(&data)], flags].concat();
        program(&args).fails_with(1, says);
    };
    resume(&["--max-vocab", "60", "--min-count", "3"], &["max_vocab is 50 there and 60 here"]);
    resume(&["--max-vocab", "50"], &["min_count is 3 there and not set here"]);
    for (flag, value) in
        [("--max-vocab", "1"), ("--max-vocab", "-5"), ("--min-count", "0"), ("--min-count", "x")]
    {
        program(&["train", "--data-path", "sample", flag, value]).fails_with(2, &[flag]);
    }
}

#[test]
#[ignore = "needs PTB: its folder in PTB_DATA (make test DATA=FOLDER)"]
fn ptb_test_text_has_the_perplexity_that_eval_prints() {
    let folder = env::var("PTB_DATA").expect("PTB_DATA names PTB's folder");
    let save = tempfile::tempdir().unwrap();
    let perplexity = train(save.path(), &["--data-path", &folder, "--max-steps", "300"]);
    let (lines, total) = score(save.path(), &[&format!("{folder}/ptb.test.txt")], b"");
    close(&total["perplexity"], perplexity, 1e-6);
    assert_eq!(
        (lines.len(), &total["words"], &total["unknown"]),
        (3761, &82_429.into(), &0.into())
    );
}
