//! A model and its words: they leave together, come back together, and a text with other words is
//! refused or, in training, matched word by word. And names that could mean two things.

mod program;

use std::fs;

use program::{Place, metrics, repository, text, texts};
use ptb_word_lm::checkpoint::{Checkpoint, SaveFolder, digest_of};
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

/// A model that was exported into the folder of its run is not taken instead of the run's newest
/// checkpoint. Where the folder has no checkpoint, it is.
#[test]
fn a_run_s_folder_means_its_newest_checkpoint() {
    let place = Place::new();
    place.works("$SMALL --data-path sample --max-steps 2 --save-path run --quiet");
    place.works("export --checkpoint run --format pytorch -o run");
    assert!(place.at("run/model.safetensors").is_file());
    let train = "$SMALL --data-path sample --quiet";
    place.works(&format!("{train} --max-steps 5 --save-path run"));
    let trained = place.checkpoint("run");
    assert_eq!(trained.progress.global_step, 5);
    place.works("import run --save-path in");
    assert_eq!(place.checkpoint("in").variables, trained.variables);
    place.works(&format!("{train} --max-steps 1 --init-from run --save-path begun"));
    let origin = digest_of(&trained.variables).unwrap();
    assert_eq!(place.checkpoint("begun").made.init_from, Some(origin));
    fs::create_dir(place.at("alone")).unwrap();
    let there = ["run", "alone"].map(|folder| place.at(folder).join("model.safetensors"));
    fs::copy(&there[0], &there[1]).unwrap();
    place.works("import alone --save-path old");
    assert_ne!(place.checkpoint("old").variables, trained.variables);
}

/// `--min-count`, and words that no limit left out: import finds limits that give the words.
#[test]
fn any_limits_are_found_again() {
    let place = Place::new();
    place.mk("own", "the cat sat on the mat", "a dog lay on the mat");
    // There are 9 words, so that with --max-vocab 9 one of them gives its place to <unk>.
    for (k, limits) in
        ["--min-count 300", "--max-vocab 4 --min-count 2", "--min-count 1", "--max-vocab 9", ""]
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

/// How the marks in a text are read is part of the run, as the limits are.
#[test]
fn a_run_keeps_how_marks_are_read() {
    let place = Place::new();
    place.mk("own", "<s> the cat sat on a mat </s>", "<s> a dog lay by the <UNK> </s>");
    let train = "$SMALL --data-path own --max-max-epoch 2 --quiet";
    place.works(&format!("{train} --markers map --max-steps 5 --save-path run"));
    let there = "markers is \"map\" there and \"keep\" here";
    let says = [there, "flags to resume it: --markers map"];
    place.fails_with(1, &format!("{train} --save-path run"), &says);
    place.works("train --config run --save-path run --max-steps 6 --quiet");
    let checkpoint = place.checkpoint("run");
    assert_eq!(checkpoint.progress.global_step, 6);
    // A checkpoint that was written before it was recorded.
    let mut run = serde_json::to_value(&checkpoint.run).unwrap();
    assert_eq!(run.as_object_mut().unwrap().remove("markers"), Some("map".into()));
    let run = serde_json::from_value(run).unwrap();
    let old = Checkpoint { run, ..checkpoint };
    SaveFolder::open(&place.at("old"), 1).unwrap().save(&old).unwrap();
    place.works(&format!("{train} --markers map --max-steps 7 --save-path old"));
    assert_eq!(place.checkpoint("old").progress.global_step, 7);

    // What another program's file does not say, a flag says.
    place.works("export --checkpoint run --format tf-npz -o m.npz");
    let import = "import m.npz --save-path";
    place.fails_with(2, &format!("{import} no --markers map"), &["without --data-path"]);
    let unknown = format!("{import} no --data-path own");
    place.fails_with(1, &unknown, &["vocabulary", "--markers map"]);
    place.works(&format!("{import} in --data-path own --markers map"));
    let eval = |run: &str| place.works(&format!("eval --checkpoint {run} --data-path own")).0;
    assert_eq!(test_perplexity(&eval("in")), test_perplexity(&eval("run")));
    place.works(&format!("{import} bare"));
    let unknown = "eval --checkpoint bare --data-path own";
    place.fails_with(1, unknown, &["vocabulary", "--markers map"]);
    assert_eq!(place.works(&format!("{unknown} --markers map")).0, eval("in"));
    // The same of a model whose words are not known.
    tf::write_npz(place.at("m.npz"), &old.variables).unwrap();
    place.fails_with(1, &format!("{import} no --data-path own"), &["has 13; its text", "map"]);
    place.works(&format!("{import} text --data-path own --markers map"));
    assert_eq!(test_perplexity(&eval("text")), test_perplexity(&eval("run")));
    // The flags with which its words were found train it further.
    let says = [there, "vocab_size is 11 there and 13 here", "--markers map"];
    place.fails_with(1, &format!("{train} --save-path text"), &says);
    place.works("import m.npz --save-path lim --data-path own --markers map --max-vocab 11");
    let says = ["max_vocab is 11 there and not set here", "--max-vocab 11, --markers map"];
    place.fails_with(1, &format!("{train} --save-path lim"), &says);
    let flags = "--max-vocab 11 --markers map --max-steps 1 --save-path lim";
    place.works(&format!("{train} {flags}"));
}

/// `--checkpoint` with a file that `import` reads says so; `import` says what it cannot read.
#[test]
fn models_of_other_programs_are_named() {
    use std::io::Write;
    let place = Place::new();
    place.works("$SMALL --data-path sample --max-steps 1 --no-eval --quiet --save-path run");
    place.works("export --checkpoint run --format tf-checkpoint -o m.ckpt-1");
    place.works("export --checkpoint run --format tf-npz -o m.npz");
    let v1 = repository("tests/fixtures/tf_checkpoint/v1/model.ckpt-3");
    for (file, kind) in [
        ("m.ckpt-1", "TensorFlow"),
        ("m.ckpt-1.index", "TensorFlow"),
        ("m.ckpt-1.data-00000-of-00001", "TensorFlow"),
        (text(&v1), "TensorFlow"),
        ("m.npz", ".npz"),
    ] {
        let import = format!("`ptb-word-lm import {file} --save-path RUN` reads it");
        let says = [&format!("{file}: not a checkpoint"), kind, &import];
        for command in ["eval --data-path sample", "score no.txt", "generate"] {
            if command.starts_with("score") {
                fs::write(place.at("no.txt"), "a\n").unwrap();
            }
            place.fails_with(1, &format!("{command} --device cpu --checkpoint {file}"), &says);
        }
    }
    place.fails_with(1, "generate --checkpoint m.ckpt-2", &["no such checkpoint folder"]);

    // What torch.save writes.
    let mut zip = npyz::zip::ZipWriter::new(fs::File::create(place.at("model.pt")).unwrap());
    for name in ["model/data.pkl", "model/data/0"] {
        zip.start_file(name, npyz::zip::write::FileOptions::default()).unwrap();
        zip.write_all(b"\x80\x02}q\x00.").unwrap();
    }
    zip.finish().unwrap();
    for line in ["import model.pt --save-path no", "generate --checkpoint model.pt"] {
        place.fails_with(
            1,
            line,
            &["model.pt: a file of torch.save", "safetensors.torch.save_file"],
        );
    }

    // Where a SavedModel has its variables.
    let inside = place.at("saved/variables");
    fs::create_dir_all(&inside).unwrap();
    for end in ["index", "data-00000-of-00001"] {
        let from = place.at(&format!("m.ckpt-1.{end}"));
        fs::copy(from, inside.join(format!("variables.{end}"))).unwrap();
    }
    place.works("import saved --save-path in");
    assert_eq!(place.checkpoint("in").variables, place.checkpoint("run").variables);
}

/// What a `.safetensors` holds of a type that is not read is reported, unless the model needs it.
#[test]
fn tensors_of_types_that_are_not_read_are_passed_over() {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView};
    let place = Place::new();
    place.works("$SMALL --data-path sample --max-steps 1 --no-eval --quiet --save-path run");
    place.works("export --checkpoint run --format safetensors -o m.safetensors");
    let bytes = fs::read(place.at("m.safetensors")).unwrap();
    let write = |name: &str, dtype| {
        let model = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = model.tensors();
        tensors.retain(|(own, _)| own != name);
        tensors.push((name.to_owned(), TensorView::new(dtype, vec![1], &[0; 8][..8]).unwrap()));
        fs::write(place.at("x.safetensors"), safetensors::serialize(tensors, None).unwrap())
            .unwrap();
    };
    write("counts", Dtype::U64);
    let (_, said) = place.works("import x.safetensors --save-path in");
    assert!(said.contains("not part of the model: counts: its type is U64"), "{said}");
    assert_eq!(place.checkpoint("in").variables, place.checkpoint("run").variables);
    write("Model/softmax_b", Dtype::U64);
    let says = ["\"Model/softmax_b\" is missing", "not read: \"Model/softmax_b\" (its type is U64"];
    place.fails_with(1, "import x.safetensors --save-path no", &says);
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
    // Any line ends are those of a list.
    let list = trained.vocabulary.as_ref().unwrap().to_list();
    for (name, end) in [("mac", "\r"), ("windows", "\r\n")] {
        fs::write(place.at(name), list.replace('\n', end)).unwrap();
        place.works(&format!("import m.npz --save-path {name}.run --vocab {name}"));
        let imported = place.checkpoint(&format!("{name}.run"));
        assert_eq!(imported.vocabulary, trained.vocabulary, "{name}");
    }
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
    // So do the run's flags, also where the file is gone. A new run of them needs it.
    let again = "train --config fine --quiet --save-path";
    fs::rename(place.at("run"), place.at("gone")).unwrap();
    place.works(&format!("{again} fine --max-steps 9"));
    assert_eq!(place.checkpoint("fine").progress.global_step, 9);
    for refused in [format!("{again} new"), format!("{again} fine --init-from run")] {
        place.fails_with(1, &refused, &["--init-from run: "]);
    }
    fs::rename(place.at("gone"), place.at("run")).unwrap();
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
