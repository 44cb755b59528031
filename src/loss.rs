//! The loss with TensorFlow's meaning: `sequence_loss_by_example`, `sequence_loss`, and the cross
//! entropy under them. The model calls `cross_entropy` alone: with the original's weights of 1 the
//! others are its sum.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// `tf.contrib.legacy_seq2seq.sequence_loss_by_example`: weighted cross entropy per example, summed
/// over the list of steps.
///
/// One entry per time step: `logits[t]` is `[batch, vocab]`, `targets[t]` is `[batch]` (int64),
/// `weights[t]` is `[batch]`. The result is `[batch]`, in nats; `average_across_timesteps` divides
/// it by the sum of the example's weights (plus 1e-12, as TensorFlow does).
///
/// # Errors
/// Lists of different lengths or empty, shapes that do not fit each other.
pub fn sequence_loss_by_example(
    logits: &[Tensor],
    targets: &[Tensor],
    weights: &[Tensor],
    average_across_timesteps: bool,
) -> Result<Tensor> {
    ensure!(
        !logits.is_empty() && logits.len() == targets.len() && logits.len() == weights.len(),
        "Lengths of logits, weights, and targets must be the same and not 0: {}, {}, {}",
        logits.len(),
        weights.len(),
        targets.len()
    );
    let mut log_perps = Vec::with_capacity(logits.len());
    for (t, ((logits, targets), weights)) in logits.iter().zip(targets).zip(weights).enumerate() {
        let size = logits.size();
        ensure!(
            size.len() == 2 && targets.size() == size[..1] && weights.size() == size[..1],
            "step {t}: logits {size:?}, targets {:?}, weights {:?}; they must be [batch, vocab], \
             [batch], [batch]",
            targets.size(),
            weights.size()
        );
        log_perps.push(cross_entropy(logits, targets)? * weights);
    }
    let log_perp = Tensor::f_stack(&log_perps, 0)?.sum_dim_intlist(0, false, None::<Kind>);
    if !average_across_timesteps {
        return Ok(log_perp);
    }
    let total = Tensor::f_stack(weights, 0)?.sum_dim_intlist(0, false, None::<Kind>) + 1e-12;
    Ok(log_perp / total)
}

/// `tf.contrib.legacy_seq2seq.sequence_loss`: [`sequence_loss_by_example`] summed over the batch, a
/// scalar; `average_across_batch` divides it by the batch's size.
///
/// `tf.contrib.seq2seq.sequence_loss` with `average_across_timesteps=False`, which the later
/// original uses, is this function with the average over time off and the average over the batch
/// on.
///
/// # Errors
/// As [`sequence_loss_by_example`].
pub fn sequence_loss(
    logits: &[Tensor],
    targets: &[Tensor],
    weights: &[Tensor],
    average_across_timesteps: bool,
    average_across_batch: bool,
) -> Result<Tensor> {
    let cost = sequence_loss_by_example(logits, targets, weights, average_across_timesteps)?
        .sum(None::<Kind>);
    Ok(if average_across_batch { cost / targets[0].size()[0] as f64 } else { cost })
}

/// `tf.nn.sparse_softmax_cross_entropy_with_logits`: `logits [n, vocab]`, `targets [n]` -> `[n]`,
/// in nats.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let target_logits = logits.f_gather(1, &targets.f_unsqueeze(1)?, false)?.squeeze_dim(1);
    Ok(logits.f_logsumexp(1, false)? - target_logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn sequence_loss_averages_as_tensorflow() {
        // By hand: uniform logits over 4 words cost ln 4 each.
        let logits = || Tensor::zeros([2, 4], (Kind::Double, Device::Cpu));
        let targets = || Tensor::from_slice(&[1i64, 2]);
        let weights = [Tensor::from_slice(&[1.0, 1.0]), Tensor::from_slice(&[1.0, 0.0])];
        let by_example = |average| {
            let t = sequence_loss_by_example(
                &[logits(), logits()],
                &[targets(), targets()],
                &weights,
                average,
            )
            .unwrap();
            Vec::<f64>::try_from(t).unwrap()
        };
        let ln4 = 4f64.ln();
        let close = |a: &[f64], b: &[f64]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9), "{a:?} {b:?}")
        };
        close(&by_example(false), &[2.0 * ln4, ln4]);
        close(&by_example(true), &[ln4, ln4]);
        let total =
            sequence_loss(&[logits(), logits()], &[targets(), targets()], &weights, false, true)
                .unwrap();
        close(&[total.double_value(&[])], &[1.5 * ln4]);
        assert!(sequence_loss_by_example(&[logits()], &[], &[], true).is_err());
        assert!(
            sequence_loss_by_example(
                &[logits()],
                &[Tensor::from_slice(&[1i64])],
                &weights[..1],
                true
            )
            .is_err()
        );
    }
}
