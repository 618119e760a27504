// Backward attention on Hopper up to 256 rows: a block has a head of a sequence, its keys, values, queries and dO in shared
// memory, and computes the scores once:
//
//     for 32 queries at a time   S^T = K Q^T, dP^T = V dO^T (64 keys each);  dV += P^T dO,  dK += dS^T Q;  dS^T is put aside
//     for every 128 queries      dQ = scale dS K over all keys, 64 queries for each warpgroup
//
// A warpgroup owns 64 keys, or 128 where there are more than 128: their dK and dV stay in its registers. Five products, no
// partial sums, each byte read once; O comes along for delta = rowsum(dO * O) and makes room for dS. Of narrow sequences
// each warpgroup has one head by itself, and two items are in shared memory at a time.
//
//     shared memory   | Q 4 x 64 rows | K | V | dO | dS^T 2 x 256 keys x 64 queries, before that O | dQ on its way out |
#pragma once
#include "attention_bwd.cuh"

namespace GLMAE_NS {

template <int D>
struct AttentionBwdWholeShared {
    using R = HeadRows<D>;
    static constexpr int CHUNKS = 4, ROWS = CHUNKS * 64;
    static constexpr int DS_CHUNK = 64 * SWIZZLED_ROW;  // 64 keys, 64 queries
    static constexpr int DS_AT = 4 * CHUNKS * R::BOX;
    static constexpr int OUT_AT = DS_AT + 2 * CHUNKS * DS_CHUNK;
    static constexpr int ONES_AT = OUT_AT + 2 * R::BOX;
    static constexpr int FLOATS_AT = ONES_AT + KeysAndOnes<D>::ONES_BYTES;
    static constexpr int MEANS_AT = FLOATS_AT + 2 * ROWS * 4;
    static constexpr int BARRIERS_AT = MEANS_AT + 2 * 64 * 4;
    static constexpr int BYTES = BARRIERS_AT + 4 * 8;
    static_assert(BYTES <= 227 * 1024, "an SM");
    unsigned char* base;

    // 64 rows of queries (0), keys (1), values (2) or dO (3).
    __device__ __forceinline__ unsigned char* rows(int which, int chunk) const {
        return base + (which * CHUNKS + chunk) * R::BOX;
    }
    // O of those rows: of a half of the chunks in each half of the memory of dS.
    __device__ __forceinline__ unsigned char* out(int chunk) const {
        return ds(chunk / 2, 0) + chunk % 2 * R::BOX;
    }
    // dS of 64 queries and all keys, from a chunk of keys on.
    __device__ __forceinline__ unsigned char* ds(int half, int chunk) const {
        return base + DS_AT + (half * CHUNKS + chunk) * DS_CHUNK;
    }
    __device__ __forceinline__ unsigned char* way_out(int group) const {
        return base + OUT_AT + group * R::BOX;
    }
    __device__ __forceinline__ float* lse2(int chunk) const {
        return reinterpret_cast<float*>(base + FLOATS_AT) + chunk * 64;
    }
    __device__ __forceinline__ float* delta(int chunk) const { return lse2(CHUNKS + chunk); }
    // The mean of the first keys, of the head of a warpgroup or of both.
    __device__ __forceinline__ float* mean(int which) const {
        return reinterpret_cast<float*>(base + MEANS_AT) + which * 64;
    }
    __device__ __forceinline__ unsigned char* ones() const { return base + ONES_AT; }
    // Of a half of the chunks.
    __device__ __forceinline__ uint64_t* full(int half) const {
        return reinterpret_cast<uint64_t*>(base + BARRIERS_AT) + half;
    }
    __device__ __forceinline__ uint64_t* empty(int half) const { return full(2 + half); }
};

// Wide items take both halves of the chunks, narrow ones the next.
struct HalfAt {
    uint32_t parity = 0;  // a bit for each half
    int next = 0;

    __device__ __forceinline__ uint32_t of(int half) const { return parity >> half & 1; }
    __device__ __forceinline__ void took(int half) {
        parity ^= 1 << half;
        next = half ^ 1;
    }
};

template <int D>
__device__ __forceinline__ void attention_bwd_whole_produce(const AttentionBwdWholeShared<D>& shared,
                                                            const AttentionWork& work,
                                                            const RunMaps& qkv, const RunMaps& dout,
                                                            const RunMaps& out) {
    using R = HeadRows<D>;
    HalfAt at;
    const int width = work.heads * D;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
        const AttentionItem item = work.item(index);
        const int first = item.is_narrow ? at.next : 0, last = item.is_narrow ? first : 1;
#pragma unroll 1
        for (int half = first; half <= last; ++half) {
            const int row = item.is_narrow ? 0 : half * 128, left = item.length - row;
            const int chunks = item.is_narrow ? item.heads : left > 64 ? 2 : left > 0 ? 1 : 0;
            mbarrier_wait(shared.empty(half), at.of(half) ^ 1);
            at.took(half);
            uint64_t* full = shared.full(half);
            mbarrier_expect(full, chunks * 5 * R::BOX);
#pragma unroll 1
            for (int i = 0; i < chunks; ++i) {
                const int chunk = 2 * half + i, from = item.is_narrow ? 0 : row + i * 64;
                const int column = (item.is_narrow ? item.head + i : item.head) * D;
                for (int which = 0; which < 3; ++which)
                    load_box(shared.rows(which, chunk), qkv.of(item), which * width + column, from,
                             item.sequence, full);
                load_box(shared.rows(3, chunk), dout.of(item), column, from, item.sequence, full);
                load_box(shared.out(chunk), out.of(item), column, from, item.sequence, full);
            }
        }
    }
}

// Those who share the rows of an item: both warpgroups, or one.
__device__ __forceinline__ void attention_bwd_sync(bool is_narrow, int group) {
    if (is_narrow) named_barrier_sync(group + 1, WARPGROUP);
    else named_barrier_sync(3, 2 * WARPGROUP);
}

// `TILES` times 64 keys of a warpgroup, from chunk `own` on, with the queries of chunks `begin` .. `end` and the keys there;
// all of them are rows of the item.
template <int D, int TILES>
__device__ __forceinline__ void attention_bwd_whole_rows(const AttentionBwdWholeShared<D>& shared,
                                                         const AttentionBwdRows& rows,
                                                         const AttentionItem& item, int group, int own,
                                                         int begin, int end) {
    using R = HeadRows<D>;
    // Queries of a product: dK and dV of 128 keys leave no registers for more.
    constexpr int N = 32;
    constexpr bool HAS_ROOM = TILES * D <= 64;
    const float scale2 = rows.scale * ATTENTION_LOG2E;
    float dk[TILES][D / 2], dv[TILES][D / 2];
    // With room for them, keys and values as well: then shared memory gives each product half as much.
    constexpr int KEPT = HAS_ROOM ? TILES : 1;
    uint32_t k[KEPT][D / 16][4], v[KEPT][D / 16][4];
    if constexpr (HAS_ROOM) {
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            if (own + t >= end) break;
            operand_a<D>(k[t], shared.rows(1, own + t));
            operand_a<D>(v[t], shared.rows(2, own + t));
            settle(k[t]);
            settle(v[t]);
        }
    }
#pragma unroll 1
    for (int pair = begin; pair < end; pair += 2) {
        const int pair_end = min(pair + 2, end);
#pragma unroll 1
        for (int chunk = pair; chunk < pair_end; ++chunk) {
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                if (own + t >= end) break;
                const int thread = fresh_thread();
                const int row0 = thread % WARPGROUP / WARP * 16, lane = thread % WARP;
                const uint64_t keys = R::matrix(shared.rows(1, own + t));
                const uint64_t values = R::matrix(shared.rows(2, own + t));
                const int key = (own + t - begin) * 64 + row0 + lane / 4;
                const bool exists[2] = {key < item.length, key + 8 < item.length};
                const bool all_exist = item.length >= (own + t - begin + 1) * 64;
                unsigned char* const to = item.is_narrow ? shared.ds(own / 2, 2 + group)
                                                         : shared.ds(chunk % 2, own + t);
#pragma unroll 1
                for (int q = 0; q < 64; q += N) {
                    const uint64_t queries = R::matrix(shared.rows(0, chunk)) + q / 16 * R::NEXT_ROWS;
                    const uint64_t dout = R::matrix(shared.rows(3, chunk)) + q / 16 * R::NEXT_ROWS;
                    const auto product = [&](float (&d)[N / 2], const uint32_t (&kept)[4], uint64_t a,
                                             uint64_t b, int i) {
                        if constexpr (HAS_ROOM)
                            wgmma<true>(d, kept, b + i * R::NEXT_COLUMNS, i > 0);
                        else
                            wgmma<true, true>(d, a + i * R::NEXT_COLUMNS, b + i * R::NEXT_COLUMNS, i > 0);
                    };
                    const auto products = [&](float (&s)[N / 2], float (&dp)[N / 2]) {
#pragma unroll
                        for (int i = 0; i < R::STEPS; ++i)
                            product(s, k[HAS_ROOM ? t : 0][i], keys, queries, i);
                        wgmma_commit();
#pragma unroll
                        for (int i = 0; i < R::STEPS; ++i)
                            product(dp, v[HAS_ROOM ? t : 0][i], values, dout, i);
                        wgmma_commit();
                    };
                    const auto keep = [&](const uint32_t (&ds)[N / 16][4]) {
#pragma unroll
                        for (int i = 0; i < N / 16; ++i)
                            panel_store<SWIZZLED_ROW>(to, row0, q / 8 + 2 * i, ds[i]);
                    };
                    attention_bwd_keys_step<D, N>(dk[t], dv[t], queries, dout, shared.lse2(chunk) + q,
                                                  shared.delta(chunk) + q, all_exist, exists, scale2,
                                                  chunk > begin || q > 0, products, [] {}, keep);
                }
            }
        }
        fence_async();
        attention_bwd_sync(item.is_narrow, group);
        const int chunk = item.is_narrow ? own : pair + group;
        if (chunk < pair_end) {
            const uint64_t ds = matrix_at(item.is_narrow ? shared.ds(own / 2, 2 + group)
                                                         : shared.ds(chunk % 2, 0));
            const KeysAndOnes<D> keys(shared.rows(1, begin), shared.ones());
            float dq[KeysAndOnes<D>::N / 2];
            const auto add_keys = [&](int of_chunk, bool adds) {
                wgmma_fence();
#pragma unroll
                for (int i = 4 * of_chunk; i < 4 * of_chunk + 4; ++i)
                    wgmma<false, false>(dq, ds + i * NEXT_16_K<false>, keys.matrix(i), adds || i > 0);
                wgmma_commit();
            };
            // By itself, so that it is known here that the sums start anew: else their registers are theirs all the time.
            add_keys(0, false);
#pragma unroll 1
            for (int i = 1; i < end - begin; ++i) add_keys(i, true);
            wgmma_wait<0>();
            constexpr int SUM = KeysAndOnes<D>::SUM;
            without_common<D>(dq, dq[SUM], dq[SUM + 2], shared.mean(item.is_narrow ? group : 0));
            rows.template put<D>(item, (chunk - begin) * 64, 0, shared.way_out(group), dq, rows.scale);
        }
        attention_bwd_sync(item.is_narrow, group);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
        if (own + t >= end) break;
        const int row = (own + t - begin) * 64;
        rows.template put<D>(item, row, 1, shared.rows(1, own + t), dk[t], rows.scale);
        rows.template put<D>(item, row, 2, shared.rows(2, own + t), dv[t], 1.0f);
    }
}

template <int D>
__device__ __forceinline__ void attention_bwd_whole_consume(const AttentionBwdWholeShared<D>& shared,
                                                            const AttentionWork& work,
                                                            const AttentionBwdRows& rows, int group) {
    using R = HeadRows<D>;
    HalfAt at;
    int index = blockIdx.x;
    const auto items = [&](int stop, auto attend) {
#pragma unroll 1
        for (; index < stop; index += gridDim.x) {
            AttentionItem item = work.item(index);
            const bool has_rows = !item.is_narrow || item.has_group(group);
            const int first = item.is_narrow ? at.next : 0, last = item.is_narrow ? first : 1;
            const int begin = item.is_narrow ? 2 * first + group : 0;
            const int end = begin + (item.length + 63) / 64;
            item.head = item.head_of(group);
#pragma unroll 1
            for (int half = first; half <= last; ++half) {
                mbarrier_wait(shared.full(half), at.of(half));
                at.took(half);
            }
            if (has_rows) {
                // What belongs to the queries, 64 at a time.
                const int thread = fresh_thread() % WARPGROUP;
#pragma unroll 1
                for (int chunk = item.is_narrow ? begin : group; chunk < end; chunk += 2) {
                    const int row = (chunk - begin) * 64;
                    float delta[2];
                    row_products<D>(delta, shared.rows(3, chunk), shared.out(chunk));
                    if (thread % 4 == 0) {
#pragma unroll
                        for (int half = 0; half < 2; ++half)
                            shared.delta(chunk)[query_place(row_of_sums(half))] = delta[half];
                    }
                    if (thread < 64) shared.lse2(chunk)[query_place(thread)] = rows.lse2_of(item, row + thread);
                }
                if (item.is_narrow || group == 0)
                    mean_of_rows<D>(shared.mean(group), R::matrix(shared.rows(1, begin)),
                                    min(item.length, 64), thread < WARP);
                attention_bwd_sync(item.is_narrow, group);
                attend(item, begin, end);
                fence_async();
            }
            for (int half = first; half <= last; ++half) warp_gives_back(shared.empty(half));
        }
    };
    // Two loops, because registers of products are neighbours, and which ones is not settled well for both ways at once.
    items(work.longs(), [&](const AttentionItem& item, int begin, int end) {
        attention_bwd_whole_rows<D, 2>(shared, rows, item, group, 2 * group, begin, end);
    });
    items(work.count(), [&](const AttentionItem& item, int begin, int end) {
        const int own = item.is_narrow ? begin : group;
        attention_bwd_whole_rows<D, 1>(shared, rows, item, group, own, begin, end);
    });
}

template <int D>
__device__ __forceinline__ void attention_bwd_whole_hopper(const RunMaps& qkv, const RunMaps& dout,
                                                           const RunMaps& out,
                                                           const AttentionBwdRows& rows,
                                                           const AttentionWork& work) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    const AttentionBwdWholeShared<D> shared{glmae_swizzled_};
    const auto prepare = [&] {
        KeysAndOnes<D>::fill(shared.ones());
        if (threadIdx.x > 0) return;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            mbarrier_init(shared.full(half), 1);
            mbarrier_init(shared.empty(half), 2 * WARPGROUP / WARP);
        }
        fence_mbarrier_init();
    };
    producer_block<24>(
        prepare,
        [&] { attention_bwd_whole_produce<D>(shared, work, qkv, dout, out); }, [] {},
        [&](int group) { attention_bwd_whole_consume<D>(shared, work, rows, group); });
}

}  // namespace GLMAE_NS
