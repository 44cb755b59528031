//! The sample corpus.
