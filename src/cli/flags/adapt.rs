//! How a model adapts itself to the text.

use clap::Args;

use super::UsageError;
use super::numbers::{real, whole};
use crate::adapt::{Adaptation, Dynamic};
use crate::cache::Cache;

#[derive(Args)]
#[command(next_help_heading = "Adapting to the text (not in the original)")]
pub struct AdaptFlags {
    /// Dynamic evaluation: keep training on the words that have been scored, with this learning
    /// rate, and 0 is off. The checkpoint stays as it is
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    #[arg(value_parser = real)]
    dynamic: Option<f64>,
    /// Words from one training step to the next [default: 20]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole::<i64>(..))]
    dynamic_steps: Option<i64>,
    /// Move the weights back towards the trained ones after each step, by this part of the way
    /// [default: 0]
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    #[arg(value_parser = real)]
    dynamic_decay: Option<f64>,
    /// Neural cache: words that came among the last N are likelier, above all after similar words;
    /// 0 is off
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole::<i64>(..))]
    cache: Option<i64>,
    /// How much similarity counts; 0 is not at all [default: 0.5]
    #[arg(long, value_name = "THETA", allow_negative_numbers = true)]
    #[arg(value_parser = real)]
    cache_theta: Option<f64>,
    /// Weight of the cache beside the model, from 0 to 1 [default: 0.2]
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true)]
    #[arg(value_parser = real)]
    cache_lambda: Option<f64>,
}

impl AdaptFlags {
    /// The settings, checked. Without flags there is no adaptation.
    pub fn adaptation(&self) -> Result<Adaptation, UsageError> {
        let needs = [
            ("dynamic_steps", self.dynamic_steps.is_some(), self.dynamic.is_some(), "dynamic"),
            ("dynamic_decay", self.dynamic_decay.is_some(), self.dynamic.is_some(), "dynamic"),
            ("cache_theta", self.cache_theta.is_some(), self.cache.is_some(), "cache"),
            ("cache_lambda", self.cache_lambda.is_some(), self.cache.is_some(), "cache"),
        ];
        for (flag, given, has_effect, other) in needs {
            if given && !has_effect {
                return Err(UsageError::no_effect(flag, &format!("without --{other}")));
            }
        }
        let (dynamic, cache) = (self.dynamic_settings(), self.cache_settings());
        let adaptation =
            Adaptation { dynamic: self.dynamic.map(|_| dynamic), cache: self.cache.map(|_| cache) };
        adaptation.validate()?;
        Ok(adaptation)
    }

    /// The settings that `--tune` does not look for, checked.
    pub fn to_tune(&self) -> Result<(Dynamic, Cache), UsageError> {
        let looked_for = [
            ("dynamic", self.dynamic.is_some()),
            ("cache_theta", self.cache_theta.is_some()),
            ("cache_lambda", self.cache_lambda.is_some()),
        ];
        if let Some((flag, _)) = looked_for.iter().find(|(_, given)| *given) {
            return Err(UsageError::no_effect(flag, "with --tune, which tries some values of it"));
        }
        let (dynamic, cache) = (self.dynamic_settings(), self.cache_settings());
        dynamic.validate()?;
        cache.validate()?;
        Ok((dynamic, cache))
    }

    fn dynamic_settings(&self) -> Dynamic {
        let default = Dynamic::default();
        Dynamic {
            rate: self.dynamic.unwrap_or(default.rate),
            steps: self.dynamic_steps.unwrap_or(default.steps),
            decay: self.dynamic_decay.unwrap_or(default.decay),
        }
    }

    fn cache_settings(&self) -> Cache {
        let default = Cache::default();
        Cache {
            size: self.cache.unwrap_or(default.size),
            theta: self.cache_theta.unwrap_or(default.theta),
            lambda: self.cache_lambda.unwrap_or(default.lambda),
        }
    }
}
