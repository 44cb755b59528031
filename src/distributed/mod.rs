//! Data parallelism: N workers compute the very run that one would.
//!
//! The original's `--num_gpus` gives every replica a batch of its own, so that its perplexity gets
//! worse with their number. Here the rows of one batch are shared out: worker `r` of `n` takes rows
//! `r * batch_size / n` onwards, costs are divided by the whole `batch_size`, gradients are summed
//! over the workers, and clipping sees the global norm of the sum. Every worker then applies the
//! same update to its own copy of the variables.
//!
//! The engine is libtorch's c10d, the one under PyTorch's DistributedDataParallel: Gloo between
//! CPUs, NCCL between GPUs. It is compiled with the cargo feature `distributed` (`make
//! distributed`); without it this module only reads a launcher's environment. What the model and
//! the session know of workers is [`Team`]. docs/distributed.md tells how to run it.

#[cfg(feature = "distributed")]
mod c10d;
mod environment;

#[cfg(feature = "distributed")]
pub use c10d::{ProcessGroup, Store};
pub use environment::{EnvironmentError, Place, check_batch_size};

pub use crate::team::{Pending, Solo, Team};
