//! What the training step needs on a GPU, tested as far as the device at hand can: fixed buffers and their recording, precisions, no waiting.
//! Tests that only a GPU can answer are ignored elsewhere; bench/gpu.sh runs them there.

mod devices;

use std::path::Path;
use std::process::{Command, Output};

use devices::{devices, host};
use ptb_word_lm::config::{Config, Precision, RnnMode};
use ptb_word_lm::graph::{FixedStep, count_reads, forbid_synchronization};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer::Gradient;
use ptb_word_lm::reader::{EOS, Producer, Split, Vocabulary};
use ptb_word_lm::rnn::{CellType, State};
use ptb_word_lm::score::Scorer;
use ptb_word_lm::session::evaluate;
use tch::{Device, Kind, Tensor};

const CONFIG: Config = Config {
    vocab_size: 57,
    hidden_size: 24,
    num_layers: 2,
    batch_size: 5,
    num_steps: 7,
    keep_prob: 1.0,
    init_scale: 0.3,
    ..Config::SMALL
};
const DROPOUT: Config = Config { keep_prob: 0.5, ..CONFIG };
const STEPS: i64 = 8;

fn variables(config: &Config, device: Device, kind: Kind) -> PtbVariables {
    PtbVariables::new(config, CellType::BasicLstm, device, kind, 3).unwrap()
}

/// A text of `STEPS` batches, int32 as the producer has it, and step k of it with the targets' column.
fn text(config: &Config, device: Device) -> Tensor {
    tch::manual_seed(5);
    let size = [config.batch_size, STEPS * config.num_steps + 1];
    Tensor::randint(config.vocab_size, size, (Kind::Int, Device::Cpu)).to_device(device)
}

fn words(text: &Tensor, config: &Config, k: i64) -> Tensor {
    text.narrow(1, k * config.num_steps, config.num_steps + 1)
}

fn rate(k: i64) -> f64 {
    1.0 / (1.0 + (k / 3) as f64)
}

/// `STEPS` steps of the plain kind: costs, global norms, and the state at the end.
fn plainly(model: &PtbModel, text: &Tensor, config: &Config) -> (Vec<[f64; 2]>, State) {
    let mut state = model.zero_state(config.batch_size);
    let mut figures = Vec::new();
    for k in 0..STEPS {
        tch::manual_seed(100 + k);
        let at = |start| words(text, config, k).narrow(1, start, config.num_steps).to_kind(Kind::Int64);
        let step = model.train_step(&at(0), &at(1), &state, rate(k)).unwrap();
        figures.push([step.cost.double_value(&[]), step.global_norm.double_value(&[])]);
        state = step.state;
    }
    (figures, state)
}

fn fixed(model: PtbModel, text: &Tensor, config: &Config, record: bool) -> (Vec<[f64; 2]>, State, [f64; 2]) {
    let sums = Tensor::zeros([2], (Kind::Double, text.device()));
    let zero = model.zero_state(config.batch_size);
    let mut fixed = FixedStep::new(model, config.batch_size, config.num_steps, &sums, record).unwrap();
    let mut state = fixed.set(&zero, rate(0)).unwrap();
    let mut figures = Vec::new();
    for k in 0..STEPS {
        state = fixed.set(&state, rate(k)).unwrap();
        let notice = fixed.run(&words(text, config, k), Some(100 + k)).unwrap();
        assert_eq!(notice, None, "recording is refused");
        figures.push([0, 1].map(|i| fixed.figures().double_value(&[i])));
    }
    (figures, state.iter().map(Tensor::copy).collect(), [0, 1].map(|i| sums.double_value(&[i])))
}

/// Kernel by kernel it is the plain step to the last bit, on the CPU. On a GPU, where the sums over repeated words have no fixed order,
/// and recorded, it agrees to float32's rounding.
#[test]
fn the_fixed_step_is_the_plain_step() {
    for &device in devices() {
        for config in [CONFIG, DROPOUT] {
            for mode in [RnnMode::Cudnn, RnnMode::Block, RnnMode::Basic] {
                for record in [false, true] {
                    let (a, b) =
                        (variables(&config, device, Kind::Float), variables(&config, device, Kind::Float));
                    let text = text(&config, device);
                    let (plain, plain_state) = plainly(&PtbModel::new(&a, true, mode), &text, &config);
                    let (ours, state, sums) = fixed(PtbModel::new(&b, true, mode), &text, &config, record);
                    let tolerance = if device == Device::Cpu { 0.0 } else { 1e-5 };
                    let what = format!("{device:?} {mode} keep_prob {} record {record}", config.keep_prob);
                    for (k, (plain, ours)) in plain.iter().zip(&ours).enumerate() {
                        for (p, o) in plain.iter().zip(ours) {
                            assert!((o / p - 1.0).abs() <= tolerance, "{what}, step {k}: {o} instead of {p}");
                        }
                    }
                    for i in 0..2 {
                        let sum: f64 = ours.iter().map(|figures| figures[i]).sum();
                        assert!((sums[i] / sum - 1.0).abs() < 1e-14, "{what}: the sums");
                    }
                    let pairs = plain_state.iter().zip(&state).map(|(p, o)| (host(p), host(o)));
                    let trained =
                        a.trainable().into_iter().zip(b.trainable()).map(|(p, o)| (host(p), host(o)));
                    for (plain, ours) in pairs.chain(trained) {
                        let difference = (plain - ours).abs().max().double_value(&[]);
                        assert!(difference <= tolerance, "{what}: a tensor differs by {difference:e}");
                    }
                }
            }
        }
    }
}

/// All layers in one call, as where there is no dropout, give the numbers of layer by layer.
#[test]
fn one_call_for_all_layers_is_layer_by_layer() {
    for &device in devices() {
        let v = variables(&CONFIG, device, Kind::Float);
        let model = PtbModel::new(&v, true, RnnMode::Cudnn);
        let size = [CONFIG.batch_size, CONFIG.num_steps, CONFIG.hidden_size];
        let inputs = Tensor::randn(size, (Kind::Float, device));
        let state: State = model.zero_state(CONFIG.batch_size).iter().map(|s| s + 0.1).collect();
        let ones: Vec<Tensor> = (0..3).map(|_| Tensor::ones(size, (Kind::Float, device))).collect();
        let (together, last) = model.outputs(&inputs, &state, &[]).unwrap();
        let (one_by_one, last_too) = model.outputs(&inputs, &state, &ones).unwrap();
        let tolerance = if device == Device::Cpu { 0.0 } else { 1e-5 };
        for (a, b) in [(together, one_by_one)].into_iter().chain(last.into_iter().zip(last_too)) {
            assert!((a - b).abs().max().double_value(&[]) <= tolerance, "{device:?}");
        }
    }
}

/// In half the width the gradients are near the float32 ones, the small ones too: float16 keeps 11 bits of those that the loss scale lifts into
/// its range.
#[test]
fn half_width_gradients_are_near_the_float32_ones() {
    for &device in devices() {
        for config in [CONFIG, DROPOUT] {
            let v = variables(&config, device, Kind::Float);
            let words = words(&text(&config, device), &config, 0).to_kind(Kind::Int64);
            let (x, y) = (words.narrow(1, 0, config.num_steps), words.narrow(1, 1, config.num_steps));
            let gradients = |precision| {
                let model = PtbModel::new(&v, true, RnnMode::Cudnn).precision(precision);
                tch::manual_seed(9);
                let masks = model.dropout_masks(config.batch_size, config.num_steps).unwrap();
                model.gradients(&x, &y, &model.zero_state(config.batch_size), &masks).unwrap()
            };
            let (cost, exact, _) = gradients(Precision::Fp32);
            for (precision, tolerance) in [(Precision::Fp16, 4e-3), (Precision::Bf16, 5e-2)] {
                let (half_cost, half, state) = gradients(precision);
                let off = (&half_cost / &cost - 1.0).abs().double_value(&[]);
                assert!(off < tolerance / 4.0, "{device:?} {precision}: the cost is off by {off:e}");
                assert!(state.iter().all(|s| s.kind() == Kind::Float));
                for (exact, ours) in exact.iter().map(Gradient::values).zip(half.iter().map(Gradient::values))
                {
                    assert_eq!(ours.kind(), Kind::Float);
                    let off = ((ours - exact).norm() / exact.norm()).double_value(&[]);
                    assert!(off < tolerance, "{device:?} {precision}: {:?} is off by {off:e}", exact.size());
                }
            }
        }
    }
}

/// No operator of the step reads a number into the program, for which a GPU would make the host wait. In double precision the CPU takes the
/// very operators that a GPU takes.
#[test]
fn the_step_reads_nothing() {
    for &device in devices() {
        for config in [CONFIG, DROPOUT] {
            let v = variables(&config, device, Kind::Double);
            let text = text(&config, device);
            let model = PtbModel::new(&v, true, RnnMode::Cudnn);
            let sums = Tensor::zeros([2], (Kind::Double, device));
            let mut fixed = FixedStep::new(model, config.batch_size, config.num_steps, &sums, false).unwrap();
            let model = PtbModel::new(&v, true, RnnMode::Cudnn);
            let mut state = model.zero_state(config.batch_size);
            let at = |start| words(&text, &config, 1).narrow(1, start, config.num_steps).to_kind(Kind::Int64);
            let reads = count_reads(|| {
                state = model.train_step(&at(0), &at(1), &state, 1.0).unwrap().state;
                fixed.set(&state, 0.5).unwrap();
                fixed.run(&words(&text, &config, 2), Some(1)).unwrap();
            });
            assert_eq!(reads, 0, "{device:?}");
            assert_eq!(
                count_reads(|| assert!(sums.double_value(&[0]) > 0.0)),
                1,
                "it would have been noticed"
            );
        }
    }
}

/// The same by libtorch's own check, on a GPU; the epoch's inputs are there, and the state and the costs stay there.
#[test]
#[ignore = "needs a GPU (bench/gpu.sh)"]
fn gpu_the_step_never_waits() {
    let device = *devices().last().unwrap();
    assert!(device.is_cuda(), "there is no GPU");
    for config in [CONFIG, DROPOUT] {
        let v = variables(&config, device, Kind::Float);
        let text = text(&config, device);
        let sums = Tensor::zeros([2], (Kind::Double, device));
        let model = PtbModel::new(&v, true, RnnMode::Cudnn);
        let zero = model.zero_state(config.batch_size);
        let mut fixed = FixedStep::new(model, config.batch_size, config.num_steps, &sums, true).unwrap();
        fixed.set(&zero, 1.0).unwrap();
        for k in 0..STEPS {
            // The first step sets libraries up, and the fourth is recorded.
            forbid_synchronization(k != 0 && k != 3).unwrap();
            assert_eq!(fixed.run(&words(&text, &config, k), Some(k)).unwrap(), None);
        }
        assert!(std::panic::catch_unwind(|| sums.double_value(&[0])).is_err(), "it would have been noticed");
        forbid_synchronization(false).unwrap();
    }
}

/// A text that is cut into pieces, rows that are not, and lines of their own: the same numbers on all
/// devices and, to their rounding, in all precisions, as a float64 reading in one place gives.
#[test]
fn texts_cost_the_same_on_all_devices() {
    let devices = devices();
    let words: Vec<String> =
        (0..CONFIG.vocab_size - 1).map(|k| format!("w{k}")).chain([EOS.into()]).collect();
    let vocabulary = Vocabulary::from_words(&words);
    tch::manual_seed(5);
    let drawn = Tensor::randint(CONFIG.vocab_size, [7001], (Kind::Int, Device::Cpu));
    let tokens = Vec::<i32>::try_from(&drawn).unwrap();
    let text: String = tokens.iter().map(|&id| words[id as usize].clone() + " ").collect();
    let lines = text.replace(&format!(" {EOS} "), "\n");
    let ids = |start, len| drawn.narrow(0, start, len).to_kind(Kind::Int64).unsqueeze(0);
    let double = variables(&CONFIG, Device::Cpu, Kind::Double);
    let plain = PtbModel::new(&double, false, RnnMode::Cudnn);
    let (costs, _) = plain.evaluate(&ids(0, 7000), &ids(1, 7000), &plain.zero_state(1)).unwrap();
    let expected = (costs.double_value(&[]) / 7000.0).exp();
    let mut of_lines = Vec::new();
    for &device in devices {
        let v = variables(&CONFIG, device, Kind::Float);
        v.assign(&double.to_tensorflow().unwrap()).unwrap();
        for (precision, rounding) in
            [(Precision::Fp32, 1e-6), (Precision::Bf16, 2e-2), (Precision::Fp16, 2e-3)]
        {
            let model = PtbModel::new(&v, false, RnnMode::Cudnn).precision(precision);
            let split = Split { name: "text".into(), tokens: tokens.clone().into(), ..Split::default() };
            let producer = Producer::new(&split, 1, 1, device).unwrap();
            let found = evaluate(&model, &producer).unwrap().perplexity;
            assert!((found / expected - 1.0).abs() < rounding, "{device:?} {precision}: {found}, {expected}");
            let score = |independent| {
                let scorer = Scorer { model: &model, vocabulary: &vocabulary, independent };
                let text = std::io::Cursor::new(lines.clone().into_bytes());
                scorer.score(text, "lines", &mut |_| Ok(())).unwrap().perplexity().unwrap()
            };
            let scored = score(false);
            assert!((scored / found - 1.0).abs() < rounding, "{device:?} {precision}: {scored}, {found}");
            of_lines.push((score(true), rounding));
        }
    }
    for (found, rounding) in &of_lines {
        assert!((found / of_lines[0].0 - 1.0).abs() < *rounding, "{of_lines:?}");
    }
}

/// cuDNN finds the weights side by side, also after values came in from outside: no variable leaves its place.
#[test]
#[ignore = "needs a GPU (bench/gpu.sh)"]
fn gpu_weights_stay_in_one_buffer() {
    let device = *devices().last().unwrap();
    assert!(device.is_cuda(), "there is no GPU");
    let (v, other) = (variables(&CONFIG, device, Kind::Float), variables(&CONFIG, Device::Cpu, Kind::Float));
    let check = || {
        let trainable = v.trainable();
        let weights = &trainable[1..trainable.len() - 2];
        let start = weights.iter().map(|w| w.data_ptr() as usize).min().unwrap();
        let end = weights.iter().map(|w| w.data_ptr() as usize + 4 * w.numel()).max().unwrap();
        // The second biases, zeros, are there too.
        let biases = 4 * CONFIG.hidden_size as usize * CONFIG.num_layers as usize;
        let numbers = weights.iter().map(|w| w.numel()).sum::<usize>() + biases;
        assert!(end - start <= 4 * numbers, "{} bytes for {numbers} numbers", end - start);
    };
    check();
    // A seed means the same variables on every device.
    assert_eq!(v.to_tensorflow().unwrap(), other.to_tensorflow().unwrap());
    let other = PtbVariables::new(&CONFIG, CellType::BasicLstm, Device::Cpu, Kind::Float, 4).unwrap();
    v.assign(&other.to_tensorflow().unwrap()).unwrap();
    check();
    assert_eq!(v.to_tensorflow().unwrap(), other.to_tensorflow().unwrap());
}

/// The program: cargo's, or, where the tests were brought to without it, PTB_WORD_LM's.
fn program(args: &[&str]) -> Output {
    let path = std::env::var("PTB_WORD_LM").unwrap_or(env!("CARGO_BIN_EXE_ptb-word-lm").into());
    Command::new(path).args(args).output().unwrap()
}

#[test]
fn precisions_that_the_cpu_has_not_are_refused() {
    let train = [
        "train",
        "--data-path",
        "sample",
        "--model",
        "test",
        "--device",
        "cpu",
        "--max-steps",
        "0",
        "--no-eval",
    ];
    let refused: [&[&str]; 3] = [&["--precision", "tf32"], &["--precision", "fp16"], &["--use_fp16"]];
    for flags in refused {
        let output = program(&[&train, flags].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains("needs a GPU") && text.contains("--precision bf16"), "{flags:?}: {text}");
    }
    let output = program(&[&train[..], &["--use_fp16=true", "--precision", "bf16"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give one of them"));
    let output = program(&[&train[..], &["--use_fp16=False"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `make train-cuda` and `--device cuda` where there is no GPU: what is missing, and what to do instead.
#[test]
fn without_a_gpu_the_way_to_the_cpu_is_named() {
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("scripts")).unwrap();
    let script = folder.path().join("scripts/libtorch.sh");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/libtorch.sh"), &script).unwrap();
    let fetch = Command::new("bash").arg(script).arg("cuda").output().unwrap();
    let train = program(&["train", "--data-path", "sample", "--model", "test", "--device", "cuda"]);
    for (output, missing) in [(fetch, "no NVIDIA GPU"), (train, "no NVIDIA driver")] {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(missing) && text.contains("make train-cpu"), "{text}");
    }
}
