// f32 main loop on the CUDA cores: acc[M, N] += sum_k A[m, k] B[k, n], k in order, for parity runs
// (`precision = "f32"`). The same operand layouts and epilogues as gemm_mma.cuh.
//
// Threads: (M / T) x (N / T), each owns T x T sums (T = 4 or 8: quarters of 4 x 4, spread over the
// tile so that a warp's 16-byte reads of shared memory meet different banks). Tiles of depth K = 16 lie
// k-by-k in shared memory, two of them: while one is used, the next is on its way through registers.
// Shared memory: 2 * K * (M + N + 8) * 4 bytes.
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

template <int M_, int N_, int T_>
struct SimtTile {
    using Element = float;
    static constexpr int M = M_, N = N_, T = T_, K = 16;
    static constexpr int THREADS_N = N / T, THREADS = M / T * THREADS_N;
    static constexpr int A_STRIDE = M + 4, B_STRIDE = N + 4;
    static constexpr int STAGE_ELEMENTS = K * (A_STRIDE + B_STRIDE);
    static constexpr int SHARED_BYTES = 2 * STAGE_ELEMENTS * 4;
    static_assert(M * K / 4 % THREADS == 0 && N * K / 4 % THREADS == 0, "loads per thread");
    static_assert(M <= THREADS, "a thread for every row sum");
};

// The thread's share of one tile of an operand on its way to shared memory. See DenseOperand; VECTOR
// here also needs lines whose length is a multiple of 4.
template <int ROWS, int THREADS, bool K_MAJOR, bool VECTOR>
struct SimtOperand {
    static constexpr int K = 16, LOADS = ROWS * K / 4 / THREADS, STRIDE = ROWS + 4;
    const float* data;
    int64_t ld;
    int first, rows;

    static __device__ __forceinline__ void place(int i, int& line, int& chunk) {
        constexpr int CHUNKS = (K_MAJOR ? K : ROWS) / 4;
        const int c = threadIdx.x + i * THREADS;
        line = c / CHUNKS, chunk = c % CHUNKS;
    }
    __device__ __forceinline__ void fetch(float (&v)[LOADS][4], int k0, int k_end) const {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            int line, chunk;
            place(i, line, chunk);
            const int row = (K_MAJOR ? first : k0) + line;
            const int column = (K_MAJOR ? k0 : first) + chunk * 4;
            const int row_end = K_MAJOR ? rows : k_end, column_end = K_MAJOR ? k_end : rows;
            const int valid = row < row_end ? column_end - column : 0;
            const float* from = data + (row * ld + column);
            if constexpr (VECTOR) {
                const float4 f = valid > 0 ? __ldg(reinterpret_cast<const float4*>(from))
                                           : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                v[i][0] = f.x, v[i][1] = f.y, v[i][2] = f.z, v[i][3] = f.w;
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) v[i][j] = j < valid ? __ldg(from + j) : 0.0f;
            }
        }
    }
    __device__ __forceinline__ void put(float* tile, const float (&v)[LOADS][4]) const {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            int line, chunk;
            place(i, line, chunk);
            if constexpr (K_MAJOR) {
#pragma unroll
                for (int j = 0; j < 4; ++j) tile[(chunk * 4 + j) * STRIDE + line] = v[i][j];
            } else {
                *reinterpret_cast<float4*>(tile + line * STRIDE + chunk * 4) =
                    make_float4(v[i][0], v[i][1], v[i][2], v[i][3]);
            }
        }
    }
};

template <typename Tile>
struct SimtAccumulators {
    float c[Tile::T][Tile::T];
    float row_sum;  // of row threadIdx.x, when asked for
};

// The thread's `i`-th row or column of EXTENT: quarters of four neighbours.
template <int T, int EXTENT>
__device__ __forceinline__ int simt_index(int thread, int i) {
    return i / 4 * (EXTENT * 4 / T) + thread * 4 + i % 4;
}

template <int T, int EXTENT>
__device__ __forceinline__ void simt_fragment(float (&v)[T], const float* line, int thread) {
#pragma unroll
    for (int i = 0; i < T; i += 4) {
        const float4 f =
            *reinterpret_cast<const float4*>(line + simt_index<T, EXTENT>(thread, i));
        v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
}

template <typename Tile, bool ROW_SUMS, typename A, typename B>
__device__ __forceinline__ void simt_mainloop(SimtAccumulators<Tile>& acc, const A& a, const B& b,
                                              int k_begin, int k_end, float* shared,
                                              bool wants_sums) {
    constexpr int T = Tile::T;
    const int tm = threadIdx.x / Tile::THREADS_N, tn = threadIdx.x % Tile::THREADS_N;
#pragma unroll
    for (int i = 0; i < T; ++i) {
#pragma unroll
        for (int j = 0; j < T; ++j) acc.c[i][j] = 0.0f;
    }
    if constexpr (ROW_SUMS) acc.row_sum = 0.0f;
    float next_a[A::LOADS][4], next_b[B::LOADS][4];
    a.fetch(next_a, k_begin, k_end);
    b.fetch(next_b, k_begin, k_end);
    const int tiles = (k_end - k_begin + Tile::K - 1) / Tile::K;
    for (int t = 0; t < tiles; ++t) {
        float* stage = shared + t % 2 * Tile::STAGE_ELEMENTS;
        float* stage_b = stage + Tile::K * Tile::A_STRIDE;
        a.put(stage, next_a);
        b.put(stage_b, next_b);
        // One barrier per tile: whoever writes tile t + 2 here has seen all threads pass the barrier
        // of tile t + 1, after their reads of tile t.
        __syncthreads();
        if constexpr (ROW_SUMS) {
            if (wants_sums && threadIdx.x < Tile::M) {
#pragma unroll 4
                for (int k = 0; k < Tile::K; ++k)
                    acc.row_sum += stage[k * Tile::A_STRIDE + threadIdx.x];
            }
        }
        if (t + 1 < tiles) {
            a.fetch(next_a, k_begin + (t + 1) * Tile::K, k_end);
            b.fetch(next_b, k_begin + (t + 1) * Tile::K, k_end);
        }
#pragma unroll
        for (int k = 0; k < Tile::K; ++k) {
            float fa[T], fb[T];
            simt_fragment<T, Tile::M>(fa, stage + k * Tile::A_STRIDE, tm);
            simt_fragment<T, Tile::N>(fb, stage_b + k * Tile::B_STRIDE, tn);
#pragma unroll
            for (int i = 0; i < T; ++i) {
#pragma unroll
                for (int j = 0; j < T; ++j) acc.c[i][j] = fmaf(fa[i], fb[j], acc.c[i][j]);
            }
        }
    }
}

// See mma_store; the sums already lie as 16 bytes of f32.
template <typename Tile, typename Epilogue>
__device__ __forceinline__ void simt_store(SimtAccumulators<Tile>& acc, int row0, int column0,
                                           const Epilogue& out) {
    static_assert(Epilogue::COLUMNS == 4, "f32 out");
    constexpr int T = Tile::T;
    const int tm = threadIdx.x / Tile::THREADS_N, tn = threadIdx.x % Tile::THREADS_N;
    if constexpr (Epilogue::ROW_SUMS) {
        if (threadIdx.x < Tile::M && out.wants_row_sums(column0))
            out.row_sum(row0 + static_cast<int>(threadIdx.x), acc.row_sum);
    }
#pragma unroll
    for (int i = 0; i < T; ++i) {
        const int row = row0 + simt_index<T, Tile::M>(tm, i);
#pragma unroll
        for (int j = 0; j < T; j += 4) {
            float v[4] = {acc.c[i][j], acc.c[i][j + 1], acc.c[i][j + 2], acc.c[i][j + 3]};
            out(row, column0 + simt_index<T, Tile::N>(tn, j), v);
        }
    }
}

}  // namespace GLMAE_NS
