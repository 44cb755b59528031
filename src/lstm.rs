//! The recurrent part over a few rows of text on the CPU, without gradients and on one thread: src/lstm.cpp behind a small door.

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
        rows: i64,
        steps: i64,
        hidden: i64,
    );
}

/// What the inputs `x` `[rows, steps, in]` give to the gates: `x @ w_ih^T`, `[rows, steps, 4 * hidden]`, one product for all steps. `w_ih`
/// is libtorch's, `[4 * hidden, in]`.
///
/// # Errors
/// Shapes that do not fit each other.
pub(crate) fn gates(x: &Tensor, w_ih: &Tensor) -> Result<Tensor> {
    let (rows, steps, width) = x.size3().context("the input has three dimensions")?;
    ensure!(w_ih.dim() == 2 && w_ih.size()[1] == width, "input {:?}, weight_ih {:?}", x.size(), w_ih.size());
    Ok(product(&x.f_reshape([-1, width])?, &w_ih.f_tr()?).f_view([rows, steps, -1])?)
}

/// One layer of `nn::lstm` over [`gates`], from the state `c` and `h`, each `[rows, hidden]`. The weights are libtorch's:
/// `weight_hh` `[4 * hidden, hidden]`, `bias_ih` `[4 * hidden]`. Returns the output `[rows, steps, hidden]` and the final c and h. Not differentiable.
///
/// # Errors
/// Shapes that do not fit each other, or tensors that are not float32 on the CPU.
pub(crate) fn layer(
    gates: &Tensor,
    [w_hh, bias]: [&Tensor; 2],
    c: &Tensor,
    h: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (units, hidden) = w_hh.size2().context("weight_hh has two dimensions")?;
    let (rows, steps, width) = gates.size3().context("the gates have three dimensions")?;
    ensure!(
        units == 4 * hidden
            && width == units
            && bias.size() == [units]
            && c.size() == [rows, hidden]
            && h.size() == [rows, hidden],
        "an LSTM layer of {hidden} units over {rows} rows: gates {:?}, weight_hh {:?}, bias_ih {:?}, c {:?}, h {:?}",
        gates.size(),
        w_hh.size(),
        bias.size(),
        c.size(),
        h.size()
    );
    tch::no_grad(|| {
        let (gates, bias, w_hh, h, c) =
            (gates.contiguous(), bias.contiguous(), w_hh.contiguous(), h.contiguous(), c.copy().contiguous());
        let output = Tensor::f_empty([rows, steps, hidden], (Kind::Float, Device::Cpu))?;
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
                rows,
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

    /// Against nn::lstm in double precision: sizes that the vector width does not divide, one step, one row and more, and gates that are all but
    /// closed or open. (Biases make them so: large weights would multiply float32's rounding from step to step.)
    #[test]
    fn layer_is_nn_lstm() {
        let _random = crate::random_numbers(11);
        for (rows, input, hidden, steps, size, bias) in [
            (1, 3, 1, 5, 1.0, 1.0),
            (3, 8, 8, 1, 1.0, 1.0),
            (1, 5, 13, 40, 0.3, 3.0),
            (6, 200, 200, 60, 0.1, 0.2),
            (9, 7, 66, 9, 0.2, 30.0),
        ] {
            let store = nn::VarStore::new(Device::Cpu);
            let lstm = nn::lstm(store.root(), input, hidden, Default::default());
            let get = |name: &str| store.variables()[&format!("{name}_l0")].shallow_clone();
            let weights = [get("weight_ih"), get("weight_hh"), get("bias_ih")];
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * size;
            tch::no_grad(|| {
                for (w, size) in weights.iter().zip([1.0, 1.0, bias / size]) {
                    w.shallow_clone().copy_(&(random(&w.size()) * size));
                }
                let _ = get("bias_hh").zero_();
            });
            let (x, c, h) = (random(&[rows, steps, input]), random(&[rows, hidden]), random(&[rows, hidden]));
            let (output, last_c, last_h) =
                layer(&gates(&x, &weights[0]).unwrap(), [&weights[1], &weights[2]], &c, &h).unwrap();

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
                assert!(difference < 1e-5, "{hidden}: {difference}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let (w_hh, bias, state) = (zeros(&[8, 2]), zeros(&[8]), zeros(&[1, 2]));
        assert!(layer(&zeros(&[1, 4, 8]), [&w_hh, &bias], &state, &state).is_ok());
        for (gates, state) in [
            (zeros(&[2, 4, 8]), zeros(&[1, 2])),
            (zeros(&[1, 4, 8]), zeros(&[1, 3])),
            (zeros(&[1, 4, 6]), zeros(&[1, 2])),
        ] {
            assert!(layer(&gates, [&w_hh, &bias], &state, &state).is_err());
        }
        assert!(gates(&zeros(&[1, 4, 5]), &zeros(&[8, 3])).is_err());
    }
}
