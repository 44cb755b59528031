//! The slots of `tf.train.AdamOptimizer`: what it keeps besides the variables.
//!
//! For each variable it keeps m and v, as `<variable>/Adam` and `<variable>/Adam_1`, and once the
//! scalars `beta1_power` and `beta2_power`. TensorFlow puts a scope before all of these: before m
//! and v the variable scope in which the optimizer was made, and before the powers its name scope.
//! In the example's graph with `AdamOptimizer` for `GradientDescentOptimizer` they are called
//! `Model/Model/embedding/Adam` and `Train/Model/beta1_power`. Here the names are those without a
//! scope, after the variables' canonical names.

use anyhow::{Result, bail, ensure};
use tch::Tensor;

use super::{SCOPE, Variables, canonical_name, is_float, plain_name};

/// What comes after a variable's name for m.
pub(crate) const ADAM_M: &str = "/Adam";
/// What comes after a variable's name for v.
pub(crate) const ADAM_V: &str = "/Adam_1";
/// beta1 and beta2 to the power of the next step's number.
pub(crate) const ADAM_POWERS: [&str; 2] = ["beta1_power", "beta2_power"];

/// The variable whose m or v this is, and the end of the name.
fn variable_of(name: &str) -> Option<(&str, &'static str)> {
    let of = |suffix| Some((name.strip_suffix(suffix)?, suffix));
    of(ADAM_V).or_else(|| of(ADAM_M))
}

/// Whether a name (without a scope) is that of a slot.
pub(crate) fn is_slot_name(name: &str) -> bool {
    ADAM_POWERS.contains(&name) || variable_of(name).is_some()
}

/// The name of a slot in the example's own graph; `None` for a variable.
pub(super) fn name_in_example(name: &str) -> Option<String> {
    match ADAM_POWERS.contains(&name) {
        true => Some(format!("Train/{SCOPE}{name}")),
        false => is_slot_name(name).then(|| format!("{SCOPE}{name}")),
    }
}

/// The name without a scope of a file's variable, if that is a slot of the model in `scope`.
fn slot_name(name: &str, tensor: &Tensor, scope: &str) -> Option<String> {
    let name = plain_name(name);
    let last = name.rsplit('/').next().unwrap_or_default();
    if ADAM_POWERS.contains(&last) {
        return (is_float(tensor.kind()) && tensor.dim() == 0).then(|| last.to_owned());
    }
    let (variable, suffix) = variable_of(&name)?;
    // Whatever comes before the variable's own name is the optimizer's scope.
    let rests = variable.match_indices('/').map(|(slash, _)| &variable[slash + 1..]);
    let own = std::iter::once(variable).chain(rests);
    own.filter_map(|rest| canonical_name(rest, scope)).next().map(|canonical| canonical + suffix)
}

/// Moves the slots of `model`, which is in `scope`, out of `others`, and returns them under their
/// names without a scope.
///
/// # Errors
/// Two variables of the file are the same slot; a slot has another shape than its variable, or is
/// not of floats.
pub(super) fn take_slots(
    model: &Variables,
    others: &mut Variables,
    scope: &str,
) -> Result<Variables> {
    let mut slots = Variables::new();
    let mut sources = std::collections::BTreeMap::new();
    for (name, tensor) in std::mem::take(others) {
        let Some(slot) = slot_name(&name, &tensor, scope) else {
            others.insert(name, tensor);
            continue;
        };
        if let Some(variable) = variable_of(&slot).and_then(|(variable, _)| model.get(variable)) {
            let (expected, found, kind) = (variable.size(), tensor.size(), tensor.kind());
            ensure!(
                expected == found && is_float(kind),
                "variable {name:?}: expected floats of shape {expected:?}, \
                 found {kind:?} {found:?}"
            );
        }
        if let Some(other) = sources.insert(slot.clone(), name.clone()) {
            bail!("variables {other:?} and {name:?} are both the slot {slot:?}: expected one");
        }
        slots.insert(slot, tensor);
    }
    Ok(slots)
}

/// The first slot that the model's variables should have and `slots` have not.
pub(super) fn missing_slot(model: &Variables, slots: &Variables) -> Option<String> {
    let of_variables =
        model.keys().flat_map(|name| [ADAM_M, ADAM_V].map(|slot| name.clone() + slot));
    let mut names = of_variables.chain(ADAM_POWERS.map(String::from));
    names.find(|name| !slots.contains_key(name))
}
