//! Writes text with a model that `train --save-path` kept: `cargo run --release --example generate
//! -- FOLDER [WORD...]`.

use anyhow::{Context, Result};
use ptb_word_lm::generate::{Generator, Sampling};
use ptb_word_lm::saved::SavedModel;
use tch::Device;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args
        .next()
        .context("usage: generate FOLDER [WORD...] (the save path of a run, and a prompt)")?;
    let saved = SavedModel::load(folder, Device::Cpu, &mut |notice| eprintln!("{notice}"))?;
    let (model, vocabulary) = (saved.model(), &saved.vocabulary);

    let sampling = Sampling { temperature: 0.8, top_k: Some(40), ..Sampling::default() };
    let mut generator = Generator::new(&model, sampling, 1)?; // the same seed gives the same text
    let id = |word: String| {
        vocabulary.id(&word).with_context(|| format!("{word}: the model does not know it"))
    };
    let mut prompt = args.map(id).collect::<Result<Vec<i32>>>()?;
    if prompt.is_empty() {
        prompt = vec![id("<eos>".into())?]; // a new sentence comes after the end of one
    }
    generator.read(&prompt)?;
    for _ in 0..40 {
        let word = vocabulary.word(generator.next_word()?).unwrap_or_default();
        if word == "<eos>" { println!() } else { print!("{word} ") }
    }
    println!();
    Ok(())
}
