// In place of CUDA's own, of which the declarations are enough: layout.cpp.
#include <cuda_runtime_api.h>
