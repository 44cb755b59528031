// a @ b on the CPU through oneDNN, whose kernels use all of the machine's vector width; libtorch's
// own `mm` hands float32 products to MKL, which on AMD's processors does not (docs/performance.md
// has the figures).
//
// libtorch has the door, `mkldnn::_linear_pointwise` (x @ w^T for dense tensors, made for its
// compiler), but tch does not bind it. It takes transposed views as they are, so TensorFlow's
// layouts need no copies.
//
// Called from mod.rs.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

// A new tensor, or null where this libtorch has no such door: the caller then takes `mm`. No
// exception leaves this function.
extern "C" at::Tensor* ptb_product(const at::Tensor* a, const at::Tensor* b) {
    try {
        static const c10::OperatorHandle linear =
            c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "");
        // (x, w, bias, the function after it, and that function's arguments)
        torch::jit::Stack stack = {
            *a,           b->t(), c10::IValue(), "none", c10::List<std::optional<at::Scalar>>(),
            c10::IValue()};
        linear.callBoxed(&stack);
        return new at::Tensor(stack.at(0).toTensor());
    } catch (...) {
        return nullptr;
    }
}
