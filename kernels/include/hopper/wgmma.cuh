// Products of a warpgroup: d[64, N] += A[64, 16] B[16, N], bf16 in, sums in f32, operands in shared memory (PTX ISA 9.7.15).
//
// A thread's sums: d[4 j + 2 h + e] is row 16 (warp % 4) + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + e.
//
// A matrix descriptor says where an operand lies. Ours have the swizzle of 128 bytes (tma.cuh) and begin at multiples of
// 1024. An atom is 8 rows of 128 bytes.
//
//     K-major: a row of 128 bytes is 64 k of one m          MN-major: a row of 128 bytes is 64 m of one k
//         rows m0 .. m7   | k0 ................ k63 |           rows k0 .. k7   | m0 ............... m63 |
//         rows m8 .. m15  1024 bytes further                    rows k8 .. k15  1024 bytes further
//         16 k further    32 bytes, within the row              16 k further    2048 bytes
//                                                               64 m further    64 rows of k: 8192 bytes
//
// Registers of the sums belong to the tensor cores from wgmma_fence() to the wgmma_wait() behind the commit.
#pragma once
#include "warpgroup.cuh"

namespace GLMAE_NS {

// Descriptor of an operand. The address a thread has holds the rank of its block above 18 bits.
__device__ __forceinline__ uint64_t matrix_at(const void* shared) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62, ATOM = 1024 >> 4, SIXTY_FOUR_MN = 8192 >> 4;
    return SWIZZLE_128 | ATOM << 32 | SIXTY_FOUR_MN << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}
// What the address of a descriptor grows by for the next 16 k.
template <bool K_MAJOR>
constexpr uint64_t NEXT_16_K = (K_MAJOR ? 32 : 2048) >> 4;

// Before the first product, and whenever a thread has touched the registers of the sums.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits until at most `Pending` groups of products are under way.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Pending) : "memory");
}

#define GLMAE_D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define GLMAE_D32(i) GLMAE_D8(i), GLMAE_D8(i + 8), GLMAE_D8(i + 16), GLMAE_D8(i + 24)
#define GLMAE_NAMES0 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GLMAE_NAMES32 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GLMAE_NAMES64 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define GLMAE_NAMES96 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// The sums, then the numbers of the five operands behind them.
#define GLMAE_WGMMA(N, NAMES, A, B, ADDS, A_MN, B_MN, ...)                                         \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" #ADDS ", 0;\n"                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, "           \
                 "%" #A ", %" #B ", adds, 1, 1, %" #A_MN ", %" #B_MN ";\n}\n"                       \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b), "r"(adds), "n"(A_K_MAJOR ? 0 : 1), "n"(B_K_MAJOR ? 0 : 1))

// One product of 16 k; `adds` 0: the sums start anew. They must not be set to zero instead: ptxas would then wait for each
// product before the next (warning C7515).
template <bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, int adds) {
    GLMAE_WGMMA(64, GLMAE_NAMES0, 32, 33, 34, 35, 36, GLMAE_D32(0));
}
template <bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void wgmma(float (&d)[64], uint64_t a, uint64_t b, int adds) {
    GLMAE_WGMMA(128, GLMAE_NAMES0 ", " GLMAE_NAMES32, 64, 65, 66, 67, 68, GLMAE_D32(0), GLMAE_D32(32));
}
template <bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void wgmma(float (&d)[96], uint64_t a, uint64_t b, int adds) {
    GLMAE_WGMMA(192, GLMAE_NAMES0 ", " GLMAE_NAMES32 ", " GLMAE_NAMES64, 96, 97, 98, 99, 100,
                GLMAE_D32(0), GLMAE_D32(32), GLMAE_D32(64));
}
template <bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void wgmma(float (&d)[128], uint64_t a, uint64_t b, int adds) {
    GLMAE_WGMMA(256, GLMAE_NAMES0 ", " GLMAE_NAMES32 ", " GLMAE_NAMES64 ", " GLMAE_NAMES96, 128,
                129, 130, 131, 132, GLMAE_D32(0), GLMAE_D32(32), GLMAE_D32(64), GLMAE_D32(96));
}

#undef GLMAE_WGMMA
#undef GLMAE_NAMES0
#undef GLMAE_NAMES32
#undef GLMAE_NAMES64
#undef GLMAE_NAMES96
#undef GLMAE_D32
#undef GLMAE_D8

}  // namespace GLMAE_NS
