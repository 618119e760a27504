// Products of a warpgroup: d[64, N] += A[64, 16] B[16, N], bf16 in, sums in f32, B in shared memory, A there or in
// registers (PTX ISA 9.7.15).
//
// A thread's sums: d[4 j + 2 h + e] is row 16 (warp % 4) + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + e.
// Rounded, d[8 i] .. d[8 i + 7] are the A, in registers, of a product whose k are columns 16 i and on.
//
// A matrix descriptor says where an operand lies, in rows of `Span` = 128 bytes swizzled by as many (tma.cuh), or of 64 or 32.
// Eight rows are an atom, and operands begin at multiples of it.
//
//     K-major: a row of 128 bytes is 64 k of one m          MN-major: a row of 128 bytes is 64 m of one k
//         rows m0 .. m7   | k0 ................ k63 |           rows k0 .. k7   | m0 ............... m63 |
//         rows m8 .. m15  1024 bytes further                    rows k8 .. k15  1024 bytes further
//         16 k further    32 bytes, within the row              16 k further    2048 bytes
//                                                               64 m further    `Block` bytes, here 64 rows of k
//
// Without a swizzle an operand is made of core matrices: eight rows of 16 bytes, 128 bytes without a gap, wherever they begin.
//
// Registers of the sums belong to the tensor cores from wgmma_fence() to the wgmma_wait() behind the commit.
#pragma once
#include "warpgroup.cuh"

namespace GLMAE_NS {

// Descriptor of an operand. The address a thread has holds the rank of its block above 18 bits.
template <int Span = 128, int Block = 64 * Span>
__device__ __forceinline__ uint64_t matrix_at(const void* shared) {
    static_assert(Span == 128 || Span == 64 || Span == 32, "swizzles of the copy engine");
    constexpr uint64_t SWIZZLE = Span == 128 ? 1 : Span == 64 ? 2 : 3, ATOM = 8 * Span >> 4;
    return SWIZZLE << 62 | ATOM << 32 | static_cast<uint64_t>(Block >> 4) << 16 |
           (shared_address(shared) & 0x3ffff) >> 4;
}
// Descriptor of a K-major operand of core matrices: `Next8K` bytes to the next 8 k, `NextRows` to the next 8 rows.
template <int Next8K, int NextRows>
__device__ __forceinline__ uint64_t core_matrices_at(const void* shared) {
    static_assert(Next8K % 16 == 0 && NextRows % 16 == 0, "whole rows");
    return static_cast<uint64_t>(NextRows >> 4) << 32 | static_cast<uint64_t>(Next8K >> 4) << 16 |
           (shared_address(shared) & 0x3ffff) >> 4;
}
// What the address of a descriptor grows by for the next 16 k.
template <bool K_MAJOR, int Span = 128>
constexpr uint64_t NEXT_16_K = (K_MAJOR ? 32 : 16 * Span) >> 4;

// To the compiler a fence or a wait is about memory alone, and it may move arithmetic past it. Behind this, registers have
// their values.
template <int N>
__device__ __forceinline__ void settle(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N>
__device__ __forceinline__ void settle(uint32_t (&a)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; ++i)
        asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

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

#define GLMAE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GLMAE_D8(i) GLMAE_D4(i), GLMAE_D4(i + 4)
#define GLMAE_D16(i) GLMAE_D8(i), GLMAE_D8(i + 8)
#define GLMAE_D32(i) GLMAE_D16(i), GLMAE_D16(i + 16)
#define GLMAE_D64(i) GLMAE_D32(i), GLMAE_D32(i + 32)
// Names of the operands of the first 4, 8, 16, ... sums.
#define GLMAE_NAMES4 "%0, %1, %2, %3"
#define GLMAE_NAMES8 GLMAE_NAMES4 ", %4, %5, %6, %7"
#define GLMAE_NAMES16 GLMAE_NAMES8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define GLMAE_NAMES20 GLMAE_NAMES16 ", %16, %17, %18, %19"
#define GLMAE_NAMES24 GLMAE_NAMES20 ", %20, %21, %22, %23"
#define GLMAE_NAMES32 GLMAE_NAMES24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define GLMAE_NAMES36 GLMAE_NAMES32 ", %32, %33, %34, %35"
#define GLMAE_NAMES48 \
    GLMAE_NAMES36     \
    ", %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define GLMAE_NAMES64 \
    GLMAE_NAMES48     \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GLMAE_NAMES96 \
    GLMAE_NAMES64     \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define GLMAE_NAMES128 \
    GLMAE_NAMES96     \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// The sums, then the numbers of the operands behind them. A is a descriptor, or four registers.
#define GLMAE_WGMMA(N, SUMS, A, B, ADDS, A_MN, B_MN, ...)                                          \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" #ADDS ", 0;\n"                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" GLMAE_NAMES##SUMS "}, " \
                 "%" #A ", %" #B ", adds, 1, 1, %" #A_MN ", %" #B_MN ";\n}\n"                       \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b), "r"(adds), "n"(A_K_MAJOR ? 0 : 1), "n"(B_K_MAJOR ? 0 : 1))
#define GLMAE_WGMMA_A(N, SUMS, A0, A1, A2, A3, B, ADDS, B_MN, ...)                                 \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" #ADDS ", 0;\n"                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" GLMAE_NAMES##SUMS "}, " \
                 "{%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", adds, 1, 1, %" #B_MN ";\n}\n"  \
                 : __VA_ARGS__                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds),                  \
                   "n"(B_K_MAJOR ? 0 : 1))

// One product of 16 k; `adds` 0: the sums start anew. They must not be set to zero instead: ptxas would then wait for each
// product before the next (warning C7515).
#define GLMAE_PRODUCTS(N, SUMS, A0, A1, A2, A3, B_A, ADDS_A, B_MN_A, ...)                          \
    template <bool A_K_MAJOR, bool B_K_MAJOR>                                                      \
    __device__ __forceinline__ void wgmma(float (&d)[SUMS], uint64_t a, uint64_t b, int adds) {    \
        GLMAE_WGMMA(N, SUMS, A0, A1, A2, A3, B_A, __VA_ARGS__);                                    \
    }                                                                                              \
    template <bool B_K_MAJOR>                                                                      \
    __device__ __forceinline__ void wgmma(float (&d)[SUMS], const uint32_t (&a)[4], uint64_t b,    \
                                          int adds) {                                              \
        GLMAE_WGMMA_A(N, SUMS, A0, A1, A2, A3, B_A, ADDS_A, B_MN_A, __VA_ARGS__);                  \
    }
GLMAE_PRODUCTS(16, 8, 8, 9, 10, 11, 12, 13, 14, GLMAE_D8(0))
GLMAE_PRODUCTS(32, 16, 16, 17, 18, 19, 20, 21, 22, GLMAE_D16(0))
GLMAE_PRODUCTS(40, 20, 20, 21, 22, 23, 24, 25, 26, GLMAE_D16(0), GLMAE_D4(16))
GLMAE_PRODUCTS(48, 24, 24, 25, 26, 27, 28, 29, 30, GLMAE_D16(0), GLMAE_D8(16))
GLMAE_PRODUCTS(64, 32, 32, 33, 34, 35, 36, 37, 38, GLMAE_D32(0))
GLMAE_PRODUCTS(72, 36, 36, 37, 38, 39, 40, 41, 42, GLMAE_D32(0), GLMAE_D4(32))
GLMAE_PRODUCTS(96, 48, 48, 49, 50, 51, 52, 53, 54, GLMAE_D32(0), GLMAE_D16(32))
GLMAE_PRODUCTS(128, 64, 64, 65, 66, 67, 68, 69, 70, GLMAE_D64(0))
GLMAE_PRODUCTS(192, 96, 96, 97, 98, 99, 100, 101, 102, GLMAE_D64(0), GLMAE_D32(64))
GLMAE_PRODUCTS(256, 128, 128, 129, 130, 131, 132, 133, 134, GLMAE_D64(0), GLMAE_D64(64))

#undef GLMAE_PRODUCTS
#undef GLMAE_WGMMA
#undef GLMAE_WGMMA_A
#undef GLMAE_NAMES4
#undef GLMAE_NAMES8
#undef GLMAE_NAMES16
#undef GLMAE_NAMES20
#undef GLMAE_NAMES24
#undef GLMAE_NAMES32
#undef GLMAE_NAMES36
#undef GLMAE_NAMES48
#undef GLMAE_NAMES64
#undef GLMAE_NAMES96
#undef GLMAE_NAMES128
#undef GLMAE_D4
#undef GLMAE_D8
#undef GLMAE_D16
#undef GLMAE_D32
#undef GLMAE_D64

}  // namespace GLMAE_NS
