//! `--num-gpus` and `--workers`: the workers of a run, started here, or found in the environment that torchrun, mpirun or Slurm made.

use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;

use anyhow::{Result, bail};
use clap::Args;
use tch::Device;

use crate::config::ConfigError;
use crate::device::{self, DeviceArg};
use crate::distributed::{Place, Workers, check_batch_size};

#[derive(Args)]
pub struct WorkerFlags {
    /// Train on N GPUs of this machine, a worker on each; 0 is the CPU. The run stays that of one: the rows of the batch are shared out
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..=1024), help_heading = "The original's flags")]
    num_gpus: Option<i64>,
    /// Start N workers on this machine, on the CPU too [default: 1, or as torchrun, mpirun or Slurm tells]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(1..=1024), help_heading = "Running")]
    workers: Option<i64>,
    /// Seconds that a worker may leave the others waiting before they give up
    #[arg(long, default_value_t = 300, value_name = "SECONDS", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "Running")]
    worker_timeout: u64,
}

/// What this process is in the run.
enum Role {
    /// All of it.
    Alone,
    /// The one that starts so many workers, and trains nothing itself.
    Parent(i64),
    /// One of several workers.
    Worker(Place),
}

impl WorkerFlags {
    /// Calls `train` with the device to take and the other workers, if this process is to train; starts the workers if it is not.
    pub fn run(
        &self,
        asked: DeviceArg,
        batch_size: i64,
        stop: &AtomicUsize,
        train: impl FnOnce(Device, Option<&dyn Workers>) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let (role, device) = self.role(asked, batch_size)?;
        match role {
            Role::Alone => train(device::select(device)?, None),
            Role::Parent(workers) => processes::start(workers, self.worker_timeout, stop),
            Role::Worker(place) => {
                processes::be_worker(&place, device, self.worker_timeout, train).map_err(|error| {
                    // Rank 0 speaks for all, so that the others say who they are.
                    if place.rank == 0 { error } else { error.context(format!("rank {}", place.rank)) }
                })
            }
        }
    }

    fn role(&self, asked: DeviceArg, batch_size: i64) -> Result<(Role, DeviceArg)> {
        let gpus = self.num_gpus;
        let mut device = match (gpus, asked) {
            (Some(0), DeviceArg::Cuda(_)) => {
                bail!(ConfigError(format!(
                    "--num-gpus 0 is the CPU, and --device {asked} is not: leave one of them out"
                )))
            }
            (Some(0), _) => DeviceArg::Cpu,
            (Some(n), DeviceArg::Cpu) => bail!(ConfigError(format!(
                "--num-gpus {n} asks for GPUs, and --device cpu for none; --device cpu --workers {n} trains on the CPU"
            ))),
            (Some(_), DeviceArg::Auto) => DeviceArg::Cuda(0),
            _ => asked,
        };
        let counts: Vec<i64> = gpus.filter(|&n| n > 0).into_iter().chain(self.workers).collect();
        let count = counts.first().copied().unwrap_or(1);
        if counts.last().is_some_and(|&last| last != count) {
            bail!(ConfigError(format!(
                "--num-gpus {count} and --workers {} contradict each other: there is one worker per GPU",
                counts[1]
            )));
        }
        let place = Place::from_environment()?;
        if let Some(place) = &place
            && !counts.is_empty()
            && place.size != count
        {
            bail!(ConfigError(format!(
                "the launcher has started {} workers (WORLD_SIZE), not {count}: leave --num-gpus and --workers to it",
                place.size
            )));
        }
        let size = place.as_ref().map_or(count, |place| place.size);
        if size > 1 && device == DeviceArg::Auto {
            device = if device::gpu_count() > 0 { DeviceArg::Cuda(0) } else { DeviceArg::Cpu };
        }
        if let (None, DeviceArg::Cuda(first)) = (&place, device)
            && !counts.is_empty()
            && first as i64 + count > device::gpu_count()
        {
            // The original's words.
            bail!(
                "Your machine has only {} gpus which is less than the requested --num_gpus={count}. To train on the CPU: --device cpu",
                (device::gpu_count() - first as i64).max(0)
            );
        }
        if size == 1 {
            return Ok((Role::Alone, device));
        }
        check_batch_size(batch_size, size)?;
        if !cfg!(feature = "distributed") {
            bail!(ConfigError(format!(
                "{size} workers need data parallelism, which this program was built without: `make distributed` builds it with it \
                 (cargo build --release --features distributed)"
            )));
        }
        Ok(match place {
            None => (Role::Parent(size), device),
            Some(place) => {
                if let DeviceArg::Cuda(first) = device {
                    device = DeviceArg::Cuda(first + place.local_rank as usize);
                }
                (Role::Worker(place), device)
            }
        })
    }
}

#[cfg(feature = "distributed")]
mod processes {
    use std::net::TcpListener;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    use anyhow::Context;

    use super::*;
    use crate::distributed::{ProcessGroup, Store};
    use crate::report::notice;

    pub fn be_worker(
        place: &Place,
        device: DeviceArg,
        timeout: u64,
        train: impl FnOnce(Device, Option<&dyn Workers>) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let device = device::select(device)?;
        let mut group = ProcessGroup::join(place, device, Duration::from_secs(timeout))?;
        let result = train(device, Some(&group));
        if let Err(error) = &result {
            group.tell_failure(error);
        }
        result
    }

    /// Starts the workers as torchrun would, keeps the store in which they meet, and waits for them. The exit code is worker 0's, or that of
    /// the first that failed.
    pub fn start(workers: i64, timeout: u64, stop: &AtomicUsize) -> Result<ExitCode> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the workers' meeting place")?;
        let port = listener.local_addr()?.port();
        let _store = Store::serve(listener).context("the workers' meeting place")?;
        let program = std::env::current_exe().context("this program itself")?;
        // As many threads in all as one worker would have.
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as i64);
        let threads =
            std::env::var("OMP_NUM_THREADS").unwrap_or_else(|_| (cores / workers).max(1).to_string());
        let mut running = Vec::new();
        for rank in 0..workers {
            let mut command = Command::new(&program);
            command
                .args(std::env::args_os().skip(1))
                .envs(
                    [
                        ("RANK", rank),
                        ("LOCAL_RANK", rank),
                        ("WORLD_SIZE", workers),
                        ("LOCAL_WORLD_SIZE", workers),
                    ]
                    .map(|(name, value)| (name, value.to_string())),
                )
                .envs([
                    ("MASTER_ADDR", "127.0.0.1"),
                    ("TORCHELASTIC_USE_AGENT_STORE", "True"),
                    ("TORCHELASTIC_RESTART_COUNT", "0"),
                ])
                .env("MASTER_PORT", port.to_string())
                .env("OMP_NUM_THREADS", &threads)
                .stdin(Stdio::null())
                // A group of its own, so that Ctrl-C comes to it once: from here.
                .process_group(0);
            #[cfg(target_os = "linux")]
            // SAFETY: prctl only sets a property of the new process. It gets SIGTERM if this one dies, and saves.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                    Ok(())
                });
            }
            let child = command.spawn().with_context(|| format!("worker {rank} could not be started"));
            match child {
                Ok(child) => running.push((rank, child)),
                Err(error) => {
                    kill(&mut running);
                    return Err(error);
                }
            }
        }
        let mut codes: Vec<(i64, u8)> = Vec::new();
        let mut failed_at = None;
        while !running.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
            let signal = stop.swap(0, Ordering::Relaxed);
            if signal != 0 {
                for (_, child) in &running {
                    // SAFETY: a process of ours that has not been waited for.
                    unsafe { libc::kill(child.id() as i32, signal as i32) };
                }
            }
            let mut still = Vec::new();
            for (rank, mut child) in running {
                let Some(status) = child.try_wait()? else {
                    still.push((rank, child));
                    continue;
                };
                if let Some(signal) = status.signal() {
                    notice(&format!("rank {rank} (process {}) was ended by signal {signal}", child.id()));
                }
                let code = status.code().map_or(1, |code| code as u8);
                if code != 0 {
                    failed_at = failed_at.or(Some(Instant::now()));
                }
                codes.push((rank, code));
            }
            running = still;
            // A worker that was stopped never ends by itself.
            let stopped = !running.is_empty() && running.iter().all(|(_, child)| is_stopped(child));
            if failed_at.is_some_and(|at| stopped || at.elapsed() > Duration::from_secs(timeout + 15)) {
                for (rank, child) in &running {
                    notice(&format!("rank {rank} (process {}) does not end, and is killed", child.id()));
                }
                kill(&mut running);
            }
        }
        let first = codes.iter().find(|(rank, code)| *rank == 0 && *code != 0);
        Ok(ExitCode::from(first.or(codes.iter().find(|(_, code)| *code != 0)).map_or(0, |(_, code)| *code)))
    }

    /// Whether a process was stopped (SIGSTOP), by its state in /proc: the letter after its name in parentheses.
    fn is_stopped(child: &Child) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    fn kill(running: &mut Vec<(i64, Child)>) {
        for (_, mut child) in running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(not(feature = "distributed"))]
mod processes {
    use super::*;

    // `role` has refused both in words.
    pub fn start(_: i64, _: u64, _: &AtomicUsize) -> Result<ExitCode> {
        bail!("built without data parallelism")
    }

    pub fn be_worker(
        _: &Place,
        _: DeviceArg,
        _: u64,
        _: impl FnOnce(Device, Option<&dyn Workers>) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        bail!("built without data parallelism")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(num_gpus: Option<i64>, workers: Option<i64>, device: DeviceArg, batch_size: i64) -> String {
        let flags = WorkerFlags { num_gpus, workers, worker_timeout: 300 };
        flags.role(device, batch_size).err().expect("it is refused").to_string()
    }

    #[test]
    fn more_gpus_than_there_are_is_the_original_s_error() {
        let error = refusal(Some(1000), None, DeviceArg::Auto, 1000);
        assert!(error.starts_with("Your machine has only "), "{error}");
        assert!(error.contains(" gpus which is less than the requested --num_gpus=1000."), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal(Some(0), None, DeviceArg::Cuda(0), 20).contains("--num-gpus 0 is the CPU"));
        assert!(refusal(Some(2), None, DeviceArg::Cpu, 20).contains("--device cpu --workers 2"));
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
