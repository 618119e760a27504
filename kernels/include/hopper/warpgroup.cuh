// Four neighbouring warps that work as one (PTX ISA 9.7.15), and the registers that they give and take (9.7.19.5).
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

constexpr int WARPGROUP = 128;

// Barrier of one warpgroup. Barrier 0 is the block's.
__device__ __forceinline__ void warpgroup_sync(int group) {
    named_barrier_sync(group + 1, WARPGROUP);
}

// The block starts with the same number of registers for each thread; a group that needs fewer gives some away, and one
// that needs more waits until it gets them. By all four warps, once, and only in kernels whose launch bounds say
// how many blocks share an SM (ptxas ignores it elsewhere, warning C7508).
template <int Registers>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Registers));
}

// Of a block of three groups, one of which keeps so many, what each of the others can have: 168 of each thread, shared out
// anew.
template <int Producer>
constexpr int CONSUMER_REGISTERS = (3 * 168 - Producer) / 16 * 8;

}  // namespace GLMAE_NS
