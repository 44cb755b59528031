//! All C++ and its FFI: what libtorch has and tch does not bind, and the loops that earned their place by measurement
//! (docs/performance.md).
//!
//! Shapes, for all files of this folder: `n` is `batch_size * num_steps`, the rows of a step; `hidden` the units of a layer; `vocab` the
//! words. Tensors are row-major.
//!
//! | file | what | plain twin, compared by |
//! |---|---|---|
//! | softmax.cpp | bias, softmax, cross entropy and gradient of `logits [n, vocab]` in one pass | `SoftmaxLayer::cost`; tests of src/loss.rs |
//! | product.cpp | float32 products through oneDNN | `Tensor::mm`; tests of src/loss.rs |
//! | foreach.cpp | norms and updates of all variables in one kernel | one by one; tests of src/optimizer.rs |
//! | cuda_graph.cpp | recording and replaying a step, TF32, the check for synchronization | the step, eagerly; tests/cuda.rs |
//! | libtorch.cpp | which libtorch this is | |

pub(crate) mod cuda_graph;
pub(crate) mod foreach;
pub(crate) mod libtorch;
