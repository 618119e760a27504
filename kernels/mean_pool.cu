// Mean over the tokens of each packed sequence, for classification:
//
//     y[s] = mean over t in cu[s] + skip .. cu[s + 1] of x[t]        dx[t] = dy[s] / count, 0 for skipped rows
//
// x, dx [tokens, c], y, dy [sequences, c] f32 or bf16; cu [sequences + 1] i32. skip is 1 where a class token stands
// first. Every sequence has a token that counts. Any c >= 1.
//
// Threads: blocks of 256. Forward: block (8, 32), grid (ceil(c / 8 N), sequences); lane x has N channels (16 bytes; one where c
// or a pointer does not allow that), lane y every 32nd token, then a tree over y. Backward: grid (token blocks of the
// longest sequence, sequences), one token per warp, eight per block.
// Shared memory: forward 256 N floats. Bytes moved: tokens c sizeof(T) forward and backward (twice that where dx
// accumulates) + sequences c. FLOPs: 1 per element. Floor (8 x 217 x 768, bf16): 2.7 MB, 0.6 us: launch bound.
// Deterministic: a thread adds its tokens in order, then a fixed tree.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int POOL_X = 8, POOL_Y = 32, POOL_THREADS = POOL_X * POOL_Y;

template <typename T, int N>
__device__ __forceinline__ void mean_pool_fwd(T* y, const T* x, const int* cu, int skip, int c,
                                              float* room) {
    const int column = (blockIdx.x * POOL_X + threadIdx.x) * N, lane = threadIdx.y;
    const int64_t sequence = blockIdx.y;
    const int first = cu[sequence] + skip, end = cu[sequence + 1];
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] = 0.0f;
    if (column < c) {
#pragma unroll 4
        for (int t = first + lane; t < end; t += POOL_Y) {
            float v[N];
            load_elements<N>(x, static_cast<int64_t>(t) * c + column, v);
#pragma unroll
            for (int k = 0; k < N; ++k) sum[k] += v[k];
        }
    }
    float* const mine = room + lane * POOL_X + threadIdx.x;
#pragma unroll
    for (int k = 0; k < N; ++k) mine[k * POOL_THREADS] = sum[k];
#pragma unroll
    for (int step = POOL_Y / 2; step > 0; step /= 2) {
        __syncthreads();
        if (lane < step) {
#pragma unroll
            for (int k = 0; k < N; ++k)
                mine[k * POOL_THREADS] = sum[k] += mine[k * POOL_THREADS + step * POOL_X];
        }
    }
    if (lane != 0 || column >= c) return;
    const float inverse = __fdividef(1.0f, static_cast<float>(end - first));
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] *= inverse;
    store_elements<N>(y, sequence * c + column, sum);
}

template <typename T, int N>
__device__ __forceinline__ void mean_pool_bwd(T* dx, const T* dy, const int* cu, int skip, int c,
                                              bool accumulate) {
    const int lane = threadIdx.x % WARP;
    const int64_t sequence = blockIdx.y;
    const int begin = cu[sequence], end = cu[sequence + 1];
    const int t = begin + static_cast<int>(blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP);
    if (t >= end) return;
    const float share =
        t < begin + skip ? 0.0f : __fdividef(1.0f, static_cast<float>(end - begin - skip));
    T* const to = dx + static_cast<int64_t>(t) * c;
    const T* const from = dy + sequence * c;
    for (int j = lane * N; j < c; j += WARP * N) {
        float g[N];
        load_elements<N>(from, j, g);
#pragma unroll
        for (int k = 0; k < N; ++k) g[k] *= share;
        if (accumulate) {
            float was[N];
            load_elements<N>(to, j, was);
#pragma unroll
            for (int k = 0; k < N; ++k) g[k] += was[k];
        }
        store_elements<N>(to, j, g);
    }
}

template <typename T>
__device__ __forceinline__ void mean_pool_fwd(T* y, const T* x, const int* cu, int skip, int c, int n,
                                              float* room) {
    if (n == 1) {
        mean_pool_fwd<T, 1>(y, x, cu, skip, c, room);
    } else {
        mean_pool_fwd<T, Vec<T>::N>(y, x, cu, skip, c, room);
    }
}

template <typename T>
__device__ __forceinline__ void mean_pool_bwd(T* dx, const T* dy, const int* cu, int skip, int c, int mode) {
    const bool accumulate = mode == GLMAE_GRAD_ACCUMULATE;
    if (c % Vec<T>::N == 0 && is_aligned_16(dx) && is_aligned_16(dy)) {
        mean_pool_bwd<T, Vec<T>::N>(dx, dy, cu, skip, c, accumulate);
    } else {
        mean_pool_bwd<T, 1>(dx, dy, cu, skip, c, accumulate);
    }
}

// n: channels per lane, 1 or as many as make 16 bytes (then c is a multiple and x and y are aligned).
GLMAE_TWINS(mean_pool_fwd_f32, mean_pool_fwd_bf16, (256),
    (T* __restrict__ y, const T* __restrict__ x, const int* __restrict__ cu, int skip, int c,
     int n),
    __shared__ float room[Vec<T>::N * POOL_THREADS];
    mean_pool_fwd(y, x, cu, skip, c, n, room))

GLMAE_TWINS(mean_pool_bwd_f32, mean_pool_bwd_bf16, (256),
    (T* dx, const T* __restrict__ dy, const int* __restrict__ cu, int skip, int c, int mode),
    mean_pool_bwd(dx, dy, cu, skip, c, mode))

}  // namespace GLMAE_NS
