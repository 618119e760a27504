// A block of three warpgroups, one that loads and two that multiply, from its start to its end.
#pragma once
#include "dependent.cuh"
#include "warpgroup.cuh"

namespace GLMAE_NS {

// The warpgroup that produces keeps so many registers a thread, those that consume get the others. `prepare` makes barriers
// and the like, `produce` is called by one thread, `assist` by the warp beside it, `consume(group)` by the others.
template <int ProducerRegisters, typename Prepare, typename Produce, typename Assist, typename Consume>
__device__ __forceinline__ void producer_block(const Prepare& prepare, const Produce& produce,
                                               const Assist& assist, const Consume& consume) {
    // The same for all lanes, which the compiler cannot know.
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0);
    prepare();
    __syncthreads();
    grid_wait();
    if (warp < WARPGROUP / WARP) {
        give_registers<ProducerRegisters>();
        if (threadIdx.x == 0) {
            produce();
            grid_launch_dependents();
        } else if (warp == 1) {
            assist();
        }
    } else {
        take_registers<CONSUMER_REGISTERS<ProducerRegisters>>();
        consume(warp / 4 - 1);
    }
}

}  // namespace GLMAE_NS
