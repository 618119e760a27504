// Blocks of 2 x 2 x 2 voxels of a doubled volume as rows of a matrix [rows, 8 out], column tap * out +
// channel: the operand of the gradients of a transposed convolution, gathered on its way to shared
// memory, and the epilogue that writes such rows to their eight places. See gemm_mma.cuh and
// gemm_simt.cuh for tiles, threads and the meaning of K_MAJOR and VECTOR.
#pragma once
#include "gemm.cuh"

namespace GLMAE_NS {

// h, w: of the volume that is not doubled. Rows of the doubled one are below 2^31.
struct Blocks {
    int h, w, out;

    // The first of the eight rows that belong to a row.
    __device__ __forceinline__ int first_child(int row) const {
        const int line = row / w;
        return (line / h * 2 * h + line % h) * 4 * w + (row - line * w) * 2;
    }
    // From the first child to that of a tap.
    __device__ __forceinline__ int shift(int tap) const {
        return (tap / 4 * 2 * h + tap / 2 % 2) * 2 * w + tap % 2;
    }
    // Element `column` of a row, counted from the first child's first element.
    __device__ __forceinline__ int64_t place(int column) const {
        const int tap = column / out;
        return static_cast<int64_t>(shift(tap)) * out + (column - tap * out);
    }
};

// N neighbouring columns of a block from `column` on, of which `valid` exist.
template <typename T, int N>
__device__ __forceinline__ void load_block(uint32_t (&bits)[N], const T* block,
                                           const Blocks& blocks, int column, int valid) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
        bits[j] = 0;
        if (j < valid) {
            const T x = block[blocks.place(column + j)];
            if constexpr (sizeof(T) == 2) {
                bits[j] = __bfloat16_as_ushort(x);
            } else {
                bits[j] = __float_as_uint(x);
            }
        }
    }
}

// bf16; as DenseOperand. VECTOR: `out` is a multiple of 8 and dy aligned.
template <int ROWS, int THREADS, bool K_MAJOR, bool VECTOR>
struct BlockOperand {
    using Dense = DenseOperand<ROWS, THREADS, K_MAJOR, VECTOR>;
    static constexpr int K = 32, LINES = Dense::LINES, LOADS = Dense::LOADS;
    static_assert(K_MAJOR || Dense::PANELS == 1, "one chunk of columns per thread");
    const bf16* data;
    Blocks blocks;
    int first_row;  // of this thread's next chunk
    int column;
    int row_end, column_end;
    int place;

    // K-major: rows from `first` of `extent`, columns from k_begin; else columns from `first` of
    // `extent`, rows from k_begin.
    __device__ __forceinline__ BlockOperand(const bf16* data, const Blocks& blocks, int first,
                                            int extent, int k_begin, int k_end)
        : data(data), blocks(blocks) {
        const int line = threadIdx.x / Dense::ACROSS, chunk = threadIdx.x % Dense::ACROSS;
        first_row = (K_MAJOR ? first : k_begin) + line;
        column = (K_MAJOR ? k_begin : first) + chunk * 8;
        row_end = K_MAJOR ? extent : k_end, column_end = K_MAJOR ? k_end : extent;
        place = swizzled<(K_MAJOR ? K : ROWS) / 8>(line, chunk);
    }

    __device__ __forceinline__ void load(bf16* tile) {
        const int across = min(column_end - column, 8);
        const int64_t within = VECTOR && across > 0 ? blocks.place(column) : 0;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int row = first_row + i * LINES;
            const int valid = row < row_end ? across : 0;
            const int child = row < row_end ? blocks.first_child(row) : 0;
            const bf16* block = data + static_cast<int64_t>(child) * blocks.out;
            bf16* to = tile + place + i * LINES * (K_MAJOR ? K : ROWS);
            if constexpr (VECTOR) {
                cp_async_16(to, block + within, valid > 0 ? 16 : 0);
            } else {
                uint32_t bits[8];
                load_block(bits, block, blocks, column, valid);
                store_whole(reinterpret_cast<uint4*>(to),
                            make_uint4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16,
                                       bits[4] | bits[5] << 16, bits[6] | bits[7] << 16));
            }
        }
        (K_MAJOR ? column : first_row) += K;
    }
};

// f32; as SimtOperand, whose way to shared memory it takes. VECTOR: `out` is a multiple of 4.
template <int ROWS, int THREADS, bool K_MAJOR, bool VECTOR>
struct SimtBlockOperand : SimtOperand<ROWS, THREADS, K_MAJOR, VECTOR> {
    using Base = SimtOperand<ROWS, THREADS, K_MAJOR, VECTOR>;
    Blocks blocks;

    __device__ __forceinline__ SimtBlockOperand(const float* data, const Blocks& blocks, int first,
                                                int extent)
        : Base{data, 0, first, extent}, blocks(blocks) {}

    __device__ __forceinline__ void fetch(float (&v)[Base::LOADS][4], int k0, int k_end) const {
#pragma unroll
        for (int i = 0; i < Base::LOADS; ++i) {
            int line, chunk;
            Base::place(i, line, chunk);
            const int row = (K_MAJOR ? this->first : k0) + line;
            const int column = (K_MAJOR ? k0 : this->first) + chunk * 4;
            const int row_end = K_MAJOR ? this->rows : k_end;
            const int column_end = K_MAJOR ? k_end : this->rows;
            const int valid = row < row_end ? column_end - column : 0;
            const int child = row < row_end ? blocks.first_child(row) : 0;
            const float* block = this->data + static_cast<int64_t>(child) * blocks.out;
            if constexpr (VECTOR) {
                const float4 f = valid > 0 ? __ldg(reinterpret_cast<const float4*>(
                                                 block + blocks.place(column)))
                                           : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                v[i][0] = f.x, v[i][1] = f.y, v[i][2] = f.z, v[i][3] = f.w;
            } else {
                uint32_t bits[4];
                load_block(bits, block, blocks, column, valid);
#pragma unroll
                for (int j = 0; j < 4; ++j) v[i][j] = __uint_as_float(bits[j]);
            }
        }
    }
};

// y, the doubled volume, from rows of [m, 8 out].
template <typename T>
struct BlockEpilogue {
    static constexpr int COLUMNS = Vec<T>::N;
    static constexpr bool ROW_SUMS = false;
    T* y;
    Blocks blocks;
    int m;
    bool vectors;

    __device__ __forceinline__ BlockEpilogue(T* y, const Blocks& blocks, int m)
        : y(y), blocks(blocks), m(m), vectors(blocks.out % COLUMNS == 0 && is_aligned_16(y)) {}

    __device__ __forceinline__ void operator()(int row, int column, float (&v)[COLUMNS]) const {
        if (row >= m || column >= 8 * blocks.out) return;
        T* block = y + static_cast<int64_t>(blocks.first_child(row)) * blocks.out;
        if (vectors) {
            // The intrinsic keeps the compiler from splitting the store.
            Vec<T> packed;
            packed.pack(v);
            __stcg(reinterpret_cast<uint4*>(block + blocks.place(column)), packed.raw);
        } else {
            // There are 8 out columns, a multiple of COLUMNS.
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) block[blocks.place(column + j)] = from_float<T>(v[j]);
        }
    }
};

// As gemm() of gemm.cuh, with blocks of `dy` as A and b as B, whose lines are k (ldb apart).
template <typename Tile, bool A_K_MAJOR, bool VECTOR, typename Epilogue>
__device__ __forceinline__ void block_gemm(const Epilogue& out, const typename Tile::Element* dy,
                                           const Blocks& blocks, const typename Tile::Element* b,
                                           int64_t ldb, int m, int n, int k, int k_part) {
    using T = typename Tile::Element;
    GLMAE_DYNAMIC_SHARED(T, shared);
    int row0, column0;
    tile_position(m, n, Tile::M, Tile::N, row0, column0);
    const int k_begin = blockIdx.y * k_part, k_end = min(k, k_begin + k_part);
    if constexpr (sizeof(T) == 2) {
        BlockOperand<Tile::M, Tile::THREADS, A_K_MAJOR, VECTOR> left(dy, blocks, row0, m, k_begin,
                                                                     k_end);
        DenseOperand<Tile::N, Tile::THREADS, false, VECTOR> right(b, ldb, column0, n, k_begin,
                                                                  k_end);
        MmaAccumulators<Tile> acc;
        mma_mainloop<Tile, A_K_MAJOR, false, false>(acc, left, right, k_end - k_begin, shared,
                                                    false);
        mma_store(acc, reinterpret_cast<float*>(shared), row0, column0, out);
    } else {
        const SimtBlockOperand<Tile::M, Tile::THREADS, A_K_MAJOR, VECTOR> left(dy, blocks, row0, m);
        const SimtOperand<Tile::N, Tile::THREADS, false, VECTOR> right{b, ldb, column0, n};
        SimtAccumulators<Tile> acc;
        simt_mainloop<Tile, false>(acc, left, right, k_begin, k_end, shared, false);
        simt_store(acc, row0, column0, out);
    }
}

}  // namespace GLMAE_NS
