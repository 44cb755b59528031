//! What somebody meets in the first hour: the original's command line, a text of one's own, a
//! terminal of 80 columns, mistakes.

mod program;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use program::{
    Expect, Place, TINY, checkpoint, on_a_terminal, program, text, texts, without_escapes,
};
use ptb_word_lm::checkpoint::SaveFolder;
use serde_json::{Value, json};

/// What the program writes to a terminal of so many columns, without the terminal's commands, and
/// with them.
fn shown(columns: usize, line: &str) -> (String, String) {
    let (_, raw, _) = on_a_terminal(columns, line).env("NO_COLOR", "1").ends();
    (without_escapes(&raw), raw)
}

const QUICK: [&str; 3] = ["--max-steps", "1", "--no-eval"];

#[test]
fn the_original_s_flags_are_taken_where_they_mean_what_is_there() {
    let sample = sample_words().to_string();
    for flags in [
        &["--use_fp16=false"][..],
        &["--nouse_fp16"],
        &["--use_fp16", "--nouse_fp16"],
        &["--num_gpus=0", "--rnn_mode=BASIC"],
        &["--vocab_size", &sample],
        &[
            "--init_scale=0.1",
            "--learning_rate=1.0",
            "--max_grad_norm=5",
            "--num_layers=1",
            "--max_epoch=4",
            "--max_max_epoch=13",
            "--keep_prob=1.0",
            "--lr_decay=0.5",
        ],
    ] {
        // TINY's --device cpu is not the original's.
        program(&[TINY, &QUICK, flags].concat()).works();
    }
    for (flags, says) in [
        (&["--num_gpus=1", "--device", "cpu"][..], "leave --num-gpus out"),
        (&["--vocab_size=10000"], "leave --vocab-size out"),
        (&["--vocab_size=100"], "--max-vocab 100 keeps the most frequent"),
        (&["--use_fp16=true"], "--use-fp16"),
    ] {
        program(&[TINY, &QUICK, flags].concat()).fails_with(2, &[says]);
    }
    if !Path::new("/dev/nvidiactl").exists() {
        let args = ["train", "--data_path=sample", "--model=test", "--num_gpus=1"];
        program(&args).fails_with(1, &["requested --num_gpus=1", "--num-gpus 0"]);
        program(&[&args[..3], &QUICK, &["--num_gpus=0"]].concat()).works();
    }
    // The modes in capitals, where a model is evaluated too.
    let place = Place::new();
    place.works("$TINY --max-steps 1 --no-eval --save-path run --rnn_mode=BLOCK");
    place.works("eval --checkpoint run --data-path sample --device cpu --rnn_mode=BLOCK");
    // The file of --config has the same names.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    fs::write(&file, json!({"vocab_size": sample_words(), "use_fp16": false}).to_string()).unwrap();
    program(&[TINY, &QUICK, &["--config", text(&file)]].concat()).works();
}

/// Words of the sample corpus.
fn sample_words() -> usize {
    ptb_word_lm::reader::RawData::read("sample").unwrap().vocabulary.len()
}

#[test]
fn a_forgotten_command_is_named() {
    let (code, error) =
        program(&["--model", "small", "--data_path", "my texts", "--max-steps=1"]).fails();
    let says = "ptb-word-lm train --model small --data-path 'my texts' --max-steps=1";
    assert!(code == 2 && error.contains(says), "{error}");
    program(&["--data_path=x"]).fails_with(2, &["ptb-word-lm train --data-path=x"]);
    program(&["--checkpoint", "run"])
        .fails_with(2, &["--checkpoint, which is a flag of: ", "eval", "generate"]);
    program(&["--version"]).works();
    program(&["--help"]).works();
}

/// The epochs that a parser of the original's lines sees, with their perplexities.
fn epochs(lines: &str, split: &str) -> Vec<(i64, String)> {
    let parse = |line: &str| {
        let (epoch, rest) = line.strip_prefix("Epoch: ")?.split_once(' ')?;
        let perplexity = rest.strip_prefix(&format!("{split} Perplexity: "))?;
        Some((epoch.parse().ok()?, perplexity.to_owned()))
    };
    lines.lines().filter_map(parse).collect()
}

#[test]
fn a_run_in_pieces_prints_every_epoch_once() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let two = [TINY, &["--max-max-epoch", "2", "--save-path"]].concat();
    let (expected, _) = program(&[&two[..], &[text(&whole)]].concat()).works();
    let mut lines = String::new();
    for steps in ["7", "20", "62", "80"] {
        lines += &program(&[&two[..], &[text(&parts), "--max-steps", steps]].concat()).works().0;
    }
    assert!(lines.contains("Epoch 1, step 7 of "), "{lines}");
    assert!(lines.contains(": Train Perplexity so far "), "{lines}");
    lines += &program(&[&two[..], &[text(&parts)]].concat()).works().0;
    for split in ["Train", "Valid"] {
        assert_eq!(epochs(&lines, split), epochs(&expected, split), "{lines}");
        assert_eq!(epochs(&lines, split).len(), 2);
    }
}

/// As after a kill in the evaluation that follows an epoch.
#[test]
fn an_epoch_that_was_printed_before_a_stop_is_not_printed_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = [TINY, &["--max-max-epoch", "1", "--save-path"]].concat();
    let (part, run) = (at("part"), at("run"));
    let seven = ["--max-steps", "7", "--no-eval"];
    let (lines, _) = program(&[&base[..], &[text(&part)], &seven].concat()).works();
    let (_, steps) = lines.split_once("step 7 of ").unwrap();
    let steps: i64 = steps.split(':').next().unwrap().parse().unwrap();
    let mut checkpoint = checkpoint(&part);
    (checkpoint.progress.step, checkpoint.progress.global_step) = (steps, steps);
    SaveFolder::open(&run, 1).unwrap().save(&checkpoint).unwrap();
    let (lines, _) = program(&[&base[..], &[text(&run)]].concat()).works();
    assert_eq!((epochs(&lines, "Train").len(), epochs(&lines, "Valid").len()), (0, 1), "{lines}");
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(!metrics.contains("\"split\":\"train\""), "{metrics}");
}

#[test]
fn config_repeats_a_run_as_it_was_at_last() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (run, again, torn) = (at("run"), at("again"), at("torn.jsonl"));
    let base = [TINY, &["--log-every", "0", "--save-path", text(&run)]].concat();
    program(&[&base[..], &["--max-max-epoch", "1"]].concat()).works();
    program(&[&base[..], &["--max-max-epoch", "3"]].concat()).works();
    let (lines, _) =
        program(&["train", "--config", text(&run), "--save-path", text(&again)]).works();
    assert_eq!(epochs(&lines, "Train").len(), 3, "{lines}");
    // A line that a killed process has left does not hide the start that follows it.
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let second = metrics.rfind("{\"event\":\"start\"").unwrap();
    let mut bytes = metrics.as_bytes()[..second].to_vec();
    bytes.extend(b"{\"event\":\"step\",\"epo\xc3\n");
    bytes.extend(&metrics.as_bytes()[second..]);
    fs::write(&torn, bytes).unwrap();
    let (lines, _) = program(&["train", "--config", text(&torn)]).works();
    assert_eq!(epochs(&lines, "Train").len(), 3, "{lines}");
}

#[test]
fn a_refused_resume_says_which_flags_continue_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("my run");
    let save = ["--save-path", text(&run)];
    program(&[TINY, &QUICK, &save, &["--seed", "7", "--keep-prob", "0.5"]].concat()).works();
    let (code, error) = program(&[TINY, &QUICK, &save, &["--num-layers", "2"]].concat()).fails();
    assert_eq!(code, 1);
    for words in ["--num-layers 1", "--seed 7", "--keep-prob 0.5", "num_layers is 1 there"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let path = text(&run);
    let command = format!("`ptb-word-lm train --config '{path}' --save-path '{path}'`");
    assert!(error.contains(&command), "{error}");
    let (_, said) =
        program(&["train", "--config", path, "--save-path", path, "--max-steps", "2", "--no-eval"])
            .works();
    assert!(said.contains("resuming"), "{said}");
    // The flags of the run say that it ends there.
    let (_, said) =
        program(&["train", "--config", path, "--save-path", path, "--max-steps", "2"]).works();
    assert!(said.contains("the run has done --max-steps 2 already"), "{said}");
}

fn metrics_file(folder: &Path, name: &str, config: Value, md5: &str) -> String {
    let path = folder.join(format!("{name}.jsonl"));
    let start = json!({"event": "start", "model": "small", "config": config,
        "data": {"path": "texts", "train": {"md5": md5}}});
    let epoch = json!({"event": "epoch", "epoch": 1, "split": "train", "perplexity": 200.0,
        "complete": true});
    fs::write(&path, format!("{start}\n{epoch}\n")).unwrap();
    text(&path).to_owned()
}

#[test]
fn compare_says_what_does_not_compare() {
    let folder = tempfile::tempdir().unwrap();
    let config = |hidden: i64, layers: i64, words: i64| {
        let small = ptb_word_lm::config::Config::SMALL;
        let mut config = serde_json::to_value(small).unwrap();
        config["hidden_size"] = json!(hidden);
        config["num_layers"] = json!(layers);
        config["vocab_size"] = json!(words);
        config
    };
    let ptb = "f26c4b92c5fdc7b3f8c7cdcb991d8420";
    let file =
        |name: &str, config: Value, md5: &str| metrics_file(folder.path(), name, config, md5);
    let tiny = file("tiny", config(20, 1, 10_000), ptb);
    let few = file("few", config(200, 2, 500), ptb);
    let other = file("other", config(200, 2, 16_914), "0");

    let (table, _) = program(&["compare", &tiny]).works();
    let remark = "tiny: ";
    let line = table.lines().find(|line| line.starts_with(remark)).unwrap();
    assert!(line.contains("hidden_size 20 instead of 200"), "{table}");
    assert!(line.contains("num_layers 1 instead of 2"), "{table}");
    assert!(table.contains("115.91"), "it is on PTB: {table}");

    for format in ["text", "markdown"] {
        let (table, _) = program(&["compare", "--format", format, &few, &other]).works();
        assert!(!table.contains("115.91") && !table.contains('%'), "{table}");
        assert!(table.contains("a vocabulary of 500 words instead of 10,000"), "{table}");
        assert!(table.contains("a vocabulary of 16,914 words, not on PTB"), "{table}");
        let together = "vocabularies of different sizes (500, 16,914 words)";
        assert!(table.contains(together), "{table}");
    }
    let (all, _) = program(&["compare", "--format", "json", &few, &other]).works();
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["published"], json!([]));
    assert_eq!(all["runs"][0]["difference_percent"]["train"], Value::Null);
    let (table, _) = program(&["compare", &tiny, &other]).works();
    assert!(table.contains("115.91"), "beside the one on PTB: {table}");
}

#[test]
fn words_that_are_left_out_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let train = "a b c d e f g h\n".repeat(40);
    let warned = |valid: &str, more: &[&str]| {
        texts(folder.path(), [&train, valid, &train]);
        let base = ["train", "--data-path", text(folder.path()), "--model", "test"];
        program(&[&base[..], &QUICK, more].concat()).works().1
    };
    let unknown = "a b c x1 d e x2\n".repeat(10);
    let said = warned(&unknown, &["--quiet"]);
    assert!(said.contains("valid.txt: 20 words (25.00%) are not in the training text"), "{said}");
    assert!(said.contains("warning: 25% ") && said.contains("--max-vocab"), "{said}");
    let said = warned(&unknown, &["--max-vocab", "100"]);
    assert!(said.contains("read as <unk>") && !said.contains("warning"), "{said}");
    let one = format!("{train}x1\n");
    let said = warned(&one, &[]);
    assert!(said.contains("1 word (0.28%) is not in the training text and is left out"), "{said}");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_text_without_spaces_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let sentence = "我们今天去公园散步然后回家吃饭\n";
    let long =
        "这是一个没有空格的很长的句子其中每一个字都连在一起写 另一个也没有空格的很长的句子\n";
    for (line, says) in [(sentence, "single word"), (long, "characters on average")] {
        let all = line.repeat(100);
        texts(folder.path(), [&all, &all, &all]);
        let (_, said) = program(&[
            "train",
            "--data-path",
            text(folder.path()),
            "--model",
            "test",
            "--max-steps",
            "1",
            "--no-eval",
        ])
        .works();
        assert!(said.contains(says) && said.contains("--tokenize"), "{said}");
    }
    let (_, said) = program(&[TINY, &QUICK].concat()).works();
    assert!(!said.contains("spaces") && said.contains("1 thread:"), "{said}");
}

#[test]
fn one_text_becomes_three() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (file, out) = (at("novel.txt"), at("my texts"));
    let line = |k: usize| format!("Line {k}, it's \"the\" one.\n");
    let all: String = (0..1000).map(line).collect();
    fs::write(&file, &all).unwrap();
    let (lines, said) = program(&["prepare", text(&file), "--out", text(&out)]).works();
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(["train.txt", "valid.txt", "test.txt"].map(read).concat(), all);
    assert_eq!(
        ["train.txt", "valid.txt", "test.txt"].map(|name| read(name).lines().count()),
        [800, 100, 100]
    );
    for part in ["train.txt: lines 1 to 800, 4000 words", "test.txt: lines 901 to 1000, 500 words"]
    {
        assert!(lines.contains(part), "{lines}");
    }
    // The same lines in a file of an old Mac.
    fs::write(at("mac.txt"), all.replace('\n', "\r")).unwrap();
    let mac = program(&["prepare", text(&at("mac.txt")), "--out", text(&at("mac"))]).works().0;
    assert_eq!(mac.replace(text(&at("mac")), ""), lines.replace(text(&out), ""));
    for name in ["train.txt", "valid.txt", "test.txt"] {
        assert_eq!(fs::read_to_string(at("mac").join(name)).unwrap(), read(name), "{name}");
    }
    assert!(said.contains("train --data-path '"), "{said}");

    // Nothing is overwritten unasked.
    let again = ["prepare", text(&file), "--out", text(&out), "--lower", "--tokenize"];
    program(&again).fails_with(1, &["train.txt", "--force"]);
    program(&[&again[..], &["--force"]].concat()).works();
    assert_eq!(read("train.txt").lines().next().unwrap(), "line 0 , it's \" the \" one .");
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    program(
        &[&["train", "--data-path", text(&out), "--model", "test", "--device", "cpu"], &QUICK[..]]
            .concat(),
    )
    .works();
    // Its own part is not a text to split into the same folder.
    let part = out.join("train.txt");
    program(&["prepare", text(&part), "--out", text(&out), "--force"])
        .fails_with(1, &["a part of itself"]);

    for (content, says) in [
        (&b""[..], "it has 0 lines"),
        (b"one line\n\n", "it has 1 line,"),
        (b"a\nb\n\xff c\n", "not UTF-8"),
        (b"\x1f\x8b\x08\x00\x00", "gunzip"),
        (b"\xff\xfea\0", "UTF-16"),
    ] {
        fs::write(at("bad.txt"), content).unwrap();
        program(&["prepare", text(&at("bad.txt")), "--out", text(&at("not made"))])
            .fails_with(1, &[says, "bad.txt"]);
        assert!(!at("not made").exists());
    }
    let (_, error) = program(&["prepare", text(&at("none.txt")), "--out", text(&out)]).fails();
    assert!(error.contains("none.txt") && !error.contains("os error"), "{error}");
    // Chinese characters become words, which a model can be trained on.
    fs::write(&file, "我们今天去公园散步，然后回家。\n".repeat(200)).unwrap();
    let chinese = at("chinese");
    program(&["prepare", text(&file), "--out", text(&chinese), "--tokenize"]).works();
    let (_, said) = program(
        &[
            &["train", "--data-path", text(&chinese), "--model", "test", "--device", "cpu"],
            &QUICK[..],
        ]
        .concat(),
    )
    .works();
    assert!(!said.contains("spaces") && said.contains(": 16 words"), "{said}");
}

#[test]
fn a_folder_without_the_texts_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = text(folder.path());
    let train = |path: &str| program(&["train", "--data-path", path]).fails().1;
    assert!(train(path).contains("it is empty"), "{}", train(path));
    for name in ["Train.txt", "dev.txt", "Test.txt.gz"] {
        fs::write(at(name), "a b\n").unwrap();
    }
    let error = train(path);
    for words in ["Train.txt", "dev.txt", "Test.txt.gz", "Unpack", "ename"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    fs::write(at("train.txt"), "a b\n").unwrap();
    let error = train(path);
    assert!(error.contains("no valid.txt, test.txt. In it: ") && error.contains("dev.txt"));
    let error = train(text(&at("train.txt")));
    assert!(error.contains("it is a file, not a folder"), "{error}");
    assert!(error.contains("ptb-word-lm prepare FILE --out DIR"), "{error}");
}

#[test]
fn errors_are_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let below = file.join("metrics.jsonl");
    for (flags, says) in [
        (&["--max-vocab", "10k"][..], "a whole number, 2 or more"),
        (&["--max-vocab", "1"], "a whole number, 2 or more"),
        (&["--max-vocab", "99999999999999999999"], "not so large"),
        (&["--keep", "5000000000"], "not so large"),
        (&["--min-count", "-1"], "a whole number, 1 or more"),
        (&["--max-steps", "1.5"], "a whole number, 0 or more"),
        (&["--keep", "0"], "a whole number, 1 or more"),
        (&["--threads", "5000"], "a whole number from 1 to 4096"),
        (&["--workers", "two"], "a whole number from 1 to 1024"),
        (&["--seed", "x"], "a whole number"),
        (&["--hidden-size", "2e2"], "a whole number"),
        (&["--hidden-size", "9999999999999999999"], "a whole number"),
        (&["--lr-decay", "1/1.15"], "it must be a number"),
        (&["--keep-prob", "half"], "it must be a number"),
        (&["--learning-rate", "NaN"], "a number above 0"),
        (&["--learning-rate", "inf"], "a number above 0"),
        (&["--save-path", text(&file)], "a file is a file, not a folder"),
        (&["--metrics", text(&below)], "a file is a file, not a folder"),
        (&["--config", text(&below)], "cannot be read"),
    ] {
        let (code, error) = program(&[TINY, &QUICK, flags].concat()).fails();
        assert!(error.contains(says) && error.contains(flags[0]), "{flags:?}: {error}");
        let of_file = ["--save-path", "--metrics"].contains(&flags[0]);
        assert!(code == if of_file { 1 } else { 2 }, "{flags:?}: {code} {error}");
        for rust in ["os error", "digit found", "float literal", "is not in", "..", "too large to"]
        {
            assert!(!error.contains(rust), "{flags:?} has {rust:?}: {error}");
        }
    }
    for args in [
        &["generate", "--checkpoint", "x", "--words", "many"][..],
        &["generate", "--checkpoint", "x", "--top-k", "0"],
        &["generate", "--checkpoint", "x", "--temperature", "hot"],
        &["predict", "--checkpoint", "x", "--top", "0"],
        &["eval", "--checkpoint", "x", "--data-path", "sample", "--dynamic", "fast"],
        &["eval", "--checkpoint", "x", "--data-path", "sample", "--cache", "2k"],
        &["import", "x", "--save-path", "y", "--forget-bias", "x"],
        &["score", "--checkpoint", "x", "--unknown-logprob", "x"],
    ] {
        program(args).fails_with(2, &["it must be a"]);
    }
    let args = ["train", "--data-path", "sample", "--use-fp16=x"];
    program(&args).fails_with(2, &["it must be true or false"]);
}

#[test]
fn text_is_wrapped_on_a_terminal_alone() {
    for columns in [80, 50] {
        for command in [
            "train --data-path /no/such/folder",
            "train --data-path sample --num-layers x",
            "train --data-path sample --no-such-flag-as-this-one --and-another-one-of-them",
            "--model small --data-path sample",
            "doctor --data-path /no/such/folder",
            "train --data-path sample --model test --device cpu --threads 1 --max-steps 2 --no-eval",
        ] {
            let (plain, _) = shown(columns, command);
            // A folder of libtorch has no spaces to break at.
            let wide = plain.lines().map(|line| line.rsplit('\r').next().unwrap_or(line));
            let wide = wide.filter(|line| line.trim().contains(' ') && !line.contains(".libtorch"));
            // The lines of the original are as they are.
            let wide = wide.filter(|line| !line.starts_with("Epoch"));
            let wide = wide.filter(|line| line.chars().count() > columns).collect::<Vec<_>>();
            assert_eq!(wide, Vec::<&str>::new(), "{columns}: {command}");
        }
    }
    let (code, error) = program(&["train", "--data-path", "/no/such/folder"]).fails();
    assert_eq!((code, error.lines().count()), (1, 1), "a pipe gets one line: {error}");
}

#[test]
fn the_short_help_of_train_is_a_page() {
    let (page, _) = shown(80, "train -h");
    assert!(page.lines().count() <= 23, "{} lines: {page}", page.lines().count());
    for flag in ["--data-path", "--save-path", "--model", "--num-gpus", "--max-steps", "--help"] {
        assert!(page.contains(flag), "{flag}: {page}");
    }
    let (all, _) = shown(80, "train --help");
    for flag in ["--hidden-size", "--checkpoint-every", "--max-vocab", "--vocab-size"] {
        assert!(all.contains(flag) && !page.contains(flag), "{flag}");
    }
}

/// What a terminal of 80 columns shows at the end, line by line, after all that was cleared.
fn screen(raw: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0usize, 0usize);
    let mut letters = raw.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            '\n' => row += 1,
            // ESC [ number letter
            '\x1b' => {
                let mut number = String::new();
                let end = letters.by_ref().skip(1).find(|c| {
                    number.push(*c);
                    c.is_ascii_alphabetic()
                });
                number.pop();
                let n = number.parse().unwrap_or(1);
                match end {
                    Some('A') => row = row.saturating_sub(n),
                    Some('B') => row += n,
                    Some('G') => column = n - 1,
                    Some('K') if number == "2" => lines[row].clear(),
                    Some('K') => lines[row].truncate(column),
                    _ => {}
                }
            }
            letter => {
                if column == 80 {
                    (row, column) = (row + 1, 0);
                    lines.resize(lines.len().max(row + 1), Vec::new());
                }
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    lines.into_iter().map(|line| String::from_iter(line).trim_end().to_owned()).collect()
}

#[test]
fn ctrl_c_leaves_no_remains_of_the_bar() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    let flags = format!("{} --threads 1 --max-max-epoch 5000", TINY.join(" "));
    let line = format!("{flags} --save-path '{}'", text(&save));
    let mut script = on_a_terminal(80, &line);
    script.env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let (mut keys, mut out) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let (mut raw, mut buffer, mut pressed) = (Vec::new(), [0; 4096], false);
    loop {
        let n = out.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            break;
        }
        raw.extend(&buffer[..n]);
        if !pressed && String::from_utf8_lossy(&raw).contains("ppl ") {
            keys.write_all(b"\x03").unwrap();
            pressed = true;
        }
    }
    script.wait().unwrap();
    let raw = String::from_utf8_lossy(&raw);
    let screen = screen(&raw);
    let said = screen.iter().any(|line| line.starts_with("stopped at epoch "));
    assert!(pressed && said, "{screen:?}");
    for line in &screen {
        assert!(!line.contains('[') && line != "^C", "{line:?} is left: {screen:?}");
    }
}

#[test]
fn score_and_predict_on_a_terminal_say_that_they_wait() {
    for command in ["score", "predict"] {
        let (plain, _) = shown(80, &format!("{command} --checkpoint /no/such/run"));
        assert!(plain.contains("from the terminal; Ctrl-D ends"), "{plain}");
        let (_, error) = program(&[command, "--checkpoint", "/no/such/run"]).fails();
        assert!(!error.contains("terminal"), "{error}");
    }
    let (plain, _) = shown(80, "predict --checkpoint /no/such/run --prompt the");
    assert!(!plain.contains("terminal"), "{plain}");
}

#[test]
fn score_s_lines_fit_80_columns() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    program(&[TINY, &QUICK, &["--save-path", text(&at("run"))]].concat()).works();
    let lines = ["the company said that it would not be able to sell its shares this year\n"; 3];
    fs::write(at("text"), lines.concat() + &"公司表示今年".repeat(9)).unwrap();
    let (out, _) = program(&["score", "--checkpoint", text(&at("run")), text(&at("text"))]).works();
    assert!(out.contains('…'), "{out}");
    for line in out.lines() {
        assert!(console::measure_text_width(line) <= 80, "{line}");
    }
}

#[test]
fn the_bar_says_what_it_does_and_leaves_nothing() {
    let steps = "--max-max-epoch 2 --hidden-size 64 --num-steps 5 --batch-size 20";
    let train = format!("{} --threads 1 {steps}", TINY[..7].join(" "));
    for columns in [80, 50] {
        let (plain, raw) = shown(columns, &train);
        let drawn: Vec<&str> = plain.split(['\r', '\n']).filter(|l| !l.is_empty()).collect();
        let bars = drawn.iter().filter(|line| line.contains('[') && line.contains("epoch "));
        let bars: Vec<&&str> = bars.collect();
        assert!(bars.len() > 3, "{drawn:?}");
        assert!(bars.iter().all(|bar| bar.trim_end().chars().count() <= columns), "{bars:?}");
        let evaluating: Vec<_> = bars.iter().filter(|bar| bar.contains("evaluating ")).collect();
        assert!(evaluating.iter().any(|bar| bar.contains("valid")), "{bars:?}");
        assert!(!evaluating.iter().any(|bar| bar.contains("ppl")), "{evaluating:?}");
        assert!(bars.iter().any(|bar| bar.contains("step ") && bar.contains(" left")), "{bars:?}");
        // The last line of the screen is not a bar.
        assert!(!raw.trim_end().rsplit('\n').next().unwrap().contains('['), "{raw:?}");
    }
}
