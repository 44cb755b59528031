//! A model of one's own, outside the library: `cargo run --release --example tied_softmax`.
//!
//! The PTB model with one matrix instead of two: the embedding is the softmax layer's matrix as
//! well (Press and Wolf, arXiv 1608.05859; Inan et al., arXiv 1611.01462). Its cells come from the
//! library, its training step is put together here, and since it is a [`LanguageModel`], it writes
//! and scores text as the library's own model does.

use anyhow::Result;
use ptb_word_lm::config::Config;
use ptb_word_lm::generate::{Generator, Sampling};
use ptb_word_lm::loss::sequence_loss;
use ptb_word_lm::optimizer::{Gradient, Optimizer, clip_scale, global_norm};
use ptb_word_lm::predictor::{ByLogits, LanguageModel};
use ptb_word_lm::reader::{Producer, RawData};
use ptb_word_lm::rnn::{CellType, MultiRNNCell, State, dynamic_rnn};
use ptb_word_lm::score::{Options, Scored, Scorer};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, nn};

const CELL: CellType = CellType::Gru;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

struct TiedModel {
    config: Config,
    /// `[vocab, hidden]`: rows of words on the way in, columns of logits on the way out.
    embedding: Tensor,
    softmax_b: Tensor,
    /// The cells' variables under TensorFlow's names.
    cells: BTreeMap<String, Tensor>,
}

impl TiedModel {
    fn new(config: Config) -> Self {
        let store = nn::VarStore::new(Device::Cpu);
        let uniform = nn::Init::Uniform { lo: -config.init_scale, up: config.init_scale };
        let var = |name: &str, size: &[i64], init| store.root().var(name, size, init);
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let mut cells = BTreeMap::new();
        for k in 0..config.num_layers {
            for (name, size) in CELL.variable_shapes(hidden, hidden) {
                let full = format!("RNN/multi_rnn_cell/cell_{k}/{}/{name}", CELL.scope());
                let init = CELL.initial_bias(name).map_or(uniform, nn::Init::Const);
                cells.insert(full.clone(), var(&full.replace('/', "_"), &size, init));
            }
        }
        let embedding = var("embedding", &[vocab, hidden], uniform);
        let softmax_b = var("softmax_b", &[vocab], nn::Init::Const(0.0));
        TiedModel { config, embedding, softmax_b, cells }
    }

    fn trainable(&self) -> Vec<&Tensor> {
        self.cells.values().chain([&self.embedding, &self.softmax_b]).collect()
    }

    /// A view over the variables.
    fn stack(&self) -> Result<MultiRNNCell> {
        MultiRNNCell::from_variables(&self.cells, "RNN", true, |variables, scope| {
            CELL.build(variables, scope, 0.0)
        })
    }

    /// Logits `[batch, steps, vocab]` after the words `x [batch, steps]`, and the final state.
    fn forward(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        let inputs = Tensor::f_embedding(&self.embedding, x, -1, false, false)?;
        let (outputs, state) = dynamic_rnn(&self.stack()?, &inputs, None, Some(state), false)?;
        Ok((outputs.f_matmul(&self.embedding.tr())? + &self.softmax_b, state))
    }

    /// One step of gradient descent, clipped as in the original. Returns the cost and the state.
    fn train_step(
        &self,
        x: &Tensor,
        y: &Tensor,
        state: &[Tensor],
        rate: f64,
    ) -> Result<(f64, State)> {
        let (logits, state) = self.forward(x, state)?;
        let steps = |tensor: &Tensor| tensor.unbind(1);
        let weights = steps(&Tensor::ones(x.size(), FLOAT));
        let cost = sequence_loss(&steps(&logits), &steps(y), &weights, false, true)?;
        let trainable = self.trainable();
        let gradients = Tensor::f_run_backward(&[&cost], &trainable, false, false)?;
        let gradients: Vec<Gradient> = gradients.into_iter().map(Gradient::Dense).collect();
        let scale = clip_scale(&global_norm(&gradients), self.config.max_grad_norm);
        let rate = Tensor::from(rate as f32);
        Optimizer::GradientDescent.apply_gradients(&trainable, &gradients, &scale, &rate);
        Ok((cost.double_value(&[]), state.iter().map(Tensor::detach).collect()))
    }
}

impl LanguageModel for TiedModel {
    fn vocab_size(&self) -> i64 {
        self.config.vocab_size
    }

    fn zero_state(&self, batch_size: i64) -> State {
        let sizes = CELL.state_size(self.config.hidden_size);
        let sizes = sizes.iter().cycle().take(sizes.len() * self.config.num_layers as usize);
        sizes.map(|&size| Tensor::zeros([batch_size, size], FLOAT)).collect()
    }

    fn logits(&self, x: &Tensor, state: &[Tensor]) -> Result<(Tensor, State)> {
        tch::no_grad(|| {
            let (logits, state) = self.forward(x, state)?;
            Ok((logits.flatten(0, 1), state))
        })
    }
}

fn main() -> Result<()> {
    let data = RawData::read("sample")?;
    let words = &data.vocabulary;
    let vocab_size = words.len() as i64;
    let config = Config { hidden_size: 100, max_max_epoch: 3, vocab_size, ..Config::SMALL };
    tch::manual_seed(0);
    let model = TiedModel::new(config);
    let train = Producer::new(&data.train, config.batch_size, config.num_steps, Device::Cpu)?;
    for epoch in 0..config.max_max_epoch {
        let (mut costs, mut state) = (0.0, model.zero_state(config.batch_size));
        for i in 0..train.epoch_size() {
            let (x, y) = train.batch(i);
            let cost;
            (cost, state) = model.train_step(&x, &y, &state, config.learning_rate_at(epoch))?;
            costs += cost;
        }
        let perplexity = (costs / (train.epoch_size() * config.num_steps) as f64).exp();
        println!("Epoch: {} Train Perplexity: {perplexity:.3}", epoch + 1);
    }

    let mut predictor = ByLogits::new(&model);
    let options = Options::default();
    let mut scorer = Scorer { predictor: &mut predictor, vocabulary: words, options };
    let (total, _) =
        scorer.score(ptb_word_lm::sample::TEST.as_bytes(), "test", &mut |_: Scored| Ok(()))?;
    println!("Test Perplexity: {:.3}", total.perplexity().unwrap_or(f64::NAN));

    let mut generator = Generator::new(&model, Sampling::default(), 1)?;
    generator.read(&[words.id("<eos>").unwrap_or(0)])?;
    for _ in 0..30 {
        let word = words.word(generator.next_word()?).unwrap_or_default();
        if word == "<eos>" { println!() } else { print!("{word} ") }
    }
    println!();
    Ok(())
}
