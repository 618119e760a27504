// Mean square error of predicted patches, value and gradient in one pass:
//
//     t' = (t - mean(t)) / sqrt(var(t) + 1e-6)   (norm_pix, unbiased variance; else t' = t)
//     row_loss[r] = mean_j (pred - t')^2         dpred = 2 (pred - t') / (width * rows)
//     loss = mean_r row_loss[r]                  (He et al., arXiv 2111.06377, norm_pix_loss)
//
// pred, gradient [rows, width] f32 or bf16, target [rows, width], row_loss [rows], loss [1] f32. The
// gradient is saved without the factor d loss, which masked_mse_bwd reads from device memory later.
//
// Numerics: corrected two-pass variance: the second pass sums d = t - mean and d^2, so what the rounded
// mean left over (3e-5 at mean 1000) is taken off the mean and the variance alike.
//
// Threads: one block of 256 per row. Rows of up to 4096 elements whose length is a multiple of 8 and
// which are 16-byte aligned stay in registers (2 units of 8 per thread): every byte is read once. Other
// rows are read once per pass, from L1 or L2 after the first. masked_mse_fwd_f32_mean: one block.
// Shared memory: 256 bytes. Bytes moved: rows * width * (4 + 2 sizeof(T)) forward, 2 sizeof(T) backward.
// FLOPs: 8 per element. Floor (11184 x 4096, bf16): 366 MB, 85 us at 4.3 TB/s; backward 43 us.
// Deterministic: fixed order within a row; row losses are added by one block in a fixed order.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int MSE_THREADS = 256, MSE_UNIT = 8, MSE_UNITS = 2;
constexpr float MSE_EPS = 1e-6f;

struct PatchStatistics {
    float mean, rest, rstd;
};

__device__ __forceinline__ PatchStatistics patch_statistics(float mean, float2 centred, int width) {
    const float n = static_cast<float>(width), rest = __fdividef(centred.x, n);
    const float var = __fdividef(centred.y - centred.x * rest, fmaxf(n - 1.0f, 1.0f));
    return {mean, rest, rsqrtf(fmaxf(var, 0.0f) + MSE_EPS)};
}

template <typename T>
__device__ __forceinline__ void masked_mse_registers(T* gradient, float* row_loss, const T* pred,
                                                     const float* target, int64_t row, int width,
                                                     float scale, bool norm_pix, float* scratch) {
    constexpr int N = MSE_UNIT;
    const int64_t at = row * width;
    float t[MSE_UNITS][N], p[MSE_UNITS][N];
#pragma unroll
    for (int u = 0; u < MSE_UNITS; ++u) {
        const int j = (u * MSE_THREADS + threadIdx.x) * N;
        if (j < width) {
            load_elements<N>(target, at + j, t[u]);
            load_elements<N>(pred, at + j, p[u]);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) t[u][k] = p[u][k] = 0.0f;
        }
    }
    PatchStatistics s{0.0f, 0.0f, 1.0f};
    if (norm_pix) {
        float sum = 0.0f, first = 0.0f, second = 0.0f;
#pragma unroll
        for (int u = 0; u < MSE_UNITS; ++u)
#pragma unroll
            for (int k = 0; k < N; ++k) sum += t[u][k];
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
        s = patch_statistics(mean, block_sum_pair(first, second, scratch), width);
    }
    float error = 0.0f;
#pragma unroll
    for (int u = 0; u < MSE_UNITS; ++u) {
        const int j = (u * MSE_THREADS + threadIdx.x) * N;
        if (j >= width) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float d = p[u][k] - (t[u][k] - s.mean - s.rest) * s.rstd;
            error += d * d;
            p[u][k] = d * scale;
        }
        store_elements<N>(gradient, at + j, p[u]);
    }
    error = block_sum(error, scratch);
    if (threadIdx.x == 0) row_loss[row] = __fdividef(error, static_cast<float>(width));
}

// Any row: one element per thread and step, one read of the target per pass.
template <typename T>
__device__ __forceinline__ void masked_mse_cached(T* gradient, float* row_loss, const T* pred,
                                                  const float* target, int64_t row, int width,
                                                  float scale, bool norm_pix, float* scratch) {
    const int64_t at = row * width;
    PatchStatistics s{0.0f, 0.0f, 1.0f};
    if (norm_pix) {
        float sum = 0.0f, first = 0.0f, second = 0.0f;
        for (int j = threadIdx.x; j < width; j += MSE_THREADS) sum += target[at + j];
        const float mean = __fdividef(block_sum(sum, scratch), static_cast<float>(width));
        for (int j = threadIdx.x; j < width; j += MSE_THREADS) {
            const float d = target[at + j] - mean;
            first += d, second += d * d;
        }
        s = patch_statistics(mean, block_sum_pair(first, second, scratch), width);
    }
    float error = 0.0f;
    for (int j = threadIdx.x; j < width; j += MSE_THREADS) {
        const float d = to_float(pred[at + j]) - (target[at + j] - s.mean - s.rest) * s.rstd;
        error += d * d;
        gradient[at + j] = from_float<T>(d * scale);
    }
    error = block_sum(error, scratch);
    if (threadIdx.x == 0) row_loss[row] = __fdividef(error, static_cast<float>(width));
}

template <typename T>
__device__ __forceinline__ void masked_mse_fwd(T* gradient, float* row_loss, const T* pred,
                                               const float* target, int width, float scale,
                                               int norm_pix) {
    __shared__ float scratch[2 * WARP];
    const bool vectors = width % MSE_UNIT == 0 && width <= MSE_THREADS * MSE_UNIT * MSE_UNITS &&
                         is_aligned_16(gradient) && is_aligned_16(pred) && is_aligned_16(target);
    if (vectors) {
        masked_mse_registers(gradient, row_loss, pred, target, blockIdx.x, width, scale,
                             norm_pix != 0, scratch);
    } else {
        masked_mse_cached(gradient, row_loss, pred, target, blockIdx.x, width, scale, norm_pix != 0,
                          scratch);
    }
}

// scale: 2 / (width * rows of the group).
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_fwd_f32(float* __restrict__ gradient, float* __restrict__ row_loss,
                       const float* __restrict__ pred, const float* __restrict__ target, int width,
                       float scale, int norm_pix) {
    masked_mse_fwd(gradient, row_loss, pred, target, width, scale, norm_pix);
}
GLMAE_KERNEL(masked_mse_fwd_f32, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_fwd_bf16(bf16* __restrict__ gradient, float* __restrict__ row_loss,
                        const bf16* __restrict__ pred, const float* __restrict__ target, int width,
                        float scale, int norm_pix) {
    masked_mse_fwd(gradient, row_loss, pred, target, width, scale, norm_pix);
}
GLMAE_KERNEL(masked_mse_fwd_bf16, 256)

// loss[0] = mean of row_loss [rows]. One block.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_fwd_f32_mean(float* __restrict__ loss, const float* __restrict__ row_loss,
                            int64_t rows) {
    __shared__ float scratch[WARP];
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t r = threadIdx.x; r < rows; r += MSE_THREADS) sum += row_loss[r];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) loss[0] = __fdividef(sum, static_cast<float>(rows));
}
GLMAE_KERNEL(masked_mse_fwd_f32_mean, 256)

// gradient [n] *= dloss[0], in place: it becomes dpred.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_bwd_f32(float* __restrict__ gradient, const float* __restrict__ dloss, int64_t n) {
    scale_tile(gradient, __ldg(dloss), n);
}
GLMAE_KERNEL(masked_mse_bwd_f32, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    masked_mse_bwd_bf16(bf16* __restrict__ gradient, const float* __restrict__ dloss, int64_t n) {
    scale_tile(gradient, __ldg(dloss), n);
}
GLMAE_KERNEL(masked_mse_bwd_bf16, 256)

}  // namespace GLMAE_NS
