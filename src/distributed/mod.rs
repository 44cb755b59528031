//! Data parallelism: N workers compute the very run that one would.
//!
//! The original's `--num_gpus` gives every replica a batch of its own, so that its perplexity gets worse with their number. Here the rows of
//! one batch are shared out: worker `r` of `n` takes rows `r * batch_size / n` onwards, costs are divided by the whole `batch_size`, gradients
//! are summed over the workers, and clipping sees the global norm of the sum. Every worker then applies the same update to its own copy
//! of the variables.
//!
//! The engine is libtorch's c10d, the one under PyTorch's DistributedDataParallel: Gloo between CPUs, NCCL between GPUs. It is compiled with the
//! cargo feature `distributed` (`make distributed`); without it this module has only [`Workers`], the little that the model and the
//! session know of it, and the reading of a launcher's environment. docs/distributed.md tells how to run it.

#[cfg(feature = "distributed")]
mod c10d;
mod environment;

use anyhow::Result;
use tch::{Kind, Tensor};

#[cfg(feature = "distributed")]
pub use c10d::{ProcessGroup, Store};
pub use environment::{Place, check_batch_size};

/// All workers of a run, as one of them sees them. Every worker must make the same calls in the same order.
pub trait Workers {
    /// This worker's number, from 0. Worker 0 prints, logs and saves.
    fn rank(&self) -> i64;

    /// How many there are.
    fn size(&self) -> i64;

    /// Starts to sum a tensor over all workers, in place. It must be contiguous, and nobody may touch it before the end.
    ///
    /// # Errors
    /// As all of these: another worker is lost (named if it can be known).
    fn all_reduce(&self, tensor: &Tensor) -> Result<Pending>;

    /// Starts to take the maximum over all workers, in place.
    fn all_reduce_max(&self, tensor: &Tensor) -> Result<Pending>;

    /// Starts to put the workers' tensors, `[n, ...]` each, one after the other: `[size * n, ...]`.
    fn all_gather(&self, own: &Tensor) -> Result<(Tensor, Pending)>;

    /// Overwrites a tensor by worker 0's.
    fn broadcast(&self, tensor: &Tensor) -> Result<()>;

    /// Worker 0's text, on every worker. A `key` is used once.
    fn broadcast_text(&self, key: &str, text: &str) -> Result<String>;

    /// Where this worker's share of `rows` begins, and how many they are. The workers' number divides them ([`check_batch_size`]).
    fn share(&self, rows: i64) -> (i64, i64) {
        let own = rows / self.size();
        (self.rank() * own, own)
    }

    /// This worker's rows of a tensor `[rows, ...]`; a view.
    fn rows(&self, tensor: &Tensor) -> Tensor {
        let (start, own) = self.share(tensor.size()[0]);
        tensor.narrow(0, start, own)
    }

    /// The sum of a number over all workers.
    fn sum(&self, number: f64) -> Result<f64> {
        let tensor = Tensor::from(number);
        self.all_reduce(&tensor)?.wait()?;
        Ok(tensor.double_value(&[]))
    }
}

/// An operation between the workers that is under way.
#[must_use = "what it works on may not be touched before its end"]
pub struct Pending(Box<dyn FnOnce() -> Result<()>>);

impl Pending {
    /// An operation that `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Result<()> + 'static) -> Self {
        Pending(Box::new(wait))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Another worker is lost.
    pub fn wait(self) -> Result<()> {
        (self.0)()
    }
}

/// Sums over the bits of each variable, `[variables, 2]`, int64: one plain, one weighted by column, so that neither another value nor
/// another place of a value goes unseen. Whole numbers: the same on every device, whatever the order of addition.
pub fn digest(variables: &[&Tensor]) -> Tensor {
    let of = |variable: &&Tensor| {
        let integer = if variable.kind() == Kind::Double { Kind::Int64 } else { Kind::Int };
        let bits = variable.detach().view_dtype(integer);
        let columns =
            bits.view([-1, *bits.size().last().unwrap_or(&1)]).sum_dim_intlist(0, false, Kind::Int64);
        let weights = Tensor::arange(columns.size()[0], (Kind::Int64, columns.device())) + 1;
        Tensor::stack(&[columns.sum(Kind::Int64), (columns * weights).sum(Kind::Int64)], 0)
    };
    tch::no_grad(|| Tensor::stack(&variables.iter().map(of).collect::<Vec<_>>(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_digest_sees_one_bit_and_a_swap() {
        let variable = Tensor::randn([7, 5], (Kind::Float, Device::Cpu));
        let reference = digest(&[&variable]);
        assert_eq!(digest(&[&variable.copy()]), reference);
        let mut bits = variable.copy().view_dtype(Kind::Int);
        let _ = bits.get(3).get(2).bitwise_xor_(1);
        assert_ne!(digest(&[&bits.view_dtype(Kind::Float)]), reference);
        bits.copy_(&variable.view_dtype(Kind::Int).flip([1]));
        assert_ne!(digest(&[&bits.view_dtype(Kind::Float)]), reference);
    }
}
