//! TensorFlow's files: what numpy and TensorFlow wrote is read to the last bit, damage is noticed, and what is
//! written here reads back.

use std::path::PathBuf;

use ptb_word_lm::tf::{Variables, read_npz, write_npz};
use tch::{Kind, Tensor};

/// A file of tests/fixtures.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tf_files").join(name);
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir_all(&dir).unwrap();
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
    assert_eq!(golden["final/Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel"].size(), [16, 32]);
    assert_eq!(golden["hparams"].int64_value(&[0]), 7);
}

#[test]
fn npz_round_trip() {
    let mut variables = read_npz(fixture("golden/ptb_clipped.npz")).unwrap();
    let x = Tensor::arange(6, (Kind::Double, tch::Device::Cpu)).reshape([2, 3]) / 7;
    for (name, kind) in [("a:0", Kind::Double), ("b/c", Kind::Half), ("d", Kind::Int), ("e", Kind::Uint8)] {
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
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}
