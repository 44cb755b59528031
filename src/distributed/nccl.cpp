// c10d's group over NCCL, for GPUs. It lives in libtorch_cuda, which is loaded at run time or not
// at all (src/device.rs), so this is a shared object of its own that is loaded after it
// (src/distributed/c10d.rs); all that is done with the group goes through c10d's common interface.

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

// Null where it fails; the error's text is then in `text`.
extern "C" c10::intrusive_ptr<c10d::Backend>* ptb_c10d_nccl(c10::intrusive_ptr<c10d::Store>* store,
                                                            int rank, int size, int64_t timeout,
                                                            char* text, size_t room) {
    try {
        auto options = c10d::ProcessGroupNCCL::Options::create();
        options->timeout = std::chrono::milliseconds(timeout);
        return new c10::intrusive_ptr<c10d::Backend>(
            c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, size, options));
    } catch (const std::exception& e) {
        std::snprintf(text, room, "%s", e.what());
        return nullptr;
    }
}
