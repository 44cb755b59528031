// Operators of libtorch's over many tensors at once, which tch does not bind: PyTorch's optimizers
// are made of them.
//
// No exception leaves these functions; they say whether they worked. Called from
// src/optimizer/mod.rs.

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/stack.h>

namespace {

std::vector<at::Tensor> list(const at::Tensor* const* tensors, int count) {
    std::vector<at::Tensor> list;
    for (int i = 0; i < count; ++i) list.push_back(*tensors[i]);
    return list;
}

}  // namespace

// The 2-norm of each tensor, [count]; a new tensor, or null.
extern "C" at::Tensor* ptb_foreach_norm(const at::Tensor* const* tensors, int count) {
    try {
        return new at::Tensor(at::stack(at::_foreach_norm(list(tensors, count), 2)));
    } catch (...) {
        return nullptr;
    }
}

// variable -= learning_rate * gradient, in place; the learning rate is a scalar tensor on the
// variables' device.
extern "C" bool ptb_fused_sgd(const at::Tensor* const* variables,
                              const at::Tensor* const* gradients, int count,
                              const at::Tensor* learning_rate) {
    try {
        at::_fused_sgd_(list(variables, count), list(gradients, count), /*momentum_buffer_list=*/{},
                        /*weight_decay=*/0,
                        /*momentum=*/0, *learning_rate, /*dampening=*/0, /*nesterov=*/false,
                        /*maximize=*/false,
                        /*is_first_step=*/false);
        return true;
    } catch (...) {
        return false;
    }
}
