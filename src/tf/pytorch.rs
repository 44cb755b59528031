//! The names and the layout of PyTorch's example `word_language_model`.
//!
//! | PyTorch | here |
//! |---|---|
//! | `encoder.weight [vocab, hidden]` | `Model/embedding` |
//! | `rnn.weight_ih_l{k}`, `rnn.weight_hh_l{k}` | the kernel of layer k ([`kernel_to_libtorch`]) |
//! | `rnn.bias_ih_l{k}` + `rnn.bias_hh_l{k}` | the bias of layer k |
//! | `decoder.weight [vocab, hidden]` | `Model/softmax_w`, transposed |
//! | `decoder.bias [vocab]` | `Model/softmax_b` |
//!
//! PyTorch has no `forget_bias`: it is part of the bias there.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use super::{LSTM_CELL, Shapes, Variables, canonical, ensure_finite, is_float, layer_name};
use crate::rnn::{kernel_from_libtorch, kernel_to_libtorch};

const ENCODER: &str = "encoder.weight";
const DECODER: &str = "decoder.weight";
const DECODER_BIAS: &str = "decoder.bias";

/// A model under TensorFlow's names.
pub(super) struct Converted {
    pub variables: Variables,
    /// What was in the file besides.
    pub others: Variables,
    /// What was assumed where the file leaves a choice.
    pub remarks: Vec<String>,
}

/// What stands before the names of a model of PyTorch's, such as `module.`; none if the variables
/// are of no such model.
pub(super) fn prefix(variables: &Variables) -> Option<String> {
    let prefix = |name: &String| Some(name.strip_suffix("rnn.weight_ih_l0")?.to_owned());
    let mut prefixes = variables.keys().filter_map(prefix);
    prefixes.find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Converts a model with PyTorch's names after `prefix`. The two biases of a layer are added up. A
/// bias that is missing is zero; of two weights that are tied, one may be missing.
///
/// # Errors
/// Name the variable: missing, of a wrong shape, not of floats, not finite, or not part of this
/// model.
pub(super) fn to_tensorflow(given: Variables, prefix: &str) -> Result<Converted> {
    let mut file = Reading { given, prefix, remarks: Vec::new() };
    let (embedding, softmax) = file.embedding_and_softmax()?;
    let size = embedding.size();
    let [vocab, hidden] = size[..] else {
        bail!("variable {ENCODER:?}: expected shape [vocab, hidden], found {size:?}");
    };
    let mut variables = Variables::new();
    let mut k = 0;
    while let Some((kernel, bias)) = file.layer(k, hidden)? {
        variables.insert(layer_name(k, LSTM_CELL, "kernel"), kernel);
        variables.insert(layer_name(k, LSTM_CELL, "bias"), bias);
        k += 1;
    }
    ensure_shape(DECODER, &softmax, &[vocab, hidden])?;
    let softmax_b = file.bias(DECODER_BIAS, vocab)?;
    file.ensure_nothing_else()?;
    variables.extend([
        ("Model/embedding".into(), embedding),
        ("Model/softmax_w".into(), softmax.f_tr()?.f_contiguous()?),
        ("Model/softmax_b".into(), softmax_b),
    ]);
    Ok(Converted { variables, others: file.given, remarks: file.remarks })
}

fn ensure_shape(name: &str, tensor: &Tensor, expected: &[i64]) -> Result<()> {
    let found = tensor.size();
    ensure!(found == expected, "variable {name:?}: expected shape {expected:?}, found {found:?}");
    Ok(())
}

fn missing(name: &str) -> String {
    format!("variable {name:?} is missing")
}

/// A file of PyTorch's that is being read.
struct Reading<'a> {
    /// What was not read yet.
    given: Variables,
    prefix: &'a str,
    remarks: Vec<String>,
}

impl Reading<'_> {
    /// Takes a variable, as float32.
    fn take(&mut self, name: &str) -> Result<Option<Tensor>> {
        let name_in_file = format!("{}{name}", self.prefix);
        let Some(tensor) = self.given.remove(&name_in_file) else { return Ok(None) };
        let kind = tensor.f_kind()?;
        ensure!(is_float(kind), "variable {name:?}: expected floats, found {kind:?}");
        let tensor = tensor.f_to_kind(Kind::Float)?;
        ensure_finite(name, &tensor)?;
        Ok(Some(tensor))
    }

    /// Takes a bias of this many numbers, or makes one of zeros.
    fn bias(&mut self, name: &str, len: i64) -> Result<Tensor> {
        match self.take(name)? {
            Some(bias) => {
                ensure_shape(name, &bias, &[len])?;
                Ok(bias)
            }
            None => {
                self.remarks.push(format!("{name} is missing and is taken to be zero"));
                Ok(Tensor::f_zeros([len], (Kind::Float, Device::Cpu))?)
            }
        }
    }

    /// Takes `encoder.weight` and `decoder.weight`, which may be tied.
    fn embedding_and_softmax(&mut self) -> Result<(Tensor, Tensor)> {
        match (self.take(ENCODER)?, self.take(DECODER)?) {
            (Some(encoder), Some(decoder)) => {
                if encoder.size() == decoder.size() && encoder.f_equal(&decoder)? {
                    self.remarks.push(format!(
                        "{ENCODER} and {DECODER} are equal (tied weights); here they are two \
                         variables, which training moves apart"
                    ));
                }
                Ok((encoder, decoder))
            }
            (Some(one), None) | (None, Some(one)) => {
                self.remarks.push(format!(
                    "one of {ENCODER} and {DECODER} is missing and is taken to be the other (tied \
                     weights); here they are two variables, which training moves apart"
                ));
                Ok((one.copy(), one))
            }
            (None, None) => bail!(missing(ENCODER)),
        }
    }

    /// Takes layer `k` of `width` units: its kernel and bias in TensorFlow's layout. None if there
    /// is no such layer.
    fn layer(&mut self, k: usize, width: i64) -> Result<Option<(Tensor, Tensor)>> {
        let Some(w_ih) = self.take(&format!("rnn.weight_ih_l{k}"))? else { return Ok(None) };
        let name = format!("rnn.weight_hh_l{k}");
        let w_hh = self.take(&name)?.with_context(|| missing(&name))?;
        let hidden = w_hh.size().last().copied().unwrap_or_default();
        ensure!(
            hidden == width,
            "variable {name:?} {:?} has {hidden} units, but {ENCODER:?} is {width} wide: both \
             have to be the same (emsize and nhid in PyTorch's example)",
            w_hh.size()
        );
        // Before the biases, which may be missing.
        for (part, weights) in [("weight_ih", &w_ih), ("weight_hh", &w_hh)] {
            let (expected, found) = ([4 * hidden, hidden], weights.size());
            ensure!(
                found == expected,
                "variable \"rnn.{part}_l{k}\": expected an LSTM (no GRU, no simple RNN), whose \
                 shape is {expected:?}, found {found:?}"
            );
        }
        let first = self.bias(&format!("rnn.bias_ih_l{k}"), 4 * hidden)?;
        let second = self.bias(&format!("rnn.bias_hh_l{k}"), 4 * hidden)?;
        kernel_from_libtorch(&w_ih, &w_hh, &first.f_add(&second)?).map(Some)
    }

    /// Errors if weights are left that are no part of such a model.
    fn ensure_nothing_else(&self) -> Result<()> {
        let foreign = self.given.iter().filter(|(_, t)| is_float(t.kind()) && t.dim() > 0);
        let foreign: Vec<_> = foreign.map(|(name, t)| format!("{name:?} {:?}", t.size())).collect();
        ensure!(
            foreign.is_empty(),
            "it has weights that the example's model does not have: {}",
            foreign.join(", ")
        );
        Ok(())
    }
}

/// A model of LSTMs under the names of PyTorch's `word_language_model`. An optimizer's slots are
/// left out. `forget_bias` is in the forget gates' quarter of `rnn.bias_hh_l{k}`, which is zero
/// otherwise.
///
/// # Errors
/// A model of other cells.
pub fn to_pytorch(model: &Variables, forget_bias: f64) -> Result<Variables> {
    let copies = model.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    let (model, _) = canonical(copies.collect())?;
    let Shapes { hidden_size: hidden, num_layers, cell, .. } = Shapes::of(&model)?;
    ensure!(
        cell == LSTM_CELL,
        "its cells are {cell}s; the model of PyTorch's example is exported with LSTMs only"
    );
    let mut named = Variables::from([
        (ENCODER.to_owned(), model["Model/embedding"].shallow_clone()),
        (DECODER.to_owned(), model["Model/softmax_w"].f_tr()?.f_contiguous()?),
        (DECODER_BIAS.to_owned(), model["Model/softmax_b"].shallow_clone()),
    ]);
    for k in 0..num_layers {
        let part = |part| &model[&layer_name(k, cell, part)];
        let (w_ih, w_hh, bias) = kernel_to_libtorch(part("kernel"), part("bias"), hidden)?;
        let second = bias.f_zeros_like()?;
        let _ = second.f_narrow(0, hidden, hidden)?.f_fill_(forget_bias)?; // i, f, g, o
        named.insert(format!("rnn.weight_ih_l{k}"), w_ih);
        named.insert(format!("rnn.weight_hh_l{k}"), w_hh);
        named.insert(format!("rnn.bias_ih_l{k}"), bias);
        named.insert(format!("rnn.bias_hh_l{k}"), second);
    }
    Ok(named)
}
