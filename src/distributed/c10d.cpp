// libtorch's c10d, the engine under PyTorch's DistributedDataParallel, which tch does not bind:
// TCPStore, ProcessGroupGloo, and work in flight. Called from src/distributed/c10d.rs.
//
// No exception leaves these functions: where one fails it returns null, false or -1, and
// ptb_c10d_error() has the text.

#include <c10/util/Logging.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using GroupPtr = c10::intrusive_ptr<c10d::Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using std::chrono::milliseconds;

namespace {

thread_local std::string error;

template <class T, class F>
T guarded(T failed, F function) {
    try {
        return function();
    } catch (const c10::Error& e) {
        error = e.what_without_backtrace();
    } catch (const std::exception& e) {
        error = e.what();
    } catch (...) {
        error = "an exception that is none of C++'s own";
    }
    return failed;
}

template <class F>
WorkPtr* started(F function) {
    return guarded<WorkPtr*>(nullptr, [&] { return new WorkPtr(function()); });
}

}  // namespace

extern "C" {

// The last failure of the calling thread.
const char* ptb_c10d_error() { return error.c_str(); }

// A client of the store at host:port; as `server` the store itself, with `listening` >= 0 on that
// socket, which it takes over.
StorePtr* ptb_c10d_store(const char* host, uint16_t port, bool server, int listening,
                         int64_t timeout, const char* prefix) {
    return guarded<StorePtr*>(nullptr, [&] {
        // c10d logs a stack trace for every connection that is lost; what matters comes back as an
        // error.
        if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 2;
        c10d::TCPStoreOptions options;
        options.port = port;
        options.isServer = server;
        options.waitWorkers = false;
        options.timeout = milliseconds(timeout);
        if (listening >= 0) options.masterListenFd = listening;
        StorePtr store = c10::make_intrusive<c10d::TCPStore>(host, options);
        return new StorePtr(
            *prefix ? StorePtr(c10::make_intrusive<c10d::PrefixStore>(prefix, store)) : store);
    });
}

// Adds to a counter that begins at 0, and gives its new value.
bool ptb_c10d_add(StorePtr* store, const char* key, int64_t n, int64_t* value) {
    return guarded(false, [&] { return *value = (*store)->add(key, n), true; });
}

bool ptb_c10d_set(StorePtr* store, const char* key, const char* value) {
    return guarded(false, [&] { return (*store)->set(key, std::string(value)), true; });
}

// The value's length, or -1; the value itself as far as `room` goes. Waits for the key as long as
// the store's time-out.
int64_t ptb_c10d_get(StorePtr* store, const char* key, uint8_t* value, int64_t room) {
    return guarded<int64_t>(-1, [&] {
        const std::vector<uint8_t> got = (*store)->get(key);
        std::copy_n(got.begin(), std::min<int64_t>(room, got.size()), value);
        return static_cast<int64_t>(got.size());
    });
}

// All ranks must call it. `host` or `interface` is where this machine is reached by the others;
// both empty: by its own name.
GroupPtr* ptb_c10d_gloo(StorePtr* store, int rank, int size, int64_t timeout, const char* host,
                        const char* interface) {
    return guarded<GroupPtr*>(nullptr, [&] {
        auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout));
        options->devices.push_back(
            *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
            : *host    ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                       : c10d::ProcessGroupGloo::createDefaultDevice());
        return new GroupPtr(
            c10::make_intrusive<c10d::ProcessGroupGloo>(*store, rank, size, options));
    });
}

// In place: the sum over all ranks, or with `largest` the maximum.
WorkPtr* ptb_c10d_all_reduce(GroupPtr* group, const at::Tensor* tensor, bool largest) {
    return started([&] {
        std::vector<at::Tensor> tensors = {*tensor};
        c10d::AllreduceOptions options;
        options.reduceOp = largest ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
        return (*group)->allreduce(tensors, options);
    });
}

// In place: the tensor of rank `root`.
WorkPtr* ptb_c10d_broadcast(GroupPtr* group, const at::Tensor* tensor, int64_t root) {
    return started([&] {
        std::vector<at::Tensor> tensors = {*tensor};
        c10d::BroadcastOptions options;
        options.rootRank = root;
        return (*group)->broadcast(tensors, options);
    });
}

// The ranks' tensors one after the other.
WorkPtr* ptb_c10d_all_gather(GroupPtr* group, const at::Tensor* all, const at::Tensor* own) {
    return started([&] {
        at::Tensor output = *all, input = *own;
        return (*group)->_allgather_base(output, input);
    });
}

WorkPtr* ptb_c10d_barrier(GroupPtr* group) {
    return started([&] { return (*group)->barrier(); });
}

// Waits for the work (on a GPU: makes the current stream wait for it), and frees it.
bool ptb_c10d_wait(WorkPtr* work) {
    const std::unique_ptr<WorkPtr> owned(work);
    return guarded(false, [&] { return (*owned)->wait(); });
}

void ptb_c10d_free_store(StorePtr* store) {
    guarded(0, [&] { return delete store, 0; });
}
void ptb_c10d_free_group(GroupPtr* group) {
    // NCCL's complains if it is destroyed without that.
    guarded(0, [&] { return (*group)->shutdown(), 0; });
    guarded(0, [&] { return delete group, 0; });
}

}  // extern "C"
