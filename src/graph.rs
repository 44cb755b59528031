//! The training step on fixed buffers, and on a GPU recorded once as a CUDA graph and replayed.
//!
//! A step is some hundred kernels, and launching one takes the host a few microseconds. Where the kernels are as short as that (`small`) the
//! GPU waits for the host. A graph launches them all at once. It repeats what was recorded to the letter, addresses included, so whatever
//! changes from step to step stands in buffers that are filled before the launch: the words, the learning rate, the state. Dropout masks
//! are drawn within the graph: a replay takes the generator's seed at that time.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail};
use tch::{Device, Kind, Tensor};

use crate::model::PtbModel;
use crate::rnn::State;

/// Steps that are run kernel by kernel first: cuDNN and cuBLAS set themselves up in them, which cannot be recorded.
const WARM_UP: u32 = 3;

/// A training step whose inputs and outputs always stand in the same place.
pub struct FixedStep<'a> {
    model: PtbModel<'a>,
    /// `[batch, num_steps + 1]`, int64: a step's inputs and, shifted by one, its targets.
    words: Tensor,
    /// A scalar: the learning rate times -1.
    minus_rate: Tensor,
    /// The state before the step, and after it the next step's.
    state: State,
    /// The step's cost and global norm, in double precision.
    figures: Tensor,
    /// Their sum over steps, until the owner sets it to zero.
    sums: Tensor,
    recording: Recording,
    /// Read a number within the recording, which cannot be recorded.
    #[cfg(test)]
    spoilt: bool,
}

enum Recording {
    /// Not on the CPU, and not where it was refused.
    Off,
    /// So many steps kernel by kernel are still to come before it.
    After(u32),
    On(CudaGraph),
}

impl<'a> FixedStep<'a> {
    /// A step of `model`, which is training, on batches of `batch_size` times `num_steps` words. `sums` (`[2]`, double) gets every step's
    /// cost and global norm added. With `record` the fourth step on a GPU is recorded; from then on they are replayed.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        model: PtbModel<'a>,
        batch_size: i64,
        num_steps: i64,
        sums: &Tensor,
        record: bool,
    ) -> Result<Self> {
        let device = sums.device();
        let state = model.zero_state(batch_size);
        let kind = state.first().map_or(Kind::Float, Tensor::kind);
        let recording = match device {
            Device::Cuda(index) if record => {
                own_stream(index)?;
                Recording::After(WARM_UP)
            }
            _ => Recording::Off,
        };
        Ok(FixedStep {
            words: Tensor::f_zeros([batch_size, num_steps + 1], (Kind::Int64, device))?,
            minus_rate: Tensor::f_zeros([0; 0], (kind, device))?,
            figures: Tensor::f_zeros([2], (Kind::Double, device))?,
            sums: sums.shallow_clone(),
            model,
            state,
            recording,
            #[cfg(test)]
            spoilt: false,
        })
    }

    /// Sets what seldom changes: the state (at an epoch's start, or resumed) and the learning rate. Returns the state's place: the same
    /// tensors hold the state after every step.
    ///
    /// # Errors
    /// A state of another shape.
    pub fn set(&mut self, state: &[Tensor], learning_rate: f64) -> Result<State> {
        tch::no_grad(|| {
            for (own, given) in self.state.iter_mut().zip(state) {
                own.f_copy_(given)?;
            }
            let _ = self.minus_rate.f_fill_(-learning_rate)?;
            Ok(self.state.iter().map(Tensor::shallow_clone).collect())
        })
    }

    /// The last step's cost and global norm, `[2]`, in double precision.
    pub fn figures(&self) -> &Tensor {
        &self.figures
    }

    /// One step over `words` (`[batch_size, num_steps + 1]`, any integers); with `seed` the device's generator is set to it before.
    /// A notice, once, if recording was tried and failed: from then on it goes kernel by kernel.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn run(&mut self, words: &Tensor, seed: Option<i64>) -> Result<Option<String>> {
        tch::no_grad(|| self.words.f_copy_(words))?;
        let mut notice = None;
        match self.recording {
            Recording::After(0) => {
                self.recording = match self.record() {
                    Ok(graph) => Recording::On(graph),
                    Err(error) => {
                        notice = Some(format!(
                            "the step cannot be recorded as a CUDA graph, so its kernels are launched one by one ({error:#})"
                        ));
                        Recording::Off
                    }
                }
            }
            Recording::After(steps) => self.recording = Recording::After(steps - 1),
            _ => {}
        }
        if let Some(seed) = seed {
            tch::manual_seed(seed);
        }
        match &self.recording {
            Recording::On(graph) => graph.replay()?,
            _ => self.step()?,
        }
        Ok(notice)
    }

    /// The step itself, from buffers to buffers.
    fn step(&mut self) -> Result<()> {
        let num_steps = self.words.size()[1] - 1;
        let at = |start| self.words.narrow(1, start, num_steps).contiguous();
        let step = self.model.train_step_by(&at(0), &at(1), &self.state, |scale| scale * &self.minus_rate)?;
        tch::no_grad(|| {
            for (own, new) in self.state.iter_mut().zip(&step.state) {
                own.f_copy_(new)?;
            }
            self.figures.f_copy_(&Tensor::f_stack(&[step.cost, step.global_norm], 0)?)?;
            let _ = self.sums.f_add_(&self.figures)?;
            Ok(())
        })
    }

    fn record(&mut self) -> Result<CudaGraph> {
        let graph = CudaGraph::begin()?;
        let recorded = caught(|| {
            #[cfg(test)]
            if self.spoilt {
                let _ = self.sums.double_value(&[0]);
            }
            self.step()
        });
        let ended = graph.end();
        recorded.and(ended)
    }
}

/// Runs `work`, of which an operator that libtorch refuses may panic, as tch's do: then the panic's text is the error, nothing is printed, and
/// the thread's gradient mode is what it was. (`tch::no_grad` leaves it off when it is unwound.)
fn caught(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // The guard's `Drop` restores the mode; within it the work has gradients as usual.
    let guard = tch::no_grad_guard();
    let result = catch_unwind(AssertUnwindSafe(|| tch::with_grad(work)));
    drop(guard);
    std::panic::set_hook(hook);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        bail!("{}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic"))
    })
}

/// A recording that has begun: the current stream's work goes into it instead of to the GPU.
struct Begun(*mut c_void);

/// A finished recording.
struct CudaGraph(*mut c_void);

impl CudaGraph {
    fn begin() -> Result<Begun> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: `error` and its size describe a buffer that outlives the call, as `told` makes it.
        told(|error, size| unsafe {
            graph = ptb_graph_begin(error, size);
            !graph.is_null()
        })
        .context("recording does not begin")?;
        Ok(Begun(graph))
    }

    fn replay(&self) -> Result<()> {
        // SAFETY: the pointer is a finished graph's, which lives as long as `self`.
        told(|error, size| unsafe { ptb_graph_replay(self.0, error, size) }).context("replaying a CUDA graph")
    }
}

impl Begun {
    /// A recording that failed is left where it is: libtorch's allocator may still ask it whether it is under way.
    fn end(self) -> Result<CudaGraph> {
        // SAFETY: the pointer is that of a graph that was begun and not ended.
        told(|error, size| unsafe { ptb_graph_end(self.0, error, size) })
            .context("the recording does not end")?;
        Ok(CudaGraph(self.0))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: a finished graph, deleted once.
        unsafe { ptb_graph_delete(self.0) }
    }
}

/// Gives the calling thread a stream of its own on this GPU: nothing can be recorded on the default one.
fn own_stream(index: usize) -> Result<()> {
    // SAFETY: as above.
    told(|error, size| unsafe { ptb_cuda_own_stream(index as c_int, error, size) })
        .with_context(|| format!("a stream on cuda:{index}"))
}

/// While `forbidden`, whatever makes the host wait for the GPU is an error: `torch.cuda.set_sync_debug_mode("error")`. For tests.
///
/// # Errors
/// libtorch's CUDA part is not loaded.
pub fn forbid_synchronization(forbidden: bool) -> Result<()> {
    // SAFETY: as above.
    told(|error, size| unsafe { ptb_cuda_forbid_sync(forbidden, error, size) })
}

/// How many operators within `work` read a number from a tensor into the program, for which a GPU makes the host wait. For tests.
pub fn count_reads(work: impl FnOnce()) -> i64 {
    // SAFETY: no arguments that could be wrong; the counting ends as it began, in this thread.
    unsafe { ptb_count_reads(true) };
    work();
    unsafe { ptb_count_reads(false) }
}

/// Calls a function of src/cuda.cpp, which writes why it failed into the buffer that it is given.
fn told(call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<()> {
    let mut error: [c_char; 1024] = [0; 1024];
    if call(error.as_mut_ptr(), error.len()) {
        return Ok(());
    }
    // SAFETY: the buffer began as zeros, and snprintf ends what it writes with one.
    let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
    bail!("{}", text.lines().next().unwrap_or_default());
}

unsafe extern "C" {
    fn ptb_cuda_own_stream(device: c_int, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_begin(error: *mut c_char, size: usize) -> *mut c_void;
    fn ptb_graph_end(graph: *mut c_void, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_replay(graph: *mut c_void, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_delete(graph: *mut c_void);
    fn ptb_count_reads(begin: bool) -> std::ffi::c_long;
    fn ptb_cuda_forbid_sync(forbid: bool, error: *mut c_char, size: usize) -> bool;
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::{Config, Precision, RnnMode};
    use crate::device::{DeviceArg, select};
    use crate::model::PtbVariables;
    use crate::rnn::CellType;

    const CONFIG: Config = Config {
        vocab_size: 30,
        hidden_size: 6,
        num_steps: 4,
        batch_size: 3,
        keep_prob: 0.5,
        ..Config::SMALL
    };

    /// Costs of eight steps, and the notices that came with them. On a device that cannot record, `recording` says what to do.
    fn costs(device: Device, recording: Option<Recording>, spoilt: bool) -> (Vec<f64>, Vec<String>) {
        let variables = PtbVariables::new(&CONFIG, CellType::BasicLstm, device, Kind::Float, 1).unwrap();
        let model = PtbModel::new(&variables, true, RnnMode::Cudnn).precision(Precision::Fp32);
        let sums = Tensor::zeros([2], (Kind::Double, device));
        let mut fixed = FixedStep::new(model, 3, 4, &sums, device.is_cuda()).unwrap();
        fixed.recording = recording.unwrap_or(fixed.recording);
        fixed.spoilt = spoilt;
        let zero = fixed.model.zero_state(3);
        fixed.set(&zero, 1.0).unwrap();
        tch::manual_seed(7);
        let text = Tensor::randint(30, [8, 3, 5], (Kind::Int, Device::Cpu)).to_device(device);
        let (mut costs, mut notices) = (Vec::new(), Vec::new());
        for k in 0..8 {
            notices.extend(fixed.run(&text.get(k), Some(k)).unwrap());
            costs.push(fixed.figures().double_value(&[0]));
        }
        (costs, notices)
    }

    /// Looked-up names that do as told, for the whole of this test's process: tests/stub_cuda.cpp.
    fn stub() -> libloading::os::unix::Library {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("stub.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stub_cuda.cpp");
        let mut compile = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
        let compiled = compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
        assert!(compiled.success());
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: it has no initialisers.
        unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
    }

    /// Whatever fails in a recording, there is one notice, gradients stay on, and the steps go on kernel by kernel with the same numbers.
    #[test]
    fn a_failed_recording_leaves_nothing_behind() {
        let (expected, none) = costs(Device::Cpu, Some(Recording::Off), false);
        assert!(none.is_empty());
        let stub = stub();
        // SAFETY: a function of the stub, of this type.
        let fail = unsafe { stub.get::<extern "C" fn(i32)>(b"stub_fail_at") }.unwrap();
        for (stage, text) in [(1, "the constructor"), (2, "capture_begin"), (3, "capture_end")] {
            fail(stage);
            let (ours, notices) = costs(Device::Cpu, Some(Recording::After(WARM_UP)), false);
            // (A CPU has computed what it was to record only: its steps after that are one ahead.)
            let same = if stage == 3 { WARM_UP as usize } else { ours.len() };
            assert_eq!(ours[..same], expected[..same], "{text}");
            assert!(ours.iter().all(|cost| cost.is_finite()), "{ours:?}");
            assert!(notices.len() == 1 && notices[0].contains(text), "{notices:?}");
        }
        // A panic within the recording, of a step in the middle of `no_grad`.
        fail(0);
        let panicked = caught(|| tch::no_grad(|| panic!("libtorch says no")));
        assert!(format!("{:#}", panicked.unwrap_err()).contains("libtorch says no"));
        let x = Tensor::from(1.0).set_requires_grad(true);
        assert!((&x * 2.0).requires_grad(), "gradients are on again");
        // A replay that fails ends the run with libtorch's words.
        let graph = CudaGraph::begin().unwrap().end().unwrap();
        graph.replay().unwrap();
        fail(4);
        assert!(format!("{:#}", graph.replay().unwrap_err()).contains("replay"));
    }

    #[test]
    #[ignore = "needs a GPU (bench/gpu.sh)"]
    fn gpu_a_spoilt_recording_goes_on() {
        let device = select(DeviceArg::Auto).unwrap();
        assert!(device.is_cuda(), "there is no GPU");
        let (expected, none) = costs(device, None, false);
        assert!(none.is_empty(), "{none:?}");
        let (ours, notices) = costs(device, None, true);
        assert_eq!(notices.len(), 1, "{notices:?}");
        for (o, e) in ours.iter().zip(&expected) {
            assert!((o / e - 1.0).abs() < 1e-5, "{ours:?} instead of {expected:?}");
        }
    }
}
