// What libtorch tells of itself, which tch does not bind. Called from src/libtorch.rs; no exception leaves these functions.

#include <ATen/Version.h>
#include <torch/headeronly/version.h>

// The release whose headers this program was compiled with.
extern "C" const char* ptb_libtorch_built_against() { return TORCH_VERSION; }

// The loaded library's own account: its version, its build settings and, if its CUDA part is loaded, CUDA's. A line each.
extern "C" const char* ptb_libtorch_config() {
    try {
        static const std::string config = at::show_config();
        return config.c_str();
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
