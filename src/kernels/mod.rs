//! All C++ and its FFI: functions of libtorch that tch does not bind, and loops that were measured
//! to be faster than libtorch's operators (docs/performance.md).
//!
//! Shapes, for all files of this folder: `n` is `batch_size * num_steps`, the rows of a step;
//! `hidden` is the units of a layer; `vocab` is the words in the vocabulary. Tensors are row-major.
//!
//! | file | what | plain equivalent; where they are compared |
//! |---|---|---|
//! | softmax.cpp, softmax_rows.cpp | bias, softmax, cross entropy and gradient of `logits [n, vocab]` in one pass | `SoftmaxLayer::cost`; tests of src/model/softmax.rs |
//! | product.cpp | float32 products through oneDNN | `Tensor::mm`; tests of src/model/softmax.rs |
//! | foreach.cpp | norms and updates of all variables in one kernel | one variable at a time; tests of src/optimizer/mod.rs |
//! | cuda_graph.cpp | recording and replaying a step, TF32, the check for synchronization | the step without a graph; tests of src/train_step.rs |
//! | libtorch.cpp | which libtorch this is | |

pub(crate) mod cuda_graph;
pub(crate) mod foreach;
pub(crate) mod libtorch;

use std::ffi::c_void;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ptb_product(a: *const C_tensor, b: *const C_tensor) -> *mut C_tensor;
    fn ptb_softmax_cross_entropy(
        logits: *mut c_void,
        bfloat16: bool,
        bias: *const f32,
        targets: *const i64,
        rows: i64,
        vocab: i64,
        scale: f32,
        bias_gradient: *mut f32,
        costs: *mut f64,
        threads: i32,
    );
}

/// `a @ b`, without gradients; float32 on the CPU goes through oneDNN.
pub(crate) fn product(a: &Tensor, b: &Tensor) -> Tensor {
    let plain = |t: &Tensor| {
        t.device() == Device::Cpu && t.kind() == Kind::Float && t.dim() == 2 && t.numel() > 0
    };
    let fast = if plain(a) && plain(b) { onednn_product(a, b) } else { None };
    fast.unwrap_or_else(|| a.mm(b))
}

/// `a @ b` of float32 matrices through oneDNN (product.cpp), or `None` if this libtorch does not
/// support it.
pub(crate) fn onednn_product(a: &Tensor, b: &Tensor) -> Option<Tensor> {
    // SAFETY: both are tensors of libtorch's that outlive the call; what comes back is null or a
    // new one, which is ours.
    let product = unsafe { ptb_product(a.as_ptr(), b.as_ptr()) };
    // SAFETY: as said above.
    (!product.is_null()).then(|| unsafe { Tensor::from_ptr(product) })
}

fn check_targets(targets: &Tensor, rows: i64, vocab: i64) {
    assert!(
        targets.size() == [rows]
            && targets.kind() == Kind::Int64
            && targets.device() == Device::Cpu
    );
    let ids = 0..vocab;
    assert!(
        rows == 0
            || ids.contains(&targets.min().int64_value(&[]))
                && ids.contains(&targets.max().int64_value(&[])),
        "targets are ids of words"
    );
}

/// Calls the fused kernel (softmax.cpp): `logits [n, vocab]` without the bias, float32 or bfloat16
/// on the CPU, are overwritten, with `gradient` by `(softmax(logits + b) - onehot(target)) *
/// scale`. Returns the rows' cross entropies in nats, and with `gradient` the sum of the new rows,
/// `[vocab]`.
pub(crate) fn softmax_cross_entropy(
    logits: &mut Tensor,
    b: &Tensor,
    targets: &Tensor,
    scale: f32,
    gradient: bool,
) -> (Vec<f64>, Tensor) {
    let (rows, vocab) = logits.size2().expect("logits have two dimensions");
    let (b, targets) = (b.contiguous(), targets.contiguous());
    assert!(b.size() == [vocab] && b.kind() == Kind::Float && b.device() == Device::Cpu);
    check_targets(&targets, rows, vocab);
    let bfloat16 = logits.kind() == Kind::BFloat16;
    assert!(
        (bfloat16 || logits.kind() == Kind::Float)
            && logits.device() == Device::Cpu
            && logits.is_contiguous()
    );
    let bias_gradient = gradient.then(|| Tensor::empty([vocab], (Kind::Float, Device::Cpu)));
    let mut costs = vec![0.0; rows as usize];
    // SAFETY: all are contiguous CPU tensors of the types and sizes that the function takes
    // (asserted above), the targets lie within the vocabulary, `logits` is borrowed mutably while
    // they are written, and there is room for `rows` costs.
    unsafe {
        ptb_softmax_cross_entropy(
            logits.data_ptr(),
            bfloat16,
            b.data_ptr().cast(),
            targets.data_ptr().cast(),
            rows,
            vocab,
            scale,
            bias_gradient.as_ref().map_or(std::ptr::null_mut(), |t| t.data_ptr().cast()),
            costs.as_mut_ptr(),
            tch::get_num_threads(),
        )
    };
    (costs, bias_gradient.unwrap_or_default())
}
