// An epilogue for hopper/gemm.cuh: rows of sums get positions and go to places of their own, where bulk stores cannot send
// them (patch_embed.cu). Every warp has its 16 rows of a panel to itself, so that nobody waits for another one:
//
//     sums        a thread has 2 of every 8 columns, of rows r and r + 8      --->  panel, through stmatrix
//     row of y    8 threads have 16 bytes each of a row's 64 columns          <---  panel
#pragma once
#include "gemm_epilogue.cuh"
#include "rows.cuh"

namespace GLMAE_NS {

struct PlaceEpilogue {
    static constexpr bool ROW_SUMS = false, FILLS = true;
    static constexpr int PRODUCER_REGISTERS = 40;
    static constexpr int COLUMNS = 64;
    bf16* y;
    const float* bias;  // [n], or null
    const float* token;
    const float* table;
    const int* target;
    const int* position;
    const int* token_rows;
    int tokens, m, n;

    // Rows of the token, by one of three warps of each block.
    __device__ __forceinline__ void fill(int warp) const {
#pragma unroll 1
        for (int i = blockIdx.x * 3 + warp; i < tokens; i += gridDim.x * 3) {
            const int64_t row = __ldg(token_rows + i);
            const float* at = table + static_cast<int64_t>(__ldg(position + row)) * n;
#pragma unroll 1
            for (int column = threadIdx.x % WARP * 8; column < n; column += WARP * 8) {
                float v[8], p[8];
                load_elements<8>(token, column, v);
                load_elements<8>(at, column, p);
#pragma unroll
                for (int e = 0; e < 8; ++e) v[e] += p[e];
                store_elements<8>(y, row * n + column, v);
            }
        }
    }

    template <typename Tile>
    __device__ __forceinline__ void fetch(typename Tile::Panels&, const WgmmaItem&) const {}

    template <typename Tile>
    __device__ __forceinline__ void finish(typename Tile::Panels& panels, const WgmmaItem& item,
                                           float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
        const int lane = threadIdx.x % WARP;
        // Of this thread's two rows of each product: where they go, and the position they get.
        int to[Tile::PRODUCTS][2], at[Tile::PRODUCTS][2];
#pragma unroll
        for (int t = 0; t < Tile::PRODUCTS; ++t) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = item.row0 + t * 64 + panels.row0() + lane / 4 + h * 8;
                to[t][h] = row < m ? __ldg(target + row) : -1;
                at[t][h] = to[t][h] >= 0 ? __ldg(position + to[t][h]) : 0;
            }
        }
        unsigned char* panel = panels.slot(0);
#pragma unroll
        for (int p = 0; p < Tile::N / COLUMNS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            const PanelBias columns(bias, column0, n);
            // What was there has been read.
            __syncwarp();
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
                const float* from[2];
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    from[h] = table + static_cast<int64_t>(at[t][h]) * n + column0 + lane % 4 * 2;
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    float v[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = d[t][p * 32 + j * 8 + i];
                    columns.add(v, 2 * j);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int column = j * 16 + i / 2 * 8;
                        if (column0 + column + lane % 4 * 2 >= n) continue;
                        const float2 add =
                            __ldg(reinterpret_cast<const float2*>(from[i % 2] + column));
                        v[2 * i] += add.x, v[2 * i + 1] += add.y;
                    }
                    panel_store(panel, t * 64 + panels.row0(), 2 * j, v);
                }
            }
            __syncwarp();
            const int piece = lane % 8, column = column0 + piece * 8;
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int row = i * 4 + lane / 8;
                    const int64_t place = __shfl_sync(0xffffffffu, to[t][i / 2], row % 8 * 4);
                    if (place < 0 || column >= n) continue;
                    const uint4 whole = load_whole(reinterpret_cast<const uint4*>(
                        panel + swizzled_128(t * 64 + panels.row0() + row, piece)));
                    store_whole(reinterpret_cast<uint4*>(y + place * n + column), whole);
                }
            }
        }
    }
};

}  // namespace GLMAE_NS
