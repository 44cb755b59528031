//! Signals: stop a run, or save a checkpoint and continue.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::cli::report::clear_line;
use crate::device;

/// What signals have asked for.
#[derive(Clone, Default)]
pub struct Signals {
    /// Number of the signal to stop by (SIGINT, SIGTERM or SIGHUP), or 0.
    pub stop: Arc<AtomicUsize>,
    /// True after SIGUSR1.
    pub save: Arc<AtomicBool>,
}

/// Starts to wait for signals. A second SIGINT or SIGTERM ends the process without waiting for
/// the current step.
///
/// The signals are blocked in all threads, and a thread of its own waits for them, so no signal
/// handler ever runs. This matters because oneDNN's AVX-512 kernels use the stack pointer as a
/// pointer into their data: a handler called during one of them would write its frame into the
/// heap. Threads inherit the blocked signals, so this must be called before other threads start.
pub fn listen() -> Result<Signals> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
        set.add(signal);
    }
    // A blocked signal reaches the waiting thread even if it is ignored. So under nohup SIGHUP must
    // not be blocked.
    if !hangup_is_ignored() {
        set.add(Signal::SIGHUP);
    }
    set.thread_block()?;
    let signals = Signals::default();
    let Signals { stop, save } = signals.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut is_second = false;
        loop {
            match set.wait() {
                Ok(Signal::SIGUSR1) => save.store(true, Ordering::Relaxed),
                // A closed terminal sends SIGHUP more than once, and a logout sends SIGTERM too.
                // So SIGHUP is never taken for somebody who asks twice.
                Ok(Signal::SIGHUP) => stop.store(Signal::SIGHUP as usize, Ordering::Relaxed),
                Ok(signal) if is_second => {
                    clear_line();
                    device::exit_at_once(128 + signal as i32)
                }
                Ok(signal) => {
                    stop.store(signal as usize, Ordering::Relaxed);
                    is_second = true;
                }
                Err(_) => {}
            }
        }
    })?;
    Ok(signals)
}

/// True if this process was started with SIGHUP ignored, as by nohup. Known on Linux only.
fn hangup_is_ignored() -> bool {
    is_in_mask("self", "SigIgn", Signal::SIGHUP).unwrap_or(false)
}

/// True if a process blocks the signal. `None` if that is not known.
#[cfg(feature = "distributed")]
pub fn is_blocked(process: u32, signal: Signal) -> Option<bool> {
    is_in_mask(&process.to_string(), "SigBlk", signal)
}

/// Looks a signal up in a mask of /proc/PROCESS/status, where bit 0 stands for signal 1.
fn is_in_mask(process: &str, mask: &str, signal: Signal) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(mask)?.strip_prefix(':'))?;
    let bits = u64::from_str_radix(line.trim(), 16).ok()?;
    Some(bits >> (signal as u32 - 1) & 1 != 0)
}
