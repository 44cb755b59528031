// What src/kernels/cuda_graph.cpp takes for granted of the functions and types that it looks up by
// name, compared with libtorch's headers. Compiled, not run, by the tests of
// src/kernels/cuda_graph.rs.

#include "../../src/kernels/cuda_graph.cpp"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>

#include <type_traits>

using at::cuda::CUDAGraph;

static_assert(sizeof(CUDAGraph) <= sizeof(Graph::object));
static_assert(alignof(CUDAGraph) <= alignof(Graph));
static_assert(std::is_constructible_v<CUDAGraph, bool>);
static_assert(std::is_same_v<decltype(&CUDAGraph::capture_begin),
                             void (CUDAGraph::*)(Pool, cudaStreamCaptureMode)>);
static_assert(std::is_same_v<decltype(&CUDAGraph::capture_end), void (CUDAGraph::*)()>);
static_assert(std::is_same_v<decltype(&CUDAGraph::replay), void (CUDAGraph::*)()>);
static_assert(sizeof(cudaStreamCaptureMode) == sizeof(int) && cudaStreamCaptureModeGlobal == 0);
static_assert(sizeof(c10::cuda::WarningState) == sizeof(int));
static_assert(static_cast<int>(c10::cuda::SyncDebugMode::L_DISABLED) == 0);
static_assert(static_cast<int>(c10::cuda::SyncDebugMode::L_ERROR) == 2);
