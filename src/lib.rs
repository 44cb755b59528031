//! TensorFlow's PTB word language model (`ptb_word_lm.py`) in Rust on libtorch.
//!
//! Read in this order; each module is one idea, under TensorFlow's name where it has one:
//!
//! | TensorFlow | here |
//! |---|---|
//! | `SmallConfig`, `MediumConfig`, `LargeConfig`, `TestConfig` | [`config::Config`] and its presets |
//! | `reader.ptb_raw_data`, `_build_vocab`, `ptb_producer` | [`reader::RawData`], [`reader::Vocabulary`], [`reader::Producer`] |
//! | `tf.nn.rnn_cell`, `tf.nn.dynamic_rnn` and the other unrolls | [`rnn`] |
//! | `PTBModel`, its variables and its graph | [`model::PtbVariables`], [`model::PtbModel`] |
//! | `sequence_loss_by_example`, `sequence_loss` | [`loss`] |
//! | `tf.clip_by_global_norm`, `tf.train.GradientDescentOptimizer` | [`optimizer`] |
//! | `run_epoch`, `main` | [`session`] |
//! | `AutoParallel` (`--num_gpus`) | [`distributed`] |
//! | `tf.train.Supervisor`'s checkpoints | [`checkpoint`] |
//! | `tf.summary.scalar`, the Supervisor's event files | [`events`] |
//! | `tf.train.Saver`'s files, `numpy.savez` | [`tf`] |
//! | (the original has no such thing) | [`predictor`], [`average`], [`adapt`], [`cache`], [`tune`], [`generate`], [`score`] |

#![deny(missing_docs)]

pub mod adapt;
pub mod average;
pub mod cache;
pub mod checkpoint;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod cli;
pub mod config;
pub mod device;
pub mod distributed;
pub mod evaluate;
pub mod event;
pub mod files;
pub mod generate;
mod kernels;
mod lock;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod predictor;
pub mod reader;
pub mod rnn;
pub mod sample;
pub mod score;
pub mod session;
pub mod team;
pub mod tf;
mod train_step;
pub mod tune;

// The snippets of docs/port.md are doc tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/port.md")]
struct PortDoc;

/// libtorch's generator belongs to the process, and tests share it: with this guard a test has it to itself, from `seed` on.
#[cfg(test)]
fn random_numbers(seed: i64) -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // (A test that failed has left nothing that matters.)
    let guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}
