// Transposed 3D convolution 2 x 2 x 2, stride 2, of channels-last volumes, weight [in, out, 2, 2, 2] (as
// torch.nn.functional.conv_transpose3d):
//
//     fwd:         y[2 v + t, o] = sum_s x[v, s] w[s, o, t]
//     bwd_x:       dx[v, s] (+)= sum_{t, o} dy[2 v + t, o] w[s, o, t]
//     bwd_params:  parts of dw[t, o, s] = sum_v dy[2 v + t, o] x[v, s]
//     bwd_reduce:  dw (+)= sum of the parts, in PyTorch's layout
//     init:        w as [8 out, in], tap after tap
//
// No two voxels share an output: with the eight voxels of a block side by side, dy is a matrix
// [rows, 8 out] (conv_blocks.cuh), and these are the three products of a linear layer. fwd writes each
// 16 bytes to their place, bwd_x and bwd_params gather them; neither matrix exists in memory.
//
// x, y, dy f32 or bf16; w and its gradient f32; sums in f32. Variants `_64x64` and `_any` (sides whose
// rows do not allow 16-byte loads) and their threads and shared memory: gemm.cuh.
// FLOP 16 rows in out each. Bytes from DRAM (e = element size): e rows (in + 8 out) each, and weights
// e 8 in out (bwd_params 32 in out a part). init (4 + e) 8 in out. Floors on H200 (790 TFLOP/s, 4.3
// TB/s), 48^3 to 96^3, 32 to 16 channels, bf16: 8.2 us by bytes, 1.1 by FLOP.
// Deterministic: as linear.cu.
#include "conv_blocks.cuh"
#include "conv_bwd.cuh"

namespace GLMAE_NS {

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void conv_transpose_fwd(T* y, const T* x, const T* weight, int rows,
                                                   int in, const Blocks& blocks) {
    const BlockEpilogue<T> epilogue(y, blocks, rows);
    gemm<Tile, true, true, VECTOR>(epilogue, x, in, weight, in, rows, 8 * blocks.out, in, in);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void conv_transpose_bwd_x(T* dx, const T* dy, const T* weight, int rows,
                                                     int in, const Blocks& blocks, int mode) {
    const GradientEpilogue<T> epilogue(dx, nullptr, rows, in, mode);
    const int k = 8 * blocks.out;
    block_gemm<Tile, true, VECTOR>(epilogue, dy, blocks, weight, in, rows, in, k, k);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void conv_transpose_bwd_params(float* parts, const T* dy, const T* x,
                                                          int rows, int in, const Blocks& blocks,
                                                          int rows_part) {
    const int m = 8 * blocks.out;
    const PartialEpilogue epilogue(parts, nullptr, m, in, GLMAE_GRAD_OVERWRITE,
                                   GLMAE_GRAD_OVERWRITE);
    block_gemm<Tile, false, VECTOR>(epilogue, dy, blocks, x, in, m, in, rows, rows_part);
}

#define CONV_TRANSPOSE_FWD(...)                                                                  \
    (T* __restrict__ y, const T* __restrict__ x, const T* __restrict__ weight, int rows, int in, \
     int h, int w, int out),                                                                     \
    conv_transpose_fwd<__VA_ARGS__>(y, x, weight, rows, in, Blocks{h, w, out})
GLMAE_INSTANCE(conv_transpose_fwd_bf16_64x64, bf16, (128, 4), CONV_TRANSPOSE_FWD(MmaTile64x64, true))
GLMAE_INSTANCE(conv_transpose_fwd_bf16_any, bf16, (128, 4), CONV_TRANSPOSE_FWD(MmaTile64x64, false))
GLMAE_INSTANCE(conv_transpose_fwd_f32_64x64, float, (256, 3), CONV_TRANSPOSE_FWD(SimtTile64x64, true))
GLMAE_INSTANCE(conv_transpose_fwd_f32_any, float, (256, 2), CONV_TRANSPOSE_FWD(SimtTile64x64, false))

#define CONV_TRANSPOSE_BWD_X(...)                                                                  \
    (T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ weight, int rows, int in, \
     int h, int w, int out, int mode),                                                             \
    conv_transpose_bwd_x<__VA_ARGS__>(dx, dy, weight, rows, in, Blocks{h, w, out}, mode)
GLMAE_INSTANCE(conv_transpose_bwd_x_bf16_64x64, bf16, (128, 4), CONV_TRANSPOSE_BWD_X(MmaTile64x64, true))
GLMAE_INSTANCE(conv_transpose_bwd_x_bf16_any, bf16, (128, 4), CONV_TRANSPOSE_BWD_X(MmaTile64x64, false))
GLMAE_INSTANCE(conv_transpose_bwd_x_f32_64x64, float, (256, 3), CONV_TRANSPOSE_BWD_X(SimtTile64x64, true))
GLMAE_INSTANCE(conv_transpose_bwd_x_f32_any, float, (256, 2), CONV_TRANSPOSE_BWD_X(SimtTile64x64, false))

#define CONV_TRANSPOSE_BWD_PARAMS(...)                                                           \
    (float* __restrict__ parts, const T* __restrict__ dy, const T* __restrict__ x, int rows,     \
     int in, int h, int w, int out, int rows_part),                                              \
    conv_transpose_bwd_params<__VA_ARGS__>(parts, dy, x, rows, in, Blocks{h, w, out}, rows_part)
GLMAE_INSTANCE(conv_transpose_bwd_params_bf16_64x64, bf16, (128, 4), CONV_TRANSPOSE_BWD_PARAMS(MmaTile64x64, true))
GLMAE_INSTANCE(conv_transpose_bwd_params_bf16_any, bf16, (128, 4), CONV_TRANSPOSE_BWD_PARAMS(MmaTile64x64, false))
GLMAE_INSTANCE(conv_transpose_bwd_params_f32_64x64, float, (256, 3), CONV_TRANSPOSE_BWD_PARAMS(SimtTile64x64, true))
GLMAE_INSTANCE(conv_transpose_bwd_params_f32_any, float, (256, 2), CONV_TRANSPOSE_BWD_PARAMS(SimtTile64x64, false))

// Blocks of 32 neighbouring elements of [taps, out, in].
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    conv_transpose_bwd_reduce_f32(float* dweight, const float* __restrict__ part_sums, int parts,
                                  int in, int out, int mode) {
    __shared__ float scratch[8][WARP];
    const int count = 8 * out * in, i = blockIdx.x * WARP + threadIdx.x % WARP;
    float sum = sum_of_parts(part_sums, parts, count, i, scratch);
    if (threadIdx.x >= WARP || i >= count) return;
    const int column = i / in, at = (i % in * out + column % out) * 8 + column / out;
    if (mode == GLMAE_GRAD_ACCUMULATE) sum += dweight[at];
    dweight[at] = sum;
}
GLMAE_KERNEL(conv_transpose_bwd_reduce_f32, 256)

// One thread per element of packed [taps, out, in].
template <typename T>
__device__ __forceinline__ void conv_transpose_init(T* packed, const float* weight, int in,
                                                    int out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= 8 * out * in) return;
    const int column = i / in;
    packed[i] = from_float<T>(weight[(i % in * out + column % out) * 8 + column / out]);
}
GLMAE_TWINS(conv_transpose_init_f32, conv_transpose_init_bf16, (256),
    (T* __restrict__ packed, const float* __restrict__ weight, int in, int out),
    conv_transpose_init(packed, weight, in, out))

}  // namespace GLMAE_NS
