// What both ways of backward attention on Hopper share (attention_bwd_whole.cuh, attention_bwd_long.cuh): what goes in and
// out, the rows of products, and dK and dV of a piece of the scores.
#pragma once
#include "attention.cuh"

namespace GLMAE_NS {

// What comes out and what belongs to rows, [heads, total].
struct AttentionBwdRows {
    bf16* dqkv;
    const float* lse;
    const float* delta;  // what bwd_kv reads
    int64_t total;
    int width;
    float scale;

    __device__ __forceinline__ int64_t at(const AttentionItem& item, int row) const {
        return item.head * total + item.start + row;
    }
    // Base 2, and so that rows that do not exist have no weight.
    __device__ __forceinline__ float lse2_of(const AttentionItem& item, int row) const {
        return row < item.length ? lse[at(item, row)] * ATTENTION_LOG2E : INFINITY;
    }
    __device__ __forceinline__ float delta_of(const AttentionItem& item, int row) const {
        return row < item.length ? delta[at(item, row)] : 0.0f;
    }
    // Rows of a warpgroup from `row0` on: the gradient of queries (0), keys (1) or values (2).
    template <int D>
    __device__ __forceinline__ void put(const AttentionItem& item, int row0, int which,
                                        unsigned char* buffer, const float* d, float scale) const {
        bf16* to = dqkv + static_cast<int64_t>(item.start + row0) * 3 * width + which * width +
                   item.head * D;
        rows_out<D>(to, 3 * width, buffer, d, scale, scale, item.length - row0);
    }
};

// Eight rows of 16 columns as the A of a product: what panel_load reads, rounded as it is.
template <int D>
__device__ __forceinline__ void operand_a(uint32_t (&a)[D / 16][4], const unsigned char* rows) {
    const int row0 = threadIdx.x % WARPGROUP / WARP * 16;
#pragma unroll
    for (int i = 0; i < D / 16; ++i)
        ldmatrix_x4(a[i], rows + panel_place<HeadRows<D>::SPAN>(row0, 2 * i));
}

// rowsum(a * b) of this thread's two rows of 64, from shared memory.
template <int D>
__device__ __forceinline__ void row_products(float (&sum)[2], const unsigned char* a,
                                             const unsigned char* b) {
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        float x[8], y[8];
        const int row0 = threadIdx.x % WARPGROUP / WARP * 16;
        panel_load<HeadRows<D>::SPAN>(a, row0, 2 * i, x);
        panel_load<HeadRows<D>::SPAN>(b, row0, 2 * i, y);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e / 2 % 2] += x[e] * y[e];
    }
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
}

constexpr uint32_t TWO_ONES = 0x3f803f80;  // bf16

// Where gradients of scores meet keys that have much in common. A row of dS adds up to 0, so that what all keys have in common
// is not seen by dQ; but delta comes from a rounded O, and then a row adds up to some e, and dQ is off by e times what is
// common. So dQ = dS K - e k, with k the mean of the first keys. Where dS goes through shared memory, tensor cores add it up:
// behind the columns of K there are eight more, of ones, which lie in memory of their own.
template <int D>
struct KeysAndOnes {
    using R = HeadRows<D>;
    static constexpr int N = R::SPAN / 2 + 8;     // columns
    static constexpr int SUM = R::SPAN / 4;       // of a thread's sums, the first one of the ones
    static constexpr int ONES_BYTES = 16 * R::SPAN;  // 16 rows, of which 16 bytes each are read
    uint64_t first;

    // By all threads of the block, before a barrier.
    __device__ static __forceinline__ void fill(unsigned char* ones) {
        if (threadIdx.x < ONES_BYTES / 16)
            reinterpret_cast<uint4*>(ones)[threadIdx.x] =
                make_uint4(TWO_ONES, TWO_ONES, TWO_ONES, TWO_ONES);
        fence_async();
    }
    // The ones lie behind the keys.
    __device__ __forceinline__ KeysAndOnes(const unsigned char* keys, const unsigned char* ones)
        : first(matrix_at<R::SPAN, 0>(keys) |
                static_cast<uint64_t>(shared_address(ones) - shared_address(keys)) >> 4 << 16) {}
    // Of 16 keys: the ones stay where they are.
    __device__ __forceinline__ uint64_t matrix(int of) const {
        return first + of * (R::NEXT_ROWS - (R::NEXT_ROWS << 16));
    }
};

// The mean of `count` rows (at most 64, those behind them are 0), by a warpgroup; a warp that `writes` puts it into `mean`,
// [D].
template <int D>
__device__ __forceinline__ void mean_of_rows(float* mean, uint64_t rows, int count, bool writes) {
    // Of their own for each product, as each has to have its A to itself.
    uint32_t ones[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) ones[i][0] = ones[i][1] = ones[i][2] = ones[i][3] = TWO_ONES;
    const float inverse = __fdividef(1.0f, static_cast<float>(count));
    const int lane = threadIdx.x % WARP;
    float sum[D / 2];
    settle(ones);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma<false>(sum, ones[i], rows + i * HeadRows<D>::NEXT_ROWS, i > 0);
    wgmma_commit();
    wgmma_wait<0>();
    if (writes && lane < 4) {
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
            store_pair_shared(mean + 8 * j + lane * 2, sum[4 * j] * inverse, sum[4 * j + 1] * inverse);
    }
}

// dq - e k; e of this thread's two rows.
template <int D>
__device__ __forceinline__ void without_common(float* dq, float low, float high,
                                               const float* mean) {
    const int column = fresh_lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 2; ++i)
        dq[i] -= (i / 2 % 2 ? high : low) * mean[i / 4 * 8 + column + i % 2];
}

// Where lse2 and delta of query `i` of 64 are, so that a thread finds those of its sums of 16 queries together.
__device__ __forceinline__ int query_place(int i) {
    return i / 16 * 16 + i % 8 / 2 * 4 + i / 8 % 2 * 2 + i % 2;
}
// A thread's four of a block of 16 queries: [8 queries or the next][e].
__device__ __forceinline__ void load_queries(float (&v)[2][2], const float* of, int block) {
    const float4 four = *reinterpret_cast<const float4*>(of + block * 16 + fresh_lane() % 4 * 4);
    v[0][0] = four.x, v[0][1] = four.y, v[1][0] = four.z, v[1][1] = four.w;
}

// dK and dV of 64 keys by N queries, of which `products` forms the scores and dP, both transposed, as two groups. The
// products before them are over when `release` is called; `keep` gets dS^T as the A of products. Where not all keys exist,
// `exists` says it of this thread's two: a score of 0 beyond the end may exceed lse without bound.
template <int D, int N, typename Products, typename Release, typename Keep>
__device__ __forceinline__ void attention_bwd_keys_step(
    float (&dk)[D / 2], float (&dv)[D / 2], uint64_t queries, uint64_t dout, const float* lse2,
    const float* delta, bool all_exist, const bool (&exists)[2], float scale2, int adds,
    const Products& products, const Release& release, const Keep& keep) {
    using R = HeadRows<D>;
    float s[N / 2], dp[N / 2];
    wgmma_fence();
    products(s, dp);
    wgmma_wait<1>();
    release();
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
        float shift[2][2];
        load_queries(shift, lse2, i);
#pragma unroll
        for (int e = 0; e < 8; ++e)
            s[8 * i + e] = score_exp2<D>(s[8 * i + e] * scale2 - shift[e / 4][e % 2], 8 * i + e);
    }
    if (!all_exist) {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) s[i] = exists[i / 2 % 2] ? s[i] : 0.0f;
    }
    uint32_t p[N / 16][4];
#pragma unroll
    for (int i = 0; i < N / 16; ++i) rounded(p[i], s + 8 * i);
    settle(p);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < N / 16; ++i)
        wgmma<false>(dv, p[i], dout + i * R::NEXT_ROWS, adds || i > 0);
    wgmma_commit();
    wgmma_wait<1>();
    uint32_t ds[N / 16][4];
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
        float mean[2][2];
        load_queries(mean, delta, i);
#pragma unroll
        for (int e = 0; e < 8; ++e) s[8 * i + e] *= dp[8 * i + e] - mean[e / 4][e % 2];
        rounded(ds[i], s + 8 * i);
    }
    // Registers of a product that is under way must not even be read.
    keep(ds);
    settle(ds);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < N / 16; ++i)
        wgmma<false>(dk, ds[i], queries + i * R::NEXT_ROWS, adds || i > 0);
    wgmma_commit();
}

}  // namespace GLMAE_NS
