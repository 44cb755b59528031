//! Reading and writing TensorFlow's files.
