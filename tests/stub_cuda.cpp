// Stands in for the part of libtorch_cuda that src/kernels/cuda_graph.cpp looks up, where there is
// no GPU: each function succeeds, doing nothing, or fails as libtorch's do, with an exception.
// Compiled and loaded by the tests of src/train_step.rs.

#include <stdexcept>
#include <string>
#include <utility>

static int failing = 0;

static void stage(int number, const char* name) {
    if (failing == number) throw std::runtime_error(std::string("the stub fails in ") + name);
}

// 1 the constructor, 2 capture_begin, 3 capture_end, 4 replay; 0 nothing.
extern "C" void stub_fail_at(int number) { failing = number; }

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal };

namespace at::cuda {

struct CUDAGraph {
    CUDAGraph(bool);
    ~CUDAGraph();
    void capture_begin(std::pair<unsigned long long, unsigned long long>, cudaStreamCaptureMode);
    void capture_end();
    void replay();
};

CUDAGraph::CUDAGraph(bool) { stage(1, "the constructor"); }
CUDAGraph::~CUDAGraph() {}
void CUDAGraph::capture_begin(std::pair<unsigned long long, unsigned long long>,
                              cudaStreamCaptureMode) {
    stage(2, "capture_begin");
}
void CUDAGraph::capture_end() { stage(3, "capture_end"); }
void CUDAGraph::replay() { stage(4, "replay"); }

}  // namespace at::cuda
