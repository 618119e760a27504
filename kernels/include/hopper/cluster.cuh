// Blocks of a cluster run at the same time and reach each other's shared memory (PTX ISA 9.7.13.3, 9.7.9.23).
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

// Rank of this block in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}

// Barrier of all threads of the cluster, by whole warps. What a thread has done before, the others see behind it.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}
// The same without the fence of the whole GPU that this takes, behind fence_mbarrier_init(), which is enough for barriers in
// shared memory.
__device__ __forceinline__ void cluster_sync_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}

}  // namespace GLMAE_NS
