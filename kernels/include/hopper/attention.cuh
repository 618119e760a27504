// What forward and backward attention on Hopper share: which block has which rows, where they lie in shared memory, and
// exponentials.
//
// Sequences of the same length that follow each other are a run, and have one tensor map, {3 C, length, sequences}: boxes
// of 64 rows of a head's queries, keys or values. What a box has beyond a sequence's end arrives as zeros, so that no row of
// another sequence is ever read. A launch takes two runs.
//
// Sequences of more than 64 rows are wide: an item is 128 rows of one head, 64 for each warpgroup that multiplies. Others
// are narrow: an item is a sequence and two heads, one for each warpgroup. Blocks are persistent and take every so many-th
// item, the longest sequences first.
#pragma once
#include "../attention_tiles.cuh"
#include "block.cuh"
#include "panels.cuh"
#include "wgmma.cuh"

namespace GLMAE_NS {

// Rows of a head in shared memory. 48 columns come in rows of 64, with 16 of the next head that nobody uses.
template <int D>
struct HeadRows {
    static constexpr int SPAN = D == 32 ? 64 : 128;  // bytes of a row
    static constexpr int BOX = 64 * SPAN;            // bytes of a box
    static constexpr int STEPS = D / 16;             // products of 16 k along a row
    static_assert(D == 32 || D == 48 || D == 64, "rows of one swizzle");

    __device__ static __forceinline__ uint64_t matrix(const void* shared) {
        return matrix_at<SPAN>(shared);
    }
    static constexpr uint64_t NEXT_COLUMNS = NEXT_16_K<true, SPAN>;  // the next 16 of a row
    static constexpr uint64_t NEXT_ROWS = NEXT_16_K<false, SPAN>;    // the next 16 rows
};

// An item of the work list (src/ops/attention/hopper.rs).
struct AttentionItem {
    int start, length, first;  // of the sequence in the packed matrix, its rows, the item's first of them
    int sequence, run;         // place in the run
    int head, heads;           // of the first warpgroup, and how many heads
    bool is_narrow;

    __device__ __forceinline__ bool has_group(int group) const {
        return is_narrow ? group < heads : first + group * 64 < length;
    }
    __device__ __forceinline__ int row_of(int group) const {
        return is_narrow ? 0 : first + group * 64;
    }
    __device__ __forceinline__ int head_of(int group) const { return is_narrow ? head + group : head; }
};

// The maps of a tensor: of the first run of a launch, and of the second.
struct RunMaps {
    const GlmaeTensorMap &first, &second;

    __device__ __forceinline__ const GlmaeTensorMap& of(const AttentionItem& item) const {
        return item.run ? second : first;
    }
};

// The work list: entries of long sequences, of other wide ones, of narrow ones. As kernels get it, so that what follows from
// it takes no registers.
struct AttentionWork {
    const int* list;
    int long_entries, wide_entries, narrow_entries, heads;

    __device__ __forceinline__ int pairs() const { return (heads + 1) / 2; }
    // Items up to the end of the long ones, of the wide ones, of all.
    __device__ __forceinline__ int longs() const { return long_entries * heads; }
    __device__ __forceinline__ int wides() const { return (long_entries + wide_entries) * heads; }
    __device__ __forceinline__ int count() const { return wides() + narrow_entries * pairs(); }

    // Heads fastest: blocks that work at the same time share keys in L2.
    __device__ __forceinline__ AttentionItem item(int index) const {
        const bool is_narrow = index >= wides();
        if (is_narrow) index -= wides();
        const int each = is_narrow ? pairs() : heads;
        const int entry = index / each, of_entry = index - entry * each;
        const int first = is_narrow ? long_entries + wide_entries : 0;
        const int4 t = __ldg(reinterpret_cast<const int4*>(list) + first + entry);
        const int head = is_narrow ? 2 * of_entry : of_entry;
        return {t.x, t.y, t.z, t.w >> 1, t.w & 1, head, is_narrow ? min(2, heads - head) : 1, is_narrow};
    }
};

// 2^x in eight instructions that do not need the special-function unit, which has one for every eight of the others: x is
// rounded to the nearest integer, which goes to the exponent; a polynomial of the rest, which is at most a half, is off by
// 7.5e-5 at most (least maximum of the relative error), a thirtieth of the rounding to bf16 behind it. Results below
// 2^-125 are that.
__device__ __forceinline__ float exp2_by_polynomial(float x) {
    float clamped;
    // NaN stays NaN.
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(clamped) : "f"(x), "f"(-125.0f));
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: the integer is in the lowest bits of the sum
    const float shifted = __fadd_rn(clamped, MAGIC);
    const float rest = clamped - __fadd_rn(shifted, -MAGIC);
    float p = fmaf(0.0551716685f, rest, 0.242611125f);
    p = fmaf(p, rest, 0.693260968f);
    p = fmaf(p, rest, 0.999928057f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

// The exponential of score `i` of a thread. With 32 columns a score costs half as many products, and the special-function
// unit would be the slowest: one in six goes another way, after which it and the schedulers have as much to do.
template <int D>
__device__ __forceinline__ float score_exp2(float x, int i) {
    return D == 32 && i % 6 == 1 ? exp2_by_polynomial(x) : fast_exp2(x);
}

// Scores of N keys, as a thread has them: those of keys beyond the end, before which `left` are, have no weight.
template <int N>
__device__ __forceinline__ void mask_keys(float (&s)[N / 2], int left) {
    if (left >= N) return;
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < N / 2; ++i)
        if (i / 4 * 8 + column + i % 2 >= left) s[i] = -INFINITY;
}

// By a warp that has done with a buffer.
__device__ __forceinline__ void warp_gives_back(uint64_t* empty) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) mbarrier_arrive(empty);
}

// The row of 64 that a thread has sums of: of its two, `half` 0 or 1 (wgmma.cuh).
__device__ __forceinline__ int row_of_sums(int half) {
    return threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % WARP / 4 + 8 * half;
}

// Rows of a warpgroup from registers to global memory: 16 of each warp, by way of a buffer of 64 rows in shared memory, 16
// bytes a lane. Other warps are not waited for.
template <int D>
__device__ __forceinline__ void rows_out(bf16* to, int stride, unsigned char* buffer,
                                         const float* d, float scale_low, float scale_high,
                                         int rows) {
    using R = HeadRows<D>;
    constexpr int PIECES = R::SPAN / 16, EACH = WARP / PIECES;
    const int thread = fresh_thread(), lane = thread % WARP, row0 = thread % WARPGROUP / WARP * 16;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        float v[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = d[8 * i + e] * (e / 2 % 2 ? scale_high : scale_low);
        panel_store<R::SPAN>(buffer, row0, 2 * i, v);
    }
    __syncwarp();
    const int piece = lane % PIECES;
#pragma unroll
    for (int i = 0; i < 16 / EACH; ++i) {
        const int row = row0 + i * EACH + lane / PIECES;
        if (row < rows && piece < D / 8) {
            const uint4 v = *reinterpret_cast<const uint4*>(buffer + swizzled<R::SPAN>(row, piece));
            *reinterpret_cast<uint4*>(to + row * stride + piece * 8) = v;
        }
    }
}

}  // namespace GLMAE_NS
