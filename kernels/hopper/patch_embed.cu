// The patch embedding on Hopper: a product whose rows become rows of sequences, where each gets its position.
//
//     y[target[r]] = x[r] W^T + b + table[position[target[r]]]      y[i] = token + table[position[i]], i of token_rows
//
// x [m, k], W [n, k] bf16, by tensor maps; y [.., n] bf16; b, token [n] (b may be null), table [positions, n] f32; target [m]
// i32, -1 for a row that goes nowhere; position by rows of y. Rows of all matrices are multiples of 16 bytes.
//
// Variants `_hopper_<M>x<N>`: tile of a block; hopper/gemm.cuh has their design. Rows go where bulk stores cannot send them:
// a warp turns its 16 rows of a panel round in shared memory and writes each row's 128 bytes at once. Idle warps of the
// producer write the token's rows.
//
// Sums in f32, rounded once. Bytes of DRAM: (m k + n k + rows n) * 2, of the table as much as is used, from L2. FLOP: 2 m n k.
// Without it the rows go through memory once more: 2 m n * 2 bytes and a kernel (8000 x 768: 25 MB, 6 us).
// Deterministic: sums run over k in order; one writer per element.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/place_epilogue.cuh"
#endif

namespace GLMAE_NS {

#define HOPPER_PATCH_EMBED(Tile)                                                                   \
    (bf16* __restrict__ y, const __grid_constant__ GlmaeTensorMap a,                               \
     const __grid_constant__ GlmaeTensorMap b, const float* __restrict__ bias,                     \
     const float* __restrict__ token, const float* __restrict__ table,                             \
     const int* __restrict__ target, const int* __restrict__ position,                             \
     const int* __restrict__ token_rows, int tokens, int m, int n, int k),                         \
    wgmma_gemm<Tile, true, true>(                                                                  \
        PlaceEpilogue{y, bias, token, table, target, position, token_rows, tokens, m, n}, a, b, m, \
        n, k, k + Tile::K)
GLMAE_HOPPER(patch_embed_fwd_bf16_hopper_128x256, (384, 1), 2, HOPPER_PATCH_EMBED(WgmmaTile128x256))
GLMAE_HOPPER(patch_embed_fwd_bf16_hopper_128x192, (384, 1), 2, HOPPER_PATCH_EMBED(WgmmaTile128x192))
GLMAE_HOPPER(patch_embed_fwd_bf16_hopper_64x256, (384, 1), 2, HOPPER_PATCH_EMBED(WgmmaTile64x256))
GLMAE_HOPPER(patch_embed_fwd_bf16_hopper_128x128, (384, 1), 2, HOPPER_PATCH_EMBED(WgmmaTile128x128))
GLMAE_HOPPER(patch_embed_fwd_bf16_hopper_64x64, (384, 1), 1, HOPPER_PATCH_EMBED(WgmmaTile64x64))

}  // namespace GLMAE_NS
