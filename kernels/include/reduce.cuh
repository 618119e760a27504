// Reductions in a fixed order: the same bits on every run, every device and every schedule.
#pragma once

namespace GLMAE_NS {

constexpr int WARP = 32;
constexpr uint32_t FULL_WARP = 0xffffffffu;

// Sum over the 32 lanes; every lane gets it. Butterfly: each lane adds the same pairs, and float
// addition commutes, so all lanes hold the same bits.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    return x;
}

// 1 / sum, for what is divided by its own sum. A lone value then makes exactly 1, which the division that is only
// accurate to 2 units in the last place does not promise: one step of Newton's method, without the branch of a
// division that is rounded properly. For sums that neither overflow nor vanish.
__device__ __forceinline__ float inverse_of_sum(float sum) {
    const float nearly = __fdividef(1.0f, sum);
    return fmaf(fmaf(-sum, nearly, 1.0f), nearly, nearly);
}

// Sum over a block of whole warps; every thread gets it. `scratch` holds 32 floats of shared memory
// and may be reused at once by the next call.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return x;
}

}  // namespace GLMAE_NS
