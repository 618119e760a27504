// Kernels with one fault each, and the correct form of it: the tests of the emulator itself
// (tests/emulator/faults.rs). Never part of a fatbin.
#include "../include/prelude.cuh"

namespace GLMAE_NS {

GLMAE_EXPORT __global__ void fault_nothing(float* y, const float* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
GLMAE_KERNEL(fault_nothing, 1024)

}  // namespace GLMAE_NS
