// Barriers in shared memory that count arrivals and bytes (PTX ISA 9.7.13.15), and the ring of buffers that two of them
// a stage make of a piece of shared memory.
//
//     stage           0       1       2       3       0       1   ...
//     parity          0       0       0       0       1       1
//     producer        wait empty[s] (parity ^ 1: at first nobody has to have left), say how many bytes come, load
//     consumers       wait full[s] (parity), read, each warp arrives at empty[s]
//
// A phase of full[s] ends when the producer has arrived and all bytes are there, one of empty[s] when every warp that
// reads has arrived. A wait knows phases by their parity alone, so that nobody may be two phases away from the one it waits
// for: each warp arrives for itself and only after its own wait, and nobody waits for a stage before those are over that
// come before it.
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

// Makes initialised barriers visible to the copy engine and to the other blocks of the cluster; a barrier of the block or
// cluster must follow.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// Arrives, and says how many bytes of bulk copies belong to this phase: whole boxes, also where they reach out of the
// tensor.
__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier))
                 : "memory");
}

// Arrives at the same barrier in block `rank` of the cluster. What this thread has read is read; of what it has written
// the other block learns nothing: `.release.cluster` would cost a fence of the whole GPU at every stage.
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* barrier, uint32_t rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}\n" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}

// Waits until the phase of this parity is over.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred over;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@!over bra again;\n"
        "}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// Where a thread is in the ring.
template <int STAGES>
struct RingAt {
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    // Past stages that others use.
    __device__ __forceinline__ void skip(int stages) {
        stage += stages;
        parity ^= stage / STAGES & 1;
        stage %= STAGES;
    }
};

}  // namespace GLMAE_NS
