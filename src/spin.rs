//! Training beside other work on the same cores.
//!
//! At the end of each parallel region the threads of libgomp wait for each other by spinning,
//! 300,000 times before they sleep. On a quiet machine nothing is faster. Beside another busy
//! process a thread spins while the one that it waits for has no core, and training falls to a
//! tenth of its speed. `OMP_WAIT_POLICY=PASSIVE` helps there, but costs a quarter on a quiet
//! machine.
//!
//! libgomp spins only 1,000 times while the process has more threads than cores. So a watcher looks
//! twice a second at how long the threads have waited for a core, which the kernel counts. While
//! that is long, one idle team of threads too many is kept (docs/performance.md has the figures).

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{env, fs, thread};

use tch::Tensor;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// Part of their time that the threads have to wait for a core before the machine counts as busy.
const BUSY: f64 = 0.1;

/// Quiet looks in a row after which it counts as quiet again.
const QUIET: usize = 10;

/// Starts to watch, unless the user has chosen how threads wait, or there is one thread alone. Must
/// be called after the number of threads is set, and after signals are blocked.
pub fn watch() {
    let chosen = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"].map(env::var_os);
    if chosen.iter().any(Option::is_some) || tch::get_num_threads() < 2 {
        return;
    }
    let Some(mut last) = times() else { return };
    // Without the watcher training is slower beside other work, no more.
    let _ = thread::Builder::new().name("spin".into()).spawn(move || {
        let mut crowd: Option<Crowd> = None;
        let mut machine = Machine::default();
        while let Some(now) = times() {
            crowd = match machine.is_busy(now.0 - last.0, now.1 - last.1) {
                true => crowd.or_else(Crowd::new),
                false => None,
            };
            last = now;
            thread::sleep(PERIOD);
        }
    });
}

/// Whether other work wants the cores.
#[derive(Default)]
struct Machine {
    /// Quiet looks that are left until it counts as quiet.
    left: usize,
}

impl Machine {
    /// Whether it is busy, after a period in which the threads have run and have waited for a core
    /// for so many seconds.
    fn is_busy(&mut self, ran: f64, waited: f64) -> bool {
        let busy_now = waited > BUSY * (ran + waited);
        self.left = if busy_now { QUIET } else { self.left.saturating_sub(1) };
        self.left > 0
    }
}

/// Seconds that this process's threads have run, and have waited for a core.
fn times() -> Option<(f64, f64)> {
    let (mut ran, mut waited) = (0.0, 0.0);
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread may have ended meanwhile.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let mut fields = text.split_whitespace().map(|field| field.parse::<f64>().unwrap_or(0.0));
        ran += fields.next()? / 1e9;
        waited += fields.next()? / 1e9;
    }
    Some((ran, waited))
}

/// An idle team of libgomp's threads, which makes the process have more threads than cores.
struct Crowd {
    /// Closed when the crowd is dropped; then its threads end.
    _open: Sender<()>,
}

impl Crowd {
    fn new() -> Option<Self> {
        let (open, closed) = channel();
        let thread = thread::Builder::new().name("spin-crowd".into()).spawn(move || {
            // Large enough to be shared out: libgomp then starts a team of this thread's own.
            let numbers = Tensor::f_ones([1 << 20], (tch::Kind::Float, tch::Device::Cpu));
            let _sum = numbers.and_then(|numbers| numbers.f_sin());
            let _: Result<(), _> = closed.recv();
        });
        thread.ok().map(|_| Crowd { _open: open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_busy_at_once_and_quiet_after_a_while() {
        let mut machine = Machine::default();
        assert!(!machine.is_busy(0.0, 0.0));
        assert!(!machine.is_busy(1.0, 0.01));
        assert!(machine.is_busy(0.5, 0.5));
        for _ in 1..QUIET {
            assert!(machine.is_busy(1.0, 0.0));
        }
        assert!(!machine.is_busy(1.0, 0.0));
    }

    #[test]
    fn a_crowd_is_a_team_of_threads_that_ends() {
        let named = || {
            let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
            let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            names.filter(|name| name.trim() == "spin-crowd").count()
        };
        let wait_for = |expected: &dyn Fn(usize) -> bool| {
            for _ in 0..1000 {
                if expected(named()) {
                    return true;
                }
                thread::sleep(Duration::from_millis(10));
            }
            false
        };
        let before = times().unwrap();
        let crowd = Crowd::new().unwrap();
        // The team's other threads inherit the name.
        let threads = tch::get_num_threads() as usize;
        assert!(wait_for(&|count| count == threads), "{} of {threads}", named());
        drop(crowd);
        assert!(wait_for(&|count| count == 0), "{} are left", named());
        let after = times().unwrap();
        assert!(before.0 >= 0.0 && after.1 >= 0.0);
    }
}
