// O = softmax(scale Q K^T) V on Hopper; attention.cuh says what an item is.
//
//     warpgroup 0   producer: one thread loads the queries of each item, then its keys and values, 128 rows a stage
//     warpgroup 1   64 queries: products of warpgroups, softmax in registers
//     warpgroup 2   64 queries, of the same keys and values (narrow: of another head, which has the other half of a stage)
//
// Up to 256 keys a warpgroup has all scores of its rows in registers, 64 x 256, and so the maximum before the first
// exponential: nothing is rescaled. More keys come in steps of 128, two of which overlap:
//
//     tensor cores   | Q K0 |            | Q K1 | P0 V0 |          | Q K2 | P1 V1 |
//     softmax                | of K0     |       | of K1           |      | of K2 ...
//
// The product for the next step is there while the values of this one are still being added up, and while one warpgroup
// computes exponentials the other has the tensor cores: they take turns in starting their products.
#pragma once
#include "attention.cuh"

namespace GLMAE_NS {

template <int D>
struct AttentionFwdShared {
    using R = HeadRows<D>;
    static constexpr int STAGES = R::SPAN == 64 ? 16 : 10, STAGE = 2 * R::BOX;
    static constexpr int QUERIES_AT = STAGES * STAGE;
    static constexpr int BARRIERS_AT = QUERIES_AT + 2 * 2 * R::BOX;
    static constexpr int BYTES = BARRIERS_AT + (2 * STAGES + 6) * 8;
    static_assert(BYTES <= 227 * 1024, "an SM");
    unsigned char* base;

    // Keys or values, 128 rows.
    __device__ __forceinline__ unsigned char* stage(int i) const { return base + i * STAGE; }
    // The queries of a warpgroup, of two items in turn.
    __device__ __forceinline__ unsigned char* queries(int buffer, int group) const {
        return base + QUERIES_AT + (2 * buffer + group) * R::BOX;
    }
    __device__ __forceinline__ uint64_t* full(int i) const {
        return reinterpret_cast<uint64_t*>(base + BARRIERS_AT) + i;
    }
    __device__ __forceinline__ uint64_t* empty(int i) const { return full(STAGES + i); }
    __device__ __forceinline__ uint64_t* queries_full(int buffer) const {
        return full(2 * STAGES + buffer);
    }
    __device__ __forceinline__ uint64_t* queries_empty(int buffer) const {
        return full(2 * STAGES + 2 + buffer);
    }
    // It is this warpgroup's turn to start products.
    __device__ __forceinline__ uint64_t* turn(int group) const { return full(2 * STAGES + 4 + group); }
};

constexpr int KEYS_STEP = 128;
// Wide items of at most as many keys have all their scores in registers.
constexpr int KEYS_WHOLE = 2 * KEYS_STEP;

__device__ __forceinline__ int key_steps(int length) { return (length + KEYS_STEP - 1) / KEYS_STEP; }

// By one thread: queries, then keys of step 0, keys of step 1, values of step 0, keys of step 2, ...
template <int D>
__device__ __forceinline__ void attention_fwd_produce(const AttentionFwdShared<D>& shared,
                                                      const AttentionWork& work,
                                                      const RunMaps& qkv) {
    using S = AttentionFwdShared<D>;
    using R = HeadRows<D>;
    RingAt<S::STAGES> at;
    RingAt<2> queries;
#pragma unroll 1
    for (int index = blockIdx.x; index < work.count(); index += gridDim.x, queries.next()) {
        const AttentionItem item = work.item(index);
        const GlmaeTensorMap& map = qkv.of(item);
        const int width = work.heads * D;
        const int groups = item.is_narrow ? item.heads : item.has_group(1) ? 2 : 1;
        mbarrier_wait(shared.queries_empty(queries.stage), queries.parity ^ 1);
        uint64_t* full = shared.queries_full(queries.stage);
        mbarrier_expect(full, groups * R::BOX);
        for (int group = 0; group < groups; ++group)
            load_box(shared.queries(queries.stage, group), map, item.head_of(group) * D,
                     item.row_of(group), item.sequence, full);

        const auto load = [&](int step, int which) {
            const int row = step * KEYS_STEP;
            const int boxes = item.is_narrow ? item.heads : item.length - row > 64 ? 2 : 1;
            mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            uint64_t* full = shared.full(at.stage);
            mbarrier_expect(full, boxes * R::BOX);
            for (int box = 0; box < boxes; ++box)
                load_box(shared.stage(at.stage) + box * R::BOX, map,
                         which * width + item.head_of(item.is_narrow ? box : 0) * D,
                         item.is_narrow ? 0 : row + box * 64, item.sequence, full);
            at.next();
        };
        const int steps = item.is_narrow ? 1 : key_steps(item.length);
        load(0, 1);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            if (step + 1 < steps) load(step + 1, 1);
            load(step, 2);
        }
    }
}

// What a warpgroup has of the rows of an item. A thread has two rows, `half` 0 and 1 (wgmma.cuh).
template <int D>
struct AttentionRows {
    using R = HeadRows<D>;
    float o[D / 2];
    float top[2], sum[2];
    uint64_t queries;

    // s = Q K^T, N keys.
    template <int N>
    __device__ __forceinline__ void scores(float (&s)[N / 2], uint64_t keys) const {
#pragma unroll
        for (int i = 0; i < R::STEPS; ++i)
            wgmma<true, true>(s, queries + i * R::NEXT_COLUMNS, keys + i * R::NEXT_COLUMNS, i > 0);
    }
    // o (+)= P V, N keys.
    template <int N>
    __device__ __forceinline__ void values(const uint32_t (&p)[N / 16][4], uint64_t values, int adds) {
#pragma unroll
        for (int i = 0; i < N / 16; ++i)
            wgmma<false>(o, p[i], values + i * R::NEXT_ROWS, adds || i > 0);
    }

    template <int N>
    __device__ __forceinline__ static float most(const float (&s)[N / 2], int half, float most) {
#pragma unroll
        for (int j = 0; j < N / 8; ++j)
            most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
        return most;
    }
    // Scores of a block of 16 keys become exponentials, which are added up.
    __device__ __forceinline__ static void exponentials(float* s, int block, float scale2,
                                                        const float (&shift)[2], float (&sum)[2]) {
#pragma unroll
        for (int i = 8 * block; i < 8 * block + 8; ++i) {
            const int half = i / 2 % 2;
            s[i] = score_exp2<D>(s[i] * scale2 - shift[half], i);
            sum[half] += s[i];
        }
    }
    // Rounded, they are the A of products.
    template <int N>
    __device__ __forceinline__ static void round(uint32_t (&p)[N / 16][4], const float (&s)[N / 2]) {
#pragma unroll
        for (int i = 0; i < N / 16; ++i) rounded(p[i], s + 8 * i);
    }
    // Both at once, so that two registers of scores become one.
    template <int N>
    __device__ __forceinline__ static void weights(uint32_t (&p)[N / 16][4], float (&s)[N / 2],
                                                   float scale2, const float (&shift)[2],
                                                   float (&sum)[2]) {
#pragma unroll
        for (int i = 0; i < N / 16; ++i) {
            exponentials(s, i, scale2, shift, sum);
            rounded(p[i], s + 8 * i);
        }
    }

    // One step of N keys: what the sums so far are to be multiplied by.
    template <int N>
    __device__ __forceinline__ void softmax(float (&s)[N / 2], float scale2, float (&shrink)[2]) {
        float shift[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float before = top[half];
            top[half] = quad_max(most<N>(s, half, before));
            shift[half] = top[half] * scale2;
            // Not fused: exactly 1 while the maximum stays.
            shrink[half] = fast_exp2(__fmul_rn(before, scale2) - shift[half]);
            sum[half] *= shrink[half];
        }
#pragma unroll
        for (int i = 0; i < N / 16; ++i) exponentials(s, i, scale2, shift, sum);
    }
    __device__ __forceinline__ void rescale(const float (&shrink)[2]) {
#pragma unroll
        for (int i = 0; i < D / 2; ++i) o[i] *= shrink[i / 2 % 2];
    }
};

// One of the two warpgroups that multiply.
template <int D>
struct AttentionFwdConsumer {
    using S = AttentionFwdShared<D>;
    using R = HeadRows<D>;
    using Rows = AttentionRows<D>;
    const S& shared;
    const int group;
    const float scale2;
    RingAt<S::STAGES> at;
    uint32_t turn_parity;

    // The next stage, once it is there, from this warpgroup's first row on.
    __device__ __forceinline__ uint64_t next(int& stage, int offset = 0) {
        stage = at.stage;
        mbarrier_wait(shared.full(stage), at.parity);
        at.next();
        return R::matrix(shared.stage(stage) + offset);
    }
    __device__ __forceinline__ void release(int stage) const {
        if (threadIdx.x % WARP == 0) mbarrier_arrive(shared.empty(stage));
    }
    __device__ __forceinline__ void take_turn() {
        mbarrier_wait(shared.turn(group), turn_parity);
        turn_parity ^= 1;
    }
    __device__ __forceinline__ void pass_turn() const {
        if (threadIdx.x % WARP == 0) mbarrier_arrive(shared.turn(group ^ 1));
    }

    // All keys at once: FIRST of them, and LAST more in another stage, or 0.
    template <int FIRST, int LAST>
    __device__ __forceinline__ void whole(Rows& rows, int length, int offset) {
        float first[FIRST / 2], last[LAST ? LAST / 2 : 1];
        int stage, other = 0;
        uint64_t at_first = next(stage, offset), at_last = 0;
        if constexpr (LAST > 0) at_last = next(other);
        wgmma_fence();
        rows.template scores<FIRST>(first, at_first);
        if constexpr (LAST > 0) rows.template scores<LAST>(last, at_last);
        wgmma_commit();
        wgmma_wait<0>();
        release(stage);
        if constexpr (LAST > 0) {
            release(other);
            mask_keys<LAST>(last, length - FIRST);
        } else {
            mask_keys<FIRST>(first, length);
        }
        float shift[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = Rows::template most<FIRST>(first, half, -INFINITY);
            if constexpr (LAST > 0) most = Rows::template most<LAST>(last, half, most);
            rows.top[half] = quad_max(most);
            rows.sum[half] = 0.0f;
            shift[half] = rows.top[half] * scale2;
        }
        uint32_t p[FIRST / 16][4], q[LAST ? LAST / 16 : 1][4];
        Rows::template weights<FIRST>(p, first, scale2, shift, rows.sum);
        if constexpr (LAST > 0) Rows::template weights<LAST>(q, last, scale2, shift, rows.sum);
        at_first = next(stage, offset);
        if constexpr (LAST > 0) at_last = next(other);
        settle(p);
        if constexpr (LAST > 0) settle(q);
        wgmma_fence();
        rows.template values<FIRST>(p, at_first, 0);
        if constexpr (LAST > 0) rows.template values<LAST>(q, at_last, 1);
        wgmma_commit();
        wgmma_wait<0>();
        release(stage);
        if constexpr (LAST > 0) release(other);
    }

    // One step behind the first: N keys, and the values of the 128 before them.
    template <int N>
    __device__ __forceinline__ void step(Rows& rows, uint32_t (&p)[KEYS_STEP / 16][4],
                                         uint32_t (&to)[N / 16][4], int left, int adds) {
        float s[N / 2], shrink[2];
        int keys, values;
        const uint64_t at_keys = next(keys), at_values = next(values);
        take_turn();
        settle(p);
        settle(rows.o);
        wgmma_fence();
        rows.template scores<N>(s, at_keys);
        wgmma_commit();
        rows.template values<KEYS_STEP>(p, at_values, adds);
        wgmma_commit();
        pass_turn();
        wgmma_wait<1>();
        release(keys);
        mask_keys<N>(s, left);
        rows.template softmax<N>(s, scale2, shrink);
        wgmma_wait<0>();
        release(values);
        rows.rescale(shrink);
        Rows::template round<N>(to, s);
    }

    // The last step, of at most N keys, and its values.
    template <int N>
    __device__ __forceinline__ void finish(Rows& rows, uint32_t (&p)[KEYS_STEP / 16][4], int left,
                                           int adds) {
        uint32_t last[N / 16][4];
        int values;
        step<N>(rows, p, last, left, adds);
        const uint64_t at_values = next(values);
        settle(last);
        settle(rows.o);
        wgmma_fence();
        rows.template values<N>(last, at_values, 1);
        wgmma_commit();
        wgmma_wait<0>();
        release(values);
    }

    // More keys than registers can hold.
    __device__ __forceinline__ void stream(Rows& rows, int length) {
        uint32_t p[KEYS_STEP / 16][4];
        const int steps = key_steps(length);
        {
            float s[KEYS_STEP / 2], shrink[2];
            int keys;
            const uint64_t at_keys = next(keys);
            take_turn();
            wgmma_fence();
            rows.template scores<KEYS_STEP>(s, at_keys);
            wgmma_commit();
            pass_turn();
            wgmma_wait<0>();
            release(keys);
            rows.top[0] = rows.top[1] = -INFINITY;
            rows.sum[0] = rows.sum[1] = 0.0f;
            rows.template softmax<KEYS_STEP>(s, scale2, shrink);
            Rows::template round<KEYS_STEP>(p, s);
        }
        int step_now = 1;
#pragma unroll 1
        for (; step_now + 1 < steps; ++step_now)
            step<KEYS_STEP>(rows, p, p, KEYS_STEP, step_now > 1);
        const int left = length - step_now * KEYS_STEP;
        if (left <= 64) finish<64>(rows, p, left, step_now > 1);
        else finish<KEYS_STEP>(rows, p, left, step_now > 1);
    }

    // Takes no part in an item: gives back what it would have read, and its turns.
    __device__ __forceinline__ void pass(const AttentionItem& item) {
        const int steps = item.is_narrow ? 1 : key_steps(item.length);
        const bool has_turns = !item.is_narrow && item.length > KEYS_WHOLE;
#pragma unroll 1
        for (int i = 0; i < 2 * steps; ++i) {
            int stage;
            if (has_turns && i < steps) {
                take_turn();
                pass_turn();
            }
            next(stage);
            release(stage);
        }
    }
};

// Where results go.
struct AttentionResult {
    bf16* out;
    float* lse;
    int64_t total;
    int width;
    float scale;

    // The rows of a warpgroup, by way of the buffer of its queries, which have served.
    template <int D>
    __device__ __forceinline__ void put(const AttentionRows<D>& rows, const AttentionItem& item,
                                        int group, unsigned char* buffer) const {
        const int head = item.head_of(group), row0 = item.row_of(group);
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float all = quad_sum(rows.sum[half]);
            inverse[half] = __fdividef(1.0f, all);
            const int row = row0 + row_of_sums(half);
            if (threadIdx.x % 4 == 0 && row < item.length)
                lse[head * total + item.start + row] =
                    rows.top[half] * scale + __log2f(all) * ATTENTION_LN2;
        }
        rows_out<D>(out + static_cast<int64_t>(item.start + row0) * width + head * D, width, buffer,
                    rows.o, inverse[0], inverse[1], item.length - row0);
        fence_async();
    }
};

template <int D>
__device__ __forceinline__ void attention_fwd_consume(const AttentionFwdShared<D>& shared,
                                                      const AttentionWork& work,
                                                      const AttentionResult& result, int group) {
    using R = HeadRows<D>;
    AttentionFwdConsumer<D> consumer{shared, group, result.scale * ATTENTION_LOG2E, {},
                                     static_cast<uint32_t>(group ^ 1)};
    RingAt<2> queries;
    int index = blockIdx.x;
    const auto items = [&](int end, auto attend) {
#pragma unroll 1
        for (; index < end; index += gridDim.x, queries.next()) {
            const AttentionItem item = work.item(index);
            unsigned char* buffer = shared.queries(queries.stage, group);
            mbarrier_wait(shared.queries_full(queries.stage), queries.parity);
            if (item.has_group(group)) {
                AttentionRows<D> rows;
                rows.queries = R::matrix(buffer);
                attend(rows, item);
                result.put(rows, item, group, buffer);
            } else {
                consumer.pass(item);
            }
            warp_gives_back(shared.queries_empty(queries.stage));
        }
    };
    // Two loops, because registers of products are neighbours, and which ones is not settled well for all ways at once.
    items(work.longs(), [&](auto& rows, const AttentionItem& item) { consumer.stream(rows, item.length); });
    items(work.count(), [&](auto& rows, const AttentionItem& item) {
        const int length = item.length;
        if (item.is_narrow) consumer.template whole<64, 0>(rows, length, group * R::BOX);
        else if (length <= KEYS_STEP) consumer.template whole<KEYS_STEP, 0>(rows, length, 0);
        else if (length <= KEYS_STEP + 64) consumer.template whole<KEYS_STEP, 64>(rows, length, 0);
        else consumer.template whole<KEYS_STEP, KEYS_STEP>(rows, length, 0);
    });
}

template <int D>
__device__ __forceinline__ void attention_fwd_hopper(const AttentionResult& result,
                                                     const RunMaps& qkv,
                                                     const AttentionWork& work) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    using S = AttentionFwdShared<D>;
    const S shared{glmae_swizzled_};
    const auto prepare = [&] {
        if (threadIdx.x > 0) return;
        prefetch_map(qkv.first);
        prefetch_map(qkv.second);
#pragma unroll
        for (int i = 0; i < S::STAGES; ++i) {
            mbarrier_init(shared.full(i), 1);
            mbarrier_init(shared.empty(i), 2 * WARPGROUP / WARP);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(shared.queries_full(i), 1);
            mbarrier_init(shared.queries_empty(i), 2 * WARPGROUP / WARP);
            mbarrier_init(shared.turn(i), WARPGROUP / WARP);
        }
        fence_mbarrier_init();
    };
    producer_block<24>(
        prepare, [&] { attention_fwd_produce(shared, work, qkv); }, [] {},
        [&](int group) { attention_fwd_consume(shared, work, result, group); });
}

}  // namespace GLMAE_NS
