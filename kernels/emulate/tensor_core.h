// Tensor-core tiles, matrix loads and asynchronous copies. Layouts: PTX ISA, "Matrix fragments for
// mma.m16n8k16 with floating point type" and "ldmatrix".
#pragma once

namespace GLMAE_NS {

struct Mma {
    uint32_t a[4], b[2];
    float c[4];
};
GLMAE_UNCHECKED float half_of(uint32_t pair, int high) {
    const uint32_t bits = high ? pair & 0xffff0000u : pair << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
// Products of bf16 are exact in f32; the sum of sixteen and c is taken in f64 and rounded once. The
// device's order and intermediate width are not documented, so a test must allow for them.
GLMAE_UNCHECKED void complete_mma(void* const* payloads, uint32_t) {
    double a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const Mma& f = *static_cast<const Mma*>(payloads[lane]);
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int e = 0; e < 8; ++e)
            a[group + (e / 2 % 2) * 8][pair + e % 2 + (e / 4) * 8] = half_of(f.a[e / 2], e % 2);
        for (int e = 0; e < 4; ++e) b[pair + e % 2 + (e / 2) * 8][group] = half_of(f.b[e / 2], e % 2);
    }
    for (int lane = 0; lane < 32; ++lane) {
        Mma& f = *static_cast<Mma*>(payloads[lane]);
        for (int e = 0; e < 4; ++e) {
            const int row = lane / 4 + (e / 2) * 8, column = lane % 4 * 2 + e % 2;
            double sum = f.c[e];
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            f.c[e] = float(sum);
        }
    }
}
__forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              const float (&c)[4]) {
    Mma f{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
    glmae_emu_warp(WARP_MMA, 0xffffffffu, &f, complete_mma);
    for (int i = 0; i < 4; ++i) d[i] = f.c[i];
}

struct MatrixLoad {
    const uint16_t* row;
    uint32_t r[4];
    int matrices;
    bool transposed;
};
GLMAE_UNCHECKED void complete_ldmatrix(void* const* payloads, uint32_t) {
    for (int lane = 0; lane < 32; ++lane) {
        MatrixLoad& to = *static_cast<MatrixLoad*>(payloads[lane]);
        for (int m = 0; m < to.matrices; ++m) {
            uint32_t half[2];
            for (int e = 0; e < 2; ++e) {
                const int row = to.transposed ? lane % 4 * 2 + e : lane / 4;
                const int column = to.transposed ? lane / 4 : lane % 4 * 2 + e;
                half[e] = static_cast<const MatrixLoad*>(payloads[m * 8 + row])->row[column];
            }
            to.r[m] = half[0] | half[1] << 16;
        }
    }
}
template <int MATRICES>
__forceinline__ void ldmatrix(uint32_t (&r)[MATRICES], const void* row, bool transposed) {
    if (int(lane_id()) < MATRICES * 8) {
        if (reinterpret_cast<uintptr_t>(row) % 16) glmae_emu_fault(GLMAE_FAULT_MISALIGNED);
        glmae_emu_access(row, 16, GLMAE_ACCESS_READ);
    }
    MatrixLoad l{static_cast<const uint16_t*>(row), {}, MATRICES, transposed};
    glmae_emu_warp(WARP_LDMATRIX + MATRICES * 2 + transposed, 0xffffffffu, &l, complete_ldmatrix);
    for (int i = 0; i < MATRICES; ++i) r[i] = l.r[i];
}
__forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) { ldmatrix<4>(r, row, false); }
__forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { ldmatrix<4>(r, row, true); }
__forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) { ldmatrix<2>(r, row, false); }
__forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { ldmatrix<2>(r, row, true); }

__forceinline__ void cp_async_16(void* to, const void* from, uint32_t valid = 16) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || (valid && reinterpret_cast<uintptr_t>(from) % 16))
        glmae_emu_fault(GLMAE_FAULT_MISALIGNED);
    glmae_emu_copy(to, from, 16, valid);
}
__forceinline__ void cp_async_commit() { glmae_emu_copy_commit(); }
template <int Pending>
__forceinline__ void cp_async_wait() {
    glmae_emu_copy_wait(Pending);
}

}  // namespace GLMAE_NS
