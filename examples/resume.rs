//! A run that survives being stopped: `cargo run --release --example resume -- FOLDER`.
//!
//! It trains one epoch of two on the sample corpus and saves it. Started again, it finds what was
//! saved and trains the second. The end is the same, to the last bit, as that of a run that did
//! both at once.

use std::path::PathBuf;

use anyhow::{Context, Result};
use ptb_word_lm::checkpoint::{RunConfig, SaveFolder, ensure_same_run};
use ptb_word_lm::config::Config;
use ptb_word_lm::model::PtbVariables;
use ptb_word_lm::reader::{Limits, RawData};
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::session::{Event, Input, Options, Session};
use tch::{Device, Kind};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = SaveFolder::open(&folder.context("usage: resume FOLDER")?, 2)?;
    let notice = &mut |text: &str| eprintln!("{text}");

    let data = RawData::read("sample")?;
    let vocab_size = data.vocabulary.len() as i64;
    let config = Config { hidden_size: 100, max_max_epoch: 2, vocab_size, ..Config::SMALL };
    let cell = CellType::BasicLstm;
    let run = RunConfig {
        config,
        cell: cell.to_string(),
        optimizer: Default::default(), // plain gradient descent
        seed: 0,
        limits: Limits::default(),
        markers: None,
    };
    let variables = PtbVariables::new(&config, cell, Device::Cpu, Kind::Float, run.seed)?;
    let input = Input::new(&data, &variables)?;

    let saved = folder.latest(notice)?;
    let epoch_size = input.train.epoch_size();
    let done = saved.as_ref().map_or(0, |checkpoint| checkpoint.progress.global_step);
    let options = Options { max_steps: Some(done + epoch_size), ..Options::default() };
    let mut session =
        Session::new(&variables, &input, &data.vocabulary, run.clone(), options, Some(&folder));
    if let Some(checkpoint) = &saved {
        ensure_same_run(checkpoint, &run)?; // the same model and the same seed
        session.resume(checkpoint)?;
    }
    session.train(&mut |event| match event {
        Event::EpochEnd { epoch, split, result, .. } => {
            println!("Epoch: {epoch} {split} perplexity: {:.3}", result.perplexity);
        }
        Event::Final(result) => println!("Test Perplexity: {:.3}", result.perplexity),
        Event::Saved { path } => println!("saved {}", path.display()),
        _ => (),
    })
}
