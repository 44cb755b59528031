use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ptb_word_lm::checkpoint::{Checkpoint, RunConfig};
use ptb_word_lm::cli::report::results;
use ptb_word_lm::model::PtbVariables;
use ptb_word_lm::reader::RawData;
use ptb_word_lm::{cli, tf};
use tch::{Device, Kind};

use super::within;

/// A folder of this process in TMPDIR, in memory if that is.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("ptb-word-lm-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the files");
        // The bundle's one shard stands for all of them.
        for count in 1..=3 {
            for shard in 0..count {
                let link = folder.join(format!("bundle.data-{shard:05}-of-{count:05}"));
                let _ = fs::remove_file(&link);
                symlink("shard", link).expect("a link");
            }
        }
        folder
    })
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a file");
    path
}

/// Three texts, separated by 0x1c; those that are missing are the first again. A short word costs a
/// hundred bytes in a vocabulary.
pub fn reader(data: &[u8]) {
    let mut texts = data.split(|&b| b == 0x1c);
    let train = texts.next().unwrap_or_default();
    for split in ["train", "valid", "test"] {
        let text = if split == "train" { train } else { texts.next().unwrap_or(train) };
        file(&format!("ptb.{split}.txt"), text);
    }
    let folder = folder().to_str().expect("UTF-8");
    within(data.len(), 256, || {
        if let Ok(data) = RawData::read(folder) {
            let words = data.vocabulary.len() as i32;
            assert!(words > 1);
            for split in [&data.train, &data.valid, &data.test] {
                assert!(
                    !split.tokens.is_empty()
                        && split.tokens.iter().all(|id| (0..words).contains(id))
                );
            }
            assert_eq!(data.train.dropped, 0);
        }
    });
}

/// A first byte of 0, then a zip archive; or any other, then an array that is put into one, whose
/// checksums are right. Deflate packs a thousandfold.
pub fn npz(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let path = match kind {
        0 => file("model.npz", data),
        _ => {
            use std::io::Write;
            let mut archive = npyz::npz::NpzWriter::new(std::io::Cursor::new(Vec::new()));
            let zip = archive.zip_writer();
            let stored = npyz::zip::write::FileOptions::default()
                .compression_method(npyz::zip::CompressionMethod::Stored);
            zip.start_file("Model/embedding.npy", stored).expect("in memory");
            zip.write_all(data).expect("in memory");
            let bytes = zip.finish().expect("in memory").into_inner();
            file("model.npz", &bytes)
        }
    };
    within(data.len(), 1100, || {
        let _ = tf::read_npz(&path);
        model(&path);
    });
}

/// Two bytes, the length of the index, then it, then the shard. The index may be packed by snappy,
/// twentyfold.
pub fn bundle(data: &[u8]) {
    let Some((length, data)) = data.split_first_chunk::<2>() else { return };
    let (index, shard) = data.split_at((u16::from_le_bytes(*length) as usize).min(data.len()));
    file("shard", shard);
    let path = file("bundle.index", index);
    // Two bytes are a slice of no dimensions, for which 24 are kept; a list grows by doubling.
    within(data.len(), 800, || model(&path));
}

/// A checkpoint of format V1. Snappy may have packed it, twentyfold, and two bytes list a variable,
/// for which 88 are kept.
pub fn v1(data: &[u8]) {
    let path = file("v1.ckpt", data);
    within(data.len(), 3000, || model(&path));
}

/// Reads a file of TensorFlow's for a model.
fn model(path: &Path) {
    if let Ok(model) = tf::Model::read(path) {
        model.notes();
        assert_eq!(
            model.variables["Model/embedding"].size(),
            [model.shapes.vocab_size, model.shapes.hidden_size]
        );
    }
}

/// A checkpoint of ours. What is read must be a model that can be built.
pub fn checkpoint(data: &[u8]) {
    let path = file("model-1.safetensors", data);
    within(data.len(), 256, || {
        let Ok(checkpoint) = Checkpoint::read(&path) else { return };
        let config = checkpoint.run.config;
        let cell = checkpoint.cell().expect("a cell that is known");
        config.validate().expect("a configuration that can be");
        // Small ones, since the fuzzer has no time for others.
        if config.num_layers * config.hidden_size * (config.vocab_size + 8 * config.hidden_size)
            < 10_000
        {
            let variables =
                PtbVariables::new(&config, cell, Device::Cpu, Kind::Float, 0).expect("variables");
            let _ = variables.assign(&checkpoint.variables);
        }
    });
}

/// A configuration as JSON.
pub fn config(data: &[u8]) {
    within(data.len(), 256, || {
        let Ok(run) = serde_json::from_slice::<RunConfig>(data) else { return };
        if run.config.validate().is_ok() {
            assert!(run.config.learning_rate_at(run.config.max_max_epoch).is_finite());
            let text = serde_json::to_string(&run).expect("JSON");
            assert_eq!(serde_json::from_str::<RunConfig>(&text).expect("the same"), run);
        }
    });
}

/// A metrics file.
pub fn metrics(data: &[u8]) {
    let path = file("metrics.jsonl", data);
    within(data.len(), 256, || {
        if let Ok(file) = results::MetricsFile::read(&path, &mut |_| ()) {
            let comparison = results::Comparison::new(vec![file]).expect("a table");
            let _ = (comparison.text(), comparison.markdown(), comparison.json());
        }
    });
}

/// A file for `train --config`: flags as JSON, or a run's metrics.
pub fn config_file(data: &[u8]) {
    let path = file("run.json", data);
    within(data.len(), 256, || {
        let args =
            ["ptb-word-lm", "train", "--data-path", "sample", "--config"].map(OsString::from);
        // Parsed, and not run.
        let _ = cli::parse(args.into_iter().chain([path.into_os_string()]));
    });
}
