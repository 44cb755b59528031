//! Trains on the sample corpus, in thirty lines: `cargo run --release --example train`.

use ptb_word_lm::config::{Config, RnnMode};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::reader::RawData;
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::session::{Input, evaluate};
use tch::{Device, Kind};

fn main() -> anyhow::Result<()> {
    let data = RawData::read("sample")?; // or a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt
    let vocab_size = data.vocabulary.len() as i64;
    let config =
        Config { hidden_size: 100, max_epoch: 1, max_max_epoch: 2, vocab_size, ..Config::SMALL };
    let variables = PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0)?;
    let [train, eval] =
        [true, false].map(|training| PtbModel::new(&variables, training, RnnMode::Cudnn));
    let input = Input::new(&data, &variables)?;
    for epoch in 0..config.max_max_epoch {
        let (mut costs, mut state) = (0.0, train.zero_state(config.batch_size));
        for i in 0..input.train.epoch_size() {
            let (x, y) = input.train.batch(i);
            let step = train.train_step(&x, &y, &state, config.learning_rate_at(epoch))?;
            state = step.state; // fed back, so that the windows of 20 words are one long text
            costs += step.cost.double_value(&[]);
        }
        let perplexity = (costs / (input.train.epoch_size() * config.num_steps) as f64).exp();
        println!("Epoch: {} Train Perplexity: {perplexity:.3}", epoch + 1);
        println!(
            "Epoch: {} Valid Perplexity: {:.3}",
            epoch + 1,
            evaluate(&eval, &input.valid)?.perplexity
        );
    }
    println!("Test Perplexity: {:.3}", evaluate(&eval, &input.test)?.perplexity);
    Ok(())
}
