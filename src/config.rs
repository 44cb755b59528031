//! Configuration: the original's four presets, the learning-rate schedule, validation.
//!
//! The presets are `SmallConfig`, `MediumConfig`, `LargeConfig` and `TestConfig` of
//! `ptb_word_lm.py`, after Zaremba et al. (arXiv 1409.2329), field by field under the same names.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A field whose value cannot be used: `keep_prob is 0; it is the probability of keeping an
/// element, above 0 and at most 1`.
#[derive(Debug, Error)]
#[error("{field} {problem}")]
pub struct ConfigError {
    /// Name of the field.
    pub field: &'static str,
    /// Its value and what is allowed, to be read after the name.
    pub problem: String,
}

impl ConfigError {
    /// Creates the error for `field`, whose value is `value`. `allowed` says what it must be.
    pub(crate) fn new(field: &'static str, value: impl fmt::Display, allowed: &str) -> Self {
        ConfigError { field, problem: format!("is {value}; {allowed}") }
    }
}

/// A string that cannot be parsed. The message says what is expected.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) &'static str);

/// The original's hyperparameters. All of them can be overridden on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Variables start uniform in `[-init_scale, init_scale]`; the LSTM's biases start at zero.
    pub init_scale: f64,
    /// Learning rate of the first epochs.
    pub learning_rate: f64,
    /// Gradients are scaled down so that their global norm is at most this.
    pub max_grad_norm: f64,
    /// Number of stacked LSTM layers.
    pub num_layers: i64,
    /// Words per step of truncated back-propagation.
    pub num_steps: i64,
    /// Units per layer, and the width of the embedding.
    pub hidden_size: i64,
    /// Epochs at the full learning rate.
    pub max_epoch: i64,
    /// Epochs in all.
    pub max_max_epoch: i64,
    /// Probability that dropout keeps an element; 1 means no dropout.
    pub keep_prob: f64,
    /// Factor that the learning rate is multiplied by at every epoch after `max_epoch`.
    pub lr_decay: f64,
    /// Number of rows that the text is cut into. All rows are read in parallel.
    pub batch_size: i64,
    /// Words in the vocabulary: those of the training text, [`crate::reader::RawData::vocabulary`].
    pub vocab_size: i64,
    /// Which of the original's two learning-rate schedules.
    pub lr_schedule: LrSchedule,
    /// Added to the forget gates before their sigmoid, and not trained. 0 in the original; 1 is the
    /// default of TensorFlow's cells.
    #[serde(default)]
    pub forget_bias: f64,
}

impl Config {
    /// `SmallConfig`: 13 epochs, no dropout; published test perplexity 115.91.
    pub const SMALL: Config = Config {
        init_scale: 0.1,
        learning_rate: 1.0,
        max_grad_norm: 5.0,
        num_layers: 2,
        num_steps: 20,
        hidden_size: 200,
        max_epoch: 4,
        max_max_epoch: 13,
        keep_prob: 1.0,
        lr_decay: 0.5,
        batch_size: 20,
        vocab_size: 10000,
        lr_schedule: LrSchedule::Y2016,
        forget_bias: 0.0,
    };

    /// `MediumConfig`: 39 epochs, half of the elements dropped; published test perplexity 82.07.
    pub const MEDIUM: Config = Config {
        init_scale: 0.05,
        num_steps: 35,
        hidden_size: 650,
        max_epoch: 6,
        max_max_epoch: 39,
        keep_prob: 0.5,
        lr_decay: 0.8,
        ..Config::SMALL
    };

    /// `LargeConfig`: 55 epochs, 65% of the elements dropped; published test perplexity 78.29.
    pub const LARGE: Config = Config {
        init_scale: 0.04,
        max_grad_norm: 10.0,
        num_steps: 35,
        hidden_size: 1500,
        max_epoch: 14,
        max_max_epoch: 55,
        keep_prob: 0.35,
        lr_decay: 1.0 / 1.15,
        ..Config::SMALL
    };

    /// `TestConfig`: tiny, one epoch, "for testing".
    pub const TEST: Config = Config {
        max_grad_norm: 1.0,
        num_layers: 1,
        num_steps: 2,
        hidden_size: 2,
        max_epoch: 1,
        max_max_epoch: 1,
        ..Config::SMALL
    };

    /// The learning rate of `epoch`, counted from 0 as in the original's loop.
    pub fn learning_rate_at(&self, epoch: i64) -> f64 {
        let decays = match self.lr_schedule {
            LrSchedule::Y2016 => epoch - self.max_epoch,
            LrSchedule::Y2017 => epoch + 1 - self.max_epoch,
        };
        self.learning_rate * self.lr_decay.powf(decays.max(0) as f64)
    }

    /// Checks every field, so that a wrong value is refused before anything is read or built.
    ///
    /// # Errors
    /// Names the first unusable field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at_most = format!("it must be at most {}", i32::MAX);
        for (field, value) in [
            ("num_layers", self.num_layers),
            ("num_steps", self.num_steps),
            ("hidden_size", self.hidden_size),
            ("max_max_epoch", self.max_max_epoch),
            ("batch_size", self.batch_size),
        ] {
            check(value >= 1, field, value, "it must be 1 or more")?;
            check(value <= i64::from(i32::MAX), field, value, &at_most)?;
        }
        check(self.max_epoch >= 0, "max_epoch", self.max_epoch, "it must be 0 or more")?;
        let allowed = "it is the probability of keeping an element, above 0 and at most 1";
        let is_probability = self.keep_prob > 0.0 && self.keep_prob <= 1.0;
        check(is_probability, "keep_prob", self.keep_prob, allowed)?;
        for (field, value) in [
            ("learning_rate", self.learning_rate),
            ("lr_decay", self.lr_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("init_scale", self.init_scale),
        ] {
            let is_positive = value.is_finite() && value > 0.0;
            check(is_positive, field, value, "it must be a number above 0")?;
        }
        let is_number = self.forget_bias.is_finite();
        check(is_number, "forget_bias", self.forget_bias, "it must be a number")?;
        let allowed = "a language model needs a vocabulary of at least 2 words";
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, allowed)
    }
}

/// Errors unless `field`, whose value is `value`, is what it must be, which `allowed` says.
pub(crate) fn check(
    is_allowed: bool,
    field: &'static str,
    value: impl fmt::Display,
    allowed: &str,
) -> Result<(), ConfigError> {
    if is_allowed { Ok(()) } else { Err(ConfigError::new(field, value, allowed)) }
}

/// When the learning rate begins to fall.
///
/// The code of mid-2016 decays by `lr_decay ** max(i - max_epoch, 0)`; the published perplexities
/// come from it. Since the end of 2016 it is `max(i + 1 - max_epoch, 0)`, one epoch less at the
/// full rate.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, strum::Display,
)]
pub enum LrSchedule {
    /// `max_epoch + 1` epochs at the full rate: the schedule of the published table
    #[serde(rename = "2016")]
    #[value(name = "2016")]
    #[strum(to_string = "2016")]
    Y2016,
    /// `max_epoch` epochs at the full rate: the later code
    #[serde(rename = "2017")]
    #[value(name = "2017")]
    #[strum(to_string = "2017")]
    Y2017,
}

/// The original's presets.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Model {
    /// 2 layers of 200 units, no dropout, 13 epochs
    Small,
    /// 2 layers of 650 units, keep_prob 0.5, 39 epochs
    Medium,
    /// 2 layers of 1500 units, keep_prob 0.35, 55 epochs
    Large,
    /// 1 layer of 2 units, 1 epoch, for testing
    Test,
}

impl Model {
    /// The preset of this name.
    pub fn config(self) -> Config {
        match self {
            Model::Small => Config::SMALL,
            Model::Medium => Config::MEDIUM,
            Model::Large => Config::LARGE,
            Model::Test => Config::TEST,
        }
    }
}

/// How the recurrent layers are run. All three modes compute the same function of the same
/// variables.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum RnnMode {
    /// op by op, unrolled over time: the readable specification
    Basic,
    /// one fused op per time step
    Block,
    /// the whole sequence in one fused call: cuDNN on CUDA, oneDNN on the CPU
    Cudnn,
}

/// Precision of the large matrix products. Variables, their updates, softmax and sums are always
/// float32.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Precision {
    /// float32
    #[default]
    Fp32,
    /// float32 with TF32 in cuDNN's LSTM alone; on a GPU only, where it is the default, as in
    /// PyTorch
    #[value(name = "tf32-cudnn")]
    #[serde(rename = "tf32-cudnn")]
    #[strum(to_string = "tf32-cudnn")]
    Tf32Cudnn,
    /// TF32: products read the upper 10 bits of precision of float32 numbers; on a GPU only
    Tf32,
    /// bfloat16: half the width, float32's range, 8 bits of precision
    Bf16,
    /// float16: half the width, 11 bits of precision, and so small a range that the loss is scaled;
    /// on a GPU only
    Fp16,
}

impl Precision {
    /// Default precision: PyTorch's default on that kind of device.
    pub fn default_on(cuda: bool) -> Self {
        if cuda { Precision::Tf32Cudnn } else { Precision::Fp32 }
    }

    /// Errors if the device does not support this precision.
    ///
    /// # Errors
    /// `tf32`, `tf32-cudnn` or `fp16` on the CPU.
    pub fn check(self, cuda: bool) -> Result<(), ConfigError> {
        match self {
            Precision::Tf32Cudnn | Precision::Tf32 | Precision::Fp16 if !cuda => {
                let problem = format!("is {self}, which needs a GPU");
                Err(ConfigError { field: "precision", problem })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_differ_by_one_epoch_at_full_rate() {
        let c = Config::SMALL;
        let rates = |c: Config| (0..7).map(|i| c.learning_rate_at(i)).collect::<Vec<_>>();
        assert_eq!(rates(c), [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25]);
        let later = Config { lr_schedule: LrSchedule::Y2017, ..c };
        assert_eq!(rates(later), [1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125]);
        assert!((Config::LARGE.learning_rate_at(16) - 1.15f64.powi(-2)).abs() < 1e-15);
    }

    #[test]
    fn a_choice_has_one_name_everywhere() {
        fn check<T: clap::ValueEnum + Serialize + ToString>(names: &[&str]) {
            let variants = T::value_variants();
            assert_eq!(variants.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
            for (variant, name) in variants.iter().zip(names) {
                assert_eq!(variant.to_possible_value().unwrap().get_name(), *name);
                assert_eq!(serde_json::to_value(variant).unwrap(), *name);
            }
        }
        check::<LrSchedule>(&["2016", "2017"]);
        check::<Model>(&["small", "medium", "large", "test"]);
        check::<RnnMode>(&["basic", "block", "cudnn"]);
        check::<Precision>(&["fp32", "tf32-cudnn", "tf32", "bf16", "fp16"]);
        // Display keeps a width.
        assert_eq!(format!("{:>6}|", RnnMode::Cudnn), " cudnn|");
    }

    #[test]
    fn unusable_values_are_refused_by_field() {
        let refused = |c: Config| c.validate().unwrap_err().to_string();
        let c = Config::SMALL;
        assert!(c.validate().is_ok());
        assert!(refused(Config { keep_prob: 0.0, ..c }).starts_with("keep_prob is 0; "));
        assert!(refused(Config { keep_prob: 1.5, ..c }).starts_with("keep_prob is 1.5; "));
        assert!(refused(Config { keep_prob: f64::NAN, ..c }).starts_with("keep_prob is NaN; "));
        assert!(refused(Config { batch_size: 0, ..c }).starts_with("batch_size is 0; "));
        assert!(refused(Config { num_steps: -3, ..c }).starts_with("num_steps is -3; "));
        assert!(
            refused(Config { learning_rate: f64::INFINITY, ..c })
                .starts_with("learning_rate is inf; ")
        );
        assert!(refused(Config { vocab_size: 1, ..c }).contains("vocabulary"));
    }
}
