//! Reads a model that TensorFlow saved, and lets it read: `cargo run --release --example
//! tensorflow_checkpoint -- [PREFIX [ID...]]`.
//!
//! PREFIX is a checkpoint such as `model.ckpt-30056`, or a `.npz`; without it, a tiny one of
//! TensorFlow 1.15 among this repository's tests. The IDs are the words to read, by their rank in
//! the vocabulary.

use anyhow::{Context, Result};
use ptb_word_lm::config::{Config, RnnMode};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::tf;
use tch::{Device, Kind, Tensor};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let fixture =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tf_checkpoint/basic/model.ckpt-3");
    let saved = tf::Model::read(args.next().unwrap_or_else(|| fixture.into()))?;
    for (name, tensor) in &saved.variables {
        println!("{name} {:?}", tensor.size());
    }
    for note in saved.notes() {
        println!("not part of the model: {note}");
    }

    let tf::Shapes { vocab_size, hidden_size, num_layers, .. } = saved.shapes;
    let forget_bias = saved.forget_bias.unwrap_or(0.0); // the original's, if the file does not say
    let config = Config { vocab_size, hidden_size, num_layers, forget_bias, ..Config::SMALL };
    let variables = PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0)?;
    variables.assign(&saved.variables)?;

    let ids = args.map(|id| id.parse().with_context(|| format!("{id}: it is not a word's id")));
    let mut ids = ids.collect::<Result<Vec<i64>>>()?;
    if ids.is_empty() {
        ids = (0..vocab_size).collect();
    }
    anyhow::ensure!(ids.len() > 1, "one word alone predicts nothing");
    anyhow::ensure!(
        ids.iter().all(|id| (0..vocab_size).contains(id)),
        "ids are 0 to {}",
        vocab_size - 1
    );
    let text = Tensor::from_slice(&ids).unsqueeze(0); // [batch_size, words]
    let predicted = ids.len() as i64 - 1;
    let (x, y) = (text.narrow(1, 0, predicted), text.narrow(1, 1, predicted));
    let model = PtbModel::new(&variables, false, RnnMode::Cudnn);
    let (cost, _state) = model.evaluate(&x, &y, &model.zero_state(1))?;
    let cost = cost.double_value(&[]);
    println!(
        "cost of {predicted} words: {cost:.6}, perplexity {:.3}",
        (cost / predicted as f64).exp()
    );
    Ok(())
}
