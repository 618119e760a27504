// Kernels with one fault each, and correct neighbours that must pass: the tests of the emulator
// itself (tests/emulator/faults.rs). Never part of a fatbin. Launched with one dimension of threads.
#include "../include/prelude.cuh"

namespace GLMAE_NS {

#define FAULT(name, ...)                                      \
    GLMAE_EXPORT __global__ void fault_##name(__VA_ARGS__);   \
    GLMAE_EXPORT __global__ void fault_##name(__VA_ARGS__)

__device__ inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Global memory: y [n] and x [n].
FAULT(global_write_past_end, float* y, int n) {
    y[thread()] = 1.0f;  // launched with more than n threads
    (void)n;
}
GLMAE_KERNEL(fault_global_write_past_end, 1024)

FAULT(global_read_before_start, float* y, const float* x) { y[thread()] = x[thread() - 1]; }
GLMAE_KERNEL(fault_global_read_before_start, 1024)

FAULT(global_vector_past_end, float* y, const float* x, int n) {
    // The last 16 bytes start inside and end outside when n % 4 != 0, though what is used is inside.
    const int i = thread() * 4;
    if (i < n) y[i] = __uint_as_float(load_vec(x, i).raw.x);
}
GLMAE_KERNEL(fault_global_vector_past_end, 1024)

FAULT(global_misaligned, float* y, const float* x) { store_vec(y, 0, load_vec(x, 2)); }
GLMAE_KERNEL(fault_global_misaligned, 1024)

FAULT(global_copy, float* y, const float* x) { y[thread()] = x[thread()]; }
GLMAE_KERNEL(fault_global_copy, 1024)

struct Triple {
    float v[3];
};
FAULT(global_struct, Triple* y, const Triple* x) { y[thread()] = x[thread()]; }
GLMAE_KERNEL(fault_global_struct, 1024)

FAULT(null_pointer, float* y) { y[thread()] = 1.0f; }
GLMAE_KERNEL(fault_null_pointer, 1024)

// Shared memory. `shift` moves the index.
FAULT(shared_reverse, float* y, const float* x, int barrier) {
    __shared__ float tile[64];
    const int i = threadIdx.x;
    tile[i] = x[i];
    if (barrier) __syncthreads();
    y[i] = tile[63 - i];
}
GLMAE_KERNEL(fault_shared_reverse, 64)

FAULT(shared_unwritten, float* y, int n) {
    __shared__ float tile[64];
    if (static_cast<int>(threadIdx.x) < n) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
GLMAE_KERNEL(fault_shared_unwritten, 64)

FAULT(shared_past_end, float* y, int n) {
    __shared__ float tile[64];
    float* p = tile;
    p[threadIdx.x + n] = 1.0f;
    y[threadIdx.x] = p[threadIdx.x + n];
}
GLMAE_KERNEL(fault_shared_past_end, 64)

FAULT(shared_array_index, float* y, int n) {
    __shared__ float tile[4][16];
    tile[n][threadIdx.x] = 1.0f;  // n = 4
    y[threadIdx.x] = tile[n][threadIdx.x];
}
GLMAE_KERNEL(fault_shared_array_index, 16)

FAULT(dynamic_shared_past_end, float* y, int n) {
    GLMAE_DYNAMIC_SHARED(float, tile);
    tile[threadIdx.x + n] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x + n];
}
GLMAE_KERNEL(fault_dynamic_shared_past_end, 64)

// 1 KiB of static shared memory beside the dynamic one, which counts towards the same limits.
FAULT(static_and_dynamic, float* y, int last) {
    GLMAE_DYNAMIC_SHARED(float, tile);
    __shared__ float own[256];
    const int i = threadIdx.x;
    own[i] = static_cast<float>(i);
    if (i == 0) tile[last] = 1.0f;
    __syncthreads();
    y[i] = own[i] + tile[last];
}
GLMAE_KERNEL(fault_static_and_dynamic, 256)

// Barriers. Threads below `n` take the other way.
FAULT(barrier_early_return, float* y, int n) {
    if (static_cast<int>(threadIdx.x) < n) return;
    __syncthreads();
    y[threadIdx.x] = 1.0f;
}
GLMAE_KERNEL(fault_barrier_early_return, 64)

FAULT(barrier_divergent, float* y, int n) {
    if (static_cast<int>(threadIdx.x) < n) {
        y[threadIdx.x] = 0.0f;
        __syncthreads();
    } else {
        y[threadIdx.x] = 1.0f;
        __syncthreads();
    }
}
GLMAE_KERNEL(fault_barrier_divergent, 64)

// Warps.
FAULT(shuffle_absent_lane, float* y, int n) {
    float v = threadIdx.x;
    if (static_cast<int>(threadIdx.x) >= n) v = __shfl_xor_sync(FULL_WARP, v, 1);
    y[threadIdx.x] = v;
}
GLMAE_KERNEL(fault_shuffle_absent_lane, 64)

FAULT(shuffle_source_outside_mask, float* y) {
    float v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_sync(0xffffu, v, 20);
    y[threadIdx.x] = v;
}
GLMAE_KERNEL(fault_shuffle_source_outside_mask, 64)

FAULT(shuffle_mask_without_caller, float* y) {
    y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0);
}
GLMAE_KERNEL(fault_shuffle_mask_without_caller, 64)

FAULT(syncwarp_after_return, float* y, int n) {
    if (static_cast<int>(threadIdx.x) < n) return;
    __syncwarp();
    y[threadIdx.x] = 1.0f;
}
GLMAE_KERNEL(fault_syncwarp_after_return, 64)

// A neighbour's value through shared memory: `mode` 0 nothing between, 1 a shuffle (which orders no
// memory), 2 __syncwarp.
FAULT(warp_exchange, float* y, int mode) {
    __shared__ float tile[64];
    const int i = threadIdx.x;
    tile[i] = i;
    if (mode == 1) __shfl_xor_sync(FULL_WARP, i, 1);
    if (mode == 2) __syncwarp();
    y[i] = tile[i ^ 1];
}
GLMAE_KERNEL(fault_warp_exchange, 64)

// As above with the lanes of half a warp, and reads from the other half when `cross`.
FAULT(half_warp_exchange, float* y, int cross) {
    __shared__ float tile[32];
    const int i = threadIdx.x;
    tile[i] = i;
    __syncwarp(i < 16 ? 0xffffu : 0xffff0000u);
    y[i] = tile[i ^ (cross ? 16 : 1)];
}
GLMAE_KERNEL(fault_half_warp_exchange, 32)

// Warp 0 writes, warp 1 reads; `sync` makes it a named barrier of 64 threads. Warps 2 and 3 stay out.
FAULT(named_barrier, float* y, int sync) {
    __shared__ float tile[32];
    const int i = threadIdx.x;
    if (i < 32) tile[i] = i;
    if (sync && i < 64) named_barrier_sync(1, 64);
    if (i >= 32 && i < 64) y[i - 32] = tile[63 - i];
}
GLMAE_KERNEL(fault_named_barrier, 128)

// Races in global memory.
FAULT(race_write_write, float* y) { y[0] = threadIdx.x; }
GLMAE_KERNEL(fault_race_write_write, 64)

FAULT(race_read_write, float* y, const float* x) {
    const int i = threadIdx.x;
    y[i] = x[i];  // y is x
    y[i] += x[(i + 1) % 64];
}
GLMAE_KERNEL(fault_race_read_write, 64)

FAULT(race_blocks_write, float* y) {
    if (threadIdx.x == 0) y[blockIdx.x / 2] = 1.0f;
}
GLMAE_KERNEL(fault_race_blocks_write, 64)

FAULT(race_blocks_read, float* y, const float* x) {
    if (threadIdx.x == 0) y[blockIdx.x] = x[blockIdx.x / 2];  // y is x
}
GLMAE_KERNEL(fault_race_blocks_read, 64)

// Atomics.
FAULT(atomic_float, float* y) { atomicAdd(y, 1.0f); }
GLMAE_KERNEL(fault_atomic_float, 64)

FAULT(atomic_int, int* y, int* largest) {
    atomicAdd(y, 1);
    atomicMax(largest, thread());
}
GLMAE_KERNEL(fault_atomic_int, 64)

FAULT(atomic_and_plain, int* y) {
    if (threadIdx.x == 0) {
        y[0] = 5;
    } else {
        atomicAdd(y, 1);
    }
}
GLMAE_KERNEL(fault_atomic_and_plain, 64)

// The last-block pattern: every block leaves a part, the last one adds them in order. `ordered` = 0:
// block 0 adds them without waiting.
FAULT(last_block, float* sum, float* parts, unsigned* tickets, int ordered) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = blockIdx.x + 1;
        __threadfence();
        is_last = ordered ? atomicAdd(tickets, 1u) == gridDim.x - 1 : blockIdx.x == 0;
    }
    __syncthreads();
    if (!is_last || threadIdx.x != 0) return;
    float total = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) total += parts[i];
    *sum = total;
}
GLMAE_KERNEL(fault_last_block, 64)

// Asynchronous copies of 64 x 16 bytes. `mode`: 0 correct, 1 no wait, 2 wait but no barrier,
// 3 waits for all but the one that is used, 4 writes the target meanwhile.
FAULT(async_copy, float4* y, const float4* x, int mode) {
    __shared__ float4 tile[64];
    const int i = threadIdx.x;
    cp_async_16(&tile[i], &x[i]);
    cp_async_commit();
    if (mode == 1) {
        __syncthreads();
    } else if (mode == 3) {
        cp_async_wait<1>();
        __syncthreads();
    } else {
        if (mode == 4) {
            __syncthreads();
            if (i == 0) tile[1].x = 3.0f;
        }
        cp_async_wait<0>();
        if (mode != 2) __syncthreads();
    }
    y[i] = tile[63 - i];
}
GLMAE_KERNEL(fault_async_copy, 64)

// Arithmetic.
FAULT(index_overflow, float* y, int n) { y[(threadIdx.x + 1) * 0 + (n * n > 0)] = 1.0f; }
GLMAE_KERNEL(fault_index_overflow, 64)

FAULT(division_by_zero, int* y, int n) { y[threadIdx.x] = 7 / n; }
GLMAE_KERNEL(fault_division_by_zero, 64)

FAULT(trap, int* y) {
    if (threadIdx.x == 3) __trap();
    y[threadIdx.x] = 1;
}
GLMAE_KERNEL(fault_trap, 64)

// A correct kernel of every argument kind.
struct Plain {
    int64_t a;
    float b;
    int32_t c;
};
FAULT(arguments, float* y, int a, uint32_t b, int64_t c, uint64_t d, float e, Plain p) {
    const float v[8] = {float(a), float(b), float(c), float(d), e, float(p.a), p.b, float(p.c)};
    y[threadIdx.x] = v[threadIdx.x];
}
GLMAE_KERNEL(fault_arguments, 8)

}  // namespace GLMAE_NS
