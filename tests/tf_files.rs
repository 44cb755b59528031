//! TensorFlow's files: what numpy and TensorFlow wrote is read to the last bit, damage is noticed,
//! and what is written here reads back.

mod program;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Expect, program, repository};
use ptb_word_lm::tf::{
    Model, Shapes, Variables, canonical, for_original, latest_checkpoint, read, read_checkpoint,
    read_npz, write_checkpoint, write_npz,
};
use tch::{Kind, Tensor};

/// A file of tests/fixtures.
fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures").join(name)
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tf_files").join(name);
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Same names, kinds, shapes and values.
fn assert_same(left: &Variables, right: &Variables) {
    let names = |v: &Variables| v.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, l) in left {
        let r = &right[name];
        assert_eq!((l.kind(), l.size()), (r.kind(), r.size()), "{name}");
        assert!(l.equal(r), "{name}: {l:?} is not {r:?}");
    }
}

#[test]
fn npz_of_numpy_reads() {
    let golden = read_npz(fixture("golden/ptb_clipped.npz")).unwrap();
    assert_eq!(golden["init/Model/embedding"].size(), [7, 8]);
    assert_eq!(golden["init/Model/embedding"].kind(), Kind::Float);
    assert_eq!(golden["tokens"].kind(), Kind::Int64);
    assert_eq!(golden["lr"].size(), [0; 0]);
    assert_eq!(
        golden["final/Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel"].size(),
        [16, 32]
    );
    assert_eq!(golden["hparams"].int64_value(&[0]), 7);
}

#[test]
fn npz_round_trip() {
    let mut variables = read_npz(fixture("golden/ptb_clipped.npz")).unwrap();
    let x = Tensor::arange(6, (Kind::Double, tch::Device::Cpu)).reshape([2, 3]) / 7;
    for (name, kind) in
        [("a:0", Kind::Double), ("b/c", Kind::Half), ("d", Kind::Int), ("e", Kind::Uint8)]
    {
        variables.insert(name.into(), x.to_kind(kind));
    }
    variables.insert("transposed".into(), x.tr());
    variables.insert("empty".into(), x.narrow(0, 0, 0));
    let dir = scratch("npz_round_trip");
    write_npz(dir.join("x.npz"), &variables).unwrap();
    assert_same(&variables, &read_npz(dir.join("x.npz")).unwrap());
    // bfloat16 is widened, exactly.
    let bf16 = Variables::from([("x".into(), x.to_kind(Kind::BFloat16))]);
    write_npz(dir.join("x.npz"), &bf16).unwrap();
    let read = read_npz(dir.join("x.npz")).unwrap();
    assert_same(&Variables::from([("x".into(), bf16["x"].to_kind(Kind::Float))]), &read);
    // Nothing temporary is left behind.
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

/// What TensorFlow wrote, and what it says the values were.
fn genuine(name: &str) -> (PathBuf, Variables) {
    let dir = fixture("tf_checkpoint").join(name);
    (latest_checkpoint(&dir).unwrap(), read_npz(dir.join("values.npz")).unwrap())
}

#[test]
fn checkpoints_of_tensorflow_read() {
    for (name, count) in [("basic", 9), ("block", 9), ("ptb_adam", 25), ("adam", 9), ("scalar", 1)]
    {
        let (prefix, values) = genuine(name);
        let loaded = read_checkpoint(prefix).unwrap();
        assert_eq!(loaded.variables.len(), count, "{name}");
        assert!(loaded.skipped.is_empty(), "{:?}", loaded.skipped);
        assert_same(&loaded.variables, &values);
    }
    // The folder, and any file of the bundle, stand for the prefix.
    let (prefix, values) = genuine("adam");
    for path in ["", "model.ckpt.index", "model.ckpt.data-00001-of-00003"] {
        assert_same(&read(prefix.with_file_name(path)).unwrap().variables, &values);
    }
}

#[test]
fn checkpoints_of_tensorflow_2_read() {
    let (prefix, values) = genuine("object");
    let mut loaded = read_checkpoint(prefix).unwrap();
    let bfloat16 = "bfloat16/.ATTRIBUTES/VARIABLE_VALUE";
    assert_eq!(loaded.variables[bfloat16].kind(), Kind::BFloat16);
    let widened = loaded.variables[bfloat16].to_kind(Kind::Float);
    loaded.variables.insert(bfloat16.into(), widened);
    assert_same(&loaded.variables, &values);
    // The description of the objects is a string, and one variable a bool.
    let skipped: Vec<_> =
        loaded.skipped.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    assert_eq!(
        skipped,
        [
            (
                "_CHECKPOINTABLE_OBJECT_GRAPH",
                "its dtype is DT_STRING, not a float or integer read here"
            ),
            (
                "flag/.ATTRIBUTES/VARIABLE_VALUE",
                "its dtype is DT_BOOL, not a float or integer read here"
            ),
        ]
    );
    let (model, _) = canonical(loaded.variables).unwrap();
    assert_eq!(model.keys().collect::<Vec<_>>(), ["Model/softmax_b"]);
}

/// Slices in both formats, along one dimension or several, in one file or on two devices.
#[test]
fn partitioned_variables_are_put_together() {
    let (prefix, values) = genuine("partitioned");
    let parts = ["Model/embedding/part_0", "Model/embedding/part_1"];
    let embedding = Tensor::cat(&parts.map(|part| values[part].shallow_clone()), 0);
    let loaded = read_checkpoint(&prefix).unwrap();
    assert!(loaded.skipped.is_empty());
    assert_eq!(loaded.variables.keys().collect::<Vec<_>>(), ["Model/embedding", "Model/softmax_b"]);
    assert!(loaded.variables["Model/embedding"].equal(&embedding));
    assert!(loaded.variables["Model/softmax_b"].equal(&values["Model/softmax_b"]));

    for name in ["slices", "v1_slices"] {
        let (prefix, values) = genuine(name);
        assert_same(&read_checkpoint(&prefix).unwrap().variables, &values);
        assert_same(&Model::read(&prefix).unwrap().variables, &values);
    }
    for name in ["grid", "v1_grid"] {
        let folder = fixture("tf_checkpoint").join(name);
        let values = read_npz(folder.join("values.npz")).unwrap();
        assert_same(&read_checkpoint(folder.join("model.ckpt")).unwrap().variables, &values);
    }
}

#[test]
fn slices_that_do_not_make_up_their_variable_are_errors() {
    for (name, expected) in [
        ("gap", "its slices [0:2, 0:2] and [3:4, 0:2] hold 6 of the 8 values of [4, 2]"),
        ("overlap", "its slices [0:3, 0:2] and [2:4, 0:2] overlap"),
    ] {
        for format in ["", "v1_"] {
            let folder = fixture("tf_checkpoint").join(format!("{format}{name}"));
            let error = format!("{:#}", Model::read(folder.join("model.ckpt")).unwrap_err());
            for part in ["model.ckpt", "variable \"Model/embedding\"", expected] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

/// What TensorFlow 1.15 wrote in format V1, and a file that came from elsewhere.
#[test]
fn checkpoints_of_format_v1_read() {
    let golden = fixture("golden/v1");
    let values = read_npz(golden.join("values.npz")).unwrap();
    for path in ["", "model.ckpt-7"] {
        let loaded = read(golden.join(path)).unwrap();
        assert!(loaded.skipped.is_empty());
        assert_same(&loaded.variables, &values);
    }
    let model = Model::read(&golden).unwrap();
    let sizes = Shapes { vocab_size: 30, hidden_size: 8, num_layers: 2, cell: "basic_lstm_cell" };
    assert_eq!(model.shapes, sizes);
    assert_eq!(model.notes(), ["model/Variable: Float [] = -0.2987370789051056"]);
    let name = "model/RNN/MultiRNNCell/Cell1/BasicLSTMCell/Linear/Matrix";
    let kernel = &model.variables["Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel"];
    assert!(kernel.equal(&values[name]));

    let (prefix, values) = genuine("v1");
    assert_same(&read_checkpoint(&prefix).unwrap().variables, &values);
    // Beside the file the Saver leaves the graph; it stands for the checkpoint too.
    let dir = scratch("format_v1");
    fs::copy(&prefix, dir.join("model.ckpt-3")).unwrap();
    fs::write(dir.join("model.ckpt-3.meta"), "").unwrap();
    assert_same(&read(dir.join("model.ckpt-3.meta")).unwrap().variables, &values);

    let (prefix, values) = genuine("v1_kinds");
    let mut loaded = read_checkpoint(prefix).unwrap();
    let not_finite = loaded.variables.remove("not_finite").unwrap();
    let bits = |tensor: &Tensor| Vec::<i32>::try_from(tensor.view_dtype(Kind::Int)).unwrap();
    assert_eq!(bits(&not_finite), bits(&values["not_finite"]));
    let mut values = values;
    values.remove("not_finite");
    assert_same(&loaded.variables, &values);
    let skipped: Vec<_> = loaded.skipped.iter().map(|(n, why)| format!("{n}: {why}")).collect();
    let why = "not a float or integer read here";
    assert_eq!(
        skipped,
        [
            format!("bool: its dtype is DT_BOOL, {why}"),
            format!("complex: its dtype is DT_COMPLEX128, {why}"),
            format!("string: its dtype is DT_STRING, {why}"),
        ]
    );
}

/// A sharded Saver's files: the folder, the prefix, the pattern that the Saver returns, and each of
/// the files stand for all.
#[test]
fn sharded_checkpoints_of_format_v1_read() {
    let (_, values) = genuine("v1_slices");
    let from = fixture("tf_checkpoint/v1_slices");
    for path in [
        "",
        "model.ckpt-5",
        "model.ckpt-5-?????-of-00002",
        "model.ckpt-5-00000-of-00002",
        "model.ckpt-5-00001-of-00002",
    ] {
        assert_same(&read(from.join(path)).unwrap().variables, &values);
    }
    let dir = scratch("sharded_v1");
    fs::copy(from.join("model.ckpt-5-00001-of-00002"), dir.join("model.ckpt-5-00001-of-00002"))
        .unwrap();
    for path in ["model.ckpt-5", "model.ckpt-5-00001-of-00002"] {
        let error = format!("{:#}", read(dir.join(path)).unwrap_err());
        assert!(error.contains("model.ckpt-5-00000-of-00002"), "{error}");
    }
    fs::write(dir.join("model.ckpt-5-00001-of-00003"), "").unwrap();
    let error = format!("{:#}", read(dir.join("model.ckpt-5")).unwrap_err());
    assert!(error.contains("several checkpoints of this prefix"), "{error}");
}

/// Another model's variables are listed.
#[test]
fn files_of_other_models_are_listed() {
    for (path, expected) in [
        (
            "tf_checkpoint/v1_kinds",
            vec!["\"float16\" [2, 3]", "\"scalar\" []", "\"bool\" (its dtype"],
        ),
        ("tf_checkpoint/scalar", vec!["\"global_step\" []"]),
        ("golden/ptb_clipped.npz", vec!["\"init/Model/embedding\" [7, 8]", "\"tokens\" ["]),
    ] {
        let path = fixture(path);
        let error = format!("{:#}", Model::read(&path).unwrap_err());
        for part in
            [&[path.to_str().unwrap(), "not a model of the PTB example"], &expected[..]].concat()
        {
            assert!(error.contains(part), "{error} has {part}");
        }
    }
    let many: Variables = (0..300).map(|k| (format!("v{k:03}"), Tensor::from(k))).collect();
    let path = scratch("files_of_other_models").join("many.npz");
    write_npz(&path, &many).unwrap();
    let error = format!("{:#}", Model::read(&path).unwrap_err());
    assert!(error.contains("\"v099\" [] and 200 more") && !error.contains("v100"), "{error}");
}

/// Windows's paths, those of a folder that was moved, and other spellings of the state file.
#[test]
fn the_state_file_leads_to_the_checkpoint_beside_it() {
    for (from, file) in [("v1", "model.ckpt-3"), ("basic", "model.ckpt-3")] {
        let (_, values) = genuine(from);
        let dir = scratch(&format!("state_file_{from}"));
        for entry in fs::read_dir(fixture("tf_checkpoint").join(from)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        // As the text format has it: with each backslash doubled.
        for path in [
            r"C:\\Users\\me\\runs\\model.ckpt-3",
            r"\\\\server\\share\\model.ckpt-3",
            r"runs\\model.ckpt-3",
            r".\\model.ckpt-3",
            r"C:/Users/me/model.ckpt-3",
            "/gone/model.ckpt-3",
            "gone/model.ckpt-3",
            "./model.ckpt-3",
            // As someone may type it.
            r"C:\Users\name\model.ckpt-3",
            r"D:\model.ckpt-3",
        ] {
            let text = format!("model_checkpoint_path: \"{path}\"\r\nall_model: \"x\"\r\n");
            fs::write(dir.join("checkpoint"), text).unwrap();
            assert_eq!(latest_checkpoint(&dir).unwrap().file_name().unwrap(), file, "{path}");
            assert_same(&read(&dir).unwrap().variables, &values);
        }
        // As Windows's editor saves it: with a byte order mark.
        let text = format!("\u{feff}model_checkpoint_path: \"{file}\"\r\n");
        fs::write(dir.join("checkpoint"), text).unwrap();
        assert_eq!(latest_checkpoint(&dir).unwrap(), dir.join(file));
        fs::write(dir.join("checkpoint"), "model_checkpoint_path: \"C:\\\\x\\\\other\"").unwrap();
        let error = format!("{:#}", latest_checkpoint(&dir).unwrap_err());
        assert!(error.contains("checkpoint names \"C:\\\\x\\\\other\""), "{error}");
        fs::write(dir.join("checkpoint"), "model_checkpoint_path: gone").unwrap();
        assert!(latest_checkpoint(&dir).is_err());
    }
    // Bytes that are not ASCII are octal; a folder below is still found.
    let dir = scratch("state_file_escapes");
    let (prefix, values) = genuine("v1");
    fs::create_dir(dir.join("été")).unwrap();
    fs::copy(&prefix, dir.join("été").join("modèle \"1\"")).unwrap();
    let name = r#"\303\251t\303\251\\mod\303\250le \"1\""#;
    fs::write(dir.join("checkpoint"), format!("model_checkpoint_path: \"{name}\"\n")).unwrap();
    assert_same(&read(&dir).unwrap().variables, &values);
    // The shards' pattern, from another place.
    let dir = scratch("state_file_shards");
    for shard in ["model.ckpt-5-00000-of-00002", "model.ckpt-5-00001-of-00002"] {
        fs::copy(fixture("tf_checkpoint/v1_slices").join(shard), dir.join(shard)).unwrap();
    }
    let path = r"C:\\runs\\model.ckpt-5-?????-of-00002";
    fs::write(dir.join("checkpoint"), format!("model_checkpoint_path: \"{path}\"\n")).unwrap();
    assert_same(&read(&dir).unwrap().variables, &genuine("v1_slices").1);
}

#[test]
fn models_of_all_modes_have_the_same_names() {
    let (prefix, values) = genuine("basic");
    let basic = Model::read(&prefix).unwrap();
    let sizes = Shapes { vocab_size: 9, hidden_size: 4, num_layers: 2, cell: "basic_lstm_cell" };
    assert_eq!(basic.shapes, sizes);
    assert_eq!(
        basic.notes(),
        ["Model/global_step: Int64 [] = 3", "Train/Model/Variable: Float [] = 0.5"]
    );
    assert!(basic.variables.iter().all(|(name, tensor)| tensor.equal(&values[name])));

    let (prefix, values) = genuine("block");
    let block = Model::read(&prefix).unwrap();
    assert_eq!(block.shapes, sizes);
    assert_eq!(
        block.variables.keys().collect::<Vec<_>>(),
        basic.variables.keys().collect::<Vec<_>>()
    );
    let name = "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel";
    assert!(block.variables[name].equal(&values[&name.replace("basic_lstm_cell", "lstm_cell")]));

    let values = read_npz(fixture("tf_checkpoint/cudnn/values.npz")).unwrap();
    let cudnn = Model::read(fixture("tf_checkpoint/cudnn/opaque.npz")).unwrap();
    assert_eq!(cudnn.shapes, sizes);
    assert_same(&cudnn.variables, &values);

    // TensorFlow of 2016, 1.0, a cudnn-mode checkpoint with both forms, and tensors' names.
    for (from, to, extra) in [
        ("", "", ""),
        (
            "Model/RNN/multi_rnn_cell/cell_0/basic_lstm_cell/kernel",
            "model/RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Matrix",
            "",
        ),
        (
            "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/bias",
            "Model/RNN/MultiRNNCell/Cell1/BasicLSTMCell/Linear/Bias",
            "",
        ),
        (
            "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel",
            "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/weights",
            "",
        ),
        (
            "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/bias",
            "Model/RNN/rnn/multi_rnn_cell/cell_1/cudnn_compatible_lstm_cell/bias",
            "Model/lstm_params",
        ),
        ("Model/embedding", "model/embedding:0", "Model/embedding/Adam"),
        ("Model/softmax_w", "Model.Ssoftmax_w/.ATTRIBUTES/VARIABLE_VALUE", "beta1_power"),
    ] {
        let mut renamed: Variables =
            values.iter().map(|(k, v)| (k.replace(from, to), v.shallow_clone())).collect();
        renamed.insert(extra.into(), Tensor::from(1.0));
        let (model, others) = canonical(renamed).unwrap();
        assert_same(&model, &values);
        assert_eq!(others.keys().collect::<Vec<_>>(), [extra]);
    }
}

/// The names of 2016's other cells.
#[test]
fn cells_of_2016_have_their_names() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
    for (cell, variables) in [
        ("basic_lstm_cell", vec![("LSTMCell/W_0", [8, 16].as_slice()), ("LSTMCell/B", &[16])]),
        (
            "basic_rnn_cell",
            vec![("BasicRNNCell/Linear/Matrix", &[8, 4]), ("BasicRNNCell/Linear/Bias", &[4])],
        ),
        (
            "gru_cell",
            vec![
                ("GRUCell/Gates/Linear/Matrix", &[8, 8]),
                ("GRUCell/Gates/Linear/Bias", &[8]),
                ("GRUCell/Candidate/Linear/Matrix", &[8, 4]),
                ("GRUCell/Candidate/Linear/Bias", &[4]),
            ],
        ),
    ] {
        let mut file = Variables::new();
        for (name, shape) in
            [("embedding", [9, 4].as_slice()), ("softmax_w", &[4, 9]), ("softmax_b", &[9])]
        {
            file.insert(format!("model/{name}"), zeros(shape));
        }
        for (name, shape) in variables {
            file.insert(format!("model/RNN/MultiRNNCell/Cell0/{name}"), zeros(shape));
        }
        let (model, others) = canonical(file).unwrap();
        assert!(others.is_empty());
        assert_eq!(Shapes::of(&model).unwrap().cell, cell);
    }
}

/// A model is found under any scope, or none, if it is the only one.
#[test]
fn models_under_other_scopes_are_found() {
    let dir = scratch("models_under_other_scopes");
    let renamed = |from: &str, scope: &str| -> Variables {
        let (_, values) = genuine(from);
        let name = |name: String| match name.strip_prefix("Train/") {
            Some(rest) => format!("Train/{}", rest.replacen("Model/", scope, 1)),
            None => name.replacen("Model/", scope, 1).replacen("model/", scope, 1),
        };
        values.into_iter().map(|(k, v)| (name(k), v)).collect()
    };
    let path = dir.join("model.ckpt");
    for from in ["basic", "block", "v1"] {
        let expected = Model::read(genuine(from).0).unwrap();
        for scope in ["lm/", "foo/Model/", "foo/model/", "a/b/c/", ""] {
            write_checkpoint(&path, &renamed(from, scope), false).unwrap();
            let model = Model::read(&path).unwrap();
            assert_same(&model.variables, &expected.variables);
            assert_eq!(model.others.len(), expected.others.len());
        }
    }
    // Slots are not another model, wherever their scope is.
    let slots = ["lm/lm/embedding/Adagrad", "lm/embedding/Ftrl_1", "opt/lm/embedding/Momentum"];
    let mut variables = renamed("basic", "lm/");
    for slot in slots {
        variables.insert(slot.into(), variables["lm/embedding"].shallow_clone());
    }
    variables.insert("elsewhere/weights".into(), Tensor::from_slice(&[1f32]));
    write_checkpoint(&path, &variables, false).unwrap();
    let model = Model::read(&path).unwrap();
    assert!(slots.iter().all(|slot| model.others.contains_key(*slot)));
    assert!(model.others.contains_key("elsewhere/weights"));

    for scopes in [["lm/", "foo/Model/"], ["Model/", "lm/"]] {
        let both = scopes.into_iter().flat_map(|scope| renamed("basic", scope)).collect();
        write_checkpoint(&path, &both, false).unwrap();
        let error = format!("{:#}", Model::read(&path).unwrap_err());
        for scope in scopes {
            let listed = [format!("{scope:?}"), format!("\"{scope}embedding\" [9, 4]")];
            assert!(listed.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    // Where a part is missing, all that is there is listed.
    let mut variables = renamed("basic", "lm/");
    variables.remove("lm/softmax_b");
    write_checkpoint(&path, &variables, false).unwrap();
    let error = format!("{:#}", Model::read(&path).unwrap_err());
    assert!(error.contains("softmax_b\" is missing"), "{error}");
    assert!(variables.keys().all(|name| error.contains(&format!("{name:?}"))), "{error}");
}

/// Adam's slots as TensorFlow 1.15 saved them with the example's model, and under other scopes.
#[test]
fn slots_of_adam_are_found_under_any_scope() {
    let (prefix, values) = genuine("ptb_adam");
    let model = Model::read(&prefix).unwrap();
    assert_eq!(model.missing_slot(), None);
    assert_eq!(model.slots.len(), 2 * model.variables.len() + 2);
    assert_eq!(
        model.notes(),
        ["Model/global_step: Int64 [] = 3", "Train/Model/Variable: Float [] = 0.5"]
    );
    let kernel = "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel";
    for (ours, theirs) in [
        ("Model/embedding/Adam".to_owned(), "Model/Model/embedding/Adam".to_owned()),
        (format!("{kernel}/Adam_1"), format!("Model/{kernel}/Adam_1")),
        ("beta1_power".into(), "Train/Model/beta1_power".into()),
        ("beta2_power".into(), "Train/Model/beta2_power".into()),
    ] {
        assert!(model.slots[&ours].equal(&values[&theirs]), "{ours}");
    }
    // And back: the names are the graph's own, to the letter.
    let mut both: Variables = model.variables.iter().map(|(k, v)| (k.clone(), v.copy())).collect();
    both.extend(model.slots.iter().map(|(k, v)| (k.clone(), v.copy())));
    assert_same(&for_original(&both, false, 0.5, 3), &values);
    let block = for_original(&both, true, 0.5, 3);
    assert!(block.contains_key("Model/Model/RNN/multi_rnn_cell/cell_0/lstm_cell/bias/Adam"));

    let path = scratch("slots_of_adam").join("x.npz");
    let renamed = |slot: &str, power: &str, model: &str| -> Variables {
        let name = |name: &str| match name.strip_prefix("Train/Model/beta") {
            Some(rest) => format!("{power}beta{rest}"),
            None => match name.strip_prefix("Model/Model/") {
                Some(rest) => format!("{slot}{model}{rest}"),
                None => name.replacen("Model/", model, 1),
            },
        };
        values.iter().map(|(k, v)| (name(k), v.copy())).collect()
    };
    for (slot, power, scope) in [
        ("", "", "Model/"),
        ("Train/", "Train/", "Model/"),
        ("Model/", "Model/", "Model/"),
        ("Model/Model/", "Train/Model/train/", "Model/"),
        ("lm/", "Train/lm/", "lm/"),
        ("foo/Model/", "foo/", "foo/Model/"),
        ("model/", "model/", "model/"),
        ("", "", ""),
    ] {
        write_npz(&path, &renamed(slot, power, scope)).unwrap();
        let found = Model::read(&path).unwrap();
        assert_same(&found.variables, &model.variables);
        assert_same(&found.slots, &model.slots);
    }

    // What is wrong is named; what is missing, too.
    let read = |name: &str, tensor: Option<Tensor>| {
        let mut variables = renamed("Model/", "Train/Model/", "Model/");
        variables.remove(name);
        variables.extend(tensor.map(|tensor| (name.to_string(), tensor)));
        write_npz(&path, &variables).unwrap();
        Model::read(&path)
    };
    let missing = |name, tensor| read(name, tensor).unwrap().missing_slot();
    let kernel = format!("Model/{kernel}/Adam_1");
    assert_eq!(missing(&kernel, None), Some(kernel.replacen("Model/", "", 1)));
    assert_eq!(missing("Train/Model/beta2_power", None), Some("beta2_power".into()));
    let zeros = |shape: &[i64]| Some(Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu)));
    assert_eq!(missing("Train/Model/beta1_power", zeros(&[2])), Some("beta1_power".into()));
    let not_finite = Some(Tensor::full([9], f64::NAN, (Kind::Float, tch::Device::Cpu)));
    for (name, tensor, says) in [
        ("opt/Model/softmax_b/Adam", zeros(&[8]), "expected floats of shape [9], found Float [8]"),
        ("Model/softmax_b/Adam", zeros(&[9]), "are both the slot \"Model/softmax_b/Adam\""),
        ("beta1_power", zeros(&[]), "are both the slot \"beta1_power\""),
        ("Model/Model/softmax_b/Adam", not_finite, "9 of its 9 values are NaN or infinite"),
    ] {
        let error = format!("{:#}", read(name, tensor).unwrap_err());
        assert!(error.contains(says) && error.contains("softmax_b"), "{name}: {error}");
    }
}

/// What a file may say about its cells, in whatever scope and of whatever type.
#[test]
fn forget_bias_is_found_beside_the_model() {
    let path = scratch("forget_bias").join("x.npz");
    let read = |scope: &str, name: &str, tensor: Option<Tensor>| {
        let (_, values) = genuine("basic");
        let name_of = |name: String| name.replacen("Model/", scope, 1);
        let mut variables: Variables = values.into_iter().map(|(k, v)| (name_of(k), v)).collect();
        variables.extend(tensor.map(|tensor| (name.to_string(), tensor)));
        write_npz(&path, &variables).unwrap();
        Model::read(&path)
    };
    let known = |scope, name, tensor| read(scope, name, tensor).unwrap().forget_bias;
    assert_eq!(known("Model/", "", None), None);
    assert_eq!(known("Model/", "Model/forget_bias", Some(Tensor::from(0.1f64))), Some(0.1));
    assert_eq!(known("Model/", "Model/forget_bias", Some(Tensor::from(1f32))), Some(1.0));
    assert_eq!(known("Model/", "Model/forget_bias:0", Some(Tensor::from(0f64))), Some(0.0));
    assert_eq!(known("a/b/", "a/b/forget_bias", Some(Tensor::from(-2f64))), Some(-2.0));
    assert_eq!(known("a/b/", "Model/forget_bias", Some(Tensor::from(1f64))), None);
    for (tensor, says) in [
        (Tensor::from(1i64), "expected one float, found Int64 []"),
        (Tensor::from(f64::INFINITY), "expected a finite number, found inf"),
        (Tensor::from_slice(&[1f32, 1.0]), "weights that the example's model does not have"),
    ] {
        let error = read("Model/", "Model/forget_bias", Some(tensor)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(says) && error.contains("\"Model/forget_bias\""), "{error}");
    }
}

/// An LSTM with peepholes or a projection, or a model with other weights besides, is not this
/// model.
#[test]
fn models_with_other_weights_are_refused() {
    let cell = "Model/RNN/multi_rnn_cell/cell_1/lstm_cell/";
    let peepholes =
        ["w_f_diag", "w_i_diag", "w_o_diag"].map(|name| format!("\"{cell}{name}\" [4]"));
    let projection = [format!("\"{cell}projection/kernel\" [4, 3]")];
    for (name, expected) in [("peepholes", &peepholes[..]), ("projection", &projection)] {
        let error = format!("{:#}", Model::read(genuine(name).0).unwrap_err());
        let error = error.split(". Its variables").next().unwrap();
        for part in expected {
            assert!(error.contains(part), "{error} has {part}");
        }
    }
    let (_, values) = genuine("v1");
    let cell = "model/RNN/MultiRNNCell/Cell0/";
    for (name, shape, refused) in [
        (format!("{cell}LSTMCell/W_F_diag"), vec![4], true),
        (format!("{cell}LSTMCell/W_P_0"), vec![4, 4], true),
        (format!("{cell}LSTMCell/W_1"), vec![4, 16], true),
        (format!("{cell}BasicLSTMCell/LayerNorm/gamma"), vec![4], true),
        ("model/RNN/AttnCell/Matrix".into(), vec![4, 4], true),
        ("model/projection".into(), vec![4, 4], true),
        // Not a slot: it has another shape.
        ("model/embedding/projection".into(), vec![4, 4], true),
        ("model/embedding/Adam".into(), vec![9, 4], false),
        ("model/model/softmax_b/ExponentialMovingAverage".into(), vec![9], false),
        ("model/beta1_power".into(), vec![], false),
        ("discriminator/weights".into(), vec![4, 4], false),
    ] {
        let mut variables: Variables =
            values.iter().map(|(k, v)| (k.clone(), v.shallow_clone())).collect();
        variables.insert(name.clone(), Tensor::zeros(&shape[..], (Kind::Float, tch::Device::Cpu)));
        match canonical(variables) {
            Ok((_, others)) => assert!(!refused && others.contains_key(&name), "{name}"),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(refused && error.contains(&format!("{name:?} {shape:?}")), "{error}");
            }
        }
    }
}

#[test]
fn variables_that_are_not_finite_are_refused() {
    let path = scratch("not_finite").join("x.npz");
    for (name, value) in [
        ("Model/softmax_b", f64::NAN),
        ("Model/embedding", f64::INFINITY),
        ("Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel", f64::NEG_INFINITY),
        ("Model/softmax_w", 1e300), // in float32
    ] {
        let (_, mut variables) = genuine("basic");
        let wrong = variables[name].to_kind(Kind::Double);
        let _ = wrong.flatten(0, -1).get(1).fill_(value);
        variables.insert(name.into(), wrong);
        write_npz(&path, &variables).unwrap();
        let error = format!("{:#}", Model::read(&path).unwrap_err());
        let expected = format!("variable {name:?}: 1 of its {}", variables[name].numel());
        assert!(error.contains("x.npz") && error.contains(&expected), "{error}");
    }
    // What is not of the model may be anything.
    let (_, mut variables) = genuine("basic");
    variables.insert("Train/loss".into(), Tensor::from(f32::NAN));
    write_npz(&path, &variables).unwrap();
    assert!(Model::read(&path).is_ok());
}

/// The errors name the variable, what was expected and what was found.
#[test]
fn models_that_do_not_fit_are_errors() {
    let kernel = "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel";
    let zeros = |shape: &[i64]| Some(Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu)));
    let third = "Model/RNN/multi_rnn_cell/cell_9/basic_lstm_cell/bias";
    for (name, tensor, expected) in [
        ("Model/embedding", None, "variable \"Model/embedding\" is missing"),
        ("Model/softmax_b", None, "variable \"Model/softmax_b\" is missing"),
        (kernel, None, "cell_1/basic_lstm_cell/kernel\" is missing"),
        (
            kernel,
            zeros(&[8, 12]),
            "cell_1/basic_lstm_cell/kernel\": expected shape [8, 16], found [8, 12]",
        ),
        ("Model/softmax_w", zeros(&[9, 4]), "expected shape [4, 9], found [9, 4]"),
        ("Model/embedding", zeros(&[9]), "expected shape [vocab, hidden], found [9]"),
        ("Model/embedding", zeros(&[9, 0]), "found [9, 0]"),
        ("Model/softmax_b", Some(Tensor::from_slice(&[1i64; 9])), "expected floats, found Int64"),
        (third, zeros(&[16]), "cell_2/basic_lstm_cell/kernel\" is missing"),
        (
            "model/embedding",
            zeros(&[9, 4]),
            "variables \"Model/embedding\" and \"model/embedding\" are both",
        ),
        (
            "Model/RNN/multi_rnn_cell/cell_0/gru_cell/gates/bias",
            zeros(&[8]),
            "not expected beside basic_lstm_cells",
        ),
    ] {
        let mut variables = read_npz(fixture("tf_checkpoint/cudnn/values.npz")).unwrap();
        variables.remove(name);
        variables.extend(tensor.map(|tensor| (name.to_string(), tensor)));
        let result = canonical(variables).and_then(|(model, _)| Shapes::of(&model));
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(expected), "{name}: {error}");
    }
    let mut variables = read_npz(fixture("tf_checkpoint/cudnn/opaque.npz")).unwrap();
    variables.insert("Model/lstm_params".into(), zeros(&[321]).unwrap());
    let error = format!("{:#}", canonical(variables).unwrap_err());
    assert!(
        error.contains("expected shape [num_layers * 160] with 4 hidden units, found [321]"),
        "{error}"
    );
}

/// One tensor of each kind, among them a scalar and an empty one.
fn all_kinds() -> Variables {
    let x = (Tensor::arange(6, (Kind::Double, tch::Device::Cpu)).reshape([2, 3]) - 2.5) * 1.7;
    let kinds = [
        Kind::Float,
        Kind::Double,
        Kind::Half,
        Kind::BFloat16,
        Kind::Int8,
        Kind::Int16,
        Kind::Int,
        Kind::Int64,
    ];
    let mut variables: Variables =
        kinds.iter().map(|&kind| (format!("a/{kind:?}"), x.to_kind(kind))).collect();
    variables.insert("a/Uint8".into(), x.abs().to_kind(Kind::Uint8));
    variables.insert("b/transposed".into(), x.tr());
    variables.insert("c/empty".into(), x.narrow(0, 0, 0));
    variables.insert("d/scalar".into(), Tensor::from(7i64));
    variables
}

#[test]
fn checkpoint_round_trip() {
    let dir = scratch("checkpoint_round_trip");
    let variables = all_kinds();
    write_checkpoint(dir.join("model.ckpt-7"), &variables, true).unwrap();
    assert_eq!(latest_checkpoint(&dir).unwrap(), dir.join("model.ckpt-7"));
    assert_same(&read(&dir).unwrap().variables, &variables);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    // Not a file more without `latest`; and no checkpoint at all is one, too.
    write_checkpoint(dir.join("none"), &Variables::new(), false).unwrap();
    assert!(read_checkpoint(dir.join("none")).unwrap().variables.is_empty());
    assert_eq!(latest_checkpoint(&dir).unwrap(), dir.join("model.ckpt-7"));
    // A folder that was moved keeps its checkpoint though the file names the old place.
    fs::write(dir.join("checkpoint"), "model_checkpoint_path: \"/gone/model.ckpt-7\"\n").unwrap();
    assert_eq!(latest_checkpoint(&dir).unwrap(), dir.join("model.ckpt-7"));

    let bool = Variables::from([("x".into(), Tensor::from(true))]);
    let error = format!("{:#}", write_checkpoint(dir.join("bool"), &bool, false).unwrap_err());
    assert!(error.contains("bool.data-00000-of-00001") && error.contains("\"x\": Bool"), "{error}");
    assert!(!dir.join("bool.index").exists() && !dir.join("bool.data-00000-of-00001").exists());
    assert!(write_checkpoint(dir.join("no/such/folder"), &variables, true).is_err());
}

#[test]
fn what_is_not_there_is_named() {
    let dir = scratch("what_is_not_there_is_named");
    let (prefix, _) = genuine("adam");
    for file in
        ["model.ckpt.index", "model.ckpt.data-00000-of-00003", "model.ckpt.data-00002-of-00003"]
    {
        fs::copy(prefix.with_file_name(file), dir.join(file)).unwrap();
    }
    let error = |path: &Path| format!("{:#}", read(path).unwrap_err());
    let missing = error(&dir.join("model.ckpt"));
    assert!(
        missing.contains("shard 1 of 3 is missing") && missing.contains("variable \"Model/"),
        "{missing}"
    );
    assert!(error(&dir.join("no.ckpt")).contains("no.ckpt.index"));
    assert!(error(&dir.join("no.npz")).contains("no.npz"));
    assert!(error(&dir).contains("checkpoint"));
    // Files of other kinds.
    fs::copy(prefix.with_file_name("values.npz"), dir.join("x.index")).unwrap();
    assert!(error(&dir.join("x")).contains("magic number"));
    fs::copy(prefix.with_extension("ckpt.index"), dir.join("x.npz")).unwrap();
    assert!(error(&dir.join("x.npz")).contains("x.npz is not a .npz file"));
    fs::write(dir.join("x.index"), "").unwrap();
    assert!(error(&dir.join("x")).contains("expected 48 bytes or more, found 0"));
}

/// Reads `file` with each of its bits flipped, and cut off at each length: an error, or the same
/// values.
fn damage(file: &Path, values: &Variables, read: impl Fn() -> anyhow::Result<Variables>) -> usize {
    let good = fs::read(file).unwrap();
    assert_same(&read().unwrap(), values);
    let mut errors = 0;
    println!("DAMAGED {}", 9 * good.len()); // scripts/torture.sh adds them up
    let mut check = || match read() {
        Ok(variables) => assert_same(&variables, values),
        Err(error) => {
            let name = file.file_name().unwrap().to_str().unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(name), "{error} names {name}");
            errors += 1;
        }
    };
    // In place: some file systems wait for the disk when a file is replaced.
    let damaged = fs::File::options().write(true).open(file).unwrap();
    for (at, &byte) in good.iter().enumerate() {
        for bit in 0..8 {
            damaged.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
            check();
        }
        damaged.write_all_at(&[byte], at as u64).unwrap();
    }
    for length in (0..good.len()).rev() {
        damaged.set_len(length as u64).unwrap();
        check();
    }
    fs::write(file, good).unwrap();
    errors
}

#[test]
fn damaged_checkpoints_are_errors() {
    let (prefix, values) = genuine("adam");
    let dir = scratch("damaged_checkpoints");
    for file in fs::read_dir(prefix.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    let read = || Ok(read_checkpoint(dir.join("model.ckpt"))?.variables);
    // Every bit of the data counts.
    for shard in ["model.ckpt.data-00000-of-00003", "model.ckpt.data-00001-of-00003"] {
        let size = fs::metadata(dir.join(shard)).unwrap().len() as usize;
        assert_eq!(damage(&dir.join(shard), &values, read), 9 * size, "{shard}");
    }
    // Of the index's, all but the empty block that nobody reads and the padding.
    let size = fs::metadata(dir.join("model.ckpt.index")).unwrap().len() as usize;
    assert!(damage(&dir.join("model.ckpt.index"), &values, read) > 7 * size);
}

/// Every bit of a V1 file and of a shard of one, but the empty block that nobody reads and the
/// padding.
#[test]
fn damaged_checkpoints_of_format_v1_are_errors() {
    for (name, file) in [("v1", "model.ckpt-3"), ("v1_slices", "model.ckpt-5-00000-of-00002")] {
        let dir = scratch(&format!("damaged_{name}"));
        for entry in fs::read_dir(fixture("tf_checkpoint").join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        let (_, values) = genuine(name);
        let read = || Ok(read_checkpoint(dir.join(file))?.variables);
        let size = fs::metadata(dir.join(file)).unwrap().len() as usize;
        assert!(damage(&dir.join(file), &values, read) > 8 * size);
    }
}

#[test]
fn damaged_npz_are_errors() {
    let dir = scratch("damaged_npz");
    let file = dir.join("x.npz");
    fs::copy(fixture("tf_checkpoint/partitioned/values.npz"), &file).unwrap();
    let values = read_npz(&file).unwrap();
    let good = fs::read(&file).unwrap();
    // Names, dates and other fields of a zip are not checked: an array may go by another name or
    // not be found. Those that are read under their own name are as they were.
    let mut errors = 0;
    let damaged = fs::File::options().write(true).open(&file).unwrap();
    for (at, &byte) in good.iter().enumerate() {
        for bit in 0..8 {
            damaged.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
            match read_npz(&file) {
                Ok(read) => {
                    let same =
                        |(k, v): (&String, &Tensor)| values.get(k).is_none_or(|w| w.equal(v));
                    assert!(read.iter().all(same), "byte {at}, bit {bit}");
                }
                Err(_) => errors += 1,
            }
        }
        damaged.write_all_at(&[byte], at as u64).unwrap();
    }
    for length in (0..good.len()).rev() {
        damaged.set_len(length as u64).unwrap();
        assert!(read_npz(&file).is_err(), "cut off at {length}");
    }
    println!("DAMAGED {}", 9 * good.len());
    assert!(errors > 4 * good.len(), "{errors} errors in {} bytes", good.len());
}

/// A program of the repository by the Python that has TensorFlow 1.15.
fn python(program: &str) -> Command {
    let python = std::env::var_os("TF_PYTHON").expect("TF_PYTHON names a Python with TensorFlow");
    let mut command = Command::new(python);
    command.arg(repository(program)).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("OMP_NUM_THREADS", "1");
    command
}

/// What is written here restores in TensorFlow: see tests/golden/restore.py. Runs where TF_PYTHON
/// names a Python that has TensorFlow 1.15.
#[test]
#[ignore = "needs TensorFlow: TF_PYTHON (make test-tensorflow)"]
fn tensorflow_restores_what_is_written() {
    let dir = scratch("tensorflow_restores");
    let model = Model::read(genuine("basic").0).unwrap().variables;
    let mut command = python("tests/golden/restore.py");
    let Model { variables, slots, .. } = Model::read(genuine("ptb_adam").0).unwrap();
    let adam: Variables = variables.into_iter().chain(slots).collect();
    let mut many = Variables::new(); // more than a block of LevelDB's own 4 kB
    for k in 0..300 {
        many.insert(format!("scope_{}/variable_{k}", k % 7), Tensor::from(k));
    }
    for (name, variables) in [
        ("basic", for_original(&model, false, 0.25, 1234)),
        ("block", for_original(&model, true, 1.0, 0)),
        ("kinds", all_kinds()),
        ("many", many),
        ("adam", for_original(&adam, false, 0.25, 3)),
        ("adam_block", for_original(&adam, true, 0.25, 3)),
        ("v1", for_original(&Model::read(genuine("v1").0).unwrap().variables, false, 0.5, 3)),
        (
            "slices",
            for_original(&Model::read(genuine("slices").0).unwrap().variables, true, 1.0, 5),
        ),
    ] {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        write_checkpoint(dir.join("model.ckpt"), &variables, true).unwrap();
        write_npz(dir.join("values.npz"), &variables).unwrap();
        command.arg(dir.join("model.ckpt")).arg(dir.join("values.npz"));
    }
    let (out, errors) = command.works();
    let text = out + &errors;
    assert_eq!(text.matches("variables restored").count(), 8, "{text}");
}

/// A run that is exported after its first epoch takes the same next steps in TensorFlow as here: by
/// Adam, whose slots go along, and by gradient descent; in basic and in block mode.
#[test]
#[ignore = "needs TensorFlow: TF_PYTHON (make test-tensorflow)"]
fn tensorflow_continues_an_exported_run_as_it_is_continued_here() {
    let dir = scratch("tensorflow_continues");
    let run = |args: &[&str]| program(args).current_dir(&dir).works().0;
    for (optimizer, rate) in [("adam", "0.01"), ("sgd", "1")] {
        let config = ["--model", "test", "--hidden-size", "16", "--num-layers", "2"];
        let size = ["--num-steps", "15", "--batch-size", "100", "--max-epoch", "5"];
        let how = ["--optimizer", optimizer, "--learning-rate", rate, "--max-grad-norm", "1"];
        let train = ["train", "--data-path", "sample", "--save-path", optimizer, "--no-eval"];
        let train = [&train[..], &config, &size, &how, &["--device", "cpu"]].concat();
        run(&[&train[..], &["--max-max-epoch", "1"]].concat());
        let exported = ["basic", "block"].map(|mode| dir.join(format!("{optimizer}_{mode}.ckpt")));
        for (path, block) in exported.iter().zip([&[][..], &["--block"]]) {
            let export = ["export", "--checkpoint", optimizer, "--format", "tf-checkpoint"];
            run(&[&export[..], &["--output", path.to_str().unwrap()], block].concat());
        }
        let metrics = dir.join("continued.jsonl");
        let more = ["--log-every", "1", "--metrics", "continued.jsonl", "--max-max-epoch", "2"];
        run(&[&train[..], &more, &["--max-steps", "76"]].concat());
        let lines = fs::read_to_string(&metrics).unwrap();
        let cost = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            (event["event"] == "step").then(|| event["cost"].as_f64().unwrap())
        };
        let here: Vec<f64> = lines.lines().filter_map(cost).collect();
        assert_eq!(here.len(), 10);
        for path in &exported {
            let mut command = python("tests/golden/train_on.py");
            command.arg(path).arg(repository("data/sample")).args(["100", "15", "1", "10"]);
            let (there, _) = command.works();
            let there = there.lines().filter_map(|line| line.strip_prefix("COST "));
            let there: Vec<f64> = there.map(|cost| cost.parse().unwrap()).collect();
            assert_eq!(there.len(), 10);
            for (k, (here, there)) in here.iter().zip(&there).enumerate() {
                let off = (here / there - 1.0).abs();
                assert!(off < 1e-5, "{}, step {k}: {here} and {there}", path.display());
            }
        }
        fs::remove_file(metrics).unwrap();
    }
}

/// A model of mid-2016's format and names has the perplexity here that TensorFlow computes, over
/// the sample corpus's test text.
#[test]
#[ignore = "needs TensorFlow: TF_PYTHON (make test-tensorflow)"]
fn tensorflow_evaluates_a_checkpoint_of_2016_as_it_is_here() {
    let dir = scratch("tensorflow_evaluates");
    let run = |args: &[&str]| program(args).current_dir(&dir).works().0;
    let perplexity = |text: &str| -> f64 {
        let (_, rest) = text.rsplit_once("Test Perplexity: ").expect("a line with it");
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let flags =
        ["--model", "test", "--hidden-size", "16", "--num-layers", "2", "--num-steps", "15"];
    let train = ["train", "--data-path", "sample", "--save-path", "run", "--max-steps", "60"];
    run(&[&train[..], &flags, &["--no-eval", "--device", "cpu"]].concat());
    fs::create_dir(dir.join("v1")).unwrap();
    fs::create_dir(dir.join("v2")).unwrap();
    let export = ["export", "--checkpoint", "run", "--format", "tf-checkpoint"];
    run(&[&export[..], &["--output", "v2/model.ckpt"]].concat());
    let sample = repository("data/sample");
    let files = [dir.join("v2/model.ckpt"), sample, dir.join("v1/model.ckpt-60")];
    let mut evaluate = python("tests/golden/evaluate.py");
    let (there, _) = evaluate.args(files).arg("v1").current_dir(&dir).works();
    for (path, imported) in [("v1", "folder"), ("v1/model.ckpt-60", "file")] {
        run(&["import", path, "--save-path", imported, "--data-path", "sample", "--model", "test"]);
        let here =
            run(&["eval", "--checkpoint", imported, "--data-path", "sample", "--device", "cpu"]);
        let (here, there) = (perplexity(&here), perplexity(&there));
        assert!((here / there - 1.0).abs() < 1e-4, "{here} and {there}");
    }
}
