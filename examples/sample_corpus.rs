//! Writes the sample corpus: `cargo run --release --example sample_corpus -- DIR`.

use anyhow::{Context, Result, bail};
use ptb_word_lm::sample;
use std::path::PathBuf;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next().map(PathBuf::from), args.next()) else {
        bail!(
            "usage: sample_corpus DIR (the folder to write ptb.train.txt, ptb.valid.txt and ptb.test.txt to)"
        );
    };
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let corpus = sample::generate(sample::SEED);
    for (split, text) in [("train", corpus.train), ("valid", corpus.valid), ("test", corpus.test)] {
        let path = dir.join(format!("ptb.{split}.txt"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
