// Bulk copies of boxes of a tensor between global and shared memory (PTX ISA 5.5, 9.7.9.25.5), by one thread for all.
// The tensor map says where the tensor lies, how large it is and which box is copied; coordinates, innermost first, say
// which one. What a box covers outside of the tensor arrives as zeros and is not stored.
//
// Rows of a box have 128 bytes and the swizzle of 128 bytes, so that columns of such rows meet different banks:
//
//     bytes of a row    0   16   32   48   64   80   96  112      row r keeps its piece c at place c ^ (r % 8)
//     row 0             0    1    2    3    4    5    6    7      (bits 4 to 6 of an address are XORed with bits
//     row 1             1    0    3    2    5    4    7    6       7 to 9: buffers begin at multiples of 1024)
//     row 2             2    3    0    1    6    7    4    5
//
// or 64 or 32 bytes and that swizzle, in which two or four rows make up one of 128 bytes: bits 4 and 5 are XORed with 7 and 8,
// or 4 with 7. Rows of 16 bytes stay where they are.
//
// The copy engine is another reader and writer of shared memory (the async proxy). It sees what a thread has stored there
// once that thread has passed fence_async() and a barrier; likewise a thread that has read what the engine is to
// overwrite.
#pragma once
#include "mbarrier.cuh"

namespace GLMAE_NS {

// Dynamic shared memory where swizzled buffers may begin.
#define GLMAE_SWIZZLED_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

constexpr int SWIZZLED_ROW = 128;  // bytes

// Place of a 16-byte piece of a swizzled row of `Span` bytes.
template <int Span>
__device__ __forceinline__ int swizzled(int row, int piece) {
    return row * Span + (piece ^ row * Span / SWIZZLED_ROW % (Span / 16)) * 16;
}
__device__ __forceinline__ int swizzled_128(int row, int piece) {
    return swizzled<SWIZZLED_ROW>(row, piece);
}

__device__ __forceinline__ void prefetch_map(const GlmaeTensorMap& map) {
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}

__device__ __forceinline__ void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// The box at (x, y), whose bytes `barrier` counts.
__device__ __forceinline__ void load_box(void* to, const GlmaeTensorMap& map, int x, int y,
                                         uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];\n" ::"r"(shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier))
        : "memory");
}

__device__ __forceinline__ void load_box(void* to, const GlmaeTensorMap& map, int x, int y, int z,
                                         uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];\n" ::"r"(shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
        : "memory");
}

__device__ __forceinline__ void load_box(void* to, const GlmaeTensorMap& map, int x, int y, int z, int w, int v,
                                         uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];\n" ::"r"(shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(v), "r"(shared_address(barrier))
        : "memory");
}

// Neighbouring bytes, a multiple of 16, as they lie.
__device__ __forceinline__ void load_bytes(void* to, const void* from, uint32_t bytes,
                                           uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

// A box of two dimensions to every block of the cluster that `blocks` has a bit for: to the same place in its shared memory,
// counted by the barrier at the same place.
__device__ __forceinline__ void load_box_for(uint16_t blocks, void* to, const GlmaeTensorMap& map,
                                             int x, int y, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier)), "h"(blocks)
        : "memory");
}

// Stores, the other way; they belong to the group that the thread's next store_commit() closes.
__device__ __forceinline__ void store_box(const GlmaeTensorMap& map, int x, int y,
                                          const void* from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n" ::
                     "l"(&map),
                 "r"(x), "r"(y), "r"(shared_address(from))
                 : "memory");
}
__device__ __forceinline__ void store_box(const GlmaeTensorMap& map, int x, int y, int z,
                                          const void* from) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];\n" ::"l"(
            &map),
        "r"(x), "r"(y), "r"(z), "r"(shared_address(from))
        : "memory");
}
// Adds f32 to what is there. The sum is fixed as long as one box of a launch reaches an element.
__device__ __forceinline__ void add_box(const GlmaeTensorMap& map, int x, int y, int z,
                                        const void* from) {
    asm volatile(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
        "[%0, {%1, %2, %3}], [%4];\n" ::"l"(&map),
        "r"(x), "r"(y), "r"(z), "r"(shared_address(from))
        : "memory");
}
__device__ __forceinline__ void store_commit() {
    asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}
// Waits until at most `Pending` of this thread's groups have shared memory still to read.
template <int Pending>
__device__ __forceinline__ void store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Pending) : "memory");
}
// Waits until all of this thread's groups have arrived in global memory. Before a block ends.
__device__ __forceinline__ void store_wait() {
    asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}

}  // namespace GLMAE_NS
