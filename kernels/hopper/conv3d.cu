// The 3 x 3 x 3 convolutions of conv3d.cu on Hopper, bf16, where rows of all matrices are multiples of 16 bytes:
//
//     fwd:         y (+)= conv([a, b]) + bias; the gradient of an input likewise      hopper/conv_fwd.cuh
//     bwd_params:  parts of dw, which conv3d_bwd_reduce adds                          hopper/conv_bwd.cuh
//     init:        the weights in the order in which fwd reads them                  hopper/conv_weights.cuh
//
// x and dy [volumes, d, h, w, channels] by tensor maps of five dimensions (halos in boxes of 8 channels, dy of bwd_params in
// boxes of N), zeros around a volume from the copy engine; y [voxels, out] bf16, bias and parts f32.
//
// Variants `_n<N>`: output channels of a block. Bricks: 8 x 8 x 8 voxels, of fwd_n96 and bwd_params 8 x 8 x 4.
// Grid: fwd and init, blocks along x that take one item after the other; bwd_params, a block for each item along y and z, since
// its sums leave no registers for a loop around them. 1 producer warpgroup, 2 that multiply. Shared: src/ops/conv3d/hopper.rs.
//
// FLOP and bytes of DRAM: as conv3d.cu says. From L2, twice 2 to 2.3 times x (a box of 16 bytes a voxel takes half of a sector)
// for every N output channels, and for fwd 27 * 32 N bytes of weights for every brick and chunk. Shared memory, cycles for 64
// voxels and 16 channels: fwd 27 (16 + N / 4), bwd_params 28 (16 + N / 4); tensor cores 27 N / 2 and 28 N / 2.
// Deterministic: sums run over chunks, planes and taps in order, over bricks in order within a part; parts depend on sizes
// alone. No atomics.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/conv_bwd.cuh"
#include "hopper/conv_fwd.cuh"
#include "hopper/conv_weights.cuh"
#endif

namespace GLMAE_NS {

#define HOPPER_CONV3D_FWD(Tile)                                                                     \
    (bf16* __restrict__ y, const __grid_constant__ GlmaeTensorMap a,                                \
     const __grid_constant__ GlmaeTensorMap b, const bf16* __restrict__ weights,                    \
     const float* __restrict__ bias, int volumes, int d, int h, int w, int width_a, int width_b,    \
     int out, int mode),                                                                            \
    conv_fwd_hopper<Tile>(ConvResult{y, bias, out, mode == GLMAE_GRAD_ACCUMULATE},                  \
                          ConvInputs{a, b, {width_a, width_b}}, weights, ConvGrid{d, h, w, volumes})
GLMAE_HOPPER(conv3d_fwd_bf16_hopper_n16, (384, 1), 1, HOPPER_CONV3D_FWD(ConvFwd16))
GLMAE_HOPPER(conv3d_fwd_bf16_hopper_n32, (384, 1), 1, HOPPER_CONV3D_FWD(ConvFwd32))
GLMAE_HOPPER(conv3d_fwd_bf16_hopper_n48, (384, 1), 1, HOPPER_CONV3D_FWD(ConvFwd48))
GLMAE_HOPPER(conv3d_fwd_bf16_hopper_n64, (384, 1), 1, HOPPER_CONV3D_FWD(ConvFwd64))
GLMAE_HOPPER(conv3d_fwd_bf16_hopper_n96, (384, 1), 1, HOPPER_CONV3D_FWD(ConvFwd96))

#define HOPPER_CONV3D_BWD_PARAMS(Tile)                                                              \
    (float* __restrict__ parts, const __grid_constant__ GlmaeTensorMap dy,                          \
     const __grid_constant__ GlmaeTensorMap a, const __grid_constant__ GlmaeTensorMap b,            \
     int volumes, int d, int h, int w, int width_a, int width_b, int out, int bricks_part),         \
    conv_bwd_hopper<Tile>(ConvParts{parts, out, bricks_part}, dy, ConvInputs{a, b, {width_a, width_b}}, \
                          ConvGrid{d, h, w, volumes})
GLMAE_HOPPER(conv3d_bwd_params_bf16_hopper_n16, (384, 1), 1, HOPPER_CONV3D_BWD_PARAMS(ConvBwd16))
GLMAE_HOPPER(conv3d_bwd_params_bf16_hopper_n32, (384, 1), 1, HOPPER_CONV3D_BWD_PARAMS(ConvBwd32))
GLMAE_HOPPER(conv3d_bwd_params_bf16_hopper_n48, (384, 1), 1, HOPPER_CONV3D_BWD_PARAMS(ConvBwd48))
GLMAE_HOPPER(conv3d_bwd_params_bf16_hopper_n64, (384, 1), 1, HOPPER_CONV3D_BWD_PARAMS(ConvBwd64))

// Bytes: 4 + 2 for each of 27 c out, with channels padded to a chunk and N. A weight of 48 by 48 channels: 0.4 MB, 0.1 us.
GLMAE_HOPPER(conv3d_init_bf16_hopper, (256, 1), 1,
    (bf16* __restrict__ packed, const float* __restrict__ weight, int pieces, int tile, int out,
     int width_a, int width_b, int64_t first, int64_t n_stride, int64_t c_stride, int mirrored),
    conv_pack_weights(packed, ConvWeights{weight, first, n_stride, c_stride, mirrored != 0}, pieces,
                      tile, out, ConvWidths{width_a, width_b}))

}  // namespace GLMAE_NS
