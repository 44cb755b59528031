//! `--num-gpus` and `--workers`: whether this process trains alone, starts workers, or is one of
//! several that torchrun, mpirun or Slurm started.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tch::Device;

use super::UsageError;
use super::device::select;
use super::numbers::whole;
use super::signals::Signals;
use crate::cli::launch;
use crate::device::{self, DeviceArg};
use crate::distributed::{Place, Solo, Team, check_batch_size};

#[derive(Args)]
pub struct WorkerFlags {
    /// Train on N GPUs, one worker on each; 0 is the CPU
    ///
    /// They are GPUs of this machine. The workers share the rows of every batch, so the result is
    /// that of one worker.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(0i64..=1024))]
    #[arg(help_heading = "The original's flags")]
    num_gpus: Option<i64>,
    /// Start N workers on this machine, also on the CPU; 1 trains alone, whatever a launcher's
    /// environment says [default: 1, or as torchrun, mpirun or Slurm says]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(1i64..=1024))]
    #[arg(help_heading = "Running")]
    workers: Option<i64>,
    /// Seconds that a worker may keep the others waiting before they give up
    #[arg(long, value_name = "SECONDS", default_value_t = 300, allow_negative_numbers = true)]
    #[arg(value_parser = whole(1u64..=86_400))]
    #[arg(help_heading = "Running")]
    worker_timeout: u64,
}

/// What this process does in the run.
enum Role {
    /// Trains alone.
    Alone,
    /// Starts so many workers, and trains nothing itself.
    Parent(i64),
    /// Is one of several workers.
    Worker(Place),
}

impl WorkerFlags {
    /// Calls `train` with the device to take and the other workers, if this process is to train;
    /// starts the workers if it is not.
    pub fn run(
        &self,
        asked: DeviceArg,
        batch_size: i64,
        signals: &Signals,
        train: impl FnOnce(Device, &dyn Team) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let (role, device) = self.role(asked, batch_size)?;
        match role {
            Role::Alone => train(select(device)?, &Solo),
            Role::Parent(workers) => launch::start(workers, self.worker_timeout, signals),
            Role::Worker(place) => {
                let result = launch::be_worker(&place, device, self.worker_timeout, train);
                result.map_err(|error| match place.rank {
                    // Rank 0 speaks for all, so the others say who they are.
                    0 => error,
                    rank => error.context(format!("rank {rank}")),
                })
            }
        }
    }

    fn role(&self, asked: DeviceArg, batch_size: i64) -> Result<(Role, DeviceArg)> {
        let mut device = self.device(asked)?;
        let count = self.count()?;
        let place = self.place(count)?;
        let size = place.as_ref().map_or(count.unwrap_or(1), |place| place.size);
        if size > 1 && device == DeviceArg::Auto {
            device = if device::gpu_count() > 0 { DeviceArg::Cuda(0) } else { DeviceArg::Cpu };
        }
        if let (None, Some(count), DeviceArg::Cuda(first)) = (&place, count, device) {
            let gpus = (device::gpu_count() - first as i64).max(0);
            if count > gpus {
                // The original's words, and what to do.
                let on_the_cpu = match self.num_gpus {
                    Some(_) => "leave --num-gpus out, or give --num-gpus 0",
                    None => "--device cpu",
                };
                bail!(
                    "Your machine has only {gpus} gpus which is less than the requested \
                     --num_gpus={count}. To train on the CPU: {on_the_cpu}"
                );
            }
        }
        if size == 1 {
            return Ok((Role::Alone, device));
        }
        ensure_possible(size, batch_size).map_err(|error| match &place {
            // Whoever gave no number of workers has to know where it comes from.
            Some(Place { size_from, .. }) => or_alone(format!("{size_from} is {size}: {error}")),
            None => error,
        })?;
        match place {
            None => Ok((Role::Parent(size), device)),
            Some(place) => {
                if let DeviceArg::Cuda(first) = device {
                    device = DeviceArg::Cuda(first + place.local_rank as usize);
                }
                Ok((Role::Worker(place), device))
            }
        }
    }

    /// The device that `--num-gpus` and `--device` mean together.
    fn device(&self, asked: DeviceArg) -> Result<DeviceArg, UsageError> {
        match (self.num_gpus, asked) {
            (Some(0), DeviceArg::Cuda(_)) => Err(UsageError(format!(
                "--num-gpus 0 is the CPU, and --device {asked} is not: leave one of them out"
            ))),
            (Some(0), _) => Ok(DeviceArg::Cpu),
            (Some(1), DeviceArg::Cpu) => Err(UsageError(
                "--num-gpus 1 asks for a GPU, and --device cpu for none. To train on the CPU, \
                 leave --num-gpus out"
                    .into(),
            )),
            (Some(n), DeviceArg::Cpu) => Err(UsageError(format!(
                "--num-gpus {n} asks for GPUs, and --device cpu for none. To train on the CPU, \
                 leave --num-gpus out; --device cpu --workers {n} starts {n} workers there"
            ))),
            (Some(_), DeviceArg::Auto) => Ok(DeviceArg::Cuda(0)),
            _ => Ok(asked),
        }
    }

    /// The number of workers that the flags give, if they give one.
    fn count(&self) -> Result<Option<i64>, UsageError> {
        match (self.num_gpus.filter(|&n| n > 0), self.workers) {
            (Some(gpus), Some(workers)) if gpus != workers => Err(UsageError(format!(
                "--num-gpus {gpus} and --workers {workers} contradict each other: there is one \
                 worker per GPU"
            ))),
            (gpus, workers) => Ok(gpus.or(workers)),
        }
    }

    /// This process's place among workers that a launcher has started.
    fn place(&self, count: Option<i64>) -> Result<Option<Place>, UsageError> {
        // Independent tasks of one Slurm job have its variables too.
        if self.workers == Some(1) {
            return Ok(None);
        }
        let place = Place::from_environment().map_err(or_alone)?;
        match (&place, count) {
            (Some(Place { size, size_from, .. }), Some(count)) if *size != count => {
                Err(or_alone(format!(
                    "the launcher has started {size} workers ({size_from}), not {count}: leave \
                     --num-gpus and --workers to it"
                )))
            }
            _ => Ok(place),
        }
    }
}

/// Errors if so many workers cannot share a batch, or this program cannot run several.
fn ensure_possible(workers: i64, batch_size: i64) -> Result<(), UsageError> {
    check_batch_size(batch_size, workers)?;
    match cfg!(feature = "distributed") {
        true => Ok(()),
        false => Err(UsageError(format!(
            "{workers} workers need data parallelism, which this program was built without: \
             `make distributed` builds it with it (cargo build --release --features distributed)"
        ))),
    }
}

/// Adds the way out for a run that a launcher starts beside others, but not as one of several
/// workers.
fn or_alone(error: impl std::fmt::Display) -> UsageError {
    UsageError(format!("{error}. A run of its own needs --workers 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(
        num_gpus: Option<i64>,
        workers: Option<i64>,
        device: DeviceArg,
        batch_size: i64,
    ) -> String {
        let flags = WorkerFlags { num_gpus, workers, worker_timeout: 300 };
        flags.role(device, batch_size).err().expect("it is refused").to_string()
    }

    #[test]
    fn more_gpus_than_there_are_is_the_original_s_error() {
        let error = refusal(Some(1000), None, DeviceArg::Auto, 1000);
        assert!(error.starts_with("Your machine has only "), "{error}");
        let rest = " gpus which is less than the requested --num_gpus=1000. To train on the CPU: \
                    leave --num-gpus out";
        assert!(error.contains(rest), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal(Some(0), None, DeviceArg::Cuda(0), 20).contains("--num-gpus 0 is the CPU"));
        assert!(refusal(Some(2), None, DeviceArg::Cpu, 20).contains("--device cpu --workers 2"));
        assert!(refusal(Some(1), None, DeviceArg::Cpu, 20).contains("leave --num-gpus out"));
        assert!(refusal(Some(2), Some(4), DeviceArg::Auto, 20).contains("contradict"));
        assert!(refusal(None, Some(3), DeviceArg::Cpu, 20).contains("1, 2, 4, 5, 10, 20"));
        #[cfg(not(feature = "distributed"))]
        assert!(refusal(None, Some(2), DeviceArg::Cpu, 20).contains("`make distributed`"));
    }

    #[test]
    fn no_flags_are_one_worker() {
        let flags = WorkerFlags { num_gpus: Some(0), workers: None, worker_timeout: 300 };
        assert!(matches!(flags.role(DeviceArg::Auto, 20).unwrap(), (Role::Alone, DeviceArg::Cpu)));
    }
}
