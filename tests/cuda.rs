//! What the model needs on a GPU, tested as far as the device at hand can: cuDNN's calls, its
//! weights in one buffer, precisions, evaluation. (The recording of the step, and that it never
//! waits: src/train_step.rs.) Tests that only a GPU can answer are ignored elsewhere; bench/gpu.sh
//! runs them there.

mod devices;

use std::path::Path;
use std::process::{Command, Output};

use devices::devices;
use ptb_word_lm::config::{Config, Precision, RnnMode};
use ptb_word_lm::device::set_precision;
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer::Gradient;
use ptb_word_lm::predictor::Plain;
use ptb_word_lm::reader::{EOS, Producer, Split, Vocabulary};
use ptb_word_lm::rnn::{CellType, State};
use ptb_word_lm::score::{Options, Scorer};
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

fn variables(config: &Config, device: Device, kind: Kind) -> PtbVariables {
    PtbVariables::new(config, CellType::BasicLstm, device, kind, 3).unwrap()
}

/// The words of a step, int64, with the targets' column.
fn words(config: &Config, device: Device) -> Tensor {
    tch::manual_seed(5);
    let size = [config.batch_size, config.num_steps + 1];
    Tensor::randint(config.vocab_size, size, (Kind::Int64, Device::Cpu)).to_device(device)
}

/// All layers in one call, as where there is no dropout, give the numbers of layer by layer.
#[test]
fn one_call_for_all_layers_is_layer_by_layer() {
    for &device in devices() {
        let [together, one_by_one] =
            [CONFIG, DROPOUT].map(|config| variables(&config, device, Kind::Float));
        one_by_one.assign(&together.to_tensorflow().unwrap()).unwrap();
        let size = [CONFIG.batch_size, CONFIG.num_steps, CONFIG.hidden_size];
        let inputs = Tensor::randn(size, (Kind::Float, device));
        let run = |variables| {
            let model = PtbModel::new(variables, false, RnnMode::Cudnn);
            let state: State =
                model.zero_state(CONFIG.batch_size).iter().map(|s| s + 0.1).collect();
            let (outputs, last) = model.outputs(&inputs, &state, &[]).unwrap();
            std::iter::once(outputs).chain(last)
        };
        let tolerance = if device == Device::Cpu { 0.0 } else { 1e-5 };
        for (a, b) in run(&together).zip(run(&one_by_one)) {
            assert!((a - b).abs().max().double_value(&[]) <= tolerance, "{device:?}");
        }
    }
}

/// In half the width the gradients are near the float32 ones, the small ones too: float16 keeps 11
/// bits of those that the loss scale lifts into its range.
#[test]
fn half_width_gradients_are_near_the_float32_ones() {
    for &device in devices() {
        for config in [CONFIG, DROPOUT] {
            let v = variables(&config, device, Kind::Float);
            let words = words(&config, device);
            let (x, y) =
                (words.narrow(1, 0, config.num_steps), words.narrow(1, 1, config.num_steps));
            let gradients = |precision| {
                set_precision(precision);
                let model = PtbModel::new(&v, true, RnnMode::Cudnn).precision(precision);
                tch::manual_seed(9);
                let masks = model.dropout_masks(config.batch_size, config.num_steps).unwrap();
                model.gradients(&x, &y, &model.zero_state(config.batch_size), &masks).unwrap()
            };
            let (cost, exact, _) = gradients(Precision::Fp32);
            for (precision, tolerance) in [(Precision::Fp16, 4e-3), (Precision::Bf16, 5e-2)] {
                let (half_cost, half, state) = gradients(precision);
                let off = (&half_cost / &cost - 1.0).abs().double_value(&[]);
                assert!(
                    off < tolerance / 4.0,
                    "{device:?} {precision}: the cost is off by {off:e}"
                );
                assert!(state.iter().all(|s| s.kind() == Kind::Float));
                for (exact, ours) in
                    exact.iter().map(Gradient::values).zip(half.iter().map(Gradient::values))
                {
                    assert_eq!(ours.kind(), Kind::Float);
                    let off = ((ours - exact).norm() / exact.norm()).double_value(&[]);
                    assert!(
                        off < tolerance,
                        "{device:?} {precision}: {:?} is off by {off:e}",
                        exact.size()
                    );
                }
            }
            set_precision(Precision::Fp32);
        }
    }
}

/// A text that is cut into pieces, rows that are not, and lines of their own: the same numbers on
/// all devices and, to their rounding, in all precisions, as a float64 reading in one place gives.
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
            set_precision(precision);
            let model = PtbModel::new(&v, false, RnnMode::Cudnn).precision(precision);
            let split =
                Split { name: "text".into(), tokens: tokens.clone().into(), ..Split::default() };
            let producer = Producer::new(&split, 1, 1, device).unwrap();
            let found = evaluate(&model, &producer).unwrap().perplexity;
            assert!(
                (found / expected - 1.0).abs() < rounding,
                "{device:?} {precision}: {found}, {expected}"
            );
            let score = |independent| {
                let view = PtbModel::new(&v, false, RnnMode::Cudnn).precision(precision);
                let predictor = &mut Plain::new(view);
                let options = Options { independent, ..Options::default() };
                let mut scorer = Scorer { predictor, vocabulary: &vocabulary, options };
                let text = std::io::Cursor::new(lines.clone().into_bytes());
                scorer.score(text, "lines", &mut |_| Ok(())).unwrap().0.perplexity().unwrap()
            };
            let scored = score(false);
            assert!(
                (scored / found - 1.0).abs() < rounding,
                "{device:?} {precision}: {scored}, {found}"
            );
            of_lines.push((score(true), rounding));
        }
        set_precision(Precision::Fp32);
    }
    for (found, rounding) in &of_lines {
        assert!((found / of_lines[0].0 - 1.0).abs() < *rounding, "{of_lines:?}");
    }
}

/// cuDNN finds the weights side by side, also after values came in from outside: no variable leaves
/// its place.
#[test]
#[ignore = "needs a GPU (bench/gpu.sh)"]
fn gpu_weights_stay_in_one_buffer() {
    let device = *devices().last().unwrap();
    assert!(device.is_cuda(), "there is no GPU");
    let (v, other) =
        (variables(&CONFIG, device, Kind::Float), variables(&CONFIG, Device::Cpu, Kind::Float));
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
    let other =
        PtbVariables::new(&CONFIG, CellType::BasicLstm, Device::Cpu, Kind::Float, 4).unwrap();
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
        "train", "--data-path", "sample", "--model", "test", "--device", "cpu", "--max-steps", "0",
        "--no-eval",
    ];
    let refused: [&[&str]; 4] = [
        &["--precision", "tf32"],
        &["--precision", "tf32-cudnn"],
        &["--precision", "fp16"],
        &["--use_fp16"],
    ];
    for flags in refused {
        let output = program(&[&train, flags].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains("needs a GPU") && text.contains("bf16"), "{flags:?}: {text}");
    }
    let output = program(&[&train[..], &["--use_fp16=true", "--precision", "bf16"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give one of them"));
    let output = program(&[&train[..], &["--use_fp16=False"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `make train-cuda` and `--device cuda` where there is no GPU: what is missing, and what to do
/// instead.
#[test]
fn without_a_gpu_the_way_to_the_cpu_is_named() {
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("scripts")).unwrap();
    let script = folder.path().join("scripts/libtorch.sh");
    for name in ["libtorch.sh", "pip.sh"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        std::fs::copy(from, script.with_file_name(name)).unwrap();
    }
    let fetch = Command::new("bash").arg(script).arg("cuda").output().unwrap();
    let train = program(&["train", "--data-path", "sample", "--model", "test", "--device", "cuda"]);
    for (output, missing) in [(fetch, "no NVIDIA GPU"), (train, "no NVIDIA driver")] {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(missing) && text.contains("make train-cpu"), "{text}");
    }
}
