// Barriers, shuffles and votes. Each lane hands a payload to the emulator and is suspended; the last
// lane of the mask to arrive runs `complete` over the payloads of all.
#pragma once

namespace GLMAE_NS {

enum WarpOp : uint32_t { WARP_SYNC, WARP_SHUFFLE, WARP_VOTE, WARP_MMA, WARP_LDMATRIX };

__forceinline__ void __syncthreads() { glmae_emu_barrier(0, 0, GLMAE_REDUCE_NONE, 0); }
__forceinline__ int __syncthreads_or(int p) { return int(glmae_emu_barrier(0, 0, GLMAE_REDUCE_OR, p != 0)); }
__forceinline__ int __syncthreads_and(int p) {
    return int(glmae_emu_barrier(0, 0, GLMAE_REDUCE_AND, p != 0));
}
__forceinline__ int __syncthreads_count(int p) {
    return int(glmae_emu_barrier(0, 0, GLMAE_REDUCE_COUNT, p != 0));
}
__forceinline__ void named_barrier_sync(int id, int threads) {
    glmae_emu_barrier(uint32_t(id), uint32_t(threads), GLMAE_REDUCE_NONE, 0);
}

GLMAE_UNCHECKED void complete_sync(void* const*, uint32_t) {}
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu) {
    glmae_emu_warp(WARP_SYNC, mask, nullptr, complete_sync);
}

struct Shuffle {
    uint64_t value, result;
    uint32_t source;
    bool source_is_in_mask;
};
GLMAE_UNCHECKED void complete_shuffle(void* const* payloads, uint32_t mask) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Shuffle* to = static_cast<Shuffle*>(payloads[lane]);
        to->source_is_in_mask = mask >> to->source & 1;
        if (to->source_is_in_mask)
            to->result = static_cast<const Shuffle*>(payloads[to->source])->value;
    }
}
template <typename T>
__forceinline__ T shuffle(unsigned mask, T value, uint32_t source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "2, 4 or 8 bytes");
    Shuffle s{0, 0, source, false};
    __builtin_memcpy(&s.value, &value, sizeof value);
    glmae_emu_warp(WARP_SHUFFLE, mask, &s, complete_shuffle);
    if (!s.source_is_in_mask) glmae_emu_fault(GLMAE_FAULT_SHUFFLE_SOURCE);
    __builtin_memcpy(&value, &s.result, sizeof value);
    return value;
}
__forceinline__ uint32_t lane_id() {
    const GlmaeDim t = threadIdx, n = blockDim;
    return (t.x + n.x * (t.y + n.y * t.z)) % 32;
}
// A segment is `width` lanes; a source outside the lane's own segment means the lane itself.
template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const uint32_t lane = lane_id();
    return shuffle(mask, value, (lane & ~uint32_t(width - 1)) | (uint32_t(source) & (width - 1)));
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const uint32_t lane = lane_id(), source = lane ^ uint32_t(bits);
    // As the PTX ISA has it for .bfly: a source past the end of the segment means the lane itself.
    return shuffle(mask, value, source > (lane | uint32_t(width - 1)) ? lane : source);
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const uint32_t lane = lane_id(), source = lane + delta;
    return shuffle(mask, value, source > (lane | uint32_t(width - 1)) ? lane : source);
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const uint32_t lane = lane_id(), first = lane & ~uint32_t(width - 1);
    return shuffle(mask, value, lane < first + delta ? lane : lane - delta);
}

struct Vote {
    uint32_t value, ballot;
};
GLMAE_UNCHECKED void complete_vote(void* const* payloads, uint32_t mask) {
    uint32_t ballot = 0;
    for (uint32_t lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) ballot |= static_cast<const Vote*>(payloads[lane])->value << lane;
    for (uint32_t lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) static_cast<Vote*>(payloads[lane])->ballot = ballot;
}
__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
    Vote v{predicate != 0, 0};
    glmae_emu_warp(WARP_VOTE, mask, &v, complete_vote);
    return v.ballot;
}
__forceinline__ int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
__forceinline__ int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

}  // namespace GLMAE_NS
