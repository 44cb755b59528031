//! Where to compute; shared by all commands that do.

use anyhow::{Result, anyhow};
use clap::Args;
use tch::Device;

use super::numbers::whole;
use crate::device::{self, DeviceArg, GpuError};
use crate::spin;

#[derive(Args)]
pub struct DeviceFlags {
    /// Device: auto, cpu, cuda or cuda:N
    ///
    /// auto takes a GPU if there is one.
    #[arg(long, default_value_t = DeviceArg::Auto, value_name = "DEVICE")]
    #[arg(help_heading = "Running")]
    pub device: DeviceArg,
    /// Number of CPU threads [default: one per core that this process may use]
    #[arg(long, value_name = "N", value_parser = whole(1i32..=4096))]
    #[arg(help_heading = "Running")]
    threads: Option<i32>,
}

impl DeviceFlags {
    /// Sets libtorch up. Must come before its first use.
    pub fn select(&self) -> Result<Device> {
        let device = select(self.device)?;
        self.set_threads();
        Ok(device)
    }

    /// Sets `--threads`, and how the threads wait for each other. Without the flag and
    /// OMP_NUM_THREADS libtorch takes all cores of the host; a container's quota and the affinity
    /// mask may allow fewer.
    pub fn set_threads(&self) {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get() as i32);
        let default = std::env::var_os("OMP_NUM_THREADS").is_none().then_some(available);
        match (self.threads, default) {
            (Some(threads), _) => tch::set_num_threads(threads),
            (None, Some(available)) if tch::get_num_threads() > available => {
                tch::set_num_threads(available);
            }
            _ => {}
        }
        spin::watch();
    }
}

/// [`device::select`], whose errors get the flag and the way to the CPU.
pub fn select(device: DeviceArg) -> Result<Device> {
    device::select(device).map_err(|error| {
        let advice = match error {
            GpuError::NoSuchIndex { .. } => "",
            _ => ". To train on the CPU: --device cpu, or `make train-cpu`",
        };
        anyhow!("--device {device}: {error}{advice}")
    })
}
