//! TensorFlow's PTB word language model on libtorch.

pub mod rnn;
pub mod sample;
pub mod tf;
