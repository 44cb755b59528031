//! libtorch's operators over many tensors at once, made for PyTorch's optimizers (foreach.cpp). On
//! a GPU a kernel for each variable would cost more than its arithmetic.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ptb_foreach_norm(tensors: *const *const C_tensor, count: c_int) -> *mut C_tensor;
    fn ptb_fused_sgd(
        variables: *const *const C_tensor,
        gradients: *const *const C_tensor,
        count: c_int,
        learning_rate: *const C_tensor,
    ) -> bool;
}

fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|t| t.as_ptr()).collect()
}

/// The 2-norm of each tensor, `[count]`.
///
/// # Panics
/// libtorch refuses, as tch's operators do.
pub(crate) fn norms(tensors: &[Tensor]) -> Tensor {
    // SAFETY: the pointers are those of tensors that outlive the call; what comes back is null or a
    // new tensor, which is ours.
    let norms = unsafe { ptb_foreach_norm(pointers(tensors).as_ptr(), tensors.len() as c_int) };
    assert!(!norms.is_null(), "libtorch's _foreach_norm failed");
    // SAFETY: as said above.
    unsafe { Tensor::from_ptr(norms) }
}

/// `variable -= learning_rate * gradient`, in place. All are contiguous and on one device;
/// `learning_rate` is a float32 scalar there.
///
/// # Panics
/// libtorch refuses, as tch's operators do.
pub(crate) fn sgd(variables: &[Tensor], gradients: &[Tensor], learning_rate: &Tensor) {
    assert_eq!(variables.len(), gradients.len());
    // SAFETY: both lists have `count` pointers to tensors that outlive the call.
    let done = unsafe {
        ptb_fused_sgd(
            pointers(variables).as_ptr(),
            pointers(gradients).as_ptr(),
            variables.len() as c_int,
            learning_rate.as_ptr(),
        )
    };
    assert!(done, "libtorch's _fused_sgd_ failed");
}
