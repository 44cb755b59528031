//! Where the tests run: on the CPU, and on the GPU where there is one. TEST_DEVICE (cpu, cuda,
//! cuda:N) picks a single one.

use std::sync::OnceLock;

use ptb_word_lm::device::{DeviceArg, select};
use tch::{Device, Tensor};

/// All devices to test. Must be a test's first call: libtorch's CUDA part is loaded before anything
/// else of it, or never.
pub fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let found = match std::env::var("TEST_DEVICE") {
            Ok(name) => vec![select(name.parse().expect("TEST_DEVICE")).expect("TEST_DEVICE")],
            Err(_) => vec![Device::Cpu, select(DeviceArg::Auto).expect("auto")],
        };
        let only_cpu = found.iter().all(|device| *device == Device::Cpu);
        if only_cpu { vec![Device::Cpu] } else { found }
    })
}

/// On the CPU.
#[allow(dead_code)]
pub fn host(t: &Tensor) -> Tensor {
    t.to_device(Device::Cpu)
}
