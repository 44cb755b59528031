//! The workers of a run, as the model and the session see them: [`Team`], and [`Solo`], the team of
//! one worker, whose operations do nothing.
//!
//! Teams of several workers are in [`crate::distributed`].

use anyhow::Result;
use tch::{Kind, Tensor};

/// All workers of a run, as one of them sees them. Every worker must make the same calls in the
/// same order.
pub trait Team {
    /// This worker's number, from 0. Worker 0 prints, logs and saves.
    fn rank(&self) -> i64;

    /// Number of workers.
    fn size(&self) -> i64;

    /// Starts to sum a tensor over all workers, in place. It must be contiguous, and must not be
    /// used before the operation has ended.
    ///
    /// # Errors
    /// Here and in the methods below: another worker is lost (named if it is known).
    fn all_reduce(&self, tensor: &Tensor) -> Result<Pending>;

    /// Starts to take the maximum over all workers, in place.
    fn all_reduce_max(&self, tensor: &Tensor) -> Result<Pending>;

    /// Starts to concatenate the workers' tensors, `[n, ...]` each, to `[size * n, ...]`.
    fn all_gather(&self, own: &Tensor) -> Result<(Tensor, Pending)>;

    /// Overwrites a tensor with worker 0's.
    fn broadcast(&self, tensor: &Tensor) -> Result<()>;

    /// Returns worker 0's text on every worker. A `key` can be used only once.
    fn broadcast_text(&self, key: &str, text: &str) -> Result<String>;

    /// First row and number of rows of this worker's share of `rows`, which is divisible by the
    /// number of workers ([`crate::distributed::check_batch_size`]).
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

    /// Completes the gradients of a step. Sums the `dense` ones over the workers, in one message,
    /// and concatenates the embedding's `rows`, `[n, hidden]` on each worker. The rows are not
    /// summed, so that they enter the global norm one by one. Waits for these operations and for
    /// `travelling`, which was started before.
    fn sum_gradients(
        &self,
        travelling: Pending,
        dense: Vec<&mut Tensor>,
        rows: Tensor,
    ) -> Result<Tensor> {
        let (all_rows, gathered) = self.all_gather(&rows)?;
        let sizes: Vec<i64> = dense.iter().map(|t| t.numel() as i64).collect();
        let bucket = Tensor::cat(&dense.iter().map(|t| t.flatten(0, -1)).collect::<Vec<_>>(), 0);
        let summed = self.all_reduce(&bucket)?;
        for pending in [travelling, gathered, summed] {
            pending.wait()?;
        }
        for (tensor, sum) in dense.into_iter().zip(bucket.split_with_sizes(sizes.as_slice(), 0)) {
            *tensor = sum.view_as(tensor);
        }
        Ok(all_rows)
    }

    /// Returns the workers whose variables differ from worker 0's in any bit.
    fn strays(&self, variables: &[&Tensor]) -> Result<Vec<i64>> {
        let own = digest(variables).unsqueeze(0).to_device(tch::Device::Cpu);
        let (digests, gathered) = self.all_gather(&own)?;
        gathered.wait()?;
        Ok((0..self.size()).filter(|&rank| digests.get(rank) != digests.get(0)).collect())
    }
}

/// The team of one worker. Its operations do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Solo;

impl Team for Solo {
    fn rank(&self) -> i64 {
        0
    }

    fn size(&self) -> i64 {
        1
    }

    fn all_reduce(&self, _: &Tensor) -> Result<Pending> {
        Ok(Pending::done())
    }

    fn all_reduce_max(&self, _: &Tensor) -> Result<Pending> {
        Ok(Pending::done())
    }

    fn all_gather(&self, own: &Tensor) -> Result<(Tensor, Pending)> {
        Ok((own.shallow_clone(), Pending::done()))
    }

    fn broadcast(&self, _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn broadcast_text(&self, _: &str, text: &str) -> Result<String> {
        Ok(text.to_owned())
    }

    fn rows(&self, tensor: &Tensor) -> Tensor {
        tensor.shallow_clone()
    }

    fn sum(&self, number: f64) -> Result<f64> {
        Ok(number)
    }

    fn sum_gradients(&self, _: Pending, _: Vec<&mut Tensor>, rows: Tensor) -> Result<Tensor> {
        Ok(rows)
    }

    fn strays(&self, _: &[&Tensor]) -> Result<Vec<i64>> {
        Ok(Vec::new())
    }
}

/// An operation between the workers that has been started.
#[must_use = "wait for it before using its tensors"]
pub struct Pending(Option<Box<dyn FnOnce() -> Result<()>>>);

impl Pending {
    /// An operation whose end `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Result<()> + 'static) -> Self {
        Pending(Some(Box::new(wait)))
    }

    fn done() -> Self {
        Pending(None)
    }

    /// Waits until the operation has ended.
    ///
    /// # Errors
    /// Another worker is lost.
    pub fn wait(self) -> Result<()> {
        self.0.map_or(Ok(()), |wait| wait())
    }
}

/// Sums over the bits of each variable, `[variables, 2]`, int64: one plain, one weighted by column,
/// so that changed and moved values are both detected. Sums of integers do not depend on the order
/// of addition, so they are the same on every device.
fn digest(variables: &[&Tensor]) -> Tensor {
    let of = |variable: &&Tensor| {
        let integer = if variable.kind() == Kind::Double { Kind::Int64 } else { Kind::Int };
        let bits = variable.detach().view_dtype(integer);
        let columns = bits.view([-1, *bits.size().last().unwrap_or(&1)]).sum_dim_intlist(
            0,
            false,
            Kind::Int64,
        );
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
        let _random = crate::random_numbers(1);
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
