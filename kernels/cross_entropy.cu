// Softmax cross-entropy of rows with integer labels, value and gradient in one pass:
//
//     loss = -scale sum_r log softmax(z_r)[label_r]        dz_r = scale (softmax(z_r) - onehot(label_r)),  scale = 1 / rows
//
// logits, gradient [rows, k] f32, labels [rows] i32. The gradient is saved without the factor d loss, which
// cross_entropy_bwd reads from device memory later. A label outside of 0 .. k gives its row loss 0 and gradient 0:
// nothing is read by it.
//
// Numerics: log-sum-exp with the maximum taken out; logf for the sum.
// Threads: one warp per row, 8 rows per block; the row is read three times, from L1 after the first. Lanes take 16
// bytes each where k and the pointers allow, one element otherwise. cross_entropy_fwd_f32_sum: one block.
// Shared memory: 128 bytes in the sum. Bytes moved: 8 rows k forward, 8 rows k backward. FLOPs: 6 per element.
// Floor (64 x 1000): 0.5 MB: launch bound. Deterministic: fixed order within rows and over them.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

template <int N>
__device__ __forceinline__ void cross_entropy_row(float* gradient, float* row_loss, const float* z,
                                                  int label, int k, float scale, bool first_lane) {
    const int lane = threadIdx.x % WARP;
    float v[N], largest = -INFINITY, sum = 0.0f;
#pragma unroll 2
    for (int j = lane * N; j < k; j += WARP * N) {
        load_elements<N>(z, j, v);
#pragma unroll
        for (int e = 0; e < N; ++e) largest = fmaxf(largest, v[e]);
    }
    largest = warp_max(largest);
#pragma unroll 2
    for (int j = lane * N; j < k; j += WARP * N) {
        load_elements<N>(z, j, v);
#pragma unroll
        for (int e = 0; e < N; ++e) sum += __expf(v[e] - largest);
    }
    sum = warp_sum(sum);
    const bool counts = label >= 0 && label < k;
    if (first_lane) *row_loss = counts ? logf(sum) + (largest - z[label]) : 0.0f;
    const float factor = counts ? scale : 0.0f, inverse = inverse_of_sum(sum);
#pragma unroll 2
    for (int j = lane * N; j < k; j += WARP * N) {
        load_elements<N>(z, j, v);
#pragma unroll
        for (int e = 0; e < N; ++e)
            v[e] = factor * (__expf(v[e] - largest) * inverse - (j + e == label ? 1.0f : 0.0f));
        store_elements<N>(gradient, j, v);
    }
}

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    cross_entropy_fwd_f32(float* __restrict__ gradient, float* __restrict__ row_loss,
                          const float* __restrict__ logits, const int* __restrict__ labels,
                          int64_t rows, int k, float scale) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const bool first = threadIdx.x % WARP == 0;
    const int label = labels[row];
    if (k % 4 == 0 && is_aligned_16(gradient) && is_aligned_16(logits)) {
        cross_entropy_row<4>(gradient + row * k, row_loss + row, logits + row * k, label, k, scale, first);
    } else {
        cross_entropy_row<1>(gradient + row * k, row_loss + row, logits + row * k, label, k, scale, first);
    }
}
GLMAE_KERNEL(cross_entropy_fwd_f32, 256)

// loss = scale * sum of row_loss [rows].
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    cross_entropy_fwd_f32_sum(float* __restrict__ loss, const float* __restrict__ row_loss, int64_t rows,
                              float scale) {
    __shared__ float scratch[WARP];
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < rows; i += 256) sum += row_loss[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *loss = sum * scale;
}
GLMAE_KERNEL(cross_entropy_fwd_f32_sum, 256)

// gradient [n] *= dloss, in place: it becomes dlogits.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    cross_entropy_bwd_f32(float* __restrict__ gradient, const float* __restrict__ dloss, int64_t n) {
    scale_tile(gradient, __ldg(dloss), n);
}
GLMAE_KERNEL(cross_entropy_bwd_f32, 256)

}  // namespace GLMAE_NS
