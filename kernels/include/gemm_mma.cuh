// Tensor-core main loop: bf16 products, f32 sums, for sm_80 and later (mma.sync m16n8k16).
//
//     acc[M, N] += sum_k A[m, k] B[k, n]
//
// Each operand lies in memory K-major (its k are contiguous) or MN-major (its rows or columns are), so
// the three products of a linear layer need no transpose: forward A K-major, B K-major; gradient of x
// A K-major, B MN-major; gradient of the weight both MN-major. What fills a tile of shared memory is
// an operand type with `load(tile)`, called for tile after tile: DenseOperand here, a gather in a
// convolution.
//
// Threads: WARPS_M x WARPS_N warps, each owns WARP_M x WARP_N of the block's tile. cp.async runs
// STAGES - 1 tiles of depth K = 32 ahead. Shared memory: STAGES * (M + N) * K * 2 bytes.
// Swizzle: 16-byte chunks of a line are XORed with the line, so that the eight chunks of an ldmatrix
// and the chunks of a cp.async meet eight different groups of four banks.
#pragma once
#include "prelude.cuh"
#include "staging.cuh"

namespace GLMAE_NS {

template <int WARPS_M_, int WARPS_N_, int WARP_M_, int WARP_N_, int STAGES_>
struct MmaTile {
    using Element = bf16;
    static constexpr int WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_, K = 32;
    static constexpr int M = WARPS_M * WARP_M, N = WARPS_N * WARP_N;
    static constexpr int THREADS = WARP * WARPS_M * WARPS_N;
    // Fragments of a warp: 16 rows, 8 columns.
    static constexpr int FRAGMENTS_M = WARP_M / 16, FRAGMENTS_N = WARP_N / 8;
    static constexpr int A_ELEMENTS = M * K, STAGE_ELEMENTS = (M + N) * K;
    static constexpr int SHARED_BYTES = STAGES * STAGE_ELEMENTS * 2;
    static_assert(WARP_M % 32 == 0 && WARP_N % 16 == 0 && M % 64 == 0 && N % 64 == 0, "tile");
};

// Place, in elements, of a 16-byte chunk of a line of CHUNKS chunks (4, or a multiple of 8).
template <int CHUNKS>
__device__ __forceinline__ int swizzled(int line, int chunk) {
    static_assert(CHUNKS == 4 || CHUNKS % 8 == 0, "bank groups");
    const int key = CHUNKS == 4 ? line >> 1 & 3 : line & 7;
    return (line * CHUNKS + (chunk ^ key)) * 8;
}

// A matrix in memory as operand: `rows` rows (A) or columns (B) of which the tile starts at `first`.
// Tiles are loaded in order, from k_begin to k_end. VECTOR: data, ld * 2 bytes and the extent along
// contiguous elements are multiples of 16 bytes. Beyond the edges the tile gets zeros.
//
// A thread loads the same 16 bytes of a line every LINES lines (and, MN-major, of every panel of 64),
// so that all its addresses and swizzles differ by constants: this leaves four instructions per load.
template <int ROWS, int THREADS, bool K_MAJOR, bool VECTOR>
struct DenseOperand {
    static constexpr int K = 32, ACROSS = K_MAJOR ? K / 8 : 8, LINES = THREADS / ACROSS;
    static constexpr int PANELS = K_MAJOR ? 1 : ROWS / 64, LOADS = (K_MAJOR ? ROWS : K) / LINES;
    static_assert(LINES % 8 == 0 && (K_MAJOR ? ROWS : K) % LINES == 0, "swizzle keys are constant");
    const bf16* at;   // this thread's first chunk of the next tile
    int64_t ld;
    int k, k_end;     // of that chunk
    int rows;         // that are left from that chunk on
    int place;        // of that chunk in a tile, in elements

    __device__ __forceinline__ DenseOperand(const bf16* data, int64_t ld, int first, int rows,
                                            int k_begin, int k_end)
        : ld(ld), k_end(k_end) {
        const int line = threadIdx.x / ACROSS, chunk = threadIdx.x % ACROSS;
        const int row = first + (K_MAJOR ? line : chunk * 8);
        k = k_begin + (K_MAJOR ? chunk * 8 : line);
        this->rows = rows - row;
        at = data + (K_MAJOR ? row * ld + k : k * ld + row);
        place = swizzled<(K_MAJOR ? K : ROWS) / 8>(line, chunk);
    }

    __device__ __forceinline__ void load(bf16* tile) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
#pragma unroll
            for (int panel = 0; panel < PANELS; ++panel) {
                const int along = K_MAJOR ? k_end - k : rows - panel * 64;
                const bool inside = K_MAJOR ? i * LINES < rows : k + i * LINES < k_end;
                const int valid = inside ? max(0, min(along, 8)) : 0;
                copy(tile + place + i * LINES * (K_MAJOR ? K : ROWS) + panel * 64,
                     at + i * LINES * ld + panel * 64, valid);
            }
        }
        k += K;
        at += K_MAJOR ? K : K * ld;
    }

    static __device__ __forceinline__ void copy(bf16* to, const bf16* from, int valid) {
        if constexpr (VECTOR) {
            cp_async_16(to, from, valid > 0 ? 16 : 0);  // all or nothing: a predicate, no count
        } else {
            uint32_t pair[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t low = 2 * j < valid ? __bfloat16_as_ushort(from[2 * j]) : 0;
                const uint32_t high = 2 * j + 1 < valid ? __bfloat16_as_ushort(from[2 * j + 1]) : 0;
                pair[j] = low | high << 16;
            }
            *reinterpret_cast<uint4*>(to) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        }
    }
};

// A fragments of one k-step: matrices (rows 0-7 and 8-15) x (k 0-7 and 8-15), in that order.
template <typename Tile, bool K_MAJOR>
__device__ __forceinline__ void load_a(uint32_t (&a)[Tile::FRAGMENTS_M][4], const bf16* tile,
                                       int row0, int step) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
        if constexpr (K_MAJOR) {
            const int row = row0 + i * 16 + lane % 16, chunk = step * 2 + lane / 16;
            ldmatrix_x4(a[i], tile + swizzled<Tile::K / 8>(row, chunk));
        } else {
            const int line = step * 16 + lane / 16 * 8 + lane % 8;
            const int chunk = row0 / 8 + i * 2 + lane / 8 % 2;
            ldmatrix_x4_trans(a[i], tile + swizzled<Tile::M / 8>(line, chunk));
        }
    }
}

// B fragments of one k-step, two at a time: columns 0-7 (k 0-7, k 8-15), then columns 8-15.
template <typename Tile, bool K_MAJOR>
__device__ __forceinline__ void load_b(uint32_t (&b)[Tile::FRAGMENTS_N][2], const bf16* tile,
                                       int column0, int step) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_N; i += 2) {
        uint32_t r[4];
        if constexpr (K_MAJOR) {
            const int line = column0 + i * 8 + lane / 16 * 8 + lane % 8;
            ldmatrix_x4(r, tile + swizzled<Tile::K / 8>(line, step * 2 + lane / 8 % 2));
        } else {
            const int line = step * 16 + lane % 16, chunk = column0 / 8 + i + lane / 16;
            ldmatrix_x4_trans(r, tile + swizzled<Tile::N / 8>(line, chunk));
        }
        b[i][0] = r[0], b[i][1] = r[1], b[i + 1][0] = r[2], b[i + 1][1] = r[3];
    }
}

template <typename Tile>
struct MmaAccumulators {
    float c[Tile::FRAGMENTS_M][Tile::FRAGMENTS_N][4];
    // sum_k A[m, k], as a product with ones; the same in every column. Only kept when asked for.
    float row_sums[Tile::FRAGMENTS_M][4];
};

// k_count: length of the sum. ROW_SUMS: also sum the rows of A where `wants_sums` (uniform over a warp).
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, bool ROW_SUMS, typename A, typename B>
__device__ __forceinline__ void mma_mainloop(MmaAccumulators<Tile>& acc, A& a, B& b, int k_count,
                                             bf16* shared, bool wants_sums) {
    constexpr int STAGES = Tile::STAGES, STEPS = Tile::K / 16;
    const int warp = threadIdx.x / WARP;
    const int row0 = warp / Tile::WARPS_N * Tile::WARP_M;
    const int column0 = warp % Tile::WARPS_N * Tile::WARP_N;
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if constexpr (ROW_SUMS) acc.row_sums[i][e] = 0.0f;
#pragma unroll
            for (int j = 0; j < Tile::FRAGMENTS_N; ++j) acc.c[i][j][e] = 0.0f;
        }
    }
    const int tiles = (k_count + Tile::K - 1) / Tile::K;
    auto fill = [&](int t) {
        if (t < tiles) {
            bf16* stage = shared + static_cast<unsigned>(t) % STAGES * Tile::STAGE_ELEMENTS;
            a.load(stage);
            b.load(stage + Tile::A_ELEMENTS);
        }
        // Also an empty group: the number of groups tells which tile has arrived.
        cp_async_commit();
    };
#pragma unroll
    for (int t = 0; t < STAGES - 1; ++t) fill(t);

    for (int t = 0; t < tiles; ++t) {
        cp_async_wait<STAGES - 2>();
        // Tile t is there for all, and all are done with tile t - 1, whose place is filled next.
        __syncthreads();
        fill(t + STAGES - 1);
        const bf16* stage = shared + static_cast<unsigned>(t) % STAGES * Tile::STAGE_ELEMENTS;
        uint32_t fa[2][Tile::FRAGMENTS_M][4], fb[2][Tile::FRAGMENTS_N][2];
        load_a<Tile, A_K_MAJOR>(fa[0], stage, row0, 0);
        load_b<Tile, B_K_MAJOR>(fb[0], stage + Tile::A_ELEMENTS, column0, 0);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (step + 1 < STEPS) {
                load_a<Tile, A_K_MAJOR>(fa[(step + 1) % 2], stage, row0, step + 1);
                load_b<Tile, B_K_MAJOR>(fb[(step + 1) % 2], stage + Tile::A_ELEMENTS, column0,
                                        step + 1);
            }
#pragma unroll
            for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
#pragma unroll
                for (int j = 0; j < Tile::FRAGMENTS_N; ++j)
                    mma_m16n8k16_bf16(acc.c[i][j], fa[step % 2][i], fb[step % 2][j], acc.c[i][j]);
            }
            if constexpr (ROW_SUMS) {
                const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
                if (wants_sums) {
#pragma unroll
                    for (int i = 0; i < Tile::FRAGMENTS_M; ++i)
                        mma_m16n8k16_bf16(acc.row_sums[i], fa[step % 2][i], ones, acc.row_sums[i]);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();  // `shared` is free from here on
}

// Hands the sums to `out(row, column, values)`, Epilogue::COLUMNS neighbours of a row (16 bytes of
// output) at a time. They pass through shared memory, 32 rows of a warp at a time: fragments are 8
// bytes wide, global memory wants whole sectors.
template <typename Tile, typename Epilogue>
__device__ __forceinline__ void mma_store(const MmaAccumulators<Tile>& acc, float* shared, int row0,
                                          int column0, const Epilogue& out) {
    constexpr int N = Tile::WARP_N, C = Epilogue::COLUMNS, PER_ROW = N / C;
    static_assert(Tile::THREADS * N * 4 <= Tile::SHARED_BYTES, "staging");
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float* stage = shared + warp * (WARP * N);
    row0 += warp / Tile::WARPS_N * Tile::WARP_M;
    column0 += warp % Tile::WARPS_N * Tile::WARP_N;
    if constexpr (Epilogue::ROW_SUMS) {
        if (lane % 4 == 0 && out.wants_row_sums(column0)) {
#pragma unroll
            for (int i = 0; i < Tile::FRAGMENTS_M; ++i) {
                out.row_sum(row0 + i * 16 + lane / 4, acc.row_sums[i][0]);
                out.row_sum(row0 + i * 16 + lane / 4 + 8, acc.row_sums[i][2]);
            }
        }
    }
#pragma unroll
    for (int part = 0; part < Tile::WARP_M / 32; ++part) {
#pragma unroll
        for (int i = 0; i < 2; ++i) stage_fragments<N>(stage, i * 16, acc.c[part * 2 + i]);
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < WARP * PER_ROW; i += WARP) {
            const int row = i / PER_ROW, column = i % PER_ROW * C;
            float v[C];
            take_staged<N>(v, stage, row, column);
            out(row0 + part * 32 + row, column0 + column, v);
        }
        __syncwarp();
    }
}

}  // namespace GLMAE_NS
