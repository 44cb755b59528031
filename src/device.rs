//! The device to compute on: one binary for machines with and without a GPU.
//!
//! A plain link drops libtorch_cuda, so CUDA would never be found; linking it for good would need
//! the NVIDIA libraries everywhere. So it is loaded at run time. libtorch caches what it found at
//! its first use: [`select`] must come before any other libtorch call of the process.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::Device;
use thiserror::Error;

use crate::config::{ParseError, Precision};
use crate::kernels::cuda_graph::allow_tf32;

/// A device as a user names it: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceArg {
    /// The first GPU if one can be used, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "auto" => Ok(DeviceArg::Auto),
            "cpu" => Ok(DeviceArg::Cpu),
            "cuda" => Ok(DeviceArg::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceArg::Cuda)
                .ok_or(ParseError("it is one of auto, cpu, cuda, cuda:N (N from 0)")),
        }
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The name of a device, as [`DeviceArg`] is written.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}

/// Keeps freed memory in the process. A step frees and asks for the same large blocks again, the
/// logits above all; by default glibc gives each back to the system, and the system zeroes every
/// page of the next one (docs/performance.md has the figures). It is for programs, at their very
/// start: a library should not choose its host's allocator.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator; the process has no other thread yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// Whether this processor has instructions for bfloat16 products, and oneDNN may use them. Without
/// them a bfloat16 product takes many times longer than a float32 one.
pub fn has_fast_bfloat16() -> bool {
    let limit = std::env::var("ONEDNN_MAX_CPU_ISA").unwrap_or_default();
    let without = ["SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"];
    if without.contains(&limit.to_ascii_uppercase().as_str()) {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Ends the process without running destructors, which other threads may not survive while they
/// compute.
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: _exit only ends the process. (nix does not have it.)
    unsafe { libc::_exit(code) }
}

/// Why a GPU that was asked for cannot be used.
#[derive(Debug, Error)]
pub enum GpuError {
    /// A library is missing.
    #[error("{0}")]
    Missing(String),
    /// All libraries are there, but no GPU.
    #[error(
        "the NVIDIA driver shows no usable GPU: it is older than 580, which CUDA 13.0 needs, or \
         CUDA_VISIBLE_DEVICES hides the GPUs (nvidia-smi shows both)"
    )]
    NoneUsable,
    /// No GPU of this index.
    #[error("there is no GPU {index}; this machine has {count}, counted from 0")]
    NoSuchIndex {
        /// The index asked for.
        index: usize,
        /// Number of GPUs.
        count: i64,
    },
}

/// Finds the device, and loads libtorch's CUDA part if it may be needed. Call it before anything
/// else of libtorch.
///
/// # Errors
/// CUDA was asked for and cannot be used; the error says which part is missing.
pub fn select(arg: DeviceArg) -> Result<Device, GpuError> {
    match arg {
        DeviceArg::Cpu => Ok(Device::Cpu),
        DeviceArg::Auto => {
            let found = load_cuda().is_ok() && tch::Cuda::is_available();
            set_precision(Precision::Fp32);
            Ok(if found { Device::Cuda(0) } else { Device::Cpu })
        }
        DeviceArg::Cuda(index) => {
            load_cuda().map_err(GpuError::Missing)?;
            let count = tch::Cuda::device_count();
            if count == 0 || !tch::Cuda::is_available() {
                return Err(GpuError::NoneUsable);
            }
            if index as i64 >= count {
                return Err(GpuError::NoSuchIndex { index, count });
            }
            set_precision(Precision::Fp32);
            Ok(Device::Cuda(index))
        }
    }
}

/// Sets how products of float32 numbers are computed on a GPU. After [`select`] it is strict
/// float32; libtorch's own default is [`Precision::Tf32Cudnn`].
pub fn set_precision(precision: Precision) {
    let everywhere = precision == Precision::Tf32;
    // In half the width cuDNN multiplies no float32 numbers, but takes tensor cores only where TF32
    // is allowed (ATen/cudnn/Descriptors.h).
    let in_cudnn = precision != Precision::Fp32;
    allow_tf32(everywhere, in_cudnn);
}

/// Number of GPUs to train on. Like [`select`], it must come before other uses of libtorch.
pub fn gpu_count() -> i64 {
    if load_cuda().is_ok() { tch::Cuda::device_count().max(0) } else { 0 }
}

/// Loads the NVIDIA driver, then libtorch_cuda. Like [`select`], it must come before any other
/// libtorch call of the process.
///
/// # Errors
/// Names what is missing.
pub fn load_cuda() -> Result<(), String> {
    load("libcuda.so.1").map_err(|e| format!("no NVIDIA driver was found ({e})"))?;
    load("libtorch_cuda.so").map_err(|e| {
        format!(
            "libtorch's CUDA part cannot be loaded ({e}): the libtorch in use is CPU-only, or an \
             NVIDIA library is missing; `make train-cuda` fetches them"
        )
    })
}

fn load(library: &str) -> Result<(), String> {
    // SAFETY: loading runs the library's initialisers. These two are the vendor's and libtorch's
    // own, made to be loaded, here before the process has other threads that could be disturbed.
    let loaded = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) };
    // Never unloaded: libtorch keeps pointers into it until the process ends.
    loaded.map(std::mem::forget).map_err(|error| {
        // The source has the system's words: which file is missing.
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda_graph::allows_tf32;

    /// TF32 in cuBLAS, in cuDNN's LSTM. The default on a GPU is PyTorch's.
    #[test]
    fn precisions_set_what_libtorch_may_use() {
        assert_eq!(Precision::default_on(true), Precision::Tf32Cudnn);
        assert_eq!(Precision::default_on(false), Precision::Fp32);
        for (precision, tf32) in [
            (Precision::Tf32Cudnn, [false, true]),
            (Precision::Tf32, [true, true]),
            (Precision::Bf16, [false, true]),
            (Precision::Fp16, [false, true]),
            (Precision::Fp32, [false, false]),
        ] {
            set_precision(precision);
            assert_eq!(allows_tf32(), tf32, "{precision}");
        }
    }
}
