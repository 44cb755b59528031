//! What the golden files do not show: where dropout is, that the state is carried, that all cells
//! train.

use ptb_word_lm::config::{Config, RnnMode};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer;
use ptb_word_lm::reader::{Producer, Split};
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::session::evaluate;
use tch::{Device, Kind, Tensor};

const CONFIG: Config = Config {
    vocab_size: 23,
    hidden_size: 7,
    num_layers: 3,
    batch_size: 4,
    num_steps: 6,
    keep_prob: 0.25,
    init_scale: 0.5,
    ..Config::SMALL
};

fn variables(config: &Config, cell: CellType) -> PtbVariables {
    PtbVariables::new(config, cell, Device::Cpu, Kind::Double, 1).unwrap()
}

fn ids(config: &Config, steps: i64) -> Tensor {
    Tensor::randint(config.vocab_size, [config.batch_size, steps], (Kind::Int64, Device::Cpu))
}

fn largest(t: &Tensor) -> f64 {
    t.abs().max().double_value(&[])
}

#[test]
fn dropout_stands_in_layers_plus_one_places_scaled_and_only_in_training() {
    let v = variables(&CONFIG, CellType::BasicLstm);
    let training = PtbModel::new(&v, true, RnnMode::Cudnn);
    let masks = training.dropout_masks(50, 40).unwrap();
    assert_eq!(masks.len() as i64, CONFIG.num_layers + 1);
    for mask in &masks {
        assert_eq!(mask.size(), [50, 40, CONFIG.hidden_size]);
        // Each element is dropped or scaled by 1 / keep_prob; of 14,000 about a quarter is kept
        // (five standard deviations: 0.018).
        assert_eq!(largest(&(mask * (mask - 1.0 / CONFIG.keep_prob))), 0.0);
        assert!(
            (mask.mean(None::<Kind>).double_value(&[]) * CONFIG.keep_prob - CONFIG.keep_prob).abs()
                < 0.02
        );
    }
    assert!(largest(&(&masks[0] - &masks[1])) > 0.0, "every place has masks of its own");
    assert!(PtbModel::new(&v, false, RnnMode::Cudnn).dropout_masks(50, 40).unwrap().is_empty());
    let without = variables(&Config { keep_prob: 1.0, ..CONFIG }, CellType::BasicLstm);
    assert!(
        PtbModel::new(&without, true, RnnMode::Cudnn).dropout_masks(50, 40).unwrap().is_empty()
    );
}

/// Each of the L+1 masks acts where it should: with the mask of one place all zero, nothing that
/// comes in below reaches the output, and the state (the recurrent path) still goes on.
#[test]
fn each_mask_cuts_the_way_up_and_not_the_recurrent_path() {
    let v = variables(&CONFIG, CellType::BasicLstm);
    let size = [CONFIG.batch_size, CONFIG.num_steps, CONFIG.hidden_size];
    let random = || Tensor::randn(size, (Kind::Double, Device::Cpu));
    let (a, b) = (random(), random());
    for mode in [RnnMode::Basic, RnnMode::Block, RnnMode::Cudnn] {
        let model = PtbModel::new(&v, true, mode);
        let zero = model.zero_state(CONFIG.batch_size);
        let some: Vec<Tensor> = zero.iter().map(|s| s + 0.3).collect();
        for place in 0..=CONFIG.num_layers as usize {
            let ones = || Tensor::ones(size, (Kind::Double, Device::Cpu));
            let masks: Vec<Tensor> = (0..=CONFIG.num_layers as usize)
                .map(|p| if p == place { ones() * 0.0 } else { ones() })
                .collect();
            let (out_a, _) = model.outputs(&a, &zero, &masks).unwrap();
            let (out_b, state) = model.outputs(&b, &zero, &masks).unwrap();
            assert_eq!(
                largest(&(&out_a - &out_b)),
                0.0,
                "{mode}: the input passes the mask at place {place}"
            );
            assert!(largest(&state[state.len() - 1]) > 0.0 || place < CONFIG.num_layers as usize);
            let (from_some, _) = model.outputs(&a, &some, &masks).unwrap();
            let reached = largest(&(&out_a - from_some)) > 0.0;
            assert_eq!(
                reached,
                place < CONFIG.num_layers as usize,
                "{mode}: place {place} and the initial state"
            );
        }
    }
}

#[test]
fn two_chunks_with_the_state_carried_equal_one_long_one() {
    let config = Config { keep_prob: 1.0, ..CONFIG };
    for cell in CellType::ALL {
        let v = variables(&config, cell);
        let modes =
            if cell == CellType::BasicLstm { vec![RnnMode::Block, RnnMode::Cudnn] } else { vec![] };
        for mode in modes.into_iter().chain([RnnMode::Basic]) {
            let model = PtbModel::new(&v, false, mode);
            let (x, y) = (ids(&config, 9), ids(&config, 9));
            let zero = model.zero_state(config.batch_size);
            let (whole, whole_state) = model.evaluate(&x, &y, &zero).unwrap();
            let piece = |start, len, state: &[Tensor]| {
                model.evaluate(&x.narrow(1, start, len), &y.narrow(1, start, len), state).unwrap()
            };
            let (first, state) = piece(0, 4, &zero);
            let (second, state) = piece(4, 5, &state);
            assert!(
                largest(&(&first + &second - &whole)) < 1e-12,
                "{cell} {mode}: the costs add up"
            );
            for (carried, whole) in state.iter().zip(&whole_state) {
                assert!(largest(&(carried - whole)) < 1e-12, "{cell} {mode}: the states are equal");
            }
            let (lost, _) = piece(4, 5, &zero);
            assert!(largest(&(first + lost - whole)) > 1e-4, "{cell} {mode}: the state matters");
        }
    }
}

/// On the CPU a single word goes another way than a text: layer by layer, step by step.
#[test]
fn a_text_read_word_by_word_is_the_text_read_at_once() {
    for (keep_prob, cell) in
        [(1.0, CellType::BasicLstm), (0.5, CellType::BasicLstm), (1.0, CellType::Gru)]
    {
        let config = Config { keep_prob, forget_bias: 0.7, batch_size: 1, ..CONFIG };
        let v = variables(&config, cell);
        for variable in v.trainable() {
            let _ = tch::no_grad(|| variable.shallow_clone().uniform_(-0.5, 0.5));
        }
        let mode = if cell == CellType::BasicLstm { RnnMode::Cudnn } else { RnnMode::Basic };
        let model = PtbModel::new(&v, false, mode);
        let words = ids(&config, 12);
        let (logits, end) = model.logits(&words, &model.zero_state(1)).unwrap();
        let mut state = model.zero_state(1);
        for k in 0..12 {
            let own;
            (own, state) = model.logits(&words.narrow(1, k, 1), &state).unwrap();
            assert_eq!(own.size(), [1, config.vocab_size]);
            assert!(largest(&(own - logits.narrow(0, k, 1))) < 1e-12, "{cell} {k}");
        }
        assert_eq!(state.len(), end.len());
        for (ours, theirs) in state.iter().zip(&end) {
            assert_eq!(ours.size(), theirs.size());
            assert!(largest(&(ours - theirs)) < 1e-12);
        }
    }
}

/// Too few or too many tensors in a state are an error in every mode, also of a single word.
#[test]
fn a_state_of_another_length_is_refused() {
    let config = Config { keep_prob: 1.0, batch_size: 1, ..CONFIG };
    let v = variables(&config, CellType::BasicLstm);
    for mode in [RnnMode::Cudnn, RnnMode::Block, RnnMode::Basic] {
        let model = PtbModel::new(&v, false, mode);
        let state = model.zero_state(1);
        let logits = |steps, state: &[Tensor]| model.logits(&ids(&config, steps), state);
        let longer: Vec<Tensor> =
            state.iter().chain(&state[..2]).map(Tensor::shallow_clone).collect();
        for steps in [1, 4] {
            assert!(logits(steps, &state).is_ok());
            for wrong in [&state[..5], &state[..2], &[], &longer[..]] {
                let error = logits(steps, wrong).unwrap_err().to_string();
                assert!(error.contains("state"), "{mode}: {} tensors: {error}", wrong.len());
            }
        }
    }
}

/// The gradient of every cell's model by finite differences of the plain cost: nothing of it is
/// taken on trust from autograd.
#[test]
fn gradients_are_the_slopes_of_the_cost() {
    let config = Config { num_layers: 2, ..CONFIG };
    for cell in CellType::ALL {
        let v = variables(&config, cell);
        let model = PtbModel::new(&v, true, RnnMode::Basic);
        let (x, y) = (ids(&config, 5), ids(&config, 5));
        let masks = model.dropout_masks(config.batch_size, 5).unwrap();
        let zero = model.zero_state(config.batch_size);
        let (_, gradients, _) = model.gradients(&x, &y, &zero, &masks).unwrap();
        let cost = || tch::no_grad(|| model.cost(&x, &y, &zero, &masks).unwrap().double_value(&[]));
        for (variable, gradient) in v.trainable().iter().zip(&gradients) {
            let gradient = gradient.to_dense(&variable.size());
            let direction = Tensor::randn_like(&gradient);
            let slope = (&gradient * &direction).sum(Kind::Double).double_value(&[]);
            let shift = |by: f64| {
                tch::no_grad(|| {
                    let _ = variable.shallow_clone().g_add_(&(&direction * by));
                })
            };
            let h = 1e-6;
            shift(h);
            let above = cost();
            shift(-2.0 * h);
            let below = cost();
            shift(h);
            let measured = (above - below) / (2.0 * h);
            assert!(
                (measured - slope).abs() < 1e-6 * slope.abs().max(1.0),
                "{cell}: {measured} instead of {slope}"
            );
        }
    }
}

#[test]
fn every_cell_learns() {
    let config = Config { keep_prob: 1.0, num_layers: 2, hidden_size: 24, ..CONFIG };
    for cell in CellType::ALL {
        tch::manual_seed(4);
        let v = PtbVariables::new(&config, cell, Device::Cpu, Kind::Float, 4).unwrap();
        let mode = if cell == CellType::BasicLstm { RnnMode::Cudnn } else { RnnMode::Basic };
        let model = PtbModel::new(&v, true, mode);
        let (x, y) = (ids(&config, 6), ids(&config, 6));
        let zero = model.zero_state(config.batch_size);
        let costs: Vec<f64> = (0..150)
            .map(|_| model.train_step(&x, &y, &zero, 1.0).unwrap().cost.double_value(&[]))
            .collect();
        assert!(costs[149] < 0.5 * costs[0], "{cell}: {} to {}", costs[0], costs[149]);
    }
}

#[test]
fn train_step_is_clip_then_descend() {
    let config = Config { keep_prob: 1.0, max_grad_norm: 0.1, ..CONFIG };
    let (a, b) = (variables(&config, CellType::BasicLstm), variables(&config, CellType::BasicLstm));
    b.assign(&a.to_tensorflow().unwrap()).unwrap();
    let (x, y) = (ids(&config, 6), ids(&config, 6));
    let (one, other) =
        (PtbModel::new(&a, true, RnnMode::Cudnn), PtbModel::new(&b, true, RnnMode::Cudnn));
    let zero = one.zero_state(config.batch_size);
    let step = one.train_step(&x, &y, &zero, 0.5).unwrap();
    let (_, gradients, _) = other.gradients(&x, &y, &zero, &[]).unwrap();
    let (clipped, norm) = optimizer::clip_by_global_norm(&gradients, config.max_grad_norm).unwrap();
    assert!(norm.double_value(&[]) > config.max_grad_norm);
    assert_eq!(norm, step.global_norm);
    tch::no_grad(|| {
        for (variable, gradient) in b.trainable().into_iter().zip(&clipped) {
            let dense = gradient.to_dense(&variable.size());
            let _ = variable.shallow_clone().g_sub_(&(dense * 0.5));
        }
    });
    for (one, other) in a.trainable().iter().zip(b.trainable()) {
        assert!(largest(&(*one - other)) < 1e-14);
    }
}

#[test]
fn assigning_names_what_is_missing_or_misshapen_and_changes_nothing() {
    let v = variables(&CONFIG, CellType::BasicLstm);
    let before = v.to_tensorflow().unwrap();
    let mut given = v.to_tensorflow().unwrap();
    let kernel = "Model/RNN/multi_rnn_cell/cell_1/basic_lstm_cell/kernel";
    given.insert(kernel.into(), Tensor::zeros([3, 5], (Kind::Float, Device::Cpu)));
    let error = v.assign(&given).unwrap_err().to_string();
    assert!(
        error.contains(kernel) && error.contains("[3, 5]") && error.contains("[14, 28]"),
        "{error}"
    );
    given.remove(kernel);
    let error = v.assign(&given).unwrap_err().to_string();
    assert!(error.contains(kernel) && error.contains("missing"), "{error}");
    assert_eq!(before, v.to_tensorflow().unwrap());
}

fn text(tokens: &[i32], batch_size: i64) -> Producer {
    let split = Split { name: "test".into(), tokens: tokens.to_vec().into(), ..Split::default() };
    Producer::new(&split, batch_size, 1, Device::Cpu).unwrap()
}

/// The perplexity that the float32 model finds with one and with two threads.
fn found(float: &PtbVariables, producer: &Producer) -> [f64; 2] {
    let model = PtbModel::new(float, false, RnnMode::Cudnn);
    let before = tch::get_num_threads();
    let found = [1, 2].map(|threads| {
        tch::set_num_threads(threads);
        let evaluation = evaluate(&model, producer).unwrap();
        assert_eq!(evaluation.tokens, producer.epoch_size() * producer.batch_size());
        evaluation.perplexity
    });
    tch::set_num_threads(before);
    found
}

fn close(found: [f64; 2], expected: f64) {
    for perplexity in found {
        assert!((perplexity / expected - 1.0).abs() < 1e-6, "{perplexity} instead of {expected}");
        assert!((perplexity / found[0] - 1.0).abs() < 2e-7, "{found:?}");
    }
}

/// A text in one row has the perplexity of its definition: word by word in double precision.
#[test]
fn a_text_has_the_perplexity_of_word_by_word() {
    // Vocabularies whose logits do and do not fit the cache many rows at a time.
    for (vocab_size, words) in [(23, 2_501), (200_000, 301)] {
        let config = Config { vocab_size, ..CONFIG };
        let float =
            PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 2).unwrap();
        let double = variables(&config, CellType::BasicLstm);
        double.assign(&float.to_tensorflow().unwrap()).unwrap();
        let tokens: Vec<i32> =
            Tensor::randint(vocab_size, [words], (Kind::Int, Device::Cpu)).try_into().unwrap();
        let producer = text(&tokens, 1);
        let by_word = PtbModel::new(&double, false, RnnMode::Basic);
        let (mut costs, mut state) = (0.0, by_word.zero_state(1));
        for step in 0..producer.epoch_size() {
            let (x, y) = producer.batch(step);
            let cost;
            (cost, state) = by_word.evaluate(&x, &y, &state).unwrap();
            costs += cost.double_value(&[]);
        }
        close(found(&float, &producer), (costs / producer.epoch_size() as f64).exp());
    }
}

/// The perplexity of a text in rows, each read in one place in double precision.
fn in_one_place(double: &PtbVariables, tokens: &[i32], batch_size: usize) -> f64 {
    let model = PtbModel::new(double, false, RnnMode::Cudnn);
    let words = tokens.len() / batch_size - 1;
    let (mut costs, mut state) = (0.0, model.zero_state(batch_size as i64));
    for start in (0..words).step_by(1000) {
        let len = 1000.min(words - start);
        let ids = |shift: usize| {
            let row = |row: usize| &tokens[row * (words + 1) + start + shift..][..len];
            let rows: Vec<&[i32]> = (0..batch_size).map(row).collect();
            Tensor::from_slice(&rows.concat()).view([batch_size as i64, -1]).to_kind(Kind::Int64)
        };
        let cost;
        (cost, state) = model.evaluate(&ids(0), &ids(1), &state).unwrap();
        costs += cost.double_value(&[]);
    }
    (costs / words as f64).exp()
}

/// A text that is read in several places at once has the perplexity of a single reading, in double
/// precision, whether the model forgets what it read thousands of words before or never does.
#[test]
fn a_long_text_has_the_perplexity_of_one_reading() {
    let words = 26_004;
    let config = Config { vocab_size: 23, ..CONFIG };
    let float =
        PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 2).unwrap();
    let double = variables(&config, CellType::BasicLstm);
    tch::manual_seed(5);
    let tokens: Vec<i32> =
        Tensor::randint(23, [words], (Kind::Int, Device::Cpu)).try_into().unwrap();
    for forget_bias in [0.0, 30.0] {
        let mut variables = float.to_tensorflow().unwrap();
        for (name, tensor) in variables.iter_mut().filter(|(name, _)| name.ends_with("/bias")) {
            assert!(name.contains("basic_lstm_cell"));
            // (input, j, forget, output)
            let _ = tensor.narrow(0, 2 * config.hidden_size, config.hidden_size).fill_(forget_bias);
        }
        for model in [&float, &double] {
            model.assign(&variables).unwrap();
        }
        let plain = |tokens: &[i32], batch_size| in_one_place(&double, tokens, batch_size);
        for batch_size in [1, 3] {
            close(found(&float, &text(&tokens, batch_size as i64)), plain(&tokens, batch_size));
        }
        // What the pieces must not do: begin with zeros.
        let (half, whole) = (words as usize / 2, plain(&tokens, 1));
        let halves = (plain(&tokens[..=half], 1) * plain(&tokens[half..], 1)).sqrt();
        let difference = (halves / whole - 1.0).abs();
        // (With 4 it is near that bound.)
        assert!(
            if forget_bias == 30.0 {
                difference > 1e-5
            } else {
                forget_bias > 0.0 || difference < 1e-5
            },
            "{difference}"
        );
    }
}
