// The pixel head and its mean square error: the prediction is compared while it is still in registers.
//
//     pred = x W^T + bias   (W [width, in])
//     t' = (t - mean(t)) / sqrt(var(t) + 1e-6)   (norm_pix, unbiased variance; else t' = t)
//     gradient = 2 (pred - t') / (width * rows of the group)
//     loss[g] = mean over the rows of group g and all columns of (pred - t')^2
//     (He et al., arXiv 2111.06377, norm_pix_loss)
//
// init:       statistics[r] = {mean, what its rounding left over, 1 / sqrt(var + 1e-6), 0} of row r of the
//             target; only with norm_pix. They do not depend on the prediction.
// fwd:        the product (gemm.cuh) with an epilogue that writes the gradient, a sum of squares per
//             block and group and, where wanted, the prediction itself.
// fwd_f32_mean: the losses, from the sums of the blocks.
// bwd:        gradient *= d loss of its group, in place; where that is 1, nothing is touched.
//
// x, W, target, gradient, pred f32 or bf16; bias, statistics, sums, losses f32. Rows below `first_rows`
// are of group 0, the others of group 1. Variants `_<M>x<N>` and `_any`: as in linear.cu.
//
// Numerics: corrected two-pass variance: the second pass sums d = t - mean and d^2, so what the rounded
// mean left over (3e-5 at mean 1000) is taken off the mean and the variance alike. The prediction enters
// the difference in f32, whatever is stored.
//
// Threads: init one block of 256 per row; rows of up to 4096 elements whose length is a multiple of 8 and
// which are 16-byte aligned stay in registers (2 units of 8 per thread), so every byte is read once; other
// rows are read twice, from L1 or L2 the second time. fwd as linear_fwd; a thread adds the squares of
// its own columns in the order in which it visits them, the block adds its threads.
// Shared memory: 256 bytes, fwd those and the tiles. Bytes: fwd s (rows in + width in) + 2 s rows width, 16
// rows with statistics, s rows width more with pred; init s rows width; bwd 2 s rows width or none. FLOP:
// fwd 2 rows in width. Floor (11184 x 512 to 4096, bf16): 59 us at 790 TFLOP/s, init 21 us at 4.3 TB/s.
// Deterministic: the order of every sum depends on sizes alone. No atomics.
#include "gemm.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int MSE_THREADS = 256, MSE_UNIT = 8, MSE_UNITS = 2;
constexpr float MSE_EPS = 1e-6f;

// One row's, as the epilogue loads them: 16 bytes.
__device__ __forceinline__ float4 patch_statistics(float mean, float2 centred, int width) {
    const float n = static_cast<float>(width), rest = __fdividef(centred.x, n);
    const float var = __fdividef(centred.y - centred.x * rest, fmaxf(n - 1.0f, 1.0f));
    return make_float4(mean, rest, rsqrtf(fmaxf(var, 0.0f) + MSE_EPS), 0.0f);
}

template <typename T>
__device__ __forceinline__ float4 statistics_registers(const T* target, int64_t at, int width,
                                                       float* scratch) {
    constexpr int N = MSE_UNIT;
    float t[MSE_UNITS][N];
    float sum = 0.0f, first = 0.0f, second = 0.0f;
#pragma unroll
    for (int u = 0; u < MSE_UNITS; ++u) {
        const int j = (u * MSE_THREADS + threadIdx.x) * N;
        if (j < width) {
            load_elements<N>(target, at + j, t[u]);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) t[u][k] = 0.0f;
        }
#pragma unroll
        for (int k = 0; k < N; ++k) sum += t[u][k];
    }
    const float mean = __fdividef(block_sum(sum, scratch), static_cast<float>(width));
#pragma unroll
    for (int u = 0; u < MSE_UNITS; ++u) {
        const int j = (u * MSE_THREADS + threadIdx.x) * N;
        if (j >= width) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float d = t[u][k] - mean;
            first += d, second += d * d;
        }
    }
    return patch_statistics(mean, block_sum_pair(first, second, scratch), width);
}

// Any row: one element per thread and step, one read of the target per pass.
template <typename T>
__device__ __forceinline__ float4 statistics_cached(const T* target, int64_t at, int width,
                                                    float* scratch) {
    float sum = 0.0f, first = 0.0f, second = 0.0f;
    for (int j = threadIdx.x; j < width; j += MSE_THREADS) sum += to_float(target[at + j]);
    const float mean = __fdividef(block_sum(sum, scratch), static_cast<float>(width));
    for (int j = threadIdx.x; j < width; j += MSE_THREADS) {
        const float d = to_float(target[at + j]) - mean;
        first += d, second += d * d;
    }
    return patch_statistics(mean, block_sum_pair(first, second, scratch), width);
}

template <typename T>
__device__ __forceinline__ void masked_mse_init(float4* statistics, const T* target, int width) {
    __shared__ float scratch[2 * WARP];
    const bool vectors = width % MSE_UNIT == 0 && width <= MSE_THREADS * MSE_UNIT * MSE_UNITS &&
                         is_aligned_16(target);
    const int64_t at = static_cast<int64_t>(blockIdx.x) * width;
    const float4 s = vectors ? statistics_registers(target, at, width, scratch)
                             : statistics_cached(target, at, width, scratch);
    if (threadIdx.x == 0) statistics[blockIdx.x] = s;
}

GLMAE_TWINS(masked_mse_init_f32, masked_mse_init_bf16, (256),
    (float4* __restrict__ statistics, const T* __restrict__ target, int width),
    masked_mse_init(statistics, target, width))

// Compares the sums, with their bias, to the target.
template <typename T>
struct MseEpilogue {
    static constexpr int COLUMNS = Vec<T>::N;
    static constexpr bool ROW_SUMS = false;
    T* gradient;
    T* pred;                   // or null
    const float* bias;         // [n], or null
    const T* target;
    const float4* statistics;  // [m], or null: the target as it is
    int m, n, first_rows;
    float scale, other_scale;
    bool vectors;
    // What this thread has seen of either group.
    mutable float error = 0.0f, other_error = 0.0f;

    __device__ __forceinline__ MseEpilogue(T* gradient, T* pred, const float* bias, const T* target,
                                           const float4* statistics, int m, int n, int first_rows,
                                           float scale, float other_scale)
        : gradient(gradient), pred(pred), bias(bias), target(target), statistics(statistics), m(m),
          n(n), first_rows(first_rows), scale(scale), other_scale(other_scale),
          vectors(n % COLUMNS == 0 && is_aligned_16(gradient) && is_aligned_16(pred) &&
                  is_aligned_16(bias) && is_aligned_16(target)) {}

    __device__ __forceinline__ void operator()(int row, int column, float (&v)[COLUMNS]) const {
        if (row >= m || column >= n) return;
        const int count = n - column;
        const int64_t at = static_cast<int64_t>(row) * n + column;
        if (bias) add_bias(v, bias, column, count, vectors);
        if (pred) store_columns(pred, at, v, count, vectors);
        float t[COLUMNS];
        load_columns(t, target, at, count, vectors);
        float4 s = make_float4(0.0f, 0.0f, 1.0f, 0.0f);
        if (statistics) s = __ldg(statistics + row);
        const bool first = row < first_rows;
        const float factor = first ? scale : other_scale;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) {
            const float d = v[i] - (t[i] - s.x - s.y) * s.z;
            if (i < count) sum += d * d;
            v[i] = d * factor;
        }
        (first ? error : other_error) += sum;
        store_columns(gradient, at, v, count, vectors);
    }
};

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void masked_mse_fwd(T* gradient, T* pred, float2* sums, const T* x,
                                               const T* weight, const float* bias, const T* target,
                                               const float4* statistics, int rows, int width, int in,
                                               int first_rows, float scale, float other_scale) {
    __shared__ float scratch[2 * WARP];
    const MseEpilogue<T> epilogue(gradient, pred, bias, target, statistics, rows, width, first_rows,
                                  scale, other_scale);
    gemm<Tile, true, true, VECTOR>(epilogue, x, in, weight, in, rows, width, in, in);
    const float2 sum = block_sum_pair(epilogue.error, epilogue.other_error, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

#define MASKED_MSE_FWD(...)                                                                      \
    (T* __restrict__ gradient, T* __restrict__ pred, float2* __restrict__ sums,                  \
     const T* __restrict__ x, const T* __restrict__ weight, const float* __restrict__ bias,      \
     const T* __restrict__ target, const float4* __restrict__ statistics, int rows, int width,   \
     int in, int first_rows, float scale, float other_scale),                                    \
    masked_mse_fwd<__VA_ARGS__>(gradient, pred, sums, x, weight, bias, target, statistics, rows, \
                                width, in, first_rows, scale, other_scale)
GLMAE_INSTANCE(masked_mse_fwd_bf16_128x192, bf16, (256, 1), MASKED_MSE_FWD(MmaTile128x192, true))
GLMAE_INSTANCE(masked_mse_fwd_bf16_128x128, bf16, (128, 2), MASKED_MSE_FWD(MmaTile128x128, true))
GLMAE_INSTANCE(masked_mse_fwd_bf16_64x64, bf16, (128, 4), MASKED_MSE_FWD(MmaTile64x64, true))
GLMAE_INSTANCE(masked_mse_fwd_bf16_any, bf16, (128, 4), MASKED_MSE_FWD(MmaTile64x64, false))
GLMAE_INSTANCE(masked_mse_fwd_f32_128x128, float, (256, 2), MASKED_MSE_FWD(SimtTile128x128, true))
GLMAE_INSTANCE(masked_mse_fwd_f32_64x64, float, (256, 4), MASKED_MSE_FWD(SimtTile64x64, true))
GLMAE_INSTANCE(masked_mse_fwd_f32_any, float, (256, 2), MASKED_MSE_FWD(SimtTile64x64, false))

// loss[g] = factor of group g * sum over the blocks; group 1 only where the call has two. One block.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_fwd_f32_mean(float* __restrict__ loss, const float2* __restrict__ sums, int blocks,
                            int groups, float factor, float other_factor) {
    __shared__ float scratch[2 * WARP];
    float sum = 0.0f, other = 0.0f;
#pragma unroll 4
    for (int b = threadIdx.x; b < blocks; b += MSE_THREADS) {
        const float2 s = sums[b];
        sum += s.x, other += s.y;
    }
    const float2 total = block_sum_pair(sum, other, scratch);
    if (threadIdx.x == 0) {
        loss[0] = total.x * factor;
        if (groups > 1) loss[1] = total.y * other_factor;
    }
}
GLMAE_KERNEL(masked_mse_fwd_f32_mean, 256)

// gradient [n] *= dloss[0], in place: it becomes dpred. A factor of 1, which terms of weight 1 have,
// leaves every bit as it is, so nothing has to be read.
template <typename T>
__device__ __forceinline__ void masked_mse_bwd(T* gradient, const float* dloss, int64_t n) {
    const float factor = __ldg(dloss);
    if (factor != 1.0f) scale_tile(gradient, factor, n);
}

GLMAE_TWINS(masked_mse_bwd_f32, masked_mse_bwd_bf16, (256),
    (T* __restrict__ gradient, const float* __restrict__ dloss, int64_t n),
    masked_mse_bwd(gradient, dloss, n))

}  // namespace GLMAE_NS
