// Backward attention on Hopper for more than 256 rows, in two passes over the scores:
//
//     by queries   delta = rowsum(dO * O);  S = Q K^T, dP = dO V^T, dS = P * (dP - delta);  dQ = scale dS K
//     by keys      S^T = K Q^T, dP^T = V dO^T, dS^T;  dV = P^T dO,  dK = scale dS^T Q
//
// Seven products instead of five, and nothing that blocks have to add up: partial sums of dQ, written and read again in
// order, would move as many bytes as the two products cost. What a block owns are the rows of the products, so that P and dS
// go from sums to operands within the registers. attention.cuh says what an item is.
#pragma once
#include "attention_bwd.cuh"

namespace GLMAE_NS {

// Buffers and barriers of both passes: `ITEM_BOXES` boxes for each warpgroup of an item, twice, a ring of stages, and
// `OTHERS` bytes.
template <int D, int ITEM_BOXES_, int STAGES_, int STAGE_BOXES, int STAGE_FLOATS, int OTHERS>
struct AttentionBwdShared {
    using R = HeadRows<D>;
    static constexpr int ITEM_BOXES = ITEM_BOXES_, STAGES = STAGES_;
    static constexpr int STAGE = STAGE_BOXES * R::BOX;
    static constexpr int ITEMS_AT = STAGES * STAGE;
    static constexpr int FLOATS_AT = ITEMS_AT + 2 * 2 * ITEM_BOXES * R::BOX;
    static constexpr int OTHERS_AT = FLOATS_AT + STAGES * STAGE_FLOATS * 4;
    static constexpr int BARRIERS_AT = OTHERS_AT + OTHERS;
    static constexpr int BYTES = BARRIERS_AT + (2 * STAGES + 4) * 8;
    static_assert(BYTES <= 227 * 1024, "an SM");
    unsigned char* base;

    __device__ __forceinline__ unsigned char* stage(int i) const { return base + i * STAGE; }
    __device__ __forceinline__ float* floats(int i) const {
        return reinterpret_cast<float*>(base + FLOATS_AT) + i * STAGE_FLOATS;
    }
    __device__ __forceinline__ unsigned char* others() const { return base + OTHERS_AT; }
    __device__ __forceinline__ unsigned char* item(int buffer, int group, int box) const {
        return base + ITEMS_AT + ((2 * buffer + group) * ITEM_BOXES + box) * R::BOX;
    }
    __device__ __forceinline__ uint64_t* full(int i) const {
        return reinterpret_cast<uint64_t*>(base + BARRIERS_AT) + i;
    }
    __device__ __forceinline__ uint64_t* empty(int i) const { return full(STAGES + i); }
    __device__ __forceinline__ uint64_t* item_full(int buffer) const { return full(2 * STAGES + buffer); }
    __device__ __forceinline__ uint64_t* item_empty(int buffer) const {
        return full(2 * STAGES + 2 + buffer);
    }

    // By warps that have no rows of an item: gives back what they would have read.
    __device__ __forceinline__ void pass(RingAt<STAGES>& at, int steps) const {
#pragma unroll 1
        for (int step = 0; step < steps; ++step, at.next()) {
            mbarrier_wait(full(at.stage), at.parity);
            warp_gives_back(empty(at.stage));
        }
    }

    // `arrivals`: how many say that a stage is full.
    __device__ __forceinline__ void init(int arrivals) const {
#pragma unroll
        for (int i = 0; i < STAGES; ++i) {
            mbarrier_init(full(i), arrivals);
            mbarrier_init(empty(i), 2 * WARPGROUP / WARP);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(item_full(i), 1);
            mbarrier_init(item_empty(i), 2 * WARPGROUP / WARP);
        }
        fence_mbarrier_init();
    }
};

// ---- By queries: a stage is 128 keys and their values; an item's boxes are queries, dO, O.

constexpr int BWD_KEYS = 128;

// And a mean for each warp.
template <int D>
using AttentionBwdQShared = AttentionBwdShared<D, 3, HeadRows<D>::SPAN == 64 ? 6 : 3, 4, 0, 8 * 64 * 4>;

template <int D>
__device__ __forceinline__ void attention_bwd_q_produce(const AttentionBwdQShared<D>& shared,
                                                        const AttentionWork& work,
                                                        const RunMaps& qkv, const RunMaps& dout,
                                                        const RunMaps& out) {
    using R = HeadRows<D>;
    RingAt<AttentionBwdQShared<D>::STAGES> at;
    RingAt<2> items;
    const int width = work.heads * D;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x, items.next()) {
        const AttentionItem item = work.item(index);
        const int column = item.head * D, groups = item.has_group(1) ? 2 : 1;
        mbarrier_wait(shared.item_empty(items.stage), items.parity ^ 1);
        uint64_t* full = shared.item_full(items.stage);
        mbarrier_expect(full, groups * 3 * R::BOX);
        for (int group = 0; group < groups; ++group) {
            const int row = item.row_of(group);
            load_box(shared.item(items.stage, group, 0), qkv.of(item), column, row, item.sequence, full);
            load_box(shared.item(items.stage, group, 1), dout.of(item), column, row, item.sequence, full);
            load_box(shared.item(items.stage, group, 2), out.of(item), column, row, item.sequence, full);
        }
#pragma unroll 1
        for (int row = 0; row < item.length; row += BWD_KEYS, at.next()) {
            const int boxes = item.length - row > 64 ? 2 : 1;
            mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            full = shared.full(at.stage);
            mbarrier_expect(full, 2 * boxes * R::BOX);
            for (int box = 0; box < 2 * boxes; ++box)
                load_box(shared.stage(at.stage) + (box % 2 * 2 + box / 2) * R::BOX, qkv.of(item),
                         (1 + box % 2) * width + column, row + box / 2 * 64, item.sequence, full);
        }
    }
}

// One step of N keys of the dQ of a warpgroup.
template <int D, int N>
__device__ __forceinline__ void attention_bwd_q_step(float (&dq)[D / 2], float (&sum)[2],
                                                     uint64_t queries, uint64_t dout,
                                                     const unsigned char* stage, int left,
                                                     const float (&lse2)[2], const float (&delta)[2],
                                                     float scale2, uint64_t* before, int adds) {
    using R = HeadRows<D>;
    const uint64_t keys = R::matrix(stage), values = R::matrix(stage + 2 * R::BOX);
    float s[N / 2], dp[N / 2];
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < R::STEPS; ++i)
        wgmma<true, true>(s, queries + i * R::NEXT_COLUMNS, keys + i * R::NEXT_COLUMNS, i > 0);
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < R::STEPS; ++i)
        wgmma<true, true>(dp, dout + i * R::NEXT_COLUMNS, values + i * R::NEXT_COLUMNS, i > 0);
    wgmma_commit();
    // The scores, and the last product of the step before.
    wgmma_wait<1>();
    if (before) warp_gives_back(before);
    mask_keys<N>(s, left);
#pragma unroll
    for (int i = 0; i < N / 2; ++i)
        s[i] = score_exp2<D>(s[i] * scale2 - lse2[i / 2 % 2], i);
    wgmma_wait<0>();
    uint32_t ds[N / 16][4];
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            s[8 * i + e] *= dp[8 * i + e] - delta[e / 2 % 2];
            sum[e / 2 % 2] += s[8 * i + e];
        }
        rounded(ds[i], s + 8 * i);
    }
    settle(ds);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < N / 16; ++i) wgmma<false>(dq, ds[i], keys + i * R::NEXT_ROWS, adds || i > 0);
    wgmma_commit();
}

template <int D>
__device__ __forceinline__ void attention_bwd_q_consume(const AttentionBwdQShared<D>& shared,
                                                        const AttentionWork& work,
                                                        const AttentionBwdRows& rows, float* to_delta,
                                                        int group) {
    using R = HeadRows<D>;
    const float scale2 = rows.scale * ATTENTION_LOG2E;
    float* const means = reinterpret_cast<float*>(shared.others());
    RingAt<AttentionBwdQShared<D>::STAGES> at;
    RingAt<2> items;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x, items.next()) {
        const AttentionItem item = work.item(index);
        const int steps = (item.length + BWD_KEYS - 1) / BWD_KEYS;
        mbarrier_wait(shared.item_full(items.stage), items.parity);
        if (item.has_group(group)) {
            unsigned char* const q_rows = shared.item(items.stage, group, 0);
            const unsigned char* const do_rows = shared.item(items.stage, group, 1);
            const int row0 = item.row_of(group);
            float delta[2], lse2[2];
            row_products<D>(delta, do_rows, shared.item(items.stage, group, 2));
#pragma unroll
            for (int half = 0; half < 2; ++half)
                lse2[half] = rows.lse2_of(item, row0 + row_of_sums(half));
            float dq[D / 2], sum[2] = {};
            float* const mean = means + threadIdx.x / WARP % 8 * 64;
            const uint64_t queries = R::matrix(q_rows), dout = R::matrix(do_rows);
            uint64_t* before = nullptr;
#pragma unroll 1
            for (int step = 0; step < steps; ++step, at.next()) {
                const int left = item.length - step * BWD_KEYS;
                const unsigned char* stage = shared.stage(at.stage);
                mbarrier_wait(shared.full(at.stage), at.parity);
                if (step == 0) mean_of_rows<D>(mean, R::matrix(stage), 64, true);
                if (left > 64)
                    attention_bwd_q_step<D, BWD_KEYS>(dq, sum, queries, dout, stage, left, lse2, delta,
                                                      scale2, before, step > 0);
                else
                    attention_bwd_q_step<D, 64>(dq, sum, queries, dout, stage, left, lse2, delta, scale2,
                                                before, step > 0);
                before = shared.empty(at.stage);
            }
            wgmma_wait<0>();
            warp_gives_back(before);
            sum[0] = quad_sum(sum[0]);
            sum[1] = quad_sum(sum[1]);
            without_common<D>(dq, sum[0], sum[1], mean);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = row0 + row_of_sums(half);
                // With what it is off by: dK then has what dQ has.
                if (threadIdx.x % 4 == 0 && row < item.length)
                    to_delta[rows.at(item, row)] = delta[half] + sum[half];
            }
            rows.template put<D>(item, row0, 0, q_rows, dq, rows.scale);
            fence_async();
        } else {
            shared.pass(at, steps);
        }
        warp_gives_back(shared.item_empty(items.stage));
    }
}

// ---- By keys: a stage is 64 queries, their dO, lse and delta; an item's boxes are keys, values.

constexpr int BWD_QUERIES = 64;

template <int D>
using AttentionBwdKvShared =
    AttentionBwdShared<D, 2, HeadRows<D>::SPAN == 64 ? 12 : 8, 2, 2 * BWD_QUERIES, 0>;

template <int D>
__device__ __forceinline__ void attention_bwd_kv_produce(const AttentionBwdKvShared<D>& shared,
                                                         const AttentionWork& work,
                                                         const RunMaps& qkv, const RunMaps& dout) {
    using R = HeadRows<D>;
    RingAt<AttentionBwdKvShared<D>::STAGES> at;
    RingAt<2> items;
    const int width = work.heads * D;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x, items.next()) {
        const AttentionItem item = work.item(index);
        const int column = item.head * D, groups = item.has_group(1) ? 2 : 1;
        mbarrier_wait(shared.item_empty(items.stage), items.parity ^ 1);
        uint64_t* full = shared.item_full(items.stage);
        mbarrier_expect(full, groups * 2 * R::BOX);
        for (int box = 0; box < 2 * groups; ++box)
            load_box(shared.item(items.stage, box / 2, box % 2), qkv.of(item),
                     (1 + box % 2) * width + column, item.row_of(box / 2), item.sequence, full);
#pragma unroll 1
        for (int row = 0; row < item.length; row += BWD_QUERIES, at.next()) {
            mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            full = shared.full(at.stage);
            mbarrier_expect(full, 2 * R::BOX);
            load_box(shared.stage(at.stage), qkv.of(item), column, row, item.sequence, full);
            load_box(shared.stage(at.stage) + R::BOX, dout.of(item), column, row, item.sequence, full);
        }
    }
}

// By another warp: what belongs to the queries of a stage.
template <int D>
__device__ __forceinline__ void attention_bwd_kv_produce_rows(const AttentionBwdKvShared<D>& shared,
                                                              const AttentionWork& work,
                                                              const AttentionBwdRows& rows) {
    RingAt<AttentionBwdKvShared<D>::STAGES> at;
    const int lane = threadIdx.x % WARP;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
        const AttentionItem item = work.item(index);
#pragma unroll 1
        for (int row = 0; row < item.length; row += BWD_QUERIES, at.next()) {
            float lse2[2], delta[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                lse2[i] = rows.lse2_of(item, row + lane + i * WARP);
                delta[i] = rows.delta_of(item, row + lane + i * WARP);
            }
            mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            float* to = shared.floats(at.stage);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                to[query_place(lane + i * WARP)] = lse2[i];
                to[BWD_QUERIES + query_place(lane + i * WARP)] = delta[i];
            }
            warp_gives_back(shared.full(at.stage));
        }
    }
}

template <int D>
__device__ __forceinline__ void attention_bwd_kv_consume(const AttentionBwdKvShared<D>& shared,
                                                         const AttentionWork& work,
                                                         const AttentionBwdRows& rows, int group) {
    using R = HeadRows<D>;
    constexpr int N = BWD_QUERIES;
    const float scale2 = rows.scale * ATTENTION_LOG2E;
    RingAt<AttentionBwdKvShared<D>::STAGES> at;
    RingAt<2> items;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x, items.next()) {
        const AttentionItem item = work.item(index);
        const int steps = (item.length + N - 1) / N;
        mbarrier_wait(shared.item_full(items.stage), items.parity);
        if (item.has_group(group)) {
            unsigned char* const k_rows = shared.item(items.stage, group, 0);
            unsigned char* const v_rows = shared.item(items.stage, group, 1);
            const int row0 = item.row_of(group);
            uint32_t k[D / 16][4], v[D / 16][4];
            operand_a<D>(k, k_rows);
            operand_a<D>(v, v_rows);
            settle(k);
            settle(v);
            float dk[D / 2], dv[D / 2];
            uint64_t* before = nullptr;
#pragma unroll 1
            for (int step = 0; step < steps; ++step, at.next()) {
                mbarrier_wait(shared.full(at.stage), at.parity);
                const unsigned char* stage = shared.stage(at.stage);
                const uint64_t queries = R::matrix(stage), dout = R::matrix(stage + R::BOX);
                const float* lse2 = shared.floats(at.stage);
                const auto products = [&](float (&s)[N / 2], float (&dp)[N / 2]) {
#pragma unroll
                    for (int i = 0; i < R::STEPS; ++i)
                        wgmma<true>(s, k[i], queries + i * R::NEXT_COLUMNS, i > 0);
                    wgmma_commit();
#pragma unroll
                    for (int i = 0; i < R::STEPS; ++i)
                        wgmma<true>(dp, v[i], dout + i * R::NEXT_COLUMNS, i > 0);
                    wgmma_commit();
                };
                const auto release = [&] {
                    if (before) warp_gives_back(before);
                };
                // What keys beyond the end get is not written.
                attention_bwd_keys_step<D, N>(dk, dv, queries, dout, lse2, lse2 + N, true, {}, scale2,
                                              step > 0, products, release, [](const auto&) {});
                before = shared.empty(at.stage);
            }
            wgmma_wait<0>();
            warp_gives_back(before);
            rows.template put<D>(item, row0, 1, k_rows, dk, rows.scale);
            rows.template put<D>(item, row0, 2, v_rows, dv, 1.0f);
            fence_async();
        } else {
            shared.pass(at, steps);
        }
        warp_gives_back(shared.item_empty(items.stage));
    }
}

template <int D>
__device__ __forceinline__ void attention_bwd_q_hopper(const RunMaps& qkv, const RunMaps& dout,
                                                       const RunMaps& out,
                                                       const AttentionBwdRows& rows, float* to_delta,
                                                       const AttentionWork& work) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    const AttentionBwdQShared<D> shared{glmae_swizzled_};
    producer_block<24>(
        [&] { if (threadIdx.x == 0) shared.init(1); },
        [&] { attention_bwd_q_produce<D>(shared, work, qkv, dout, out); }, [] {},
        [&](int group) { attention_bwd_q_consume<D>(shared, work, rows, to_delta, group); });
}

template <int D>
__device__ __forceinline__ void attention_bwd_kv_hopper(const RunMaps& qkv, const RunMaps& dout,
                                                        const AttentionBwdRows& rows,
                                                        const AttentionWork& work) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    const AttentionBwdKvShared<D> shared{glmae_swizzled_};
    producer_block<32>(
        [&] { if (threadIdx.x == 0) shared.init(2); },
        [&] { attention_bwd_kv_produce<D>(shared, work, qkv, dout); },
        [&] { attention_bwd_kv_produce_rows<D>(shared, work, rows); },
        [&](int group) { attention_bwd_kv_consume<D>(shared, work, rows, group); });
}

}  // namespace GLMAE_NS
