// Linear layer y = x W^T + b (W [out, in] as PyTorch keeps it), with what follows it, and its backward:
//
//     fwd:         u = x W^T + b;  y = u, gelu(u) (exact, erf; saves u) or u + residual
//     bwd_gelu:    du = dy gelu'(u)
//     bwd_x:       dx (+)= du W, or du W * gelu'(pre): the activation of the layer before, if fused
//     bwd_params:  dW (+)= du^T x;  db (+)= column sums of du, from the fragments already in registers
//     bwd_reduce:  dW (+)= sum of the parts of bwd_params, db likewise
//
// x, y, pre, residual, their gradients and W f32 or bf16; b, dW, db f32; sums in f32. All matrices
// row-major and contiguous; nothing is transposed in memory: fwd is "NT", bwd_x "NN", bwd_params "TN".
//
// Variants `_<M>x<N>`: tile of C per block; see gemm.cuh, gemm_mma.cuh (bf16), gemm_simt.cuh (f32) for
// threads and shared memory. They need leading dimensions that are multiples of 16 bytes and aligned
// operands; `_any` takes everything, loading element by element. Outputs need nothing. On sm_90a bf16 products are those
// of hopper/linear.cu.
// Grid: tiles of C (bands of eight rows of tiles), for bwd_params times parts of the sum over rows.
//
// FLOP 2 rows in out each. Bytes from DRAM (e = element size): fwd e (rows in + out in + rows out (1 +
// 1 saved u or residual)); bwd_x e (rows out + out in + rows in); bwd_params e rows (in + out) + 4 out
// in, and 8 parts (out in + out) more when split; bwd_gelu 3 e rows out. Floors on H200 (790 TFLOP/s,
// 4.3 TB/s) for fc1 of ViT-B at 3768 rows: fwd 22.5 us, bwd_x 22.5, bwd_params 22.5, bwd_gelu 16.
// Deterministic: every sum runs over k in order within a part, parts are added in order, and the
// parts depend on sizes alone. No atomics.
#include "gemm.cuh"

namespace GLMAE_NS {

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void linear_fwd(T* y, T* pre, const T* x, const T* weight,
                                           const float* bias, const T* residual, int rows, int out,
                                           int in, int applies_gelu) {
    const ForwardEpilogue<T> epilogue(y, pre, bias, residual, rows, out, applies_gelu);
    gemm<Tile, true, true, VECTOR>(epilogue, x, in, weight, in, rows, out, in, in);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void linear_bwd_x(T* dx, const T* pre, const T* dy, const T* weight,
                                             int rows, int out, int in, int mode) {
    const GradientEpilogue<T> epilogue(dx, pre, rows, in, mode);
    gemm<Tile, true, false, VECTOR>(epilogue, dy, out, weight, in, rows, in, out, out);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void linear_bwd_params(float* dweight, float* dbias, const T* dy,
                                                  const T* x, int rows, int out, int in,
                                                  int rows_part, int weight_mode, int bias_mode) {
    const WeightGradientEpilogue epilogue(dweight, dbias, out, in, weight_mode, bias_mode);
    gemm<Tile, false, false, VECTOR>(epilogue, dy, out, x, in, out, in, rows, rows_part);
}

// du may be dy itself. One 16-byte vector per thread and step.
template <typename T>
__device__ __forceinline__ void linear_bwd_gelu(T* du, const T* dy, const T* pre, int64_t count) {
    constexpr int N = Vec<T>::N;
    const bool vectors = is_aligned_16(du) && is_aligned_16(dy) && is_aligned_16(pre);
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * N;
    int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    for (; i < count; i += step) {
        const int left = count - i < N ? static_cast<int>(count - i) : N;
        float d[N], u[N];
        load_columns(d, dy, i, left, vectors && left == N);
        load_columns(u, pre, i, left, vectors && left == N);
#pragma unroll
        for (int j = 0; j < N; ++j) d[j] *= gelu_derivative(u[j]);
        store_columns(du, i, d, left, vectors && left == N);
    }
}

GLMAE_TWINS(linear_bwd_gelu_f32, linear_bwd_gelu_bf16, (256),
    (T* du, const T* dy, const T* pre, int64_t count),
    linear_bwd_gelu(du, dy, pre, count))

// Thread i adds elements 4 i .. 4 i + 3 of dweight [weights]; the threads after those of dbias
// [biases], where wanted.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    linear_bwd_reduce_f32(float* dweight, float* dbias, const float* __restrict__ weight_parts,
                          const float* __restrict__ bias_parts, int parts, int64_t weights,
                          int biases, int weight_mode, int bias_mode) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
    const int64_t first_bias = (weights + 3) / 4 * 4;
    if (i < weights) {
        reduce_partials(dweight, weight_parts, parts, weights, i,
                        weight_mode == GLMAE_GRAD_ACCUMULATE);
    } else if (dbias && i - first_bias < biases) {
        reduce_partials(dbias, bias_parts, parts, biases, i - first_bias,
                        bias_mode == GLMAE_GRAD_ACCUMULATE);
    }
}
GLMAE_KERNEL(linear_bwd_reduce_f32, 256)

// The same three signatures for every tile, whose threads are the first of the bounds; as many blocks as
// the second says must fit the register file of an SM.
#define LINEAR_FWD(...)                                                                             \
    (T* __restrict__ y, T* __restrict__ pre, const T* __restrict__ x, const T* __restrict__ weight, \
     const float* __restrict__ bias, const T* __restrict__ residual, int rows, int out, int in,     \
     int applies_gelu),                                                                             \
    linear_fwd<__VA_ARGS__>(y, pre, x, weight, bias, residual, rows, out, in, applies_gelu)
GLMAE_INSTANCE(linear_fwd_bf16_128x192, bf16, (256, 1), LINEAR_FWD(MmaTile128x192, true))
GLMAE_INSTANCE(linear_fwd_bf16_128x128, bf16, (128, 2), LINEAR_FWD(MmaTile128x128, true))
GLMAE_INSTANCE(linear_fwd_bf16_64x64, bf16, (128, 4), LINEAR_FWD(MmaTile64x64, true))
GLMAE_INSTANCE(linear_fwd_bf16_any, bf16, (128, 4), LINEAR_FWD(MmaTile64x64, false))
GLMAE_INSTANCE(linear_fwd_f32_128x128, float, (256, 2), LINEAR_FWD(SimtTile128x128, true))
GLMAE_INSTANCE(linear_fwd_f32_64x64, float, (256, 4), LINEAR_FWD(SimtTile64x64, true))
GLMAE_INSTANCE(linear_fwd_f32_any, float, (256, 2), LINEAR_FWD(SimtTile64x64, false))

#define LINEAR_BWD_X(...)                                                     \
    (T* __restrict__ dx, const T* __restrict__ pre, const T* __restrict__ dy, \
     const T* __restrict__ weight, int rows, int out, int in, int mode),      \
    linear_bwd_x<__VA_ARGS__>(dx, pre, dy, weight, rows, out, in, mode)
GLMAE_INSTANCE(linear_bwd_x_bf16_128x192, bf16, (256, 1), LINEAR_BWD_X(MmaTile128x192, true))
GLMAE_INSTANCE(linear_bwd_x_bf16_128x128, bf16, (128, 2), LINEAR_BWD_X(MmaTile128x128, true))
GLMAE_INSTANCE(linear_bwd_x_bf16_64x64, bf16, (128, 4), LINEAR_BWD_X(MmaTile64x64, true))
GLMAE_INSTANCE(linear_bwd_x_bf16_any, bf16, (128, 4), LINEAR_BWD_X(MmaTile64x64, false))
GLMAE_INSTANCE(linear_bwd_x_f32_128x128, float, (256, 2), LINEAR_BWD_X(SimtTile128x128, true))
GLMAE_INSTANCE(linear_bwd_x_f32_64x64, float, (256, 4), LINEAR_BWD_X(SimtTile64x64, true))
GLMAE_INSTANCE(linear_bwd_x_f32_any, float, (256, 2), LINEAR_BWD_X(SimtTile64x64, false))

#define LINEAR_BWD_PARAMS(...)                                                                   \
    (float* __restrict__ dweight, float* __restrict__ dbias, const T* __restrict__ dy,           \
     const T* __restrict__ x, int rows, int out, int in, int rows_part, int weight_mode,         \
     int bias_mode),                                                                             \
    linear_bwd_params<__VA_ARGS__>(dweight, dbias, dy, x, rows, out, in, rows_part, weight_mode, \
                                   bias_mode)
GLMAE_INSTANCE(linear_bwd_params_bf16_128x192, bf16, (256, 1), LINEAR_BWD_PARAMS(MmaTile128x192, true))
GLMAE_INSTANCE(linear_bwd_params_bf16_128x128, bf16, (128, 2), LINEAR_BWD_PARAMS(MmaTile128x128, true))
GLMAE_INSTANCE(linear_bwd_params_bf16_64x64, bf16, (128, 4), LINEAR_BWD_PARAMS(MmaTile64x64, true))
GLMAE_INSTANCE(linear_bwd_params_bf16_any, bf16, (128, 4), LINEAR_BWD_PARAMS(MmaTile64x64, false))
GLMAE_INSTANCE(linear_bwd_params_f32_128x128, float, (256, 2), LINEAR_BWD_PARAMS(SimtTile128x128, true))
GLMAE_INSTANCE(linear_bwd_params_f32_64x64, float, (256, 4), LINEAR_BWD_PARAMS(SimtTile64x64, true))
GLMAE_INSTANCE(linear_bwd_params_f32_any, float, (256, 2), LINEAR_BWD_PARAMS(SimtTile64x64, false))

}  // namespace GLMAE_NS
