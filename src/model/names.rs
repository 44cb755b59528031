//! TensorFlow's names and layout: the variables, their gradients and the optimizer's slots, in and
//! out; and the state, as checkpoints have it.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Tensor};

use super::padding::{blocks, resize};
use super::variables::{PtbVariables, Recurrent, cell_scope};
use crate::optimizer::{Adam, Gradient, Optimizer};
use crate::rnn::{State, kernel_from_libtorch, kernel_to_libtorch};
use crate::tf::{self, ADAM_M, ADAM_POWERS, ADAM_V};

const EMBEDDING: &str = "Model/embedding";
const SOFTMAX_W: &str = "Model/softmax_w";
const SOFTMAX_B: &str = "Model/softmax_b";

impl PtbVariables {
    /// Tensors in the order of [`Self::trainable`] under TensorFlow's names, in TensorFlow's
    /// layout, on the CPU: the variables themselves or their gradients.
    fn named(&self, tensors: &[&Tensor]) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let mut insert = |name: String, tensor: &Tensor, blocks: &[i64]| {
            let tensor = resize(&tensor.detach(), blocks, self.width, self.config.hidden_size);
            // A copy: what is handed out must not change as training goes on.
            named.insert(name, tensor.to_device(Device::Cpu).contiguous().copy());
        };
        let [embedding, weights @ .., softmax_w, softmax_b] = tensors else {
            bail!("{} tensors for the model's variables", tensors.len());
        };
        insert(EMBEDDING.into(), embedding, &blocks::EMBEDDING);
        match &self.recurrent {
            Recurrent::Lstm(_) => {
                for (k, layer) in weights.chunks_exact(3).enumerate() {
                    let (kernel, bias) = kernel_from_libtorch(layer[0], layer[1], layer[2])?;
                    insert(lstm_name(k, "kernel"), &kernel, &blocks::KERNEL);
                    insert(lstm_name(k, "bias"), &bias, &blocks::BIAS);
                }
            }
            Recurrent::Cells(variables) => {
                for (name, tensor) in variables.keys().zip(weights) {
                    insert(name.clone(), tensor, &[]);
                }
            }
        }
        insert(SOFTMAX_W.into(), softmax_w, &blocks::SOFTMAX_W);
        insert(SOFTMAX_B.into(), softmax_b, &[]);
        Ok(named)
    }

    /// The variables under TensorFlow's names and in TensorFlow's layout, on the CPU.
    pub fn to_tensorflow(&self) -> Result<tf::Variables> {
        tch::no_grad(|| self.named(&self.trainable()))
    }

    /// Gradients under the names of their variables, dense, in TensorFlow's layout.
    pub fn gradients_to_tensorflow(&self, gradients: &[Gradient]) -> Result<tf::Variables> {
        let dense: Vec<Tensor> =
            self.trainable().iter().zip(gradients).map(|(v, g)| g.to_dense(&v.size())).collect();
        self.named(&dense.iter().collect::<Vec<_>>())
    }

    /// The optimizer's slots under the names that TensorFlow's optimizer adds to their variables',
    /// on the CPU; none for plain gradient descent.
    pub fn slots_to_tensorflow(&self) -> Result<tf::Variables> {
        let mut named = tf::Variables::new();
        let Optimizer::Adam(Adam { m, v, powers }) = &self.optimizer else { return Ok(named) };
        for (slots, suffix) in [(m, ADAM_M), (v, ADAM_V)] {
            let slots: Vec<&Tensor> = slots.iter().collect();
            named.extend(self.named(&slots)?.into_iter().map(|(name, slot)| (name + suffix, slot)));
        }
        let on_cpu = |power: &Tensor| power.to_device(Device::Cpu).copy();
        named.extend(ADAM_POWERS.map(String::from).into_iter().zip(powers.iter().map(on_cpu)));
        Ok(named)
    }

    /// Sets the optimizer's slots from ones under TensorFlow's names. Returns false if the
    /// optimizer has slots and `variables` has none; nothing is changed then. Returns true for
    /// plain gradient descent, which has no slots.
    ///
    /// # Errors
    /// Some of them are missing, or have a wrong shape.
    pub fn assign_slots(&self, variables: &tf::Variables) -> Result<bool> {
        let Optimizer::Adam(Adam { m, v, powers }) = &self.optimizer else { return Ok(true) };
        if !variables.keys().any(|name| tf::is_slot_name(name)) {
            return Ok(false);
        }
        let slots_of = |suffix: &str| -> tf::Variables {
            let slot = |(name, slot): (&String, &Tensor)| {
                Some((name.strip_suffix(suffix)?.to_owned(), slot.shallow_clone()))
            };
            variables.iter().filter_map(slot).collect()
        };
        self.assign_to(&m.iter().collect::<Vec<_>>(), &slots_of(ADAM_M)).context("Adam's m")?;
        self.assign_to(&v.iter().collect::<Vec<_>>(), &slots_of(ADAM_V)).context("Adam's v")?;
        for (power, name) in powers.iter().zip(ADAM_POWERS) {
            let value =
                variables.get(name).with_context(|| format!("variable {name} is missing"))?;
            ensure!(
                value.numel() == 1,
                "variable {name} has shape {:?}; it is a scalar",
                value.size()
            );
            tch::no_grad(|| power.shallow_clone().f_copy_(&value.f_view([0i64; 0])?))?;
        }
        Ok(true)
    }

    /// Sets all variables from ones under TensorFlow's names; others in `variables` are ignored.
    ///
    /// # Errors
    /// A missing variable, a wrong shape (named, with both shapes), values that are NaN or
    /// infinite. Nothing is changed then.
    pub fn assign(&self, variables: &tf::Variables) -> Result<()> {
        self.assign_to(&self.trainable(), variables)
    }

    /// Copies tensors under TensorFlow's names to `targets`, which are in the order of
    /// [`Self::trainable`].
    fn assign_to(&self, targets: &[&Tensor], variables: &tf::Variables) -> Result<()> {
        tch::no_grad(|| {
            let values = self.in_order(&self.checked(targets, variables)?)?;
            for (target, value) in targets.iter().zip(values) {
                target.shallow_clone().copy_(&value);
            }
            Ok(())
        })
    }

    /// The tensors for `targets`, in the variables' type.
    fn checked(&self, targets: &[&Tensor], variables: &tf::Variables) -> Result<tf::Variables> {
        let mut checked = tf::Variables::new();
        for (name, target) in self.named(targets)? {
            // A plain LSTMCell's variables have the same names as block mode's, which are read as
            // BasicLSTMCell's.
            let block_name = name.replace("/lstm_cell/", "/basic_lstm_cell/");
            let Some(tensor) = variables.get(&name).or_else(|| variables.get(&block_name)) else {
                bail!(
                    "variable {name} (shape {:?}) is missing; there are: {}",
                    target.size(),
                    list_names(variables)
                );
            };
            ensure!(
                tensor.size() == target.size(),
                "variable {name} has shape {:?}, but this model needs {:?}",
                tensor.size(),
                target.size()
            );
            let tensor = tensor.to_kind(self.kind);
            tf::ensure_finite(&name, &tensor)?;
            checked.insert(name, tensor);
        }
        Ok(checked)
    }

    /// The inverse of [`Self::named`]: tensors in the order and the layout of [`Self::trainable`].
    fn in_order(&self, named: &tf::Variables) -> Result<Vec<Tensor>> {
        let widened = |name: &str, blocks: &[i64]| {
            resize(&named[name], blocks, self.config.hidden_size, self.width)
        };
        let mut values = vec![widened(EMBEDDING, &blocks::EMBEDDING)];
        match &self.recurrent {
            Recurrent::Lstm(_) => {
                for k in 0..self.config.num_layers as usize {
                    let kernel = widened(&lstm_name(k, "kernel"), &blocks::KERNEL);
                    let bias = widened(&lstm_name(k, "bias"), &blocks::BIAS);
                    let (w_ih, w_hh, bias) = kernel_to_libtorch(&kernel, &bias, self.width)?;
                    values.extend([w_ih, w_hh, bias]);
                }
            }
            Recurrent::Cells(variables) => {
                values.extend(variables.keys().map(|name| named[name].shallow_clone()));
            }
        }
        let softmax_b = named[SOFTMAX_B].shallow_clone();
        values.extend([widened(SOFTMAX_W, &blocks::SOFTMAX_W), softmax_b]);
        Ok(values)
    }

    /// A state `[batch, hidden_size]` per tensor, as checkpoints have it, in the width that this
    /// model computes with, on its device.
    pub(crate) fn widen_state(&self, state: &[Tensor]) -> State {
        let wide = |t: &Tensor| {
            resize(&t.to_device(self.device), &blocks::STATE, self.config.hidden_size, self.width)
        };
        state.iter().map(wide).collect()
    }

    /// The inverse of [`Self::widen_state`], on the same device.
    pub(crate) fn narrow_state(&self, state: &[Tensor]) -> State {
        state
            .iter()
            .map(|t| resize(t, &blocks::STATE, self.width, self.config.hidden_size))
            .collect()
    }
}

/// The name of a variable of layer `k`'s `BasicLSTMCell`.
fn lstm_name(k: usize, part: &str) -> String {
    format!("{}/basic_lstm_cell/{part}", cell_scope(k))
}

fn list_names(variables: &tf::Variables) -> String {
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
