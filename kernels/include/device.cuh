// The prelude under nvcc: CUDA's own headers, and inline PTX behind the wrappers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define GLMAE_NS glmae_device
#define GLMAE_EXPORT extern "C"
#define GLMAE_KERNEL(name, max_threads)

// Dynamic shared memory: declares `type* name`, aligned to 128 bytes (TMA and swizzles need that).
#define GLMAE_DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(128) unsigned char glmae_dynamic_[]; \
    type* const name = reinterpret_cast<type*>(glmae_dynamic_)

namespace GLMAE_NS {

using bf16 = __nv_bfloat16;
using bf16x2 = __nv_bfloat162;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// One load or store of a whole vector (float4, uint4, ...), which must be aligned to its size.
template <typename T>
__device__ __forceinline__ T load_whole(const T* p) {
    return *p;
}
template <typename T>
__device__ __forceinline__ void store_whole(T* p, T v) {
    *p = v;
}

// Two f32 as one access of 8 bytes to shared memory. The compiler takes a plain store of a float2 apart where it has
// worked the address out for itself, and two accesses of 4 bytes that lie 8 apart meet every second bank twice.
__device__ __forceinline__ void store_pair_shared(float* to, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(shared_address(to)), "f"(x), "f"(y)
                 : "memory");
}

// d = a * b + c for one 16x8x16 tile; fragments as the PTX ISA lays out mma.m16n8k16 (.row.col).
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2], const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

// Four (two) 8x8 matrices of 16-bit elements from shared memory; lane i gives the address of row
// i % 8 of matrix i / 8 (16-byte aligned). The x2 forms use the addresses of lanes 0 to 15.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// 16 bytes from global to shared memory, past the registers and L1. Only the first `valid` bytes are
// read, the rest arrive as zeros (0: `from` is not read at all). Arrives at cp_async_wait.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, uint32_t valid = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most `Pending` of this thread's committed groups are still under way.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

// Barrier `id` (1 to 15) among `threads` threads of the block, a multiple of 32, whole warps.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace GLMAE_NS
