//! Versions of libtorch: the one in use, and the one that this program was built against.
//!
//! These are libtorch calls: [`crate::device::select`], or at least [`crate::device::load_cuda`],
//! comes before them.

use std::ffi::{CStr, c_char};
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The version of tch that Cargo.toml pins.
pub const TCH_VERSION: &str = "0.24.0";

unsafe extern "C" {
    fn ptb_libtorch_built_against() -> *const c_char;
    fn ptb_libtorch_setting(name: *const c_char) -> *const c_char;
    fn ptb_libtorch_cpu_capability() -> *const c_char;
}

/// The text of one of the functions above.
fn text(function: unsafe extern "C" fn() -> *const c_char) -> String {
    // SAFETY: each of them returns a string that ends in 0 and stays for the life of the process
    // (libtorch.cpp).
    unsafe { CStr::from_ptr(function()) }.to_string_lossy().into_owned()
}

/// One of libtorch's build settings.
fn setting(name: &CStr) -> Option<String> {
    // SAFETY: as in `text`; the name ends in 0 and is only read.
    let value = unsafe { CStr::from_ptr(ptb_libtorch_setting(name.as_ptr())) };
    let value = value.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

/// The release of the libtorch that is loaded, such as `2.11.0`.
pub fn version() -> String {
    setting(c"TORCH_VERSION").unwrap_or_else(|| "unknown".into())
}

/// The release of the libtorch that this program was compiled with.
pub fn built_against() -> String {
    text(ptb_libtorch_built_against)
}

/// Compares the libtorch that is loaded with the one that this program was compiled with. Unlike
/// the other functions it may come before CUDA is loaded.
///
/// # Errors
/// Another version: it would compute something else, or fail somewhere in the middle.
pub fn ensure_version() -> Result<()> {
    let (loaded, wanted) = (version(), built_against());
    ensure!(
        loaded == wanted,
        "this program was built against libtorch {wanted}, but the libtorch that was loaded is \
         {loaded} ({})",
        folder().map_or("of an unknown folder".into(), |folder| folder.display().to_string())
    );
    Ok(())
}

/// The CUDA release, such as `13.0`, that this libtorch was made for; none if it is a CPU-only one.
pub fn made_for_cuda() -> Option<String> {
    setting(c"CUDA_VERSION")
}

/// The instruction set that libtorch chose on this processor, such as `AVX512`.
pub fn cpu_capability() -> String {
    text(ptb_libtorch_cpu_capability)
}

/// The folder of the libtorch that is loaded.
pub fn folder() -> Option<PathBuf> {
    // Where the loader found it, which need not be where it was at build time.
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        line.find('/').map(|at| &line[at..]).filter(|p| p.ends_with("/libtorch_cpu.so"))
    })?;
    Some(PathBuf::from(path).parent()?.to_owned())
}

/// CUDA's release out of its number: 13000 is `13.0`.
pub fn cuda_version(number: i64) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// cuDNN's release out of its number: 91002 is `9.10.2`, as 8907, by the older rule, is `8.9.7`.
pub fn cudnn_version(number: i64) -> String {
    let major = if number >= 90000 { 10000 } else { 1000 };
    format!("{}.{}.{}", number / major, number % major / 100, number % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libtorch_in_use_is_the_one_this_was_built_for() {
        assert_eq!(version(), built_against());
        assert!(folder().unwrap().join("libtorch_cpu.so").is_file());
        assert!(!cpu_capability().is_empty());
    }

    #[test]
    fn tch_is_the_pinned_one() {
        assert!(include_str!("../../Cargo.toml").contains(&format!("tch = \"={TCH_VERSION}\"")));
    }

    #[test]
    fn numbers_of_nvidia_s_releases() {
        assert_eq!((cuda_version(13000), cuda_version(12080)), ("13.0".into(), "12.8".into()));
        assert_eq!((cudnn_version(91002), cudnn_version(8907)), ("9.10.2".into(), "8.9.7".into()));
    }
}
