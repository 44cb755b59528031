//! One function per reader of files, from bytes: a fuzz target calls it with what libFuzzer makes
//! up, tests/corpora.rs with what it has found so far. Each goes in by the front door, through a
//! file, and must come back with a result or an error: no panic, no abort, and no more memory than
//! stands in proportion to the file.
//!
//! Built for fuzzing, the readers take a wrong checksum for a right one (`cfg(fuzzing)`), since the
//! fuzzer would never get past it.

mod targets;

pub use targets::*;

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Runs `read` on a file of `len` bytes; asking for more than `factor` times that, and 4 MiB, ends
/// the process.
fn within(len: usize, factor: usize, read: impl FnOnce()) {
    HEAP.set_limit(HEAP.allocated() + (4 << 20) + factor * len).expect("below the limit");
    read();
    HEAP.set_limit(usize::MAX).expect("no limit");
}
