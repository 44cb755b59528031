//! A run that takes a second: what the tests that start the program train.

/// The sample corpus in some 60 steps an epoch, with few units.
pub const TINY: &[&str] = &[
    "train",
    "--data-path",
    "sample",
    "--device",
    "cpu",
    "--model",
    "test",
    "--hidden-size",
    "16",
    "--num-steps",
    "15",
    "--batch-size",
    "100",
];

/// What makes every step depend on the generator, in two layers.
#[allow(dead_code)]
pub const DROPOUT: &[&str] = &["--num-layers", "2", "--keep-prob", "0.5"];
