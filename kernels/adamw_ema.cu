// The optimiser over flat memory, one launch for clip, AdamW (Loshchilov and Hutter, arXiv 1711.05101),
// the teacher's moving average and the bf16 copies of both:
//
//     g = factor * grad        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//     p = keep p - step_size * m / (sqrt(v) * root + eps)
//     teacher = mu teacher + (1 - mu) p
//
// with step_size = lr / (1 - b1^t), root = 1 / sqrt(1 - b2^t), keep = 1 - lr wd (1 without decay) per
// segment. Inactive segments (frozen parameters, padding) keep p, m, v; the teacher follows them all the
// same. params, grads, m, v [n], teacher [a prefix] f32; half, teacher_half the same in bf16, or null.
// Everything that changes from step to step is read from device memory: `scalars`, `segments`, and
// `clip` = (norm, factor) of grad_norm, which then replaces `grad_scale`, or null. With a norm that is not
// finite nothing is written.
//
// Threads: 256 per block, block b owns elements 8192 b .. 8192 (b + 1); chunks[b] is the first segment
// that reaches into them. Segments cover the buffer without gaps and are cut at the teacher's end. Four
// elements per thread and step: five 16-byte loads before the first use; the ends of segments that are
// not multiples of 4, and unaligned buffers, go element by element.
// Shared memory: none. Bytes moved per element: 16 + 12 (p, g, m, v in; p, m, v out), + 8 teacher, + 2 for
// each bf16 copy: 40 with everything. FLOPs: 16. Floor (139 M elements, 111 M of them the teacher's): 5.3
// GB, 1.23 ms at 4.3 TB/s.
// Numerics: square root and division by the fast forms (2 ulp each, no slow path); m / (sqrt(v) + eps) is
// of order 1 and is multiplied by lr. Deterministic: no element meets another.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int ADAM_THREADS = 256, ADAM_CHUNK = 8192;

struct AdamElement {
    float p, m, v;
};

__device__ __forceinline__ AdamElement adam_step(float p, float g, float m, float v,
                                                 const GlmaeAdamScalars& a,
                                                 const GlmaeAdamSegment& s, float factor) {
    g *= factor;
    m = a.beta1 * m + a.rest1 * g;
    v = a.beta2 * v + a.rest2 * g * g;
    const float root = v > 0.0f ? v * rsqrtf(v) : 0.0f;
    const float step = __fdividef(m, root * s.root + a.eps);
    return {p * s.keep - s.step_size * step, m, v};
}

// Elements first .. first + N of one segment.
template <int N>
__device__ __forceinline__ void adam_unit(float* params, const float* grads, float* m, float* v,
                                          float* teacher, bf16* half, bf16* teacher_half,
                                          int64_t first, const GlmaeAdamScalars& a,
                                          const GlmaeAdamSegment& s, float factor) {
    const bool follows = s.flags & GLMAE_ADAM_TEACHER;
    float p[N], t[N];
    if (s.flags & GLMAE_ADAM_ACTIVE) {
        float g[N], mm[N], vv[N];
        load_elements<N>(params, first, p);
        load_elements<N>(grads, first, g);
        load_elements<N>(m, first, mm);
        load_elements<N>(v, first, vv);
        if (follows) load_elements<N>(teacher, first, t);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const AdamElement e = adam_step(p[i], g[i], mm[i], vv[i], a, s, factor);
            p[i] = e.p, mm[i] = e.m, vv[i] = e.v;
        }
        store_elements<N>(params, first, p);
        store_elements<N>(m, first, mm);
        store_elements<N>(v, first, vv);
        if (half) store_elements<N>(half, first, p);
    } else {
        if (!follows) return;
        load_elements<N>(params, first, p);
        load_elements<N>(teacher, first, t);
    }
    if (follows) {
#pragma unroll
        for (int i = 0; i < N; ++i) t[i] = a.ema * t[i] + a.ema_rest * p[i];
        store_elements<N>(teacher, first, t);
        if (teacher_half) store_elements<N>(teacher_half, first, t);
    }
}

GLMAE_EXPORT __global__ void __launch_bounds__(256, 5)
    adamw_ema_update_f32(float* __restrict__ params, float* __restrict__ m, float* __restrict__ v,
                         float* __restrict__ teacher, bf16* __restrict__ half,
                         bf16* __restrict__ teacher_half, const float* __restrict__ grads,
                         const GlmaeAdamScalars* __restrict__ scalars,
                         const GlmaeAdamSegment* __restrict__ segments,
                         const int* __restrict__ chunks, const float* __restrict__ clip,
                         int segment_count, int64_t n) {
    const GlmaeAdamScalars a = *scalars;
    float factor = a.grad_scale;
    if (clip) {
        if (!(clip[0] < INFINITY)) return;
        factor = clip[1];
    }
    const bool aligned = is_aligned_16(params) && is_aligned_16(grads) && is_aligned_16(m) &&
                         is_aligned_16(v) && is_aligned_16(teacher) && is_aligned_16(half) &&
                         is_aligned_16(teacher_half);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * ADAM_CHUNK;
    const int64_t end = min(begin + ADAM_CHUNK, n);
    for (int i = chunks[blockIdx.x]; i < segment_count && segments[i].begin < end; ++i) {
        const GlmaeAdamSegment s = segments[i];
        const int64_t low = max(s.begin, begin), high = min(s.end, end);
        // Units of four lie on multiples of four; what sticks out at the ends is done by few threads.
        const int64_t head = aligned ? min((low + 3) & ~int64_t(3), high) : high;
        const int64_t tail = max(high & ~int64_t(3), head);
#pragma unroll 1
        for (int64_t at = head + threadIdx.x * 4; at < tail; at += ADAM_THREADS * 4)
            adam_unit<4>(params, grads, m, v, teacher, half, teacher_half, at, a, s, factor);
#pragma unroll 1
        for (int64_t at = low + threadIdx.x; at < high; at += ADAM_THREADS) {
            if (at >= head && at < tail) {
                if (head < tail) at += (tail - 1 - at) / ADAM_THREADS * ADAM_THREADS;
                continue;
            }
            adam_unit<1>(params, grads, m, v, teacher, half, teacher_half, at, a, s, factor);
        }
    }
}
GLMAE_KERNEL(adamw_ema_update_f32, 256)

}  // namespace GLMAE_NS
