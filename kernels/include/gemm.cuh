// General matrix products C[m, n] = sum_k A[m, k] B[k, n] with fused epilogues: bf16 on tensor cores
// (gemm_mma.cuh), f32 on CUDA cores (gemm_simt.cuh). m, n, k need not be multiples of anything.
//
// Grid: x = tiles of C, y = parts of k (each of `k_part`, a multiple of the tile's depth; 1 part: any
// k_part >= k). The order of every sum depends on the tile shape and k_part alone.
// Bytes moved: (m k ceil(n / tile N) + n k ceil(m / tile M)) elements from L2, from DRAM about
// (m k + k n + m n) elements; 2 m n k FLOP.
#pragma once
#include "gemm_epilogue.cuh"
#include "gemm_mma.cuh"
#include "gemm_simt.cuh"

namespace GLMAE_NS {

// Tiles are taken in bands of eight rows of tiles, column by column, so that the blocks that run at
// the same time share operands in L2.
__device__ __forceinline__ void tile_position(int m, int n, int tile_m, int tile_n, int& row0,
                                              int& column0) {
    constexpr int BAND = 8;
    const int tiles_m = (m + tile_m - 1) / tile_m, tiles_n = (n + tile_n - 1) / tile_n;
    const int band = blockIdx.x / (BAND * tiles_n), within = blockIdx.x % (BAND * tiles_n);
    const int height = min(BAND, tiles_m - band * BAND);
    row0 = (band * BAND + within % height) * tile_m;
    column0 = within / height * tile_n;
}

// The whole product, to be called by all threads of the block. lda, ldb: distance in elements between
// lines of memory. VECTOR: both operands allow 16-byte loads.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, bool VECTOR, typename Epilogue>
__device__ __forceinline__ void gemm(const Epilogue& out, const typename Tile::Element* a,
                                     int64_t lda, const typename Tile::Element* b, int64_t ldb,
                                     int m, int n, int k, int k_part) {
    using T = typename Tile::Element;
    GLMAE_DYNAMIC_SHARED(T, shared);
    int row0, column0;
    tile_position(m, n, Tile::M, Tile::N, row0, column0);
    const int k_begin = blockIdx.y * k_part, k_end = min(k, k_begin + k_part);
    bool wants_sums = false;
    if constexpr (sizeof(T) == 2) {
        DenseOperand<Tile::M, Tile::THREADS, A_K_MAJOR, VECTOR> left(a, lda, row0, m, k_begin,
                                                                     k_end);
        DenseOperand<Tile::N, Tile::THREADS, B_K_MAJOR, VECTOR> right(b, ldb, column0, n, k_begin,
                                                                      k_end);
        const int warp_column = threadIdx.x / WARP % Tile::WARPS_N * Tile::WARP_N;
        if constexpr (Epilogue::ROW_SUMS) wants_sums = out.wants_row_sums(column0 + warp_column);
        MmaAccumulators<Tile> acc;
        mma_mainloop<Tile, A_K_MAJOR, B_K_MAJOR, Epilogue::ROW_SUMS>(
            acc, left, right, k_end - k_begin, shared, wants_sums);
        mma_store(acc, reinterpret_cast<float*>(shared), row0, column0, out);
    } else {
        const SimtOperand<Tile::M, Tile::THREADS, A_K_MAJOR, VECTOR> left{a, lda, row0, m};
        const SimtOperand<Tile::N, Tile::THREADS, B_K_MAJOR, VECTOR> right{b, ldb, column0, n};
        if constexpr (Epilogue::ROW_SUMS) wants_sums = out.wants_row_sums(column0);
        SimtAccumulators<Tile> acc;
        simt_mainloop<Tile, Epilogue::ROW_SUMS>(acc, left, right, k_begin, k_end, shared,
                                                wants_sums);
        simt_store(acc, row0, column0, out);
    }
}

// The shapes that ops choose from (src/ops/gemm.rs holds the same table). Warps of 64 x 64 sums read a
// third less shared memory per product than warps of 64 x 32: (64 + 64) / 64^2 against (64 + 32) /
// (64 * 32) elements. Two blocks of 4 such warps at <= 255 registers fill the register file like two
// of 8 warps at <= 128 would.
using MmaTile128x192 = MmaTile<2, 4, 64, 48, 4>;  // 80 KiB, one block per SM
using MmaTile128x128 = MmaTile<2, 2, 64, 64, 4>;  // 64 KiB, two
using MmaTile64x64 = MmaTile<2, 2, 32, 32, 4>;    // 32 KiB, four
using SimtTile128x128 = SimtTile<128, 128, 8>;    // 33 KiB, two
using SimtTile64x64 = SimtTile<64, 64, 4>;        // 17 KiB, four

}  // namespace GLMAE_NS
