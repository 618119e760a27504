// 3D convolution of channels-last volumes, 3 x 3 x 3, zero padding 1, stride 1, weight [out, c, 3, 3, 3]
// (cross-correlation, as torch.nn.functional.conv3d); x may be two matrices side by side:
//
//     fwd:         y[v, n] (+)= bias[n] + sum_{tap, c} x[v + tap, c] w[n, c, tap]
//     bwd_params:  parts of dw[n, c, tap] = sum_v dy[v, n] x[v + tap, c] and of db[n] = sum_v dy[v, n]
//     bwd_reduce:  dw (+)= sum of the parts, in PyTorch's layout; db likewise
//     init:        the weights in the order in which fwd reads them
//     init_columns, bwd_columns:  columns of [out, c] for 1 x 1 x 1 kernels, whose products are linear's
//     scores:      y = x w^T + bias of a 1 x 1 x 1 kernel in f32 from bf16: what a loss reads
//     bwd_round:   the gradient of scores in bf16, for linear's products
//
// The gradient of an input is fwd of dy, with the taps mirrored and the channels exchanged by init.
// x, y, dy f32 or bf16; w, b and their gradients f32; sums in f32, on tensor cores for bf16.
// Threads and shared memory: conv_brick.cuh, conv_fwd.cuh, conv_bwd.cuh. Variants `_n<N>`: output
// channels per block; `_few`: few channels of x, whose taps along w share a chunk. Rows of a multiple
// of 16 bytes are copied without registers, others by element.
//
// FLOP 54 rows c out each. Bytes from DRAM (e = element size): fwd e (rows (c + out) + 27 c out),
// bwd_params e rows (c + out) + 4 * 27 c out; from L2 2.8 times the x of that, and dy again for every
// chunk of 16 channels (8 in f32). init: (4 + e) 27 c out, with channels padded to a chunk and N.
// Floors on H200 (790 TFLOP/s, 4.3 TB/s, 28 TB/s from shared memory), 96^3 voxels, 16 to 16 channels,
// bf16: DRAM 13 us, tensor cores 15, shared memory (fwd 864 B of x and 864 of w a voxel for 32 voxels
// a warp: 864 + 13824 / 32 B) 41; 64 to 64 channels at 48^3: DRAM 7, tensor cores 31, shared memory 41;
// 1 to 16 at 96^3 (_few): DRAM 7, shared memory 14.
// Deterministic: sums run over chunks, taps and channels in order, over bricks in order within a
// part; parts depend on sizes alone. No atomics.
#include "conv_bwd.cuh"
#include "conv_fwd.cuh"
#include "gemm.cuh"

namespace GLMAE_NS {

// As many blocks as the bounds say must fit the register file and the shared memory of an SM.
#define CONV3D_FWD(...)                                                                              \
    (T* __restrict__ y, const T* __restrict__ a, const T* __restrict__ b,                            \
     const T* __restrict__ weights, const float* __restrict__ bias, int d, int h, int w,             \
     int width_a, int width_b, int out, int mode),                                                   \
    conv3d_fwd<__VA_ARGS__>(y, a, b, weights, bias, BrickGrid{d, h, w}, width_a, width_b, out, mode)
GLMAE_INSTANCE(conv3d_fwd_bf16_n16, bf16, (128, 4), CONV3D_FWD(T, 16, false))
GLMAE_INSTANCE(conv3d_fwd_bf16_n32, bf16, (128, 3), CONV3D_FWD(T, 32, false))
GLMAE_INSTANCE(conv3d_fwd_bf16_n64, bf16, (128, 2), CONV3D_FWD(T, 64, false))
GLMAE_INSTANCE(conv3d_fwd_f32_n16, float, (128, 4), CONV3D_FWD(T, 16, false))
GLMAE_INSTANCE(conv3d_fwd_f32_n32, float, (128, 3), CONV3D_FWD(T, 32, false))
GLMAE_INSTANCE(conv3d_fwd_f32_n64, float, (128, 2), CONV3D_FWD(T, 64, false))
GLMAE_INSTANCE(conv3d_fwd_bf16_few_n16, bf16, (128, 6), CONV3D_FWD(T, 16, true))
GLMAE_INSTANCE(conv3d_fwd_bf16_few_n32, bf16, (128, 6), CONV3D_FWD(T, 32, true))
GLMAE_INSTANCE(conv3d_fwd_f32_few_n16, float, (128, 4), CONV3D_FWD(T, 16, true))
GLMAE_INSTANCE(conv3d_fwd_f32_few_n32, float, (128, 4), CONV3D_FWD(T, 32, true))

#define CONV3D_BWD_PARAMS(few)                                                                 \
    (float* __restrict__ weight_parts, float* __restrict__ bias_parts,                         \
     const T* __restrict__ dy, const T* __restrict__ a, const T* __restrict__ b, int d, int h, \
     int w, int width_a, int width_b, int out, int bricks, int bricks_part),                   \
    conv3d_bwd_params<T, few>(weight_parts, bias_parts, dy, a, b, BrickGrid{d, h, w}, width_a, \
                              width_b, out, bricks, bricks_part)
GLMAE_TWINS(conv3d_bwd_params_f32, conv3d_bwd_params_bf16, (288, 2),
    CONV3D_BWD_PARAMS(false))
GLMAE_TWINS(conv3d_bwd_params_f32_few, conv3d_bwd_params_bf16_few, (288, 2),
    CONV3D_BWD_PARAMS(true))

GLMAE_TWINS(conv3d_init_f32, conv3d_init_bf16, (256),
    (T* __restrict__ packed, const float* __restrict__ weight, int64_t count, int tile, int n,
     int width_a, int width_b, int64_t first, int64_t n_stride, int64_t c_stride, int mirrored,
     int few),
    conv3d_init(packed, weight, count, tile, n, width_a, width_b, first, n_stride, c_stride,
                mirrored, few))

// Blocks of 32 neighbouring elements of [taps, out, channels], then those of [out] (dbias may be null).
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    conv3d_bwd_reduce_f32(float* dweight, float* dbias, const float* __restrict__ weight_parts,
                          const float* __restrict__ bias_parts, int parts, int out, int channels,
                          int weight_mode, int bias_mode) {
    __shared__ float scratch[8][WARP];
    // A weight has fewer than 2^31 elements, its parts together may have more.
    const int count = TAPS * out * channels, weight_blocks = (count + WARP - 1) / WARP;
    const int block = blockIdx.x, lane = threadIdx.x % WARP;
    if (block < weight_blocks) {
        const int i = block * WARP + lane, plane = out * channels;
        float sum = sum_of_parts(weight_parts, parts, count, i, scratch);
        if (threadIdx.x >= WARP || i >= count) return;
        const int at = i % plane * TAPS + i / plane;
        if (weight_mode == GLMAE_GRAD_ACCUMULATE) sum += dweight[at];
        dweight[at] = sum;
    } else {
        const int i = (block - weight_blocks) * WARP + lane;
        float sum = sum_of_parts(bias_parts, parts, out, i, scratch);
        if (threadIdx.x >= WARP || i >= out) return;
        if (bias_mode == GLMAE_GRAD_ACCUMULATE) sum += dbias[i];
        dbias[i] = sum;
    }
}
GLMAE_KERNEL(conv3d_bwd_reduce_f32, 256)

// packed [rows, width] = columns first .. first + width of weight [rows, channels].
template <typename T>
__device__ __forceinline__ void conv3d_init_columns(T* packed, const float* weight, int count,
                                                    int width, int channels, int first) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) packed[i] = from_float<T>(weight[i / width * channels + first + i % width]);
}
GLMAE_TWINS(conv3d_init_columns_f32, conv3d_init_columns_bf16, (256),
    (T* __restrict__ packed, const float* __restrict__ weight, int count, int width,
     int channels, int first),
    conv3d_init_columns(packed, weight, count, width, channels, first))

// The way back: those columns of dweight (+)= part [rows, width].
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    conv3d_bwd_columns_f32(float* __restrict__ dweight, const float* __restrict__ part,
                           int count, int width, int channels, int first, int mode) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int at = i / width * channels + first + i % width;
    dweight[at] = mode == GLMAE_GRAD_ACCUMULATE ? dweight[at] + part[i] : part[i];
}
GLMAE_KERNEL(conv3d_bwd_columns_f32, 256)

// y [rows, out] = x [rows, in] w [out, in]^T + bias. Tiles of 64 x 64 as linear's, here with f32 results:
// classes are few, so one column of tiles reads x once. Bytes: rows (2 in + 4 out); 8 volumes of 96^3,
// 48 channels, 14 classes: 1.08 GB, 250 us.
template <bool VECTOR>
__device__ __forceinline__ void conv3d_scores(float* y, const bf16* x, const bf16* weight,
                                              const float* bias, int rows, int out, int in) {
    const ForwardEpilogue<float> epilogue(y, nullptr, bias, nullptr, rows, out, false);
    gemm<MmaTile64x64, true, true, VECTOR>(epilogue, x, in, weight, in, rows, out, in, in);
}

#define CONV3D_SCORES(vectors)                                                     \
    (float* __restrict__ y, const T* __restrict__ x, const T* __restrict__ weight, \
     const float* __restrict__ bias, int rows, int out, int in),                   \
    conv3d_scores<vectors>(y, x, weight, bias, rows, out, in)
GLMAE_INSTANCE(conv3d_scores_bf16_64x64, bf16, (128, 4), CONV3D_SCORES(true))
GLMAE_INSTANCE(conv3d_scores_bf16_any, bf16, (128, 4), CONV3D_SCORES(false))

// Eight neighbours a thread.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    conv3d_bwd_round_bf16(bf16* __restrict__ rounded, const float* __restrict__ dy,
                          int64_t count) {
    constexpr int N = Vec<bf16>::N;
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (i >= count) return;
    const int left = count - i < N ? static_cast<int>(count - i) : N;
    const bool vectors = left == N && is_aligned_16(rounded) && is_aligned_16(dy);
    float v[N];
#pragma unroll
    for (int j = 0; j < N; j += 4) {
        float part[4];
        load_columns(part, dy, i + j, left - j, vectors);
#pragma unroll
        for (int e = 0; e < 4; ++e) v[j + e] = part[e];
    }
    store_columns(rounded, i, v, left, vectors);
}
GLMAE_KERNEL(conv3d_bwd_round_bf16, 256)

}  // namespace GLMAE_NS
