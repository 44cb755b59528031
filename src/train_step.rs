//! The training step on fixed buffers: run eagerly, or on a GPU recorded once as a CUDA graph and
//! replayed.
//!
//! A step is some fifty kernels, and launching one takes the host a few microseconds. If the
//! kernels are as short as that, as in `small`, the GPU waits for the host. A graph launches them
//! all together. It repeats exactly what was recorded, addresses included, so everything that
//! changes from step to step is in buffers that are filled before the launch: the words, the
//! learning rate, the state. Dropout masks are drawn within the graph: a replay uses the
//! generator's seed at the time of the replay.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::kernels::cuda_graph::{CudaGraph, use_own_stream};
use crate::model::PtbModel;
use crate::reader::inputs_and_targets;
use crate::rnn::State;

/// Steps that run kernel by kernel before the recording. cuDNN and cuBLAS initialize themselves in
/// them, which cannot be recorded.
const STEPS_BEFORE_RECORDING: u32 = 3;

/// The training step of a model, with its inputs and outputs always in the same buffers.
pub(crate) struct TrainStep<'a> {
    model: PtbModel<'a>,
    /// `[batch, num_steps + 1]`, int64: a step's inputs and, shifted by one, its targets.
    words: Tensor,
    /// The original's `_lr`: a scalar.
    learning_rate: Tensor,
    /// The state that the step starts from. The step overwrites it with its final state.
    state: State,
    /// The last step's cost and global norm, `[2]`, float64.
    last: Tensor,
    /// Sums of `last` over the steps since the sums were last taken.
    sums: Tensor,
    recording: Recording,
    /// Makes the recording fail: a number is read within it, and it panics where gradients are off.
    #[cfg(test)]
    fail_recording: bool,
}

enum Recording {
    /// On the CPU, if recording was not asked for, or after it failed.
    Off,
    /// Record after this many more steps.
    After(u32),
    On(CudaGraph),
}

impl<'a> TrainStep<'a> {
    /// Creates the step of `model`, which must be a training view. Batches have `batch_size` rows;
    /// the state has `state_rows`, those of this worker. With `record`, the fourth step on a GPU is
    /// recorded and replayed from then on.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(
        model: PtbModel<'a>,
        batch_size: i64,
        state_rows: i64,
        record: bool,
    ) -> Result<Self> {
        let device = model.device();
        let state = model.zero_state(state_rows);
        let recording = match device {
            Device::Cuda(index) if record => {
                use_own_stream(index)?;
                Recording::After(STEPS_BEFORE_RECORDING)
            }
            _ => Recording::Off,
        };
        let zeros = |size: &[i64], kind| Tensor::f_zeros(size, (kind, device));
        Ok(TrainStep {
            words: zeros(&[batch_size, model.config().num_steps + 1], Kind::Int64)?,
            learning_rate: zeros(&[], model.kind())?,
            last: zeros(&[2], Kind::Double)?,
            sums: zeros(&[2], Kind::Double)?,
            model,
            state,
            recording,
            #[cfg(test)]
            fail_recording: false,
        })
    }

    /// The original's `assign_lr`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub(crate) fn assign_lr(&mut self, learning_rate: f64) -> Result<()> {
        Ok(self.learning_rate.f_copy_(&Tensor::from(learning_rate))?)
    }

    /// Sets the state that the next step starts from.
    ///
    /// # Errors
    /// A state of another number of tensors or another shape.
    pub(crate) fn assign_state(&mut self, state: &[Tensor]) -> Result<()> {
        let tensors = self.state.len();
        ensure!(state.len() == tensors, "a state of {} tensors; expected {tensors}", state.len());
        tch::no_grad(|| {
            for (buffer, value) in self.state.iter_mut().zip(state) {
                buffer.f_copy_(value)?;
            }
            Ok(())
        })
    }

    /// The state that the next step starts from. The same tensors hold it after every step.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// The last step's cost and global norm. Waits for the device.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub(crate) fn last(&self) -> Result<[f64; 2]> {
        to_host(&self.last)
    }

    /// The sums of the steps' costs and global norms since this was last called. Waits for the
    /// device.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub(crate) fn take_sums(&mut self) -> Result<[f64; 2]> {
        let sums = to_host(&self.sums)?;
        let _ = self.sums.f_zero_()?;
        Ok(sums)
    }

    /// Runs one step over `words` (`[batch_size, num_steps + 1]`, any integer type), after setting
    /// the device's generator to `seed` if there is one. Returns a notice, once, if the recording
    /// failed. From then on the step runs kernel by kernel.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub(crate) fn run(&mut self, words: &Tensor, seed: Option<i64>) -> Result<Option<String>> {
        tch::no_grad(|| self.words.f_copy_(words))?;
        let notice = self.record_if_due();
        if let Some(seed) = seed {
            tch::manual_seed(seed);
        }
        match &self.recording {
            Recording::On(graph) => graph.replay()?,
            _ => self.run_eagerly()?,
        }
        Ok(notice)
    }

    /// Records the step if enough steps have run before. Returns a notice if that failed.
    fn record_if_due(&mut self) -> Option<String> {
        match self.recording {
            Recording::After(0) => match self.record() {
                Ok(graph) => self.recording = Recording::On(graph),
                Err(error) => {
                    self.recording = Recording::Off;
                    return Some(format!(
                        "the step cannot be recorded as a CUDA graph, so its kernels are launched \
                         one by one ({error:#})"
                    ));
                }
            },
            Recording::After(steps) => self.recording = Recording::After(steps - 1),
            Recording::Off | Recording::On(_) => {}
        }
        None
    }

    /// The step itself, from buffers to buffers.
    fn run_eagerly(&mut self) -> Result<()> {
        let (x, y) = inputs_and_targets(&self.words);
        let step = self.model.train_op(&x, &y, &self.state, &self.learning_rate)?;
        self.assign_state(&step.state)?;
        tch::no_grad(|| {
            self.last.f_copy_(&Tensor::f_stack(&[step.cost, step.global_norm], 0)?)?;
            let _ = self.sums.f_add_(&self.last)?;
            Ok(())
        })
    }

    fn record(&mut self) -> Result<CudaGraph> {
        let graph = CudaGraph::begin()?;
        let recorded = catch_panic(|| {
            #[cfg(test)]
            if self.fail_recording {
                tch::no_grad(|| {
                    let _ = self.last();
                    panic!("spoilt")
                })
            }
            self.run_eagerly()
        });
        let ended = graph.end();
        recorded.and(ended)
    }
}

fn to_host(numbers: &Tensor) -> Result<[f64; 2]> {
    let numbers = Vec::try_from(numbers)?;
    Ok([numbers[0], numbers[1]])
}

/// Runs `work`. If it panics, as tch's operators do on an error of libtorch, the panic's text
/// becomes the error, nothing is printed, and the thread's gradient mode is restored
/// (`tch::no_grad` does not restore it when it is unwound).
fn catch_panic(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // The guard's `Drop` restores the mode. `with_grad` turns gradients on for the work itself.
    let guard = tch::no_grad_guard();
    let result = catch_unwind(AssertUnwindSafe(|| tch::with_grad(work)));
    drop(guard);
    std::panic::set_hook(hook);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        bail!("{}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic"))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::{Config, RnnMode};
    use crate::device::{DeviceArg, select};
    use crate::kernels::cuda_graph::{count_operators, forbid_synchronization};
    use crate::model::PtbVariables;
    use crate::optimizer::OptimizerType;
    use crate::rnn::CellType;

    const CONFIG: Config = Config {
        vocab_size: 57,
        hidden_size: 24,
        num_layers: 2,
        batch_size: 5,
        num_steps: 7,
        init_scale: 0.3,
        ..Config::SMALL
    };
    const DROPOUT: Config = Config { keep_prob: 0.5, ..CONFIG };
    const STEPS: i64 = 8;

    fn variables(config: &Config, device: Device, kind: Kind) -> PtbVariables {
        PtbVariables::new(config, CellType::BasicLstm, device, kind, 3).unwrap()
    }

    /// A text of `STEPS` batches, int32 as the producer has it.
    fn text(config: &Config, device: Device) -> Tensor {
        tch::manual_seed(5);
        let size = [config.batch_size, STEPS * config.num_steps + 1];
        Tensor::randint(config.vocab_size, size, (Kind::Int, Device::Cpu)).to_device(device)
    }

    /// Step k of it, with the targets' column.
    fn words(text: &Tensor, config: &Config, k: i64) -> Tensor {
        text.narrow(1, k * config.num_steps, config.num_steps + 1)
    }

    fn rate(k: i64) -> f64 {
        1.0 / (1.0 + (k / 3) as f64)
    }

    /// `STEPS` steps by the model alone: costs and global norms, and the state at the end.
    fn plainly(model: &PtbModel, text: &Tensor, config: &Config) -> (Vec<[f64; 2]>, State) {
        let mut state = model.zero_state(config.batch_size);
        let mut figures = Vec::new();
        for k in 0..STEPS {
            tch::manual_seed(100 + k);
            let at = |start| {
                words(text, config, k).narrow(1, start, config.num_steps).to_kind(Kind::Int64)
            };
            let step = model.train_step(&at(0), &at(1), &state, rate(k)).unwrap();
            figures.push([step.cost.double_value(&[]), step.global_norm.double_value(&[])]);
            state = step.state;
        }
        (figures, state)
    }

    /// The same on fixed buffers, and the notices that came.
    fn on_buffers(
        step: &mut TrainStep,
        text: &Tensor,
        config: &Config,
    ) -> (Vec<[f64; 2]>, Vec<String>) {
        let (mut figures, mut notices) = (Vec::new(), Vec::new());
        for k in 0..STEPS {
            step.assign_lr(rate(k)).unwrap();
            notices.extend(step.run(&words(text, config, k), Some(100 + k)).unwrap());
            figures.push(step.last().unwrap());
        }
        (figures, notices)
    }

    fn train_step<'a>(variables: &'a PtbVariables, mode: RnnMode, record: bool) -> TrainStep<'a> {
        let batch_size = variables.config().batch_size;
        TrainStep::new(PtbModel::new(variables, true, mode), batch_size, batch_size, record)
            .unwrap()
    }

    /// The fixed buffers change no number: to the last bit on the CPU; on a GPU, where sums over
    /// repeated words have no fixed order, to float32's rounding, recorded or not.
    fn buffers_change_nothing(device: Device, record: bool) {
        let _random = crate::random_numbers(0);
        let host = |t: &Tensor| t.to_device(Device::Cpu);
        let tolerance = if device == Device::Cpu { 0.0 } else { 1e-5 };
        for config in [CONFIG, DROPOUT] {
            for mode in [RnnMode::Cudnn, RnnMode::Block, RnnMode::Basic] {
                let what =
                    format!("{device:?} {mode} keep_prob {} record {record}", config.keep_prob);
                let [a, b] = [0, 1].map(|_| variables(&config, device, Kind::Float));
                let text = text(&config, device);
                let (plain, plain_state) = plainly(&PtbModel::new(&a, true, mode), &text, &config);
                let mut step = train_step(&b, mode, record);
                let (ours, notices) = on_buffers(&mut step, &text, &config);
                assert!(notices.is_empty(), "{what}: {notices:?}");
                for (k, (plain, ours)) in plain.iter().zip(&ours).enumerate() {
                    for (p, o) in plain.iter().zip(ours) {
                        assert!(
                            (o / p - 1.0).abs() <= tolerance,
                            "{what}, step {k}: {o} instead of {p}"
                        );
                    }
                }
                let sums = step.take_sums().unwrap();
                for i in 0..2 {
                    let sum: f64 = ours.iter().map(|figures| figures[i]).sum();
                    assert!((sums[i] / sum - 1.0).abs() < 1e-14, "{what}: the sums");
                }
                assert_eq!(step.take_sums().unwrap(), [0.0; 2]);
                let pairs = plain_state.iter().zip(step.state()).map(|(p, o)| (host(p), host(o)));
                let trained =
                    a.trainable().into_iter().zip(b.trainable()).map(|(p, o)| (host(p), host(o)));
                for (plain, ours) in pairs.chain(trained) {
                    let difference = (plain - ours).abs().max().double_value(&[]);
                    assert!(difference <= tolerance, "{what}: a tensor differs by {difference:e}");
                }
            }
        }
    }

    #[test]
    fn the_step_on_buffers_is_the_plain_step() {
        buffers_change_nothing(Device::Cpu, false);
    }

    /// The GPU, selected before anything else of libtorch: each of these tests needs a process of
    /// its own, or none but the others.
    fn gpu() -> Device {
        let device = select(DeviceArg::Auto).unwrap();
        assert!(device.is_cuda(), "there is no GPU");
        device
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_the_recorded_step_is_the_plain_step() {
        let device = gpu();
        for record in [false, true] {
            buffers_change_nothing(device, record);
        }
    }

    /// At the published models' sizes, where cuDNN takes other algorithms than for small layers and
    /// 650 units are computed as 656: a GPU in strict float32 computes what the CPU computes,
    /// recorded or not, with either optimizer.
    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_published_sizes_are_the_cpu_s() {
        let device = gpu();
        let _random = crate::random_numbers(0);
        for (hidden_size, num_steps, optimizer) in [
            (200, 20, OptimizerType::Sgd),
            (650, 35, OptimizerType::Sgd),
            (650, 35, OptimizerType::Adam),
            (1500, 35, OptimizerType::Sgd),
        ] {
            let config = Config {
                vocab_size: 1000,
                hidden_size,
                num_steps,
                batch_size: 20,
                init_scale: 0.05,
                ..CONFIG
            };
            let run = |device, record| {
                let v = variables(&config, device, Kind::Float).with_optimizer(optimizer);
                let text = text(&config, device);
                let (figures, notices) =
                    on_buffers(&mut train_step(&v, RnnMode::Cudnn, record), &text, &config);
                assert!(notices.is_empty(), "{notices:?}");
                (figures, v.to_tensorflow().unwrap())
            };
            let (expected, trained) = run(Device::Cpu, false);
            for record in [false, true] {
                let what = format!("{hidden_size}, {optimizer:?}, record {record}");
                let (figures, ours) = run(device, record);
                for (ours, expected) in figures.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((ours / expected - 1.0).abs() < 2e-5, "{what}: {ours}, {expected}");
                }
                for (name, expected) in &trained {
                    let off = ((&ours[name] - expected).norm() / expected.norm()).double_value(&[]);
                    assert!(off < 2e-5, "{what}: {name} is off by {off:e}");
                }
            }
        }
    }

    /// No operator of the step reads a number into the program, for which a GPU would make the host
    /// wait, and their number does not creep up. In double precision the CPU takes the very
    /// operators that a GPU takes, but for the fused norm and update.
    #[test]
    fn the_step_reads_nothing_and_has_few_operators() {
        let _random = crate::random_numbers(0);
        for (config, at_most) in [(CONFIG, 162), (DROPOUT, 179)] {
            // What the LSTM does on the CPU grows with num_steps; on a GPU it is one operator. What
            // does not grow is the rest.
            let count = |num_steps| {
                let config = Config { num_steps, ..config };
                let v = variables(&config, Device::Cpu, Kind::Double);
                let text = text(&config, Device::Cpu);
                let mut step = train_step(&v, RnnMode::Cudnn, false);
                let counted = count_operators(|| {
                    step.run(&words(&text, &config, 2), Some(1)).unwrap();
                });
                assert_eq!(counted.reads, 0);
                assert_eq!(
                    count_operators(|| assert!(step.sums.double_value(&[0]) > 0.0)).reads,
                    1
                );
                counted.all
            };
            let (few, more) = (count(4), count(8));
            let rest = few - (more - few);
            assert!(rest <= at_most, "{rest} operators, keep_prob {}", config.keep_prob);
        }
    }

    /// While it lives, waiting for the GPU is an error in the whole process; not any longer,
    /// whatever happens to the test.
    struct NoWaiting;

    impl NoWaiting {
        fn new() -> Self {
            forbid_synchronization(true).unwrap();
            NoWaiting
        }
    }

    impl Drop for NoWaiting {
        fn drop(&mut self) {
            forbid_synchronization(false).unwrap();
        }
    }

    /// The same by libtorch's own check, on a GPU.
    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_the_step_never_waits() {
        let device = gpu();
        let _random = crate::random_numbers(0);
        for config in [CONFIG, DROPOUT] {
            let v = variables(&config, device, Kind::Float);
            let text = text(&config, device);
            let mut step = train_step(&v, RnnMode::Cudnn, true);
            step.assign_lr(1.0).unwrap();
            for k in 0..STEPS {
                // The first step sets libraries up, and the fourth is recorded.
                let _forbidden = (k != 0 && k != 3).then(NoWaiting::new);
                assert_eq!(step.run(&words(&text, &config, k), Some(k)).unwrap(), None);
            }
            let _forbidden = NoWaiting::new();
            assert!(step.last().is_err(), "it would have been noticed");
        }
    }

    /// The functions of libtorch_cuda that cuda_graph.cpp looks up, replaced by ones that succeed
    /// or fail on demand: tests/cuda_stub.cpp.
    fn stub() -> libloading::os::unix::Library {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("stub.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda_stub.cpp");
        let mut compile = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
        let compiled =
            compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
        assert!(compiled.success());
        // SAFETY: it has no initialisers.
        unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
    }

    /// Whatever fails in a recording, there is one notice, gradients stay on, and the steps
    /// continue kernel by kernel with the same numbers.
    #[test]
    fn a_failed_recording_leaves_nothing_behind() {
        let _random = crate::random_numbers(0);
        let text = text(&DROPOUT, Device::Cpu);
        let costs = |recording, fail_recording| {
            let v = variables(&DROPOUT, Device::Cpu, Kind::Float);
            let mut step = train_step(&v, RnnMode::Cudnn, false);
            step.recording = recording;
            step.fail_recording = fail_recording;
            on_buffers(&mut step, &text, &DROPOUT)
        };
        let (expected, none) = costs(Recording::Off, false);
        assert!(none.is_empty());
        let stub = stub();
        // SAFETY: a function and a number of the stub, of these types.
        let (fail, sync_mode) = unsafe {
            (
                stub.get::<extern "C" fn(i32)>(b"stub_fail_at").unwrap(),
                stub.get::<*const i32>(b"_ZZN3c104cuda13warning_stateEvE14warning_state_").unwrap(),
            )
        };
        for (stage, name) in [
            (0, "spoilt"), // a panic in the middle of `no_grad`
            (1, "the constructor"),
            (2, "capture_begin"),
            (3, "capture_end"),
        ] {
            fail(stage);
            let (ours, notices) = costs(Recording::After(STEPS_BEFORE_RECORDING), stage == 0);
            // (The stub lets a CPU compute what is to be recorded only: its steps after that are
            // one ahead.)
            let same = if stage == 3 { STEPS_BEFORE_RECORDING as usize } else { ours.len() };
            assert_eq!(ours[..same], expected[..same], "{name}");
            assert!(ours.iter().flatten().all(|cost| cost.is_finite()), "{ours:?}");
            assert!(notices.len() == 1 && notices[0].contains(name), "{notices:?}");
            let x = Tensor::from(1.0).set_requires_grad(true);
            assert!((&x * 2.0).requires_grad(), "gradients are on again after {name}");
        }
        // A test that fails while waiting is forbidden does not forbid it to those after it.
        // SAFETY: the stub's number, which lives as long as the stub.
        let mode = || unsafe { **sync_mode };
        let failed = catch_panic(|| {
            let _forbidden = NoWaiting::new();
            assert_eq!(mode(), 2);
            panic!("a failed assertion")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("a failed assertion"));
        assert_eq!(mode(), 0);
        // A replay that fails ends the run with libtorch's words.
        fail(0);
        let graph = CudaGraph::begin().unwrap().end().unwrap();
        graph.replay().unwrap();
        fail(4);
        assert!(format!("{:#}", graph.replay().unwrap_err()).contains("replay"));
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_a_spoilt_recording_goes_on() {
        let device = gpu();
        let _random = crate::random_numbers(0);
        let text = text(&DROPOUT, device);
        let run = |fail_recording| {
            let v = variables(&DROPOUT, device, Kind::Float);
            let mut step = train_step(&v, RnnMode::Cudnn, true);
            step.fail_recording = fail_recording;
            on_buffers(&mut step, &text, &DROPOUT)
        };
        let ((expected, none), (ours, notices)) = (run(false), run(true));
        assert!(none.is_empty(), "{none:?}");
        assert_eq!(notices.len(), 1, "{notices:?}");
        for (o, e) in ours.iter().flatten().zip(expected.iter().flatten()) {
            assert!((o / e - 1.0).abs() < 1e-5, "{ours:?} instead of {expected:?}");
        }
    }
}
