//! A model and its words: they leave together, come back together, and a text with other words is
//! refused or, in training, matched word by word. And names that could mean two things.

mod program;

use std::fs;

use program::{Place, metrics, repository, text, texts};
use ptb_word_lm::checkpoint::Checkpoint;
use ptb_word_lm::cli::report::tensorboard as events;
use ptb_word_lm::pretrained::{Pretrained, match_rows};
use ptb_word_lm::reader::{Limits, RawData, Vocabulary};
use ptb_word_lm::tf;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

impl Place {
    /// Makes a folder of three texts, each 200 times both lines.
    fn mk(&self, name: &str, first: &str, second: &str) {
        let text = format!("{first}\n{second}\n").repeat(200);
        texts(&self.at(name), [&text; 3]);
    }

    /// Two texts of ten words each, of which they share `<eos>`.
    fn mk_a_and_b(&self) {
        self.mk("A", "the cat sat on the mat", "a dog lay on the rug");
        self.mk("B", "one two three four one six", "seven eight nine ten one six");
    }
}

fn words_of(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.vocabulary.iter().flat_map(Vocabulary::words).map(str::to_owned).collect()
}

/// The last line: `Test Perplexity: ...`.
fn test_perplexity(output: &str) -> &str {
    output.lines().find(|line| line.starts_with("Test Perplexity")).unwrap()
}

/// Out in each format and in again, from each kind of file and from a model that was imported
/// itself: the same variables, the same words, the same perplexity of the limited text.
#[test]
fn an_exported_model_has_its_words() {
    let place = Place::new();
    place.works("$SMALL --data-path sample --max-vocab 50 --max-steps 20 --save-path lim");
    let trained = place.checkpoint("lim");
    let words = words_of(&trained);
    assert_eq!(words.len(), 50);
    let (evaluated, _) = place.works("eval --device cpu --checkpoint lim --data-path sample");
    for (k, (format, file)) in
        [("tf-checkpoint", "m.ckpt-1"), ("tf-npz", "a.npz"), ("safetensors", "a.safetensors")]
            .into_iter()
            .enumerate()
    {
        let mut from = "lim".to_owned();
        for turn in ["first", "second"] {
            let there = place.at("out").join(turn);
            fs::create_dir_all(&there).unwrap();
            let file = format!("out/{turn}/{file}");
            place.works(&format!("export --checkpoint {from} --format {format} -o {file}"));
            // With the data, and without them.
            for (how, data) in [("data", "--data-path sample"), ("alone", "")] {
                let to = format!("{turn}-{how}-{k}");
                place.works(&format!("import {file} --save-path {to} {data}"));
                let imported = place.checkpoint(&to);
                assert_eq!(words_of(&imported), words, "{file} {how}");
                assert_eq!(imported.variables, trained.variables, "{file} {how}");
                let eval = format!("eval --device cpu --checkpoint {to} --data-path sample");
                let (out, _) = place.works(&eval);
                assert_eq!(test_perplexity(&out), test_perplexity(&evaluated), "{file} {how}");
                from = to;
            }
        }
        let generate = format!("generate --device cpu --checkpoint {from} --words 5");
        assert!(!place.works(&generate).0.is_empty());
    }
    let refused = "score --checkpoint out/first/a.safetensors";
    place.fails_with(1, refused, &["not a checkpoint of this program", "`import`"]);
    // The words are where the documents say.
    let list = fs::read_to_string(place.at("out/first/m.ckpt-1.words.txt")).unwrap();
    assert_eq!(list.lines().collect::<Vec<_>>(), words);
    let inside = tf::read_npz_words(place.at("out/first/a.npz")).unwrap().unwrap();
    assert_eq!(String::from_utf8(inside).unwrap(), list);
    // A list of words beside any file is read, by whichever of its names the file is called.
    for name in ["m.ckpt-1.index", "m.ckpt-1.data-00000-of-00001", ""] {
        let read = Pretrained::read(place.at("out/first").join(name), &mut |_| {}).unwrap();
        assert_eq!(read.words.unwrap().to_list(), list, "{name}");
    }
    // A run's folder and its checkpoints are files of this kind, too. They have the configuration.
    place.works("import lim --save-path again");
    place.works("import lim/model-20.safetensors --save-path and-again");
    place.works("import out/first/a.safetensors --save-path third");
    for run in ["again", "and-again", "third"] {
        let imported = place.checkpoint(run);
        assert_eq!((words_of(&imported), &imported.variables), (words.clone(), &trained.variables));
        assert_eq!(imported.run.config, trained.run.config);
        assert_eq!(imported.run.limits, Limits { max_vocab: Some(50), min_count: None });
    }
}

/// `--min-count`, and words that no limit left out: import finds limits that give the words.
#[test]
fn any_limits_are_found_again() {
    let place = Place::new();
    place.mk("own", "the cat sat on the mat", "a dog lay on the mat");
    for (k, limits) in ["--min-count 300", "--max-vocab 4 --min-count 2", "--min-count 1", ""]
        .into_iter()
        .enumerate()
    {
        place.works(&format!(
            "$SMALL --data-path own {limits} --max-steps 3 --save-path run{k} --quiet"
        ));
        place.works(&format!("export --checkpoint run{k} --format tf-checkpoint -o c{k}/m.ckpt"));
        place.works(&format!("import c{k}/m.ckpt --save-path in{k} --data-path own"));
        let (out, _) = place.works(&format!("eval --checkpoint run{k} --data-path own"));
        let (again, _) = place.works(&format!("eval --checkpoint in{k} --data-path own"));
        assert_eq!(test_perplexity(&out), test_perplexity(&again), "{limits}");
        // Without the list, the text with the same flags gives the words.
        fs::remove_file(place.at(&format!("c{k}/m.ckpt.words.txt"))).unwrap();
        place.works(&format!("import c{k}/m.ckpt --save-path text{k} --data-path own {limits}"));
        let (words, trained) = (format!("text{k}"), format!("run{k}"));
        assert_eq!(words_of(&place.checkpoint(&words)), words_of(&place.checkpoint(&trained)));
        let (again, _) = place.works(&format!("eval --checkpoint text{k} --data-path own"));
        assert_eq!(test_perplexity(&out), test_perplexity(&again), "{limits}");
    }
}

#[test]
fn a_text_with_other_words_is_refused() {
    let place = Place::new();
    place.mk_a_and_b();
    place.works("$SMALL --data-path A --max-steps 5 --save-path run --quiet");
    for (format, file) in
        [("tf-npz", "m.npz"), ("safetensors", "m.safetensors"), ("tf-checkpoint", "m.ckpt-5")]
    {
        place.works(&format!("export --checkpoint run --format {format} -o {file}"));
        let first = "word 0 is \"the\" there and \"one\" here";
        place.fails_with(1, &format!("import {file} --save-path no --data-path B"), &[file, first]);
        let sizes = "it has 10 words, and here are 305";
        place.fails_with(
            1,
            &format!("import {file} --save-path no --data-path sample"),
            &[file, sizes],
        );
    }
    place.fails_with(1, "import run --save-path no --data-path B", &["word 0 is \"the\" there"]);
    assert!(!place.at("no").exists());
    place.works("import m.npz --save-path in --data-path A");
    place.fails_with(1, "eval --checkpoint in --data-path B", &["--checkpoint in", "word 0 is"]);
    place.fails_with(1, "eval --checkpoint in --data-path sample", &["it has 10 words", "305"]);
    // The same words with other ranks are the same words.
    place.mk("C", "rug the on lay dog a", "mat mat mat sat cat a");
    let scores = |run: &str, text: &str| {
        let score = format!("score --checkpoint {run} {text}/test.txt");
        place.works(&score).0.lines().last().unwrap().to_owned()
    };
    let (out, _) = place.works("eval --checkpoint in --data-path C");
    let perplexity = test_perplexity(&out).split_once(": ").unwrap().1;
    assert_eq!(scores("in", "C"), format!("Perplexity: {perplexity}"));
}

#[test]
fn lists_of_words_are_checked() {
    let place = Place::new();
    place.mk_a_and_b();
    place.works("$SMALL --data-path A --max-steps 5 --save-path run --quiet");
    let trained = place.checkpoint("run");
    // As another program writes it.
    tf::write_npz(place.at("m.npz"), &trained.variables).unwrap();
    place.works("import m.npz --save-path wordless");
    place.fails_with(1, "generate --checkpoint wordless", &["--vocab", "--data-path"]);
    let says = ["the model has 10 words", "--data-path sample has 305", "--vocab"];
    place.fails_with(1, "eval --checkpoint wordless --data-path sample", &says);
    let says = [&says[..], &["--max-vocab", "--min-count"]].concat();
    place.fails_with(1, "import m.npz --save-path no --data-path sample", &says);
    let (_, said) = place.works("export --checkpoint wordless --format tf-npz -o w.npz");
    assert!(said.contains("its words are not known"), "{said}");

    let words = words_of(&trained);
    let list = |words: &[String], end: &str| -> String {
        words.iter().flat_map(|word| [word.as_str(), end]).collect()
    };
    let plain = list(&words, "\n");
    for (k, text) in [
        plain.clone(),
        plain.trim_end().to_owned(),
        format!("{plain}\n\n"),
        format!("\u{feff}{}", list(&words, "\r\n")),
    ]
    .iter()
    .enumerate()
    {
        fs::write(place.at("v.txt"), text).unwrap();
        place.works(&format!("import m.npz --vocab v.txt --save-path in{k}"));
        let imported = format!("in{k}");
        assert_eq!(words_of(&place.checkpoint(&imported)), words);
        place.works(&format!("eval --checkpoint in{k} --data-path A"));
        // The same beside the file.
        fs::rename(place.at("v.txt"), place.at("m.npz.words.txt")).unwrap();
        place.works(&format!("import m.npz --save-path beside{k}"));
        let imported = format!("beside{k}");
        assert_eq!(words_of(&place.checkpoint(&imported)), words);
        fs::remove_file(place.at("m.npz.words.txt")).unwrap();
    }
    for (text, says) in [
        (list(&words[1..], "\n"), "a list of 9 words for a model of 10 words"),
        (format!("{plain}more\n"), "a list of 11 words for a model of 10 words"),
        (plain.replacen('\n', "\n\n", 1), "line 2 is blank"),
        (plain.replacen("cat\n", "cat 400\n", 1), "has 2 words, \"cat 400\""),
        (plain.replacen("cat\n", "the\n", 1), "has the word \"the\" of line 1 again"),
        ("\u{1f}\u{8b}".into(), "a list of"),
        (String::new(), "a list of 0 words"),
        ("one\n".into(), "a list of 1 word;"),
    ] {
        fs::write(place.at("v.txt"), text).unwrap();
        place.fails_with(1, "import m.npz --save-path no --vocab v.txt", &["v.txt", says]);
    }
    fs::write(place.at("v.txt"), b"\x1f\x8b\x08\x00").unwrap();
    place.fails_with(1, "import m.npz --save-path no --vocab v.txt", &["v.txt", "gzip"]);
    place.fails_with(1, "import m.npz --save-path no --vocab nowhere", &["--vocab", "nowhere"]);
    // A list beside the words inside: they must agree.
    place.works("export --checkpoint run --format tf-npz -o own.npz");
    fs::write(place.at("v.txt"), plain.replacen("cat", "fox", 1)).unwrap();
    place.fails_with(
        1,
        "import own.npz --save-path no --vocab v.txt",
        &["\"cat\" there and \"fox\""],
    );
    place.fails_with(
        2,
        "import own.npz --save-path no --max-vocab 5",
        &["--max-vocab", "--data-path"],
    );
    // Words of an earlier model do not stay beside one whose words are not known.
    place.works("export --checkpoint run --format tf-checkpoint -o m.ckpt");
    assert!(place.at("m.ckpt.words.txt").exists());
    place.works("export --checkpoint wordless --format tf-checkpoint -o m.ckpt");
    assert!(!place.at("m.ckpt.words.txt").exists());
}

/// Rows are matched by word: what the model knows is kept to the bit, the rest is what a new model
/// begins with.
#[test]
fn rows_are_matched_by_word() {
    let numbers = |sizes: &[i64], from: f64| {
        Tensor::arange(sizes.iter().product::<i64>(), (Kind::Float, Device::Cpu)).reshape(sizes)
            + from
    };
    let names = ["Model/embedding", "Model/softmax_w", "Model/softmax_b", "Model/RNN/x/kernel"];
    let variables = |words: i64, from: f64| -> tf::Variables {
        let sizes = [vec![words, 2], vec![2, words], vec![words], vec![4, 8]];
        names.iter().zip(sizes).map(|(name, size)| ((*name).into(), numbers(&size, from))).collect()
    };
    let [old, new] = [["a", "b", "c"], ["c", "x", "a"]].map(Vocabulary::from_words);
    let mut known = variables(3, 0.0);
    known.insert("Model/embedding/Adam".into(), numbers(&[3, 2], 50.0));
    let (matched, unknown) = match_rows(&known, &old, &new, &variables(3, 100.0)).unwrap();
    assert_eq!(unknown, 1);
    let row = |name: &str| Vec::<f32>::try_from(matched[name].flatten(0, -1)).unwrap();
    assert_eq!(row("Model/embedding"), [4., 5., 102., 103., 0., 1.]);
    assert_eq!(row("Model/softmax_w"), [2., 101., 0., 5., 104., 3.]);
    assert_eq!(row("Model/softmax_b"), [2., 101., 0.]);
    assert_eq!(row("Model/embedding/Adam"), [54., 55., 0., 0., 50., 51.]);
    assert_eq!(matched["Model/RNN/x/kernel"], known["Model/RNN/x/kernel"]);
    // Fewer words, more words, no known word.
    for (words, expected) in [(vec!["b"], 0), (vec!["b", "y", "c", "z"], 2), (vec!["y", "z"], 2)] {
        let words = Vocabulary::from_words(words);
        let count = words.len() as i64;
        let (matched, unknown) = match_rows(&known, &old, &words, &variables(count, 7.0)).unwrap();
        assert_eq!((unknown, matched["Model/softmax_w"].size()), (expected, vec![2, count]));
    }
    let error = match_rows(&variables(4, 0.0), &old, &new, &known).unwrap_err().to_string();
    assert!(error.contains("4 rows, but there are 3 words"), "{error}");
}

/// `--init-from` in each of its forms, on the same text and on another; resumed as well.
#[test]
fn training_goes_on_with_another_text() {
    let place = Place::new();
    place.mk_a_and_b();
    place.mk("A2", "the cat sat on the mat", "a bird sang on the mat");
    place.works("$SMALL --data-path A --max-steps 20 --save-path run --quiet");
    let (trained, _) = place.works("eval --checkpoint run --data-path A");
    for format in ["tf-npz", "safetensors", "tf-checkpoint"] {
        // The kind of a file is known whatever its name.
        let file = if format == "tf-checkpoint" { "m" } else { format };
        place.works(&format!("export --checkpoint run --format {format} -o {file}"));
        let start = |data: &str| {
            place.works(&format!("$SMALL --data-path {data} --init-from {file} --max-steps 0"))
        };
        let (out, said) = start("A");
        assert!(!said.contains("another vocabulary"), "{said}");
        assert_eq!(test_perplexity(&out), test_perplexity(&trained), "{file}");
        let (_, said) = start("A2");
        let says = "has another vocabulary, of 10 words; rows are matched by word, and 2 of the 9 \
                    words of the training text are not in it and begin at random";
        assert!(said.contains(says), "{said}");
    }
    for from in ["run", "run/model-13.safetensors", "tf-npz"] {
        let (_, said) =
            place.works(&format!("$SMALL --data-path B --init-from {from} --max-steps 0"));
        assert!(said.contains("and 9 of the 10 words"), "{said}");
    }
    // The same command resumes it.
    let fine = "$SMALL --data-path A2 --init-from run --save-path fine --max-steps";
    place.works(&format!("{fine} 5"));
    let (_, said) = place.works(&format!("{fine} 8"));
    assert!(said.contains("resuming at epoch 1, step 5"), "{said}");
    place.works(&fine.replace("fine", "whole").replace("--max-steps", "--max-steps 8"));
    assert_eq!(place.checkpoint("fine").variables, place.checkpoint("whole").variables);
    // Without words, the rows must be as many.
    tf::write_npz(place.at("w.npz"), &place.checkpoint("run").variables).unwrap();
    place.works("$SMALL --data-path B --init-from w.npz --max-steps 0");
    place.fails_with(
        1,
        "$SMALL --data-path sample --init-from w.npz",
        &["--init-from w.npz: the file holds 10 words", "has 305", "--vocab", "--max-vocab"],
    );
}

#[test]
fn the_sample_corpus_with_limits() {
    let place = Place::new();
    for limits in ["--max-vocab 50", "--min-count 40", "--min-count 1"] {
        let (out, said) =
            place.works(&format!("$SMALL --data-path sample {limits} --max-steps 2 --save-path r"));
        assert!(out.ends_with("Saving model to r.\n"), "{out}");
        // Its best perplexity is known for all of its words.
        assert_eq!(said.contains("has a known source"), limits == "--min-count 1", "{said}");
        fs::remove_dir_all(place.at("r")).unwrap();
    }
}

/// A model of other sizes is described, with the flags that fit it.
#[test]
fn what_a_file_holds_is_said() {
    let place = Place::new();
    place.mk("own", "the cat sat on the mat", "a dog lay on the mat");
    let train = "train --device cpu --data-path own --max-steps 1 --no-eval --quiet --save-path";
    place.works(&format!("{train} tiny --model test"));
    place.works(&format!("{train} wide --model test --num-steps 5 --hidden-size 200"));
    place.works(&format!("{train} gru --model test --cell gru"));
    place.works("export --checkpoint tiny --format tf-checkpoint -o tiny.ckpt");
    let from = "train --device cpu --data-path own --init-from";
    for (flags, says) in [
        (
            "tiny.ckpt",
            "the file holds 1 layer of 2 units: --model test or --hidden-size 2 --num-layers 1",
        ),
        ("tiny --model large", "the file holds 1 layer of 2 units: --model test or"),
        ("wide", "the file holds 1 layer of 200 units: --hidden-size 200 --num-layers 1"),
        ("gru --model test", "the file holds 1 layer of 2 units in gru_cells: --cell gru\n"),
        ("gru", "in gru_cells: --cell gru and --model test or --hidden-size 2 --num-layers 1"),
    ] {
        place.fails_with(1, &format!("{from} {flags}"), &["--init-from", says]);
    }
    // An object-based file's own entries are not variables.
    let object = repository("tests/fixtures/tf_checkpoint/object");
    let import = format!("import {} --save-path no", object.display());
    let said = place.fails_with(1, &import, &["\"Model/softmax_b\" [5], "]);
    for own in ["OBJECT_GRAPH", "ATTRIBUTES", "save_counter"] {
        assert!(!said.contains(own), "{own}: {said}");
    }
}

#[test]
fn a_folder_of_the_sample_corpus_s_name() {
    let place = Place::new();
    let train = "$SMALL --max-steps 1 --no-eval --data-path";
    let (_, said) = place.works(&format!("{train} sample"));
    assert!(!said.contains("./sample"), "{said}");
    place.mk("sample", "one two three", "four five");
    let (_, said) = place.works(&format!("{train} sample --save-path run"));
    let says = "`sample` is the corpus inside this program; the folder of this name is ./sample\n";
    assert!(said.contains(says) && said.contains("305 words"), "{said}");
    let (_, said) = place.works("eval --checkpoint run --data-path sample");
    assert!(said.contains(says), "{said}");
    let (_, said) = place.works(&format!("{train} ./sample"));
    assert!(!said.contains(says) && said.contains("6 words"), "{said}");
}

/// The original continues such a folder.
#[test]
fn a_save_path_with_checkpoints_of_tensorflow_s() {
    let place = Place::new();
    let train = "$SMALL --data-path sample --max-steps 1 --no-eval --save_path";
    for (folder, file) in [("a", "checkpoint"), ("b", "model.ckpt-7.index")] {
        fs::create_dir(place.at(folder)).unwrap();
        fs::write(place.at(folder).join(file), "").unwrap();
        let says = format!("--save-path {folder}: it holds checkpoints of TensorFlow's ({file})");
        place.fails_with(1, &format!("{train} {folder}"), &[&says, "`import", "--init-from"]);
        assert_eq!(fs::read_dir(place.at(folder)).unwrap().count(), 1);
    }
    // In a run's folder it is resumed.
    place.works(&format!("{train} run"));
    place.works("export --checkpoint run --format tf-checkpoint -o run/model.ckpt-1");
    let (_, said) = place.works(&format!("{train} run"));
    assert!(said.contains("resuming"), "{said}");
}

#[test]
fn a_packed_text_is_named() {
    let place = Place::new();
    place.mk("own", "the cat sat on the mat", "a dog lay on the mat");
    place.works("$SMALL --data-path own --max-steps 1 --no-eval --quiet --save-path run");
    for (bytes, says) in [
        (&b"\x1f\x8b\x08\x08 gzip"[..], "packed by gzip. Unpack it first, e.g. with gunzip"),
        (b"\x28\xb5\x2f\xfd zstd", "packed by zstd"),
        (b"PK\x03\x04 zip", "packed by zip"),
    ] {
        fs::write(place.at("own/train.txt"), bytes).unwrap();
        place.fails_with(1, "$SMALL --data-path own", &["own/train.txt", says]);
        place.fails_with(1, "score --checkpoint run own/train.txt", &["own/train.txt", says]);
    }
}

#[test]
fn flags_in_a_file_with_a_byte_order_mark() {
    let place = Place::new();
    let flags = r#"{"model": "test", "device": "cpu", "data_path": "sample", "max_steps": 1,
        "no_eval": true}"#;
    fs::write(place.at("flags.json"), format!("\u{feff}{flags}")).unwrap();
    place.works("train --config flags.json");
}

/// What a `.npz` holds besides numbers is reported.
#[test]
fn arrays_of_text_are_passed_over() {
    use std::io::Write;
    let place = Place::new();
    place.works("$SMALL --data-path sample --max-steps 1 --no-eval --quiet --save-path run");
    place.works("export --checkpoint run --format tf-npz -o m.npz");
    // As numpy.savez writes them: numpy.array(["a", "bc"]), and one of Python's objects.
    let mut zip = npyz::zip::ZipWriter::new_append(
        fs::File::options().read(true).write(true).open(place.at("m.npz")).unwrap(),
    )
    .unwrap();
    let text = "a\0bc".encode_utf16().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (name, dtype, data) in [("names", "<U2", text), ("any", "|O", b"\x80\x03]".to_vec())] {
        let header = format!(
            "{:<117}\n",
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': (2,), }}")
        );
        let start = [&b"\x93NUMPY\x01\x00"[..], &118u16.to_le_bytes()].concat();
        zip.start_file(format!("{name}.npy"), npyz::zip::write::FileOptions::default()).unwrap();
        zip.write_all(&[start, header.into_bytes(), data].concat()).unwrap();
    }
    zip.finish().unwrap();
    let notes = [
        "m.npz: not part of the model: names: its dtype is '<U2'",
        "m.npz: not part of the model: any: its dtype is '|O'",
    ];
    let (_, imported) = place.works("import m.npz --save-path in --data-path sample");
    let (_, started) = place.works("$SMALL --data-path sample --init-from m.npz --max-steps 0");
    for said in [imported, started] {
        assert!(notes.iter().all(|note| said.contains(note)), "{said}");
    }
    assert_eq!(place.checkpoint("in").variables, place.checkpoint("run").variables);
}

/// A perplexity that is too large for a number has a cost all the same.
#[test]
fn a_perplexity_that_overflows_has_a_cost() {
    let place = Place::new();
    place.mk("own", "the cat sat on the mat", "a dog lay on the mat");
    place.works(
        "$SMALL --data-path own --init-scale 100000 --learning-rate 0.000001 --max-steps 3 \
         --save-path run",
    );
    let events = metrics(&place.at("run"));
    let valid = events.iter().find(|line| line["split"] == "valid").unwrap();
    assert!(valid["perplexity"].is_null(), "{valid}");
    let cost = valid["cost_per_word"].as_f64().unwrap();
    assert!(cost > 710.0, "{cost}");
    let files = events::files(&place.at("run")).unwrap();
    let scalars = events::read(&files[0]).unwrap();
    let loss = scalars.iter().find(|s| s.tag == "Valid/Validation_Loss").unwrap().value;
    assert!((f64::from(loss) / (10.0 * cost) - 1.0).abs() < 1e-6, "{loss} {cost}");
    let (table, _) = place.works("compare run");
    let row = table.lines().find(|line| line.starts_with("run ")).unwrap();
    assert!(row.contains(&format!("e^{cost:.1e}")) && !row.contains("nan"), "{table}");
    assert!(table.contains("nats a word"), "{table}");
    let (json, _) = place.works("compare run --format json");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["runs"][0]["cost_per_word"]["valid"], valid["cost_per_word"]);
}

/// The same through the library.
#[test]
fn texts_are_renumbered_for_a_model() {
    let place = Place::new();
    place.mk("own", "b a b", "c b");
    let mut data = RawData::read(text(&place.at("own"))).unwrap();
    let before: Vec<String> = data.train.tokens[..7]
        .iter()
        .map(|&id| data.vocabulary.word(id).unwrap().to_owned())
        .collect();
    let model = Vocabulary::from_words(["c", "<eos>", "a", "b"]);
    assert!(model.has_words_of(&data.vocabulary) && model != data.vocabulary);
    data.renumber(&model).unwrap();
    assert_eq!(data.train.tokens[..7], [3, 2, 3, 1, 0, 3, 1]);
    let after: Vec<&str> =
        data.train.tokens[..7].iter().map(|&id| data.vocabulary.word(id).unwrap()).collect();
    assert_eq!(before, after);
    let error = data.renumber(&Vocabulary::from_words(["a", "b"])).unwrap_err().to_string();
    assert!(error.contains("\"c\" is not in the vocabulary"), "{error}");
}

/// What the documents' tables have of commands is in the blocks that tests/docs.rs runs.
#[test]
fn commands_in_tables_are_run() {
    for name in ["own-text.md", "tensorflow-users.md"] {
        let path = repository("docs").join(name);
        let text = fs::read_to_string(path).unwrap();
        let blocks = text.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        let run: Vec<&str> = blocks.flat_map(str::lines).collect();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        let commands: Vec<&str> = rows
            .flat_map(|row| row.split('`').skip(1).step_by(2))
            .filter(|code| code.starts_with("ptb-word-lm "))
            .collect();
        assert!(commands.len() > 5, "{name}: {commands:?}");
        for command in commands {
            assert!(run.contains(&command), "{name}: {command}");
        }
    }
}
