//! The recurrent part over a single row of text on the CPU, without gradients: src/lstm.cpp behind a small door.

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::loss::product;

unsafe extern "C" {
    fn ptb_lstm_recurrence(
        gates: *const f32,
        bias: *const f32,
        w_hh: *const f32,
        h: *const f32,
        c: *mut f32,
        output: *mut f32,
        steps: i64,
        hidden: i64,
    );
}

/// Whether [`one_row`] can stand in for `nn::lstm`: a batch of one, float32, on the CPU.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.size().first() == Some(&1) && x.kind() == Kind::Float && x.device() == Device::Cpu
}

/// One layer of `nn::lstm` over `x` `[1, steps, in]`, from the state `c` and `h`, each `[1, hidden]`. The weights are libtorch's:
/// `[4 * hidden, in]`, `[4 * hidden, hidden]`, `[4 * hidden]`. Returns the output `[1, steps, hidden]` and the final c and h. Not differentiable.
///
/// # Errors
/// Shapes that do not fit each other, or tensors that are not float32 on the CPU.
pub(crate) fn one_row(
    x: &Tensor,
    [w_ih, w_hh, bias]: [&Tensor; 3],
    c: &Tensor,
    h: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, hidden) = w_hh.size2().context("weight_hh has two dimensions")?;
    let (_, steps, width) = x.size3().context("the input has three dimensions")?;
    ensure!(
        takes(x)
            && rows == 4 * hidden
            && w_ih.size() == [rows, width]
            && bias.size() == [rows]
            && c.size() == [1, hidden]
            && h.size() == [1, hidden],
        "an LSTM layer of {hidden} units over one row of text: input {:?}, weight_ih {:?}, weight_hh {:?}, bias_ih {:?}, c {:?}, h {:?}",
        x.size(),
        w_ih.size(),
        w_hh.size(),
        bias.size(),
        c.size(),
        h.size()
    );
    tch::no_grad(|| {
        // What the inputs give is one product for all steps.
        let gates = product(&x.f_squeeze_dim(0)?, &w_ih.f_tr()?).contiguous();
        let (bias, w_hh, h, c) =
            (bias.contiguous(), w_hh.contiguous(), h.contiguous(), c.copy().contiguous());
        let output = Tensor::f_empty([1, steps, hidden], (Kind::Float, Device::Cpu))?;
        for t in [&gates, &bias, &w_hh, &h, &c] {
            ensure!(
                t.kind() == Kind::Float && t.device() == Device::Cpu,
                "the layer's tensors are not float32 on the CPU"
            );
        }
        // SAFETY: contiguous float32 CPU tensors of the sizes that the function takes (just checked, or made here); `c` and `output` are
        // new ones, so nobody else sees them being written.
        unsafe {
            ptb_lstm_recurrence(
                gates.data_ptr().cast(),
                bias.data_ptr().cast(),
                w_hh.data_ptr().cast(),
                h.data_ptr().cast(),
                c.data_ptr().cast(),
                output.data_ptr().cast(),
                steps,
                hidden,
            );
        }
        let last = if steps > 0 { output.select(1, steps - 1) } else { h };
        Ok((output, c, last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{self, RNN};

    /// Against nn::lstm in double precision: sizes that the vector width does not divide, large activations, one step, none of a batch.
    #[test]
    fn one_row_is_nn_lstm() {
        tch::manual_seed(11);
        for (input, hidden, steps, size) in
            [(3, 1, 5, 1.0), (8, 8, 1, 1.0), (5, 13, 40, 3.0), (200, 200, 60, 0.2), (7, 66, 9, 10.0)]
        {
            let store = nn::VarStore::new(Device::Cpu);
            let lstm = nn::lstm(store.root(), input, hidden, Default::default());
            let get = |name: &str| store.variables()[&format!("{name}_l0")].shallow_clone();
            let weights = [get("weight_ih"), get("weight_hh"), get("bias_ih")];
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * size;
            tch::no_grad(|| {
                for w in &weights {
                    w.shallow_clone().copy_(&random(&w.size()));
                }
                let _ = get("bias_hh").zero_();
            });
            let (x, c, h) = (random(&[1, steps, input]), random(&[1, hidden]), random(&[1, hidden]));
            let (output, last_c, last_h) = one_row(&x, weights.each_ref(), &c, &h).unwrap();

            let mut store = store;
            store.double();
            let double = |t: &Tensor| t.to_kind(Kind::Double);
            let state = nn::LSTMState((double(&h).unsqueeze(0), double(&c).unsqueeze(0)));
            let (expected, last) = tch::no_grad(|| lstm.seq_init(&double(&x), &state));
            for (ours, plain) in
                [(output, expected), (last_c, last.c().squeeze_dim(0)), (last_h, last.h().squeeze_dim(0))]
            {
                assert_eq!(ours.size(), plain.size());
                let difference = (double(&ours) - plain).abs().max().double_value(&[]);
                assert!(difference < 1e-5 * f64::max(size, 1.0), "{hidden}: {difference}");
            }
        }
    }

    #[test]
    fn one_row_says_what_does_not_fit() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let weights = [zeros(&[8, 3]), zeros(&[8, 2]), zeros(&[8])];
        let state = zeros(&[1, 2]);
        assert!(one_row(&zeros(&[1, 4, 3]), weights.each_ref(), &state, &state).is_ok());
        for (x, state) in [
            (zeros(&[2, 4, 3]), zeros(&[1, 2])),
            (zeros(&[1, 4, 3]), zeros(&[1, 3])),
            (zeros(&[1, 4, 5]), zeros(&[1, 2])),
        ] {
            assert!(one_row(&x, weights.each_ref(), &state, &state).is_err());
        }
    }
}
