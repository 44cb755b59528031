// What of libtorch's CUDA side tch does not bind: CUDA graphs, the stream to record them on, TF32, and libtorch's check for host
// synchronization.
//
// The program is not linked to libtorch_cuda (src/device.rs loads it where there is a GPU), so what lives in there is looked up by name, in
// the one version of libtorch that the program is made for. That needs no CUDA headers, and a program built where there is no GPU has
// everything. Every function reports failure instead of throwing; the text goes into the caller's buffer.
//
// Called from src/graph.rs and src/device.rs.

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/record_function.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <atomic>
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

// Products of float32 numbers in TF32 (10 bits of precision) or in full; libtorch's own default is TF32 in cuDNN alone.
extern "C" void ptb_allow_tf32(bool cublas, bool cudnn) {
    at::globalContext().setAllowTF32CuBLAS(cublas);
    at::globalContext().setAllowTF32CuDNN(cudnn);
}

// Makes a stream of its own the calling thread's current one: nothing can be recorded on the default stream.
extern "C" bool ptb_cuda_own_stream(int device, char* error, size_t size) {
    return guarded(error, size, [=] {
        const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
        const c10::Device here(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
        cuda.setDevice(here);
        cuda.synchronizeDevice(here.index());  // What was begun on the old stream is done.
        cuda.exchangeStream(cuda.getStreamFromGlobalPool(here));
    });
}

// Leaves the device usable after a recording that failed. libtorch's generator believes in the recording until it has ended well, and refuses
// to draw: it gets a new state (the caller sets the seed before each step). And CUDA remembers an error until somebody asks.
static void forget_recording() {
    char error[1];
    guarded(error, sizeof error, [] {
        const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
        const c10::Device here = cuda.getDevice();
        at::Generator generator = at::globalContext().defaultGenerator(here);
        generator.graphsafe_set_state(
            at::globalContext().getAcceleratorHooksInterface(c10::DeviceType::CUDA).getNewGenerator(here.index()));
    });
    if (void* last_error = dlsym(RTLD_DEFAULT, "cudaGetLastError")) reinterpret_cast<int (*)()>(last_error)();
}

// From here on the current stream records instead of working. A null pointer if it cannot.
extern "C" Graph* ptb_graph_begin(char* error, size_t size) {
    Graph* graph = nullptr;
    const bool begun = guarded(error, size, [&] {
        const auto construct = find<void (*)(void*, bool)>("_ZN2at4cuda9CUDAGraphC1Eb");
        const auto begin =
            find<void (*)(void*, Pool, int)>("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
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
    const bool ended =
        guarded(error, size, [=] { find<Method>("_ZN2at4cuda9CUDAGraph11capture_endEv")(graph->object); });
    if (!ended) forget_recording();
    return ended;
}

// Everything that was recorded, in one launch.
extern "C" bool ptb_graph_replay(Graph* graph, char* error, size_t size) {
    static const auto replay = reinterpret_cast<Method>(dlsym(RTLD_DEFAULT, "_ZN2at4cuda9CUDAGraph6replayEv"));
    return guarded(error, size, [=] { replay(graph->object); });
}

extern "C" void ptb_graph_delete(Graph* graph) {
    char error[1];
    if (guarded(error, sizeof error, [=] { find<Method>("_ZN2at4cuda9CUDAGraphD1Ev")(graph->object); })) delete graph;
}

// torch.cuda.set_sync_debug_mode: with `forbid`, whatever makes the host wait for the device fails.
extern "C" bool ptb_cuda_forbid_sync(bool forbid, char* error, size_t size) {
    return guarded(error, size, [=] {
        // c10::cuda::WarningState, whose one member is the mode: 0 off, 2 error.
        *find<int*>("_ZZN3c104cuda13warning_stateEvE14warning_state_") = forbid ? 2 : 0;
    });
}

// Counts the operators that read a number from a tensor into the program, by which the host waits for the device: from the call with `begin`
// to the one without, which returns their number. On the CPU it shows what a GPU would have to wait for. In the calling thread.
extern "C" long ptb_count_reads(bool begin) {
    static std::atomic<long> reads;
    static thread_local at::CallbackHandle handle;
    if (begin) {
        reads = 0;
        handle = at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& f) -> std::unique_ptr<at::ObserverContext> {
                                                for (const char* name : {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"})
                                                    if (std::strcmp(f.name(), name) == 0) ++reads;
                                                return nullptr;
                                            }).scopes({at::RecordScope::FUNCTION}));
        return 0;
    }
    at::removeCallback(handle);
    return reads;
}
