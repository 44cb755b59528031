// What libtorch tells of itself, which tch does not bind. Called from libtorch.rs; no exception
// leaves these functions.

#include <ATen/Version.h>
#include <caffe2/core/common.h>
#include <torch/headeronly/version.h>

// The release whose headers this program was compiled with.
extern "C" const char* ptb_libtorch_built_against() { return TORCH_VERSION; }

// One of the loaded library's build settings, such as TORCH_VERSION; empty if it has none of this
// name. Unlike at::show_config it does not look for CUDA, so it may come before CUDA is loaded.
extern "C" const char* ptb_libtorch_setting(const char* name) {
    try {
        const auto& settings = caffe2::GetBuildOptions();
        const auto found = settings.find(name);
        return found == settings.end() ? "" : found->second.c_str();
    } catch (...) {
        return "";
    }
}

// The instruction set that its kernels were chosen for on this processor.
extern "C" const char* ptb_libtorch_cpu_capability() {
    try {
        static const std::string capability = at::get_cpu_capability();
        return capability.c_str();
    } catch (...) {
        return "";
    }
}
