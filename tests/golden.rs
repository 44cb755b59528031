//! The language model against TensorFlow 1.15: every `ptb_*.npz` of tests/fixtures/golden (its
//! README says what is in them), or of the folder named by GOLDEN, in every rnn mode. They come
//! from the original example's own PTBModel, driven for some steps from given variables.

mod devices;
mod golden_file;

use std::collections::BTreeMap;

use devices::{devices, host};
use golden_file::Golden;

use ptb_word_lm::config::{Config, RnnMode};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer::{self, Gradient, Optimizer, OptimizerType};
use ptb_word_lm::rnn::{CellType, State};
use ptb_word_lm::tf::Variables;
use tch::{Device, Kind, Tensor};

const MODES: [RnnMode; 3] = [RnnMode::Basic, RnnMode::Block, RnnMode::Cudnn];

/// The largest difference, relative to the largest value of what is expected.
fn difference(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.size(), expected.size());
    let [ours, expected] = [ours, expected].map(|t| host(t).to_kind(Kind::Double));
    let scale = expected.abs().max().double_value(&[]).max(1e-12);
    ((ours - &expected).abs().max() / scale).double_value(&[])
}

fn assert_close(ours: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let difference = difference(ours, expected);
    // (For `--nocapture`, with which bench/gpu.sh runs these.)
    if difference > 1e-5 {
        eprintln!("{what}: differs by {difference:e}");
    }
    assert!(difference < tolerance, "{what}: differs by {difference:e}, tolerated {tolerance:e}");
}

fn assert_all_close(ours: &Variables, expected: &Variables, tolerance: f64, what: &str) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in ours {
        assert_close(tensor, &expected[name], tolerance, &format!("{what} {name}"));
    }
}

/// c or h of all layers, `[layers, batch, hidden]`.
fn layers(state: &State, which: usize) -> Tensor {
    let tensors: Vec<&Tensor> = state.iter().skip(which).step_by(2).collect();
    Tensor::stack(&tensors, 0)
}

/// Drives the whole file in one mode, and compares all that TensorFlow recorded.
fn drive(golden: &Golden, mode: RnnMode, kind: Kind, device: Device, tolerance: f64) {
    let variables = golden.variables(kind, device);
    let model = PtbModel::new(&variables, true, mode);
    let what =
        |k: i64, of: &str| format!("{} {mode} {kind:?} {device:?} step {k} {of}", golden.name);
    let close = |ours: f64, expected: f64, what: String| {
        let difference = (ours / expected - 1.0).abs();
        assert!(difference < tolerance, "{what}: {ours} instead of {expected}, by {difference:e}");
    };
    let mut state = model.zero_state(golden.config.batch_size);
    for k in 0..golden.steps {
        let (x, y) = golden.batch(k, device);
        let masks = golden.masks(k, kind, device);
        let (cost, gradients, next) = model.gradients(&x, &y, &state, &masks).unwrap();
        close(cost.double_value(&[]), golden.at("cost", k), what(k, "cost"));
        close(
            optimizer::global_norm(&gradients).double_value(&[]),
            golden.at("global_norm", k),
            what(k, "global norm"),
        );
        let sizes: Vec<Vec<i64>> = variables.trainable().iter().map(|v| v.size()).collect();
        let dense: Vec<Gradient> = gradients
            .iter()
            .zip(sizes)
            .map(|(g, size)| Gradient::Dense(g.to_dense(&size)))
            .collect();
        close(
            optimizer::global_norm(&dense).double_value(&[]),
            golden.at("dense_norm", k),
            what(k, "dense norm"),
        );
        if k == 0 {
            let named = variables.gradients_to_tensorflow(&gradients).unwrap();
            assert_all_close(&named, &golden.group("grad0"), tolerance, &what(k, "gradient of"));
        }
        for (which, name) in ["final_c", "final_h"].iter().enumerate() {
            assert_close(
                &layers(&next, which),
                &golden.arrays[*name].get(k),
                tolerance,
                &what(k, name),
            );
        }
        if masks.is_empty() {
            let step = model.train_step(&x, &y, &state, golden.config.learning_rate).unwrap();
            close(
                step.cost.double_value(&[]),
                cost.double_value(&[]),
                what(k, "train_step's cost"),
            );
            state = step.state;
        } else {
            let scale = optimizer::clip_scale(
                &optimizer::global_norm(&gradients),
                golden.config.max_grad_norm,
            );
            let rate = Tensor::from(golden.config.learning_rate).to_kind(kind).to_device(device);
            Optimizer::GradientDescent.apply_gradients(
                &variables.trainable(),
                &gradients,
                &scale,
                &rate,
            );
            state = next;
        }
    }
    assert_all_close(
        &variables.to_tensorflow().unwrap(),
        &golden.group("final"),
        tolerance,
        &what(golden.steps, "final"),
    );
}

/// Every file on every device.
fn everywhere() -> impl Iterator<Item = (Golden, Device)> {
    devices()
        .iter()
        .flat_map(|&device| Golden::all().into_iter().map(move |golden| (golden, device)))
}

/// cuDNN's kernels round otherwise than the CPU's, and than its own from one card to the next: on
/// an H100 the embedding's gradient is 1.2e-5 off in float32. In double precision all is within
/// 1e-5 there too.
#[test]
fn float32_over_all_steps_in_all_modes() {
    for (golden, device) in everywhere() {
        let tolerance = if device.is_cuda() { 5e-5 } else { 1e-5 };
        for mode in MODES {
            drive(&golden, mode, Kind::Float, device, tolerance);
        }
    }
}

/// The walkthrough's optimizer: costs, norms, variables, and the slots at the end.
#[test]
fn adam_over_all_steps_in_all_modes() {
    let goldens: Vec<Golden> = Golden::read_all().into_iter().filter(Golden::is_adam).collect();
    if std::env::var_os("GOLDEN").is_none() {
        assert!(!goldens.is_empty(), "no golden file of Adam");
    }
    for (golden, &device) in
        goldens.iter().flat_map(|golden| devices().iter().map(move |device| (golden, device)))
    {
        for (mode, kind) in
            MODES.into_iter().flat_map(|mode| [(mode, Kind::Float), (mode, Kind::Double)])
        {
            let tolerance = if device.is_cuda() && kind == Kind::Float { 5e-5 } else { 1e-5 };
            let variables = golden.variables(kind, device).with_optimizer(OptimizerType::Adam);
            let model = PtbModel::new(&variables, true, mode);
            let what = format!("{} {mode} {kind:?} {device:?}", golden.name);
            let mut state = model.zero_state(golden.config.batch_size);
            for k in 0..golden.steps {
                let (x, y) = golden.batch(k, device);
                let step = model.train_step(&x, &y, &state, golden.config.learning_rate).unwrap();
                for (ours, name) in [(&step.cost, "cost"), (&step.global_norm, "global_norm")] {
                    let off = (ours.double_value(&[]) / golden.at(name, k) - 1.0).abs();
                    assert!(off < tolerance, "{what} step {k}: {name} is off by {off:e}");
                }
                state = step.state;
            }
            let trained = variables.to_tensorflow().unwrap();
            let slots = variables.slots_to_tensorflow().unwrap();
            assert_all_close(&trained, &golden.group("final"), tolerance, &what);
            for (suffix, group) in [("Adam", "final_m"), ("Adam_1", "final_v")] {
                for (name, expected) in golden.group(group) {
                    let slot = &slots[&format!("{name}/{suffix}")];
                    assert_close(slot, &expected, tolerance, &format!("{what} {name}/{suffix}"));
                }
            }
            for power in ["beta1_power", "beta2_power"] {
                assert_close(&slots[power], &golden.arrays[power].view([0i64; 0]), 1e-6, power);
            }
        }
    }
}

/// In double precision what is left is TensorFlow's own float32 rounding.
#[test]
fn float64_over_all_steps_in_all_modes() {
    for (golden, device) in everywhere() {
        for mode in MODES {
            drive(&golden, mode, Kind::Double, device, 1e-5);
        }
    }
}

/// The three modes agree far below float32's rounding, with dropout and a forget bias too, given
/// the same masks: cost, gradients, state.
#[test]
fn modes_agree_with_dropout() {
    for (golden, device) in everywhere() {
        let config = Config { keep_prob: 0.5, forget_bias: 1.0, ..golden.config };
        let variables =
            PtbVariables::new(&config, CellType::BasicLstm, device, Kind::Double, 0).unwrap();
        variables.assign(&golden.group("init")).unwrap();
        let (x, y) = golden.batch(0, device);
        let mut results: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
        let drawn = PtbModel::new(&variables, true, RnnMode::Basic)
            .dropout_masks(config.batch_size, config.num_steps);
        let masks = drawn.unwrap();
        assert_eq!(masks.len() as i64, config.num_layers + 1);
        for mode in MODES {
            let model = PtbModel::new(&variables, true, mode);
            let state = model.zero_state(config.batch_size);
            let (cost, gradients, state) = model.gradients(&x, &y, &state, &masks).unwrap();
            let mut all = vec![cost];
            all.extend(gradients.iter().map(|g| g.values().shallow_clone()));
            all.extend(state);
            results.insert(mode.to_string(), all);
        }
        for mode in ["block", "cudnn"] {
            for (ours, basic) in results[mode].iter().zip(&results["basic"]) {
                assert_close(
                    ours,
                    basic,
                    1e-12,
                    &format!("{} {mode} against basic, with dropout, {device:?}", golden.name),
                );
            }
        }
    }
}

/// The hand-written gradient is autograd's through the plain definition of the cost, table and all.
#[test]
fn gradients_are_autograd_s_of_the_plain_cost() {
    for (golden, device) in everywhere() {
        let variables = golden.variables(Kind::Double, device);
        let (x, y) = golden.batch(0, device);
        let model = PtbModel::new(&variables, true, RnnMode::Basic);
        let state = model.zero_state(golden.config.batch_size);
        let masks = golden.masks(0, Kind::Double, device);
        let (cost, gradients, _) = model.gradients(&x, &y, &state, &masks).unwrap();
        let plain = model.cost(&x, &y, &state, &masks).unwrap();
        assert_close(&cost, &plain, 1e-13, "cost");
        let trainable = variables.trainable();
        let by_autograd = Tensor::run_backward(&[plain], &trainable, false, false);
        for ((ours, expected), variable) in gradients.iter().zip(by_autograd).zip(trainable) {
            assert_close(&ours.to_dense(&variable.size()), &expected, 1e-12, &golden.name);
        }
    }
}

#[test]
fn evaluation_gives_the_training_cost_without_dropout() {
    for (golden, device) in everywhere().filter(|(g, _)| g.config.keep_prob == 1.0) {
        let variables = golden.variables(Kind::Float, device);
        let (x, y) = golden.batch(0, device);
        for mode in MODES {
            let model = PtbModel::new(&variables, false, mode);
            let (cost, state) =
                model.evaluate(&x, &y, &model.zero_state(golden.config.batch_size)).unwrap();
            assert!((cost.double_value(&[]) / golden.at("cost", 0) - 1.0).abs() < 1e-5);
            assert_close(&layers(&state, 0), &golden.arrays["final_c"].get(0), 1e-5, "c");
        }
    }
}
