// Stands in for the part of libtorch_cuda that src/kernels/cuda_graph.cpp looks up, where there is
// no GPU: each function succeeds, doing nothing, or fails as libtorch's do, with an exception.
// Compiled and loaded by the tests of src/train_step.rs.

#include <stdexcept>
#include <string>
#include <utility>

using Pool = std::pair<unsigned long long, unsigned long long>;

static int failing = 0;

static void stage(int number, const char* name) {
    if (failing == number) throw std::runtime_error(std::string("the stub fails in ") + name);
}

// 1 the constructor, 2 capture_begin, 3 capture_end, 4 replay; 0 nothing.
extern "C" void stub_fail_at(int number) { failing = number; }

// The mode of c10::cuda::warning_state(): 2 while waiting for the device is an error.
extern "C" {
int stub_sync_mode asm("_ZZN3c104cuda13warning_stateEvE14warning_state_") = 0;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal };

namespace at::cuda {

struct CUDAGraph {
    CUDAGraph(bool);
    ~CUDAGraph();
    void capture_begin(Pool, cudaStreamCaptureMode);
    void capture_end();
    void replay();
};

CUDAGraph::CUDAGraph(bool keep) {
    if (keep) throw std::runtime_error("the recording would be kept beside the graph");
    stage(1, "the constructor");
}
CUDAGraph::~CUDAGraph() {}
void CUDAGraph::capture_begin(Pool pool, cudaStreamCaptureMode mode) {
    if (pool != Pool{0, 0} || mode != cudaStreamCaptureModeGlobal)
        throw std::runtime_error("other arguments than PyTorch's");
    stage(2, "capture_begin");
}
void CUDAGraph::capture_end() { stage(3, "capture_end"); }
void CUDAGraph::replay() { stage(4, "replay"); }

}  // namespace at::cuda
