// Sums on their way from the fragments of a tensor-core product to memory. Fragments are 8 bytes wide, global memory
// wants whole sectors, so that they pass through shared memory: rows of COLUMNS f32, in pieces of 16 bytes.
//
//     row     pieces of a row of 64            a fragment's lanes write rows lane / 4, 8 bytes each;
//     0       0  1  2  3  4  5  6  7  8 ...    a request is half a warp, four rows, and meets each bank once
//     1       2  3  0  1  6  7  4  5 10 ...
//     2       4  5  6  7  0  1  2  3 12 ...    rows are read 16 bytes a lane, eight lanes a request
//     3       6  7  4  5  2  3  0  1 14 ...
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

// Place of a piece, in floats. Pairs of pieces change places by the row; where rows are an odd number of half turns
// through the banks, by every second row.
template <int COLUMNS>
__device__ __forceinline__ int staged(int row, int piece) {
    static_assert(COLUMNS % 16 == 0, "whole pairs of fragments");
    const int key = COLUMNS % 32 == 0 ? row & 3 : row >> 1 & 1;
    return row * COLUMNS + (piece ^ 2 * key) * 4;
}

// One warp's fragments of 16 rows from `row0` on, side by side.
template <int COLUMNS, int FRAGMENTS>
__device__ __forceinline__ void stage_fragments(float* stage, int row0,
                                                const float (&c)[FRAGMENTS][4]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < FRAGMENTS; ++j) {
        float* at = stage + staged<COLUMNS>(row0 + lane / 4, j * 2 + lane % 4 / 2) + lane % 2 * 2;
        store_pair_shared(at, c[j][0], c[j][1]);
        // Eight rows further the key is the same.
        store_pair_shared(at + 8 * COLUMNS, c[j][2], c[j][3]);
    }
}

// N neighbours of a row, from `column` on. Where a lane takes two pieces, every second four lanes take the second one
// first: their first ones lie in the same banks as those of the four lanes before.
template <int COLUMNS, int N>
__device__ __forceinline__ void take_staged(float (&v)[N], const float* stage, int row,
                                            int column) {
    static_assert(N == 4 || N == 8, "16 bytes of f32 or bf16");
    const int swap = N == 8 ? threadIdx.x >> 2 & 1 : 0;
    float4 f[N / 4];
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
        const int piece = column / 4 + (j ^ swap);
        f[j] = load_whole(reinterpret_cast<const float4*>(stage + staged<COLUMNS>(row, piece)));
    }
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
        const float4 q = swap ? f[N / 4 - 1 - j] : f[j];
        v[4 * j] = q.x, v[4 * j + 1] = q.y, v[4 * j + 2] = q.z, v[4 * j + 3] = q.w;
    }
}

}  // namespace GLMAE_NS
