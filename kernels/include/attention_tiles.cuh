// Tiles of bf16 rows in shared memory, and the fragments of mma.m16n8k16 that are read from them.
//
// A tile row holds D elements, D / 8 chunks of 16 bytes, without padding. ldmatrix reads one chunk of
// eight neighbouring rows at a time; the chunks are permuted within a row (XOR) so that those eight
// lie in eight different groups of four banks, for rows of 64, 96 and 128 bytes alike.
#pragma once

namespace GLMAE_NS {

constexpr float ATTENTION_LOG2E = 1.44269504088896340736f;
constexpr float ATTENTION_LN2 = 0.69314718055994530942f;

// 2^x in one instruction: relative error 2^-22, subnormal results are 0, -inf gives 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// The thread and the lane, read anew: what is computed from them is not kept in registers throughout a
// loop that has none to spare.
__device__ __forceinline__ int fresh_thread() {
#ifdef __CUDACC__
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
#else
    return static_cast<int>(threadIdx.x);
#endif
}
__device__ __forceinline__ int fresh_lane() { return fresh_thread() % WARP; }

template <int D>
struct Rows {
    static constexpr int CHUNKS = D / 8;
    static_assert(CHUNKS == 4 || CHUNKS == 6 || CHUNKS == 8, "rows of 64, 96 or 128 bytes");

    // Element offset of a 16-byte chunk.
    __device__ static __forceinline__ int at(int row, int chunk) {
        const int key = CHUNKS == 8 ? row & 7 : CHUNKS == 6 ? row >> 2 & 1 : row >> 1 & 3;
        return row * D + (chunk ^ key) * 8;
    }

    // The same of chunk 2 * pair + odd; one instruction apart for different pairs.
    __device__ static __forceinline__ int at_pair(int row, int odd, int pair) {
        return CHUNKS == 6 ? at(row, odd) + 16 * pair : at(row, odd) ^ 16 * pair;
    }

    // A operand (16 x 16, rows `row`.., columns 16 * k..) stored [m][k].
    __device__ static __forceinline__ void load_a(uint32_t (&a)[4], const bf16* tile, int row, int k,
                                                  int lane) {
        ldmatrix_x4(a, tile + at_pair(row + lane % 16, lane / 16, k));
    }
    // A operand stored [k][m]: rows 16 * m.. of the operand are columns of the tile.
    __device__ static __forceinline__ void load_a_trans(uint32_t (&a)[4], const bf16* tile, int m,
                                                        int row, int lane) {
        ldmatrix_x4_trans(a, tile + at_pair(row + lane / 16 * 8 + lane % 8, lane / 8 % 2, m));
    }
    // Two B operands (16 x 8) of neighbouring columns, stored [n][k]: tile rows row.. and row + 8..
    __device__ static __forceinline__ void load_b(uint32_t (&b)[2][2], const bf16* tile, int row,
                                                  int k, int lane) {
        uint32_t r[4];
        ldmatrix_x4(r, tile + at_pair(row + lane / 16 * 8 + lane % 8, lane / 8 % 2, k));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
    // The same, stored [k][n]: tile rows are k, columns 16 * n.. of the tile are n.
    __device__ static __forceinline__ void load_b_trans(uint32_t (&b)[2][2], const bf16* tile, int row,
                                                        int n, int lane) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, tile + at_pair(row + lane % 16, lane / 16, n));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
    // Two B operands below one another (k = row.. and row + 16..) of the 8 columns of one chunk.
    __device__ static __forceinline__ void load_b_trans_tall(uint32_t (&b)[2][2], const bf16* tile,
                                                             int row, int chunk) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, tile + at(row + threadIdx.x % WARP, chunk));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }

    // Starts the copy of `rows` rows from global memory, `stride` elements apart; rows from `valid` on
    // arrive as zeros and are not read.
    template <int THREADS>
    __device__ static __forceinline__ void copy_async(bf16* tile, const bf16* from, int stride,
                                                      int rows, int valid) {
        for (int i = fresh_thread(); i < rows * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const bool exists = row < valid;
            cp_async_16(tile + at(row, chunk), from + (exists ? row : 0) * stride + chunk * 8,
                        exists ? 16 : 0);
        }
    }

    // A warp writes two neighbouring values of accumulator rows lane / 4 and lane / 4 + 8.
    __device__ static __forceinline__ void store_c(bf16* tile, int row, int chunk, const float (&c)[4],
                                                   int lane) {
        uint32_t* low = reinterpret_cast<uint32_t*>(tile + at(row + lane / 4, chunk));
        uint32_t* high = reinterpret_cast<uint32_t*>(tile + at(row + lane / 4 + 8, chunk));
        low[lane % 4] = Vec<bf16>::pack_bf16(c[0], c[1]);
        high[lane % 4] = Vec<bf16>::pack_bf16(c[2], c[3]);
    }
    // One warp copies `rows` rows of chunks first .. first + COUNT to global memory, those before
    // `valid` only.
    template <int COUNT>
    __device__ static __forceinline__ void copy_out(bf16* to, int stride, const bf16* tile, int row,
                                                    int rows, int first, int valid) {
        for (int i = threadIdx.x % WARP; i < rows * COUNT; i += WARP) {
            const int r = i / COUNT, chunk = first + i % COUNT;
            if (r >= valid) continue;
            const uint4 v = *reinterpret_cast<const uint4*>(tile + at(row + r, chunk));
            *reinterpret_cast<uint4*>(to + r * stride + chunk * 8) = v;
        }
    }
};

// Two neighbouring 16 x 8 accumulators, rounded, are the A operand of a following product.
__device__ __forceinline__ void accumulator_as_a(uint32_t (&a)[4], const float (&left)[4],
                                                 const float (&right)[4]) {
    a[0] = Vec<bf16>::pack_bf16(left[0], left[1]);
    a[1] = Vec<bf16>::pack_bf16(left[2], left[3]);
    a[2] = Vec<bf16>::pack_bf16(right[0], right[1]);
    a[3] = Vec<bf16>::pack_bf16(right[2], right[3]);
}

// Maximum or sum over the four lanes that share an accumulator row.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

// One entry of the work list: a tile that begins at row `first` of the sequence of `length` rows that
// begins at row `start` of the packed matrix. Offsets within a sequence are 32-bit: the launcher refuses
// sequences of 2^31 elements or more.
struct AttentionTile {
    int length, first;
    int row_stride, width;  // elements of a row of qkv and dqkv (3 C), of out and dout (C)
    int64_t qkv_origin, out_origin, stat_origin;

    // blockIdx.x counts heads fastest.
    __device__ __forceinline__ AttentionTile(const int* tiles, int64_t total, int heads, int d) {
        const int item = static_cast<int>(blockIdx.x) / heads;
        const int head = static_cast<int>(blockIdx.x) - item * heads;
        const int4 t = __ldg(reinterpret_cast<const int4*>(tiles) + item);
        length = t.y, first = t.z;
        width = heads * d, row_stride = 3 * width;
        qkv_origin = static_cast<int64_t>(t.x) * row_stride + head * d;
        out_origin = static_cast<int64_t>(t.x) * width + head * d;
        stat_origin = head * total + t.x;
    }
    // Offset of this head's part of row `row` of the sequence: of q (0), k (1) or v (2) in qkv.
    __device__ __forceinline__ int64_t qkv_at(int row, int which) const {
        return qkv_origin + (row * row_stride + which * width);
    }
    __device__ __forceinline__ int64_t out_at(int row) const { return out_origin + row * width; }
    // Offset of a row's entry in lse and delta, [heads, total].
    __device__ __forceinline__ int64_t stat_at(int row) const { return stat_origin + row; }
};

}  // namespace GLMAE_NS
