//! What a run computes: a preset of the original's, and flags that override it.

use clap::Args;

use super::numbers::{real, whole};
use super::{UsageError, rnn_mode};
use crate::config::{Config, LrSchedule, Model, RnnMode};
use crate::optimizer::OptimizerType;
use crate::rnn::CellType;

#[derive(Args)]
#[command(next_help_heading = "Hyperparameters (each overrides the model's)")]
pub struct Hyperparameters {
    /// Recurrent cell: basic_lstm (the original's), lstm, gru or basic_rnn
    #[arg(long, default_value_t = CellType::BasicLstm)]
    pub cell: CellType,
    /// sgd (gradient descent, as in the original) or adam (as TensorFlow 1 computes it; give it a
    /// --learning-rate of about 0.001)
    #[arg(long, value_enum, value_name = "NAME", default_value_t = OptimizerType::Sgd)]
    #[arg(hide_possible_values = true)]
    pub optimizer: OptimizerType,
    /// The learning-rate schedule of the original of this year: 2016's, which made the published
    /// table, or 2017's, which decays one epoch earlier [default: 2016]
    #[arg(long, value_enum, value_name = "YEAR", hide_possible_values = true)]
    lr_schedule: Option<LrSchedule>,
    #[command(flatten)]
    overrides: Overrides,
}

/// Declares the overriding flags, one per hyperparameter with the parser of its value, and how they
/// are laid over a preset.
macro_rules! overrides {
    ($($(#[doc = $doc:literal])* $field:ident: $type:ty = $parser:expr),* $(,)?) => {
        #[derive(Args)]
        #[command(next_help_heading = "Hyperparameters (each overrides the model's)")]
        struct Overrides {
            $(
                $(#[doc = $doc])*
                #[arg(long, allow_negative_numbers = true, value_name = "N")]
                #[arg(value_parser = $parser)]
                $field: Option<$type>,
            )*
        }

        impl Overrides {
            fn over(&self, mut config: Config) -> Config {
                $(if let Some(value) = self.$field { config.$field = value; })*
                config
            }
        }
    };
}

overrides! {
    /// Units per layer: 200, 650, 1500 (small, medium, large)
    hidden_size: i64 = whole::<i64>(..),
    /// Number of stacked recurrent layers: 2 in all three
    num_layers: i64 = whole::<i64>(..),
    /// Words per step of truncated back-propagation: 20, 35, 35
    num_steps: i64 = whole::<i64>(..),
    /// Rows of text that are read side by side: 20 in all three
    batch_size: i64 = whole::<i64>(..),
    /// Probability that dropout keeps an element: 1, 0.5, 0.35
    keep_prob: f64 = real,
    /// Learning rate of the first epochs: 1 in all three
    learning_rate: f64 = real,
    /// Factor of the learning rate for each later epoch: 0.5, 0.8, 1/1.15
    lr_decay: f64 = real,
    /// Variables start uniformly distributed in [-N, N]: 0.1, 0.05, 0.04
    init_scale: f64 = real,
    /// Gradients whose global norm is larger are scaled down to this norm: 5, 5, 10
    max_grad_norm: f64 = real,
    /// Number of epochs at the full learning rate: 4, 6, 14
    max_epoch: i64 = whole::<i64>(..),
    /// Constant added to the LSTM's forget gates, not trained: 0 in all three
    forget_bias: f64 = real,
    /// Total number of epochs: 13, 39, 55
    max_max_epoch: i64 = whole::<i64>(..),
}

impl Hyperparameters {
    /// The configuration of `model` with these flags. The vocabulary's size comes from the data.
    pub fn config(&self, model: Model) -> Result<Config, UsageError> {
        let mut config = self.overrides.over(model.config());
        config.lr_schedule = self.lr_schedule.unwrap_or(config.lr_schedule);
        config.validate()?;
        Ok(config)
    }

    /// The mode to run the cell in.
    pub fn rnn_mode(&self, asked: Option<RnnMode>) -> Result<RnnMode, UsageError> {
        rnn_mode(self.cell, asked)
    }

    /// `--forget-bias`, if it was given.
    pub fn forget_bias(&self) -> Option<f64> {
        self.overrides.forget_bias
    }

    /// True if the cell has no forget gate for the `--forget-bias` that was given.
    pub fn ignores_forget_bias(&self) -> bool {
        !self.cell.has_forget_bias() && self.forget_bias().is_some_and(|bias| bias != 0.0)
    }
}
