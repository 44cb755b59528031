//! TensorFlow's PTB word language model (`ptb_word_lm.py`) in Rust on libtorch.
//!
//! The modules in reading order. Each is one idea, under TensorFlow's name if it has one:
//!
//! | TensorFlow | here |
//! |---|---|
//! | `SmallConfig`, `MediumConfig`, `LargeConfig`, `TestConfig` | [`config::Config`] and its presets |
//! | `reader.ptb_raw_data`, `_build_vocab`, `ptb_producer` | [`reader::RawData`], [`reader::Vocabulary`], [`reader::Producer`] |
//! | `tf.nn.rnn_cell`, `tf.nn.dynamic_rnn` and the other unrolls | [`rnn`] |
//! | `PTBModel`, its variables and its graph | [`model::PtbVariables`], [`model::PtbModel`] |
//! | `sequence_loss_by_example`, `sequence_loss` | [`loss`] |
//! | `tf.clip_by_global_norm`, `tf.train.GradientDescentOptimizer`, `tf.train.AdamOptimizer` | [`optimizer`] |
//! | `session.run(train_op)` | `train_step`: a step on fixed buffers, on a GPU as a CUDA graph |
//! | `main`, `run_epoch` in training | [`session`] |
//! | `run_epoch` in validation and test | [`evaluate`] |
//! | the lines that `run_epoch` prints | [`event`] |
//! | `--device`, `tf.ConfigProto` | [`device`] |
//! | `AutoParallel` (`--num_gpus`) | [`team`], [`distributed`] |
//! | `tf.train.Supervisor`'s checkpoints | [`checkpoint`] |
//! | `tf.train.Saver`'s files, `numpy.savez` | [`tf`], [`pretrained`] |
//! | (not in the original) | [`saved`], [`generate`], [`score`], [`predictor`], [`average`], [`adapt`], [`cache`], [`tune`], [`sample`] |
//!
//! To read the original's part in one sitting: `config`; `reader` (`mod`, `vocabulary`,
//! `producer`); `model` (`mod`, `variables`, `lstm`, `softmax`); `loss`; `optimizer`; `session`.
//! Their other files are what stands behind: limits and lists of words, TensorFlow's names,
//! padding, half precision, Adam, saving and stopping.
//!
//! All C++ and its bindings are in `kernels`; what finds and reads texts is in `text` and
//! `prepare`; what reads and writes files safely is in `files` and `lock`; `spin` sets how
//! libtorch's threads wait. The program's flags and what it prints are in `cli`, which is not for
//! other programs.

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
mod files;
pub mod generate;
mod kernels;
mod lock;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod predictor;
mod prepare;
pub mod pretrained;
pub mod reader;
pub mod rnn;
pub mod sample;
pub mod saved;
pub mod score;
pub mod session;
mod spin;
pub mod team;
mod text;
pub mod tf;
mod train_step;
pub mod tune;

// The snippets of docs/port.md are doc tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/port.md")]
struct PortDoc;

/// Seeds libtorch's random generator, which all tests of a process share, and reserves it for one
/// test until the guard is dropped.
#[cfg(test)]
fn random_numbers(seed: i64) -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // The generator is seeded again, so a poisoned lock is harmless.
    let guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}
