// What of libtorch's CUDA side tch does not bind: CUDA graphs, the stream to record them on, TF32,
// and libtorch's check for host synchronization.
//
// The program is not linked to libtorch_cuda (src/device.rs loads it where there is a GPU), so what
// lives in there is looked up by name, in the one version of libtorch that the program is made for.
// That needs no CUDA headers, and a program built where there is no GPU has everything. Every
// function reports failure instead of throwing; the text goes into the caller's buffer.
//
// Called from cuda_graph.rs.

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/record_function.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

namespace {

// Something of libtorch_cuda's by its C++ name, as the compiler spells it.
template <typename T>
T find(const char* name) {
    void* found = dlsym(RTLD_DEFAULT, name);
    TORCH_CHECK(found != nullptr, "this libtorch has no ", name);
    return reinterpret_cast<T>(found);
}

// at::cuda::CUDAGraph of ATen/cuda/CUDAGraph.h: 104 bytes in libtorch 2.11, and room to spare.
struct Graph {
    alignas(64) unsigned char object[1024];
};

using Method = void (*)(void*);
using Pool = std::pair<unsigned long long, unsigned long long>;  // at::MempoolId_t

template <typename F>
bool guarded(char* error, size_t size, F f) {
    try {
        f();
        return true;
    } catch (const std::exception& e) {
        std::snprintf(error, size, "%s", e.what());
    } catch (...) {
        std::snprintf(error, size, "an unknown exception");
    }
    return false;
}

}  // namespace

// Products of float32 numbers in TF32 (10 bits of precision) or in full; libtorch's own default is
// TF32 in cuDNN alone.
extern "C" void ptb_allow_tf32(bool cublas, bool cudnn) {
    at::globalContext().setAllowTF32CuBLAS(cublas);
    at::globalContext().setAllowTF32CuDNN(cudnn);
}

// Whether cuBLAS, or cuDNN's LSTM, may use TF32.
extern "C" bool ptb_allows_tf32(bool cudnn) {
    auto& context = at::globalContext();
    return cudnn ? context.allowTF32CuDNN(at::Float32Op::RNN) : context.allowTF32CuBLAS();
}

// Makes a stream of its own the calling thread's current one: nothing can be recorded on the
// default stream.
extern "C" bool ptb_cuda_own_stream(int device, char* error, size_t size) {
    return guarded(error, size, [=] {
        const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
        const c10::Device here(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
        cuda.setDevice(here);
        cuda.synchronizeDevice(here.index());  // What was begun on the old stream is done.
        cuda.exchangeStream(cuda.getStreamFromGlobalPool(here));
    });
}

// Leaves the device usable after a recording that failed. libtorch's generator believes in the
// recording until it has ended well, and refuses to draw: it gets a new state (the caller sets the
// seed before each step). And CUDA remembers an error until somebody asks.
static void forget_recording() {
    char error[1];
    guarded(error, sizeof error, [] {
        const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
        const c10::Device here = cuda.getDevice();
        at::Generator generator = at::globalContext().defaultGenerator(here);
        generator.graphsafe_set_state(at::globalContext()
                                          .getAcceleratorHooksInterface(c10::DeviceType::CUDA)
                                          .getNewGenerator(here.index()));
    });
    if (void* last_error = dlsym(RTLD_DEFAULT, "cudaGetLastError"))
        reinterpret_cast<int (*)()>(last_error)();
}

// From here on the current stream records instead of working. A null pointer if it cannot.
extern "C" Graph* ptb_graph_begin(char* error, size_t size) {
    Graph* graph = nullptr;
    const bool begun = guarded(error, size, [&] {
        const auto construct = find<void (*)(void*, bool)>("_ZN2at4cuda9CUDAGraphC1Eb");
        const auto begin = find<void (*)(void*, Pool, int)>(
            "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
        find<Method>("_ZN2at4cuda9CUDAGraphD1Ev");
        find<Method>("_ZN2at4cuda9CUDAGraph11capture_endEv");
        find<Method>("_ZN2at4cuda9CUDAGraph6replayEv");
        graph = new Graph;
        try {
            construct(graph->object, false);
        } catch (...) {
            delete graph;
            graph = nullptr;
            throw;
        }
        begin(graph->object, Pool{0, 0}, 0 /* cudaStreamCaptureModeGlobal, PyTorch's default */);
    });
    // One that never began is left where it is: its destructor may throw.
    if (!begun) forget_recording();
    return begun ? graph : nullptr;
}

// Ends the recording and makes it ready.
extern "C" bool ptb_graph_end(Graph* graph, char* error, size_t size) {
    const bool ended = guarded(
        error, size, [=] { find<Method>("_ZN2at4cuda9CUDAGraph11capture_endEv")(graph->object); });
    if (!ended) forget_recording();
    return ended;
}

// Everything that was recorded, in one launch.
extern "C" bool ptb_graph_replay(Graph* graph, char* error, size_t size) {
    static const auto replay =
        reinterpret_cast<Method>(dlsym(RTLD_DEFAULT, "_ZN2at4cuda9CUDAGraph6replayEv"));
    return guarded(error, size, [=] { replay(graph->object); });
}

extern "C" void ptb_graph_delete(Graph* graph) {
    char error[1];
    if (guarded(error, sizeof error,
                [=] { find<Method>("_ZN2at4cuda9CUDAGraphD1Ev")(graph->object); }))
        delete graph;
}

// torch.cuda.set_sync_debug_mode: with `forbid`, whatever makes the host wait for the device fails.
extern "C" bool ptb_cuda_forbid_sync(bool forbid, char* error, size_t size) {
    return guarded(error, size, [=] {
        // c10::cuda::WarningState, whose one member is the mode: 0 off, 2 error.
        *find<int*>("_ZZN3c104cuda13warning_stateEvE14warning_state_") = forbid ? 2 : 0;
    });
}

// Counts the operators that the calling thread calls: all that launch something on a device
// (neither views nor what only asks for memory), and those that read a number from a tensor into
// the program, by which the host waits. On the CPU it shows what a GPU would have to do.
namespace {

struct Counts {
    long all = 0, reads = 0;
    at::CallbackHandle handle = 0;
};
thread_local Counts counts;

bool among(const char* name, std::initializer_list<const char*> names) {
    for (const char* other : names)
        if (std::strcmp(name, other) == 0) return true;
    return false;
}

std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& f) {
    const char* name = f.name();
    if (std::strncmp(name, "aten::", 6) != 0) return nullptr;
    if (among(name, {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}))
        ++counts.reads;
    if (!among(name, {"aten::view",
                      "aten::as_strided",
                      "aten::t",
                      "aten::transpose",
                      "aten::narrow",
                      "aten::slice",
                      "aten::select",
                      "aten::unsqueeze",
                      "aten::squeeze",
                      "aten::expand",
                      "aten::permute",
                      "aten::detach",
                      "aten::chunk",
                      "aten::split",
                      "aten::unbind",
                      "aten::reshape",
                      "aten::flatten",
                      "aten::alias",
                      "aten::empty",
                      "aten::empty_like",
                      "aten::empty_strided",
                      "aten::resize_",
                      "aten::to",
                      "aten::contiguous",
                      "aten::numpy_T",
                      "aten::item",
                      "aten::result_type",
                      "aten::lift_fresh",
                      "aten::_reshape_alias",
                      "aten::_unsafe_view",
                      "aten::view_as",
                      "aten::tensor_split",
                      "aten::unsafe_split",
                      "aten::unsafe_chunk"}))
        ++counts.all;
    return nullptr;
}

}  // namespace

extern "C" void ptb_count_begin() {
    counts.all = counts.reads = 0;
    counts.handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(count).scopes({at::RecordScope::FUNCTION}));
}

extern "C" int64_t ptb_count_end(int64_t* reads) {
    at::removeCallback(counts.handle);
    *reads = counts.reads;
    return counts.all;
}
