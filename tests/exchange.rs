//! What goes out to other programs and comes in from them besides TensorFlow's variables, through
//! the program: Adam's slots, the forget gates' bias, and models under PyTorch's names.

#[allow(dead_code)]
mod golden_file;
mod program;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use golden_file::Golden;
use program::{Expect, Place, json_lines, metrics, repository, texts};
use ptb_word_lm::checkpoint::{from_safetensors, to_safetensors};
use ptb_word_lm::config::RnnMode;
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::reader::RawData;
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::session::{Input, evaluate};
use ptb_word_lm::tf::{self, Variables};
use tch::{Device, Kind, Tensor};

/// The tiny run with every step in its metrics; and that run by Adam.
const TRAIN: &str = "$TINY --no-eval --log-every 1";
const ADAM: &str =
    "$TINY --no-eval --log-every 1 --optimizer adam --learning-rate 0.01 --max-epoch 5";

impl Place {
    /// Runs something that must succeed, and say this on standard error.
    fn says(&self, line: &str, says: &str) {
        let (_, errors) = self.works(line);
        assert!(errors.contains(says), "{line} should say {says:?}: {errors}");
    }

    fn read(&self, file: &str) -> Variables {
        tf::read(self.at(file)).unwrap().variables
    }

    /// A figure of each step in the metrics of a save path, from a step of the run on.
    fn steps(&self, save: &str, from: i64, name: &str) -> Vec<f64> {
        let events = metrics(&self.at(save)).into_iter();
        let steps =
            events.filter(|e| e["event"] == "step" && e["global_step"].as_i64().unwrap() >= from);
        steps.map(|step| step[name].as_f64().unwrap()).collect()
    }
}

/// Asserts that two tensors differ by no more than so much of the largest value.
fn assert_close(ours: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let scale = expected.abs().max().double_value(&[]).max(1e-12);
    let difference = (ours - expected).abs().max().double_value(&[]) / scale;
    assert!(difference < tolerance, "{what}: {difference:e}");
}

/// A golden run as someone from outside would repeat it: a text made of its tokens, and its
/// variables by `--init-from`.
///
/// The program gives the words other ids, by how often they occur, so the rows of the variables are
/// put in that order.
struct Outside {
    /// Id in the golden file, by id in the program.
    order: Tensor,
    folder: Place,
}

impl Outside {
    fn new(golden: &Golden) -> Self {
        let folder = Place::new();
        let tokens = Vec::<i64>::try_from(golden.arrays["tokens"].flatten(0, -1)).unwrap();
        let count = |id: &i64| tokens.iter().filter(|token| *token == id).count();
        let mut order: Vec<i64> = (0..golden.config.vocab_size).collect();
        order.sort_by_key(|id| (std::cmp::Reverse(count(id)), *id));
        // What fills no whole column of the batch is not trained on. Words that do not occur in the
        // tokens are put there.
        let absent = order.iter().filter(|id| count(id) == 0);
        assert!((absent.clone().count() as i64) < golden.config.batch_size, "{}", golden.name);
        let words = tokens.iter().chain(absent).map(|id| format!(" w{id:06}")).collect::<String>();
        texts(&folder.at(""), [&words; 3]);
        let outside = Outside { order: Tensor::from_slice(&order), folder };
        let init = outside.reordered(golden.group("init"), &outside.order);
        tf::write_npz(outside.folder.at("w.npz"), &init).unwrap();
        outside
    }

    fn reordered(&self, variables: Variables, order: &Tensor) -> Variables {
        let reordered = |(name, tensor): (String, Tensor)| {
            let tensor = match name.split('/').nth(1) {
                Some("embedding" | "softmax_b") => tensor.index_select(0, order),
                Some("softmax_w") => tensor.index_select(1, order),
                _ => tensor,
            };
            (name, tensor)
        };
        variables.into_iter().map(reordered).collect()
    }
}

/// Adam's golden files through the command line, in all modes: costs and norms by the metrics,
/// variables and slots by the checkpoint.
#[test]
fn golden_runs_of_adam_from_outside() {
    let goldens: Vec<Golden> = Golden::read_all().into_iter().filter(Golden::is_adam).collect();
    assert!(!goldens.is_empty() || std::env::var_os("GOLDEN").is_some(), "no golden file of Adam");
    for golden in &goldens {
        let outside = Outside::new(golden);
        let (folder, config) = (&outside.folder, &golden.config);
        for mode in ["basic", "block", "cudnn"] {
            let train = format!(
                "train --optimizer adam --init-from w.npz --learning-rate {} --max-grad-norm {} \
                 --hidden-size {} --num-layers {} --num-steps {} --batch-size {} --rnn-mode {mode} \
                 --data-path . --save-path {mode} --max-max-epoch 1 --no-eval --log-every 1 \
                 --device cpu",
                config.learning_rate,
                config.max_grad_norm,
                config.hidden_size,
                config.num_layers,
                config.num_steps,
                config.batch_size,
            );
            folder.says(&train, "no slots of Adam in it; they start at zero");
            for name in ["cost", "global_norm"] {
                let ours = folder.steps(mode, 0, name);
                assert_eq!(ours.len() as i64, golden.steps);
                for (k, ours) in ours.iter().enumerate() {
                    let off = (ours / golden.at(name, k as i64) - 1.0).abs();
                    assert!(
                        off < 1e-5,
                        "{} {mode} step {k}: {name} is off by {off:e}",
                        golden.name
                    );
                }
            }
            let trained = outside
                .reordered(folder.checkpoint(mode).variables, &outside.order.argsort(0, false));
            for (group, suffix) in [("final", ""), ("final_m", "/Adam"), ("final_v", "/Adam_1")] {
                for (name, expected) in golden.group(group) {
                    let ours = &trained[&(name.clone() + suffix)];
                    assert_close(
                        ours,
                        &expected,
                        1e-5,
                        &format!("{} {mode} {group}/{name}", golden.name),
                    );
                }
            }
            for power in ["beta1_power", "beta2_power"] {
                assert_close(&trained[power], &golden.arrays[power], 1e-6, power);
            }
        }
    }
}

/// A run of Adam that is exported after its first epoch, and continues in four ways: it is resumed,
/// the export starts another run in either format, the export is imported and resumed. All are the
/// same run to the last bit.
#[test]
fn adam_continues_from_what_was_exported() {
    let folder = Place::new();
    let train = ADAM;
    folder.works(&format!("{train} --max-max-epoch 1 --save-path run"));
    let first = folder.checkpoint("run");
    let epoch_size = first.progress.global_step;
    for (format, name) in [("tf-npz", "x.npz"), ("tf-checkpoint", "x.ckpt")] {
        let (out, _) =
            folder.works(&format!("export --checkpoint run --format {format} -o {name}"));
        for slot in ["Model/Model/embedding/Adam_1", "Train/Model/beta2_power"] {
            assert!(out.contains(slot), "{out}");
        }
        let model = tf::Model::read(folder.at(name)).unwrap();
        assert_eq!(model.missing_slot(), None);
        let all: Variables = model.variables.into_iter().chain(model.slots).collect();
        assert_eq!(all, first.variables, "{format}");
    }
    let end = epoch_size + 10;
    folder.works(&format!("{train} --max-max-epoch 2 --max-steps {end} --save-path run"));
    let expected = folder.steps("run", epoch_size, "cost");
    assert_eq!(expected.len(), 10);

    let ten = format!("{train} --max-steps 10");
    for name in ["x.npz", "x.ckpt"] {
        let line = format!("{ten} --init-from {name} --save-path from_{name}");
        folder.says(&line, "Adam continues from the slots in it");
        assert_eq!(folder.steps(&format!("from_{name}"), 0, "cost"), expected, "{name}");
    }
    let import = "import --data-path sample --model test --save-path";
    folder.says(&format!("{import} imported x.ckpt"), "Adam continues from the slots in it");
    // It is not continued by another optimizer, but with whatever else suits the run.
    let says = ["optimizer is \"adam\" there and \"sgd\" here"];
    folder.fails_with(1, &format!("{TRAIN} --save-path imported"), &says);
    folder.works(&format!("{ten} --save-path imported"));
    assert_eq!(folder.steps("imported", 0, "cost"), expected);

    // Without the slots it is another run from the second step on.
    let mut variables = first.variables;
    variables.retain(|name, _| !name.contains("Adam") && !name.contains("power"));
    tf::write_npz(folder.at("plain.npz"), &variables).unwrap();
    let none = "no slots of Adam in it; they start at zero";
    folder.says(&format!("{ten} --init-from plain.npz --save-path plain"), none);
    let other = folder.steps("plain", 0, "cost");
    assert!(other[0] == expected[0] && other[9] != expected[9], "{other:?} {expected:?}");
    let (_, said) = folder.works(&format!("{import} bare plain.npz"));
    assert!(!said.contains("Adam"), "{said}");
    let says = "bare: there are no slots of Adam; they start at zero";
    folder.says(&format!("{ten} --save-path bare"), says);
    assert_eq!(folder.steps("bare", 0, "cost"), other);

    // Gradient descent needs none, and says so.
    let line = format!("{TRAIN} --max-steps 1 --init-from x.npz --save-path by_sgd");
    folder.says(&line, "Adam's slots in it are left out");
    // Slots that are not all there are not continued from.
    let mut slots = folder.read("x.npz");
    slots.remove("Model/Model/softmax_b/Adam");
    tf::write_npz(folder.at("part.npz"), &slots).unwrap();
    let says = "only some of Adam's slots are in it; \"Model/softmax_b/Adam\" is missing";
    let line = format!("{ten} --init-from part.npz --save-path no");
    folder.fails_with(1, &line, &["--init-from part.npz", says]);
    folder.fails_with(
        1,
        &format!("{import} part part.npz"),
        &["part.npz", says, "--optimizer sgd"],
    );
    for (file, save) in [("part.npz", "part"), ("x.npz", "plain_from_x")] {
        let line = format!("{import} {save} {file} --optimizer sgd");
        folder.says(&line, "Adam's slots in it are left out");
        assert!(!folder.checkpoint(save).has_slots());
    }
    folder.works(&format!("{TRAIN} --max-steps 1 --save-path plain_from_x"));
}

/// What TensorFlow 1.15 saved of the example trained by Adam is imported with its slots, and
/// exported under the same names.
#[test]
fn tensorflow_s_slots_come_in_and_go_out() {
    let folder = Place::new();
    symlink(repository("tests/fixtures/tf_checkpoint/ptb_adam"), folder.at("tensorflow")).unwrap();
    folder.works("import tensorflow --save-path run --model test");
    folder.works("export --checkpoint run --format tf-checkpoint -o model.ckpt");
    let [ours, mut theirs] = ["model.ckpt", "tensorflow"].map(|path| folder.read(path));
    // A model that no run trained is at step 0, and its learning rate is the configuration's.
    theirs.insert("Model/global_step".into(), Tensor::from(0i64));
    theirs.insert("Train/Model/Variable".into(), Tensor::from(1f32));
    assert_eq!(ours, theirs);
}

/// The test perplexity of a model with this forget_bias, by the plain evaluation in basic mode.
fn perplexity(variables: &Variables, forget_bias: f64) -> f64 {
    let data = RawData::read("sample").unwrap();
    let shapes = tf::Shapes::of(variables).unwrap();
    let mut config = ptb_word_lm::config::Model::Test.config();
    (config.hidden_size, config.num_layers) = (shapes.hidden_size, shapes.num_layers);
    (config.vocab_size, config.forget_bias) = (shapes.vocab_size, forget_bias);
    let made =
        PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0).unwrap();
    made.assign(variables).unwrap();
    let input = Input::new(&data, &made).unwrap();
    evaluate(&PtbModel::new(&made, false, RnnMode::Basic), &input.test).unwrap().perplexity
}

/// `forget_bias` is no variable, and yet stays with the model: flag, checkpoint, export, import.
#[test]
fn forget_bias_is_kept_with_the_model() {
    let folder = Place::new();
    let train = format!("{TRAIN} --max-steps 30");
    let import = "import --data-path sample --save-path";
    let of = |save: &str| folder.checkpoint(save).run.config.forget_bias;
    folder.works(&format!("{train} --save-path plain"));
    folder.works("export --checkpoint plain --format tf-npz -o plain.npz");
    assert!(
        !folder.read("plain.npz").contains_key("Model/forget_bias"),
        "the original's 0 is not written"
    );

    // Imported: assumed, given, known.
    let assumed = "plain.npz: its forget_bias is not in the file and is taken to be 0, as";
    folder.says(&format!("{import} assumed plain.npz"), assumed);
    let given = "plain.npz: its forget_bias is taken to be 0.1 (--forget-bias)";
    folder.says(&format!("{import} given plain.npz --forget-bias 0.1"), given);
    assert_eq!([of("assumed"), of("given")], [0.0, 0.1]);
    for (format, file) in [("tf-npz", "known.npz"), ("tf-checkpoint", "known.ckpt")] {
        let (out, _) =
            folder.works(&format!("export --checkpoint given --format {format} -o {file}"));
        assert!(out.contains("Model/forget_bias"), "{out}");
        let (_, said) = folder.works(&format!("{import} {format} {file}"));
        assert!(said.contains(&format!("{file}: its forget_bias is 0.1")), "{said}");
        assert!(!said.contains("not part of the model: Model/forget_bias"), "{said}");
        folder.works(&format!("{import} both_{format} {file} --forget-bias=0.1"));
        assert_eq!([of(format), of(&format!("both_{format}"))], [0.1, 0.1]);
        let says = ["its forget_bias is 0.1, but --forget-bias is 1"];
        folder.fails_with(1, &format!("{import} no {file} --forget-bias 1"), &says);
        let line = format!("{train} --init-from {file} --save-path never --forget-bias 1");
        folder.fails_with(1, &line, &says);
    }
    // A checkpoint of this program says it, and brings its words.
    let line = "import given/model-0.safetensors --save-path copied";
    folder.says(line, "given/model-0.safetensors: its forget_bias is 0.1");
    assert_eq!(of("copied"), 0.1);
    assert_eq!(folder.checkpoint("copied").vocabulary, folder.checkpoint("given").vocabulary);
    // Another program may have written it as a float32.
    let mut narrow = folder.read("known.npz");
    narrow.insert("Model/forget_bias".into(), Tensor::from(0.1f32));
    tf::write_npz(folder.at("narrow.npz"), &narrow).unwrap();
    folder.works(&format!("{import} narrow narrow.npz --forget-bias 0.1"));
    assert_eq!(of("narrow"), 0.1);
    folder.fails_with(
        2,
        &format!("{import} no plain.npz --forget-bias nan"),
        &["--forget-bias is NaN"],
    );

    // It is computed with: `eval` agrees with the plain evaluation.
    for (save, forget_bias) in [("assumed", 0.0), ("given", 0.1), ("tf-npz", 0.1)] {
        let (out, _) =
            folder.works(&format!("eval --checkpoint {save} --data-path sample --device cpu"));
        let (_, ours) = out.trim().rsplit_once("Test Perplexity: ").unwrap();
        let expected = perplexity(&folder.checkpoint(save).variables, forget_bias);
        assert!((ours.parse::<f64>().unwrap() / expected - 1.0).abs() < 1e-5, "{ours} {expected}");
    }
    let [assumed_bias, given_bias] =
        [0.0, 0.1].map(|b| perplexity(&folder.checkpoint("plain").variables, b));
    assert!((assumed_bias / given_bias - 1.0).abs() > 1e-4, "{assumed_bias} {given_bias}");

    // Training goes on with it, without the flag too, and not against it.
    let known = format!("{train} --init-from known.npz --save-path trained");
    folder.says(&known, "known.npz: its forget_bias is 0.1");
    folder.works(&known);
    for flags in ["--forget-bias 0.1", ""] {
        folder.works(&format!("{train} --save-path trained {flags}"));
        assert_eq!(of("trained"), 0.1);
    }
    let says = ["forget_bias is 0.1 there and 0.0 here"];
    folder.fails_with(1, &format!("{train} --save-path trained --forget-bias 0"), &says);
    // The run of its metrics is the same run.
    folder.works("train --config trained --save-path again");
    assert_eq!(of("again"), 0.1);
    assert_eq!(folder.checkpoint("again").variables, folder.checkpoint("trained").variables);
    folder.says(&format!("{train} --init-from plain.npz --save-path fresh"), assumed);
    // An imported model is trained on as it is, too.
    folder.works(&format!("{train} --save-path given"));
    assert_eq!(folder.checkpoint("given").variables, folder.checkpoint("trained").variables);
}

/// Cells without a forget gate: the flag is refused, and nothing is assumed of them.
#[test]
fn forget_bias_is_for_lstms() {
    let folder = Place::new();
    for cell in ["gru", "basic_rnn"] {
        let train = format!("{TRAIN} --cell {cell} --max-steps 2 --threads 1");
        folder.works(&format!("{train} --save-path {cell}"));
        folder.works(&format!("export --checkpoint {cell} --format tf-npz -o {cell}.npz"));
        let import = format!("import {cell}.npz --save-path imported_{cell}");
        let says = ["--forget-bias has no effect", cell];
        folder.fails_with(2, &format!("{import} --forget-bias 1"), &says);
        folder.fails_with(2, &format!("{train} --save-path no --forget-bias 1"), &says);
        for line in [import, format!("{train} --init-from {cell}.npz --save-path from_{cell}")] {
            let (_, said) = folder.works(&line);
            assert!(!said.contains("forget_bias"), "{said}");
        }
        // The run of its metrics does not have the flag.
        folder.works(&format!("train --config {cell} --save-path {cell}_again"));
        assert_eq!(
            folder.checkpoint(&format!("{cell}_again")).variables,
            folder.checkpoint(cell).variables
        );
    }
}

/// The variables of a safetensors file.
fn safetensors(path: &Path) -> Variables {
    from_safetensors(&fs::read(path).unwrap()).unwrap().0.variables
}

/// The test perplexity of a model with PyTorch's names, by libtorch's own LSTM with both biases.
fn pytorch_perplexity(tensors: &Variables) -> f64 {
    let t = |name: &str| &tensors[name];
    let layers = tensors.keys().filter(|name| name.contains("weight_ih")).count();
    let parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];
    let names = (0..layers).flat_map(|k| parts.map(|part| format!("rnn.{part}_l{k}")));
    let weights: Vec<Tensor> = names.map(|name| t(&name).shallow_clone()).collect();
    let ids = RawData::read("sample").unwrap().test.tokens;
    let words = ids.len() as i64 - 1;
    let ids = Tensor::from_slice(&ids).to_kind(Kind::Int64);
    let x = Tensor::embedding(t("encoder.weight"), &ids.narrow(0, 0, words), -1, false, false);
    let zeros = || Tensor::zeros([layers as i64, 1, x.size()[1]], (Kind::Float, Device::Cpu));
    let (states, layers) = ([zeros(), zeros()], layers as i64);
    let (output, _, _) =
        x.unsqueeze(1).lstm(&states, &weights, true, layers, 0.0, false, false, false);
    let logits = output.squeeze_dim(1).matmul(&t("decoder.weight").tr()) + t("decoder.bias");
    let costs = logits.to_kind(Kind::Double).cross_entropy_for_logits(&ids.narrow(0, 1, words));
    costs.double_value(&[]).exp()
}

fn assert_same_perplexity(ours: f64, theirs: f64, what: &str) {
    assert!((ours / theirs - 1.0).abs() < 1e-5, "{what}: {ours} and {theirs}");
}

/// A model under PyTorch's names is the same model there, comes back to the last bit, and brings
/// its words and a card.
#[test]
fn pytorch_s_names_go_out_and_come_in() {
    let folder = Place::new();
    let train = "$TINY --num-layers 2";
    folder.works(&format!("{train} --max-steps 40 --save-path run"));
    let run = folder.checkpoint("run");
    let expected = perplexity(&run.variables, 0.0);

    let export = "export --checkpoint run --format pytorch -o";
    let (out, _) = folder.works(&format!("{export} out"));
    assert!(out.starts_with("out/model.safetensors: decoder.bias, "), "{out}");
    let tensors = safetensors(&folder.at("out/model.safetensors"));
    let vocab = run.run.config.vocab_size;
    let mut shapes = vec![
        ("encoder.weight".to_owned(), vec![vocab, 16]),
        ("decoder.weight".into(), vec![vocab, 16]),
        ("decoder.bias".into(), vec![vocab]),
    ];
    for k in 0..2 {
        for part in ["weight_ih", "weight_hh"] {
            shapes.push((format!("rnn.{part}_l{k}"), vec![64, 16]));
        }
        for part in ["bias_ih", "bias_hh"] {
            shapes.push((format!("rnn.{part}_l{k}"), vec![64]));
        }
    }
    assert_eq!(tensors.len(), shapes.len());
    for (name, shape) in shapes {
        assert_eq!(tensors[&name].size(), shape, "{name}");
    }
    assert_same_perplexity(pytorch_perplexity(&tensors), expected, "exported");

    let words: Vec<String> = run.vocabulary.unwrap().words().map(str::to_owned).collect();
    assert_eq!(fs::read_to_string(folder.at("out/words.txt")).unwrap(), words.join("\n") + "\n");
    let card = fs::read_to_string(folder.at("out/README.md")).unwrap();
    let test = metrics(&folder.at("run")).pop().unwrap();
    assert_eq!(test["event"], "final");
    for says in [
        "library_name: pytorch",
        &format!("RNNModel(\"LSTM\", {vocab}, 16, 16, 2"),
        &format!("| test | {:.3} |", test["perplexity"].as_f64().unwrap()),
        "| training, epoch 1 | ",
        "| validation | ",
        "Trained on `sample`.",
        "| hidden_size | 16 |",
        "| num_steps | 15 |",
        "| optimizer | sgd |",
        "| steps trained | 40 |",
    ] {
        assert!(card.contains(says), "{says}: {card}");
    }

    // Back from the file and from the folder, with the words.
    for (k, from) in ["out", "out/model.safetensors"].into_iter().enumerate() {
        folder.works(&format!("import {from} --save-path back{k} --model test"));
        let back = folder.checkpoint(&format!("back{k}"));
        assert_eq!(back.variables, run.variables);
        let back_words: Vec<String> = back.vocabulary.unwrap().words().map(str::to_owned).collect();
        assert_eq!(back_words, words);
    }
    let line = format!("{train} --init-from out/model.safetensors --max-steps 0 --save-path start");
    let (out, _) = folder.works(&line);
    let (_, printed) = out.rsplit_once("Test Perplexity: ").unwrap();
    assert_same_perplexity(printed.lines().next().unwrap().parse().unwrap(), expected, "started");
    // Other words are refused.
    let other = (0..vocab - 1).map(|k| format!("w{k} ")).collect::<String>() + "\n";
    texts(&folder.at("other"), [&other; 3]);
    let says = ["vocabulary is not that of --data-path other"];
    folder.fails_with(1, "import out --save-path no --data-path other", &says);

    // The forget gates' constant is in a bias; Adam's slots stay here.
    folder.works(&format!(
        "{train} --max-steps 40 --forget-bias 1 --optimizer adam --learning-rate 0.01 \
         --save-path biased"
    ));
    folder.works("export --checkpoint biased --format pytorch -o deep/er/biased.safetensors");
    let tensors = safetensors(&folder.at("deep/er/biased.safetensors"));
    let mut variables = folder.checkpoint("biased").variables;
    variables.retain(|name, _| !name.contains("Adam") && !name.contains("power"));
    let expected = perplexity(&variables, 1.0);
    assert_same_perplexity(pytorch_perplexity(&tensors), expected, "forget_bias 1");
    folder.works("import deep/er/biased.safetensors --save-path biased_back --model test");
    let back = folder.checkpoint("biased_back");
    assert_eq!(back.run.config.forget_bias, 0.0);
    assert_same_perplexity(perplexity(&back.variables, 0.0), expected, "forget_bias 1 and back");

    // An exported model may be written again, but nobody else's README.md or words.txt.
    folder.works(&format!("{export} out"));
    for (name, of) in [("README.md", "mine"), ("words.txt", "my_words")] {
        fs::create_dir(folder.at(of)).unwrap();
        fs::write(folder.at(of).join(name), "my own\n").unwrap();
        let says = [&format!("{of}/{name}")[..], "there already", "--output"];
        for output in [of.to_owned(), format!("{of}/x.safetensors")] {
            folder.fails_with(1, &format!("{export} {output}"), &says);
        }
        assert_eq!(fs::read_to_string(folder.at(of).join(name)).unwrap(), "my own\n");
    }
    // A second model in the folder needs the same words.
    folder.works(&format!("{export} out/second.safetensors"));
    folder.works(&format!("{train} --max-vocab 50 --max-steps 1 --no-eval --save-path few"));
    let words = fs::read(folder.at("out/words.txt")).unwrap();
    let says = ["out/words.txt", "another model", "--output another folder"];
    folder.fails_with(1, "export --checkpoint few --format pytorch -o out/few.safetensors", &says);
    assert!(fs::read(folder.at("out/words.txt")).unwrap() == words);
    assert!(!folder.at("out/few.safetensors").exists());
    folder.works("export --checkpoint few --format pytorch -o few_out");
    folder.fails_with(2, &format!("{export} model.pt"), &["--output model.pt", ".safetensors"]);
    folder.works(&format!("{train} --cell gru --max-steps 1 --no-eval --save-path gru"));
    let line = "export --checkpoint gru --format pytorch -o gru_out";
    folder.fails_with(1, line, &["--checkpoint gru", "gru_cells", "LSTMs only"]);
    assert!(!folder.at("gru_out").exists());
}

/// Models as they come out of a training in PyTorch: with two biases, a prefix, tied weights, or
/// without biases.
#[test]
fn models_trained_in_pytorch_come_in() {
    let folder = Place::new();
    let vocab = RawData::read("sample").unwrap().vocabulary.len() as i64;
    tch::manual_seed(3);
    let rand = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)) * 0.5;
    let mut model = Variables::from([
        ("encoder.weight".to_owned(), rand(&[vocab, 8])),
        ("decoder.weight".into(), rand(&[vocab, 8])),
        ("decoder.bias".into(), rand(&[vocab])),
    ]);
    for k in 0..2 {
        for (part, size) in [
            ("weight_ih", &[32, 8][..]),
            ("weight_hh", &[32, 8]),
            ("bias_ih", &[32]),
            ("bias_hh", &[32]),
        ] {
            model.insert(format!("rnn.{part}_l{k}"), rand(size));
        }
    }
    let copy = |model: &Variables| -> Variables {
        model.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
    };
    let write = |model: &Variables| {
        let bytes = to_safetensors(model, HashMap::new()).unwrap();
        fs::write(folder.at("x.safetensors"), bytes).unwrap();
    };
    let import = "import x.safetensors --data-path sample --model test --save-path";
    let comes_in = |given: &Variables, same_as: &Variables, save: &str, says: &[&str]| {
        write(given);
        let (_, said) = folder.works(&format!("{import} {save}"));
        for words in says {
            assert!(said.contains(words), "{save} should say {words:?}: {said}");
        }
        let ours = perplexity(&folder.checkpoint(save).variables, 0.0);
        assert_same_perplexity(ours, pytorch_perplexity(same_as), save);
        said
    };
    let said = comes_in(&model, &model, "two_biases", &[]);
    assert!(!said.contains("tied") && !said.contains("missing"), "{said}");
    let parallel = model.iter().map(|(name, t)| (format!("module.{name}"), t.copy())).collect();
    comes_in(&parallel, &model, "prefix", &[]);
    let double = model.iter().map(|(name, t)| (name.clone(), t.to_kind(Kind::Double))).collect();
    comes_in(&double, &model, "double", &[]);

    let mut tied = copy(&model);
    tied.insert("decoder.weight".into(), tied["encoder.weight"].copy());
    comes_in(&tied, &tied, "tied", &["encoder.weight and decoder.weight are equal"]);
    for name in ["decoder.weight", "encoder.weight"] {
        let mut one = copy(&tied);
        one.remove(name);
        let says = ["one of encoder.weight and decoder.weight is missing"];
        comes_in(&one, &tied, &format!("without_{name}"), &says);
    }
    let (mut without, mut zero) = (copy(&model), copy(&model));
    for name in ["decoder.bias", "rnn.bias_ih_l1", "rnn.bias_hh_l0", "rnn.bias_hh_l1"] {
        without.remove(name);
        let _ = zero.get_mut(name).unwrap().zero_();
    }
    let says = ["decoder.bias is missing and is taken to be zero", "rnn.bias_hh_l0 is missing"];
    comes_in(&without, &zero, "without_biases", &says);

    // What is another model is refused by name.
    let refused = |name: &str, tensor: Option<Tensor>, says: &[&str]| {
        let mut other = copy(&model);
        other.remove(name);
        other.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        write(&other);
        folder.fails_with(1, &format!("{import} no"), &[says, &["x.safetensors"]].concat());
        let train = "train --data-path sample --device cpu --model test --hidden-size 8 \
                     --num-layers 2 --save-path no --init-from x.safetensors";
        folder.fails_with(1, train, says);
    };
    refused("rnn.weight_hr_l0", Some(rand(&[4, 8])), &["\"rnn.weight_hr_l0\" [4, 8]"]);
    refused("rnn.weight_ih_l0_reverse", Some(rand(&[32, 8])), &["rnn.weight_ih_l0_reverse"]);
    refused("rnn.weight_hh_l1", None, &["\"rnn.weight_hh_l1\" is missing"]);
    refused("rnn.weight_hh_l0", Some(rand(&[24, 8])), &["rnn.weight_hh_l0", "LSTM"]);
    // A GRU has three quarters of the rows everywhere.
    let mut gru = copy(&model);
    for (name, tensor) in gru.iter_mut().filter(|(name, _)| name.starts_with("rnn.")) {
        *tensor = rand(&if name.contains("bias") { vec![24] } else { vec![24, 8] });
    }
    write(&gru);
    let says =
        ["x.safetensors", "rnn.weight_ih_l0", "expected an LSTM (no GRU", "[32, 8]", "[24, 8]"];
    folder.fails_with(1, &format!("{import} no"), &says);
    refused("rnn.bias_hh_l1", Some(rand(&[24])), &["rnn.bias_hh_l1", "[32]", "[24]"]);
    refused("encoder.weight", Some(rand(&[vocab, 4])), &["encoder.weight", "4 wide", "emsize"]);
    refused("decoder.weight", Some(rand(&[8, vocab])), &["decoder.weight", "expected shape"]);
    refused("decoder.bias", Some(rand(&[vocab]) * f64::NAN), &["\"decoder.bias\"", "NaN"]);
    fs::write(folder.at("x.safetensors"), b"not one").unwrap();
    folder.fails_with(
        1,
        &format!("{import} no"),
        &["x.safetensors", "not a whole safetensors file"],
    );
}

/// PyTorch itself: it computes the same test perplexity of a model from here, and a model that it
/// trained has its perplexity here.
#[test]
#[ignore = "needs PyTorch: TORCH_PYTHON (make test-tensorflow, after make bench)"]
fn pytorch_and_this_program_agree() {
    let python = std::env::var_os("TORCH_PYTHON").expect("TORCH_PYTHON names a Python with it");
    let folder = Place::new();
    let pytorch = |args: &[&str]| -> f64 {
        let mut command = Command::new(&python);
        command.arg(repository("tests/golden/pytorch.py")).arg(args[0]).arg(folder.at(args[1]));
        command.arg(repository("data/sample")).args(&args[2..]).env("PYTHONDONTWRITEBYTECODE", "1");
        command.works().0.rsplit_once("Test Perplexity: ").unwrap().1.trim().parse().unwrap()
    };
    for (name, flags) in [("plain", ""), ("biased", "--forget-bias 1 --num-layers 3")] {
        let train = format!("$TINY --max-steps 40 --no-eval --save-path {name}");
        folder.works(&format!("{train} {flags}"));
        folder.works(&format!("export --checkpoint {name} --format pytorch -o {name}_out"));
        let checkpoint = folder.checkpoint(name);
        let ours = perplexity(&checkpoint.variables, checkpoint.run.config.forget_bias);
        let theirs = pytorch(&["evaluate", &format!("{name}_out/model.safetensors")]);
        assert_same_perplexity(ours, theirs, name);
    }
    for kind in ["untied", "tied"] {
        fs::create_dir(folder.at(kind)).unwrap();
        let theirs = pytorch(&["train", &format!("{kind}/model.safetensors"), kind]);
        folder.works(&format!("import {kind} --save-path from_{kind} --model test"));
        let text = repository("data/sample/ptb.test.txt");
        fs::copy(text, folder.at("test.txt")).unwrap();
        // (`eval` would want the data's ids; these are the model's own.)
        let score = format!("score --checkpoint from_{kind} --device cpu --json test.txt");
        let (out, _) = folder.works(&score);
        let total = json_lines(&out).pop().unwrap();
        assert_eq!(total["event"], "total");
        assert_same_perplexity(total["perplexity"].as_f64().unwrap(), theirs, kind);
    }
}
