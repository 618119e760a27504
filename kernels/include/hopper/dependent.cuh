// Programmatic dependent launch (PTX ISA 9.7.13.13): a kernel may start while the one before it in the stream still runs, and
// prepares itself (barriers, tensor maps, registers) on the SMs that are free already.
//
//     kernel 1   | prepares | works ............ | last tiles |
//     kernel 2                    allowed here ->  | prepares | waits | works ...
//
// Nothing that another kernel writes or reads may be touched before grid_wait(), which returns when those before have ended
// and all they have written is there.
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

__device__ __forceinline__ void grid_wait() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }

// Once every block has called this or ended, the next kernel may start.
__device__ __forceinline__ void grid_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
}

}  // namespace GLMAE_NS
