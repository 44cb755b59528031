//! Workers as processes: starting them, and being one of them.

use std::process::ExitCode;

use anyhow::Result;
use tch::Device;

use super::flags::signals::Signals;
use crate::device::DeviceArg;
use crate::distributed::{Place, Team};

#[cfg(feature = "distributed")]
pub use processes::{be_worker, start};

// The flags have been refused with a message before these could be called.

#[cfg(not(feature = "distributed"))]
pub fn start(_: i64, _: u64, _: &Signals) -> Result<ExitCode> {
    anyhow::bail!("built without data parallelism")
}

#[cfg(not(feature = "distributed"))]
pub fn be_worker(
    _: &Place,
    _: DeviceArg,
    _: u64,
    _: impl FnOnce(Device, &dyn Team) -> Result<ExitCode>,
) -> Result<ExitCode> {
    anyhow::bail!("built without data parallelism")
}

#[cfg(feature = "distributed")]
mod processes {
    use std::net::TcpListener;
    use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::sync::atomic::Ordering;
    use std::thread;
    use std::time::{Duration, Instant};
    use std::{env, fs, process};

    use anyhow::{Context, anyhow};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;
    use crate::cli::flags::device::select;
    use crate::cli::flags::signals::is_blocked;
    use crate::cli::report::notice;
    use crate::distributed::{ProcessGroup, Store};

    /// Tells a worker the process that has started it.
    const PARENT: &str = "PTB_WORD_LM_PARENT";

    /// Sends this process SIGTERM, on which it saves and ends, as soon as its parent is gone.
    fn stop_with_parent(parent: &str) -> Result<()> {
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // It may be gone already.
        if parent != parent_id().to_string() {
            kill(Pid::this(), Signal::SIGTERM)?;
        }
        Ok(())
    }

    /// Joins the other workers and calls `train`.
    pub fn be_worker(
        place: &Place,
        device: DeviceArg,
        timeout: u64,
        train: impl FnOnce(Device, &dyn Team) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let parent = env::var(PARENT).ok();
        if let Some(parent) = &parent {
            stop_with_parent(parent)?;
        }
        let device = select(device)?;
        let group = ProcessGroup::join(place, device, Duration::from_secs(timeout));
        let mut group = group.map_err(|error| match parent {
            Some(_) => error,
            None => anyhow!("{error:#}. A run of its own needs --workers 1"),
        })?;
        let result = train(device, &group);
        if let Err(error) = &result {
            group.tell_failure(error);
        }
        result
    }

    /// Starts the workers as torchrun would, keeps the store in which they meet, and waits for
    /// them. The exit code is worker 0's, or that of the first that failed.
    pub fn start(count: i64, timeout: u64, signals: &Signals) -> Result<ExitCode> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the workers' meeting place")?;
        let port = listener.local_addr()?.port();
        let _store = Store::serve(listener).context("the workers' meeting place")?;
        let mut workers = Workers::default();
        for rank in 0..count {
            let child = command(rank, count, port)?.spawn();
            let child = child.with_context(|| format!("worker {rank} could not be started"))?;
            workers.running.push((rank, child));
        }
        while !workers.running.is_empty() {
            thread::sleep(Duration::from_millis(20));
            workers.pass_on(signals);
            workers.reap()?;
            workers.kill_those_that_hang(Duration::from_secs(timeout + 15));
        }
        let failed = || workers.codes.iter().filter(|(_, code)| *code != 0);
        let decisive = failed().find(|(rank, _)| *rank == 0).or(failed().next());
        Ok(ExitCode::from(decisive.map_or(0, |(_, code)| *code)))
    }

    /// The command line of this process, as worker `rank` of `count`.
    fn command(rank: i64, count: i64, port: u16) -> Result<Command> {
        // As many threads in all as one worker would have.
        let cores = thread::available_parallelism().map_or(1, |n| n.get() as i64);
        let threads = env::var("OMP_NUM_THREADS").unwrap_or((cores / count).max(1).to_string());
        let numbers = [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", count),
            ("LOCAL_WORLD_SIZE", count),
            ("MASTER_PORT", i64::from(port)),
            ("TORCHELASTIC_RESTART_COUNT", 0),
            (PARENT, i64::from(process::id())),
        ];
        let mut command = Command::new(env::current_exe().context("this program itself")?);
        command
            .args(env::args_os().skip(1))
            .envs(numbers.map(|(name, number)| (name, number.to_string())))
            .envs([("MASTER_ADDR", "127.0.0.1"), ("TORCHELASTIC_USE_AGENT_STORE", "True")])
            .env("OMP_NUM_THREADS", threads)
            .stdin(Stdio::null())
            // A group of its own, so that Ctrl-C comes to it once: from here.
            .process_group(0);
        Ok(command)
    }

    /// The workers that were started. Those that still run are killed when this is dropped.
    #[derive(Default)]
    struct Workers {
        /// By rank.
        running: Vec<(i64, Child)>,
        /// Exit codes by rank, in the order in which the workers ended.
        codes: Vec<(i64, u8)>,
        /// When the first worker failed.
        failed_at: Option<Instant>,
    }

    impl Workers {
        /// Passes on the signals that this process got.
        fn pass_on(&self, signals: &Signals) {
            if let Ok(signal) = Signal::try_from(signals.stop.swap(0, Ordering::Relaxed) as i32) {
                self.running.iter().for_each(|(_, child)| send(child, signal));
            }
            // One worker is enough, since they agree on it. Until it waits for SIGUSR1, the signal
            // would end it.
            if signals.save.load(Ordering::Relaxed)
                && let Some((_, child)) = self.running.first()
                && is_blocked(child.id(), Signal::SIGUSR1) != Some(false)
            {
                signals.save.store(false, Ordering::Relaxed);
                send(child, Signal::SIGUSR1);
            }
        }

        /// Notes the exit codes of the workers that have ended.
        fn reap(&mut self) -> Result<()> {
            let mut ended = Vec::new();
            for (rank, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    ended.push(*rank);
                    self.codes.push((*rank, code(*rank, child.id(), status)));
                }
            }
            self.running.retain(|(rank, _)| !ended.contains(rank));
            if self.codes.iter().any(|(_, code)| *code != 0) {
                self.failed_at.get_or_insert_with(Instant::now);
            }
            Ok(())
        }

        /// After a failure, kills workers that do not end by themselves: all that are left are
        /// stopped, or `patience` is over.
        fn kill_those_that_hang(&mut self, patience: Duration) {
            let Some(failed_at) = self.failed_at else { return };
            let stopped = self.running.iter().all(|(_, child)| is_stopped(child));
            if stopped || failed_at.elapsed() > patience {
                for (rank, child) in &self.running {
                    let process = child.id();
                    notice(&format!("rank {rank} (process {process}) does not end, and is killed"));
                }
                self.kill();
            }
        }

        fn kill(&mut self) {
            for (_, mut child) in self.running.drain(..) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    impl Drop for Workers {
        fn drop(&mut self) {
            self.kill();
        }
    }

    /// The exit code of a worker that has ended; 1 if by a signal.
    fn code(rank: i64, process: u32, status: ExitStatus) -> u8 {
        if let Some(signal) = status.signal() {
            notice(&format!("rank {rank} (process {process}) was ended by signal {signal}"));
        }
        status.code().map_or(1, |code| code as u8)
    }

    /// True if a process was stopped (SIGSTOP), by its state in /proc: the letter after its name
    /// in parentheses.
    fn is_stopped(child: &Child) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    /// Sends a signal to a child. One that has not been waited for keeps its number, so no other
    /// process gets the signal.
    fn send(child: &Child, signal: Signal) {
        // A child that is over gets no signals.
        let _ = kill(Pid::from_raw(child.id() as i32), signal);
    }
}
