// Linear layer with normalised, scaled weight rows (Salimans and Kingma, arXiv 1602.07868, eq. 2 and 3),
// the prototypes of the projection head:
//
//     init:        norm_k = |v_k|,  W_k = v_k g_k / norm_k                      (no epsilon)
//     fwd:         y = x W^T
//     bwd_x:       dx (+)= dy W, in parts over the prototypes; bwd_reduce adds them in order
//     bwd_params:  dW = dy^T x
//     bwd_norm:    dg_k (+)= dW_k . v_k / norm_k
//                  dv_k (+)= g_k / norm_k (dW_k - v_k (dW_k . v_k) / norm_k^2)
//
// x, dx, W f32 or bf16 (W is scratch of a step); g, v, norm, the logits y and every gradient of a
// parameter f32; bf16 products take dy rounded to bf16 (bwd_round). x [rows, in], W, v [out, in],
// y [rows, out]. Sums in f32.
//
// Threads: init and bwd_norm one warp per row of v, blocks of 128, lanes 16 bytes apart where `in` is
// a multiple of 4 (bf16 output: 8). Products as gemm.cuh says, tile 64 x 64: rows (views) are few, one
// row of tiles holds them all, so W is read once. `_any` takes every size, element by element.
// Bytes (e = element size; rows << out): init (4 + e) out in; fwd e out in + 4 rows out; bwd_x e out
// in; bwd_params 4 out in; bwd_norm 12 out in (+ 4 when adding). At out = 65536, in = 256, bf16 on H200
// (4.3 TB/s): init 23 us, fwd 10, bwd_x 8, bwd_params 16, bwd_norm 47. FLOP: 2 rows in out a product.
// Deterministic: butterflies within a warp; parts depend on sizes alone and are added in order.
#include "gemm.cuh"

namespace GLMAE_NS {

// Sum over a row of a(j) b(j), for all lanes: four (or one) neighbours per lane at a time.
__device__ __forceinline__ float weight_norm_dot(const float* a, const float* b, int n,
                                                 bool vectors) {
    const int lane = threadIdx.x % WARP;
    float sum = 0.0f;
    if (vectors) {
        for (int j = lane * 4; j < n; j += WARP * 4) {
            const float4 p = __ldg(reinterpret_cast<const float4*>(a + j));
            const float4 q = __ldg(reinterpret_cast<const float4*>(b + j));
            sum += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
        }
    } else {
        for (int j = lane; j < n; j += WARP) sum += __ldg(a + j) * __ldg(b + j);
    }
    return warp_sum(sum);
}

template <typename T>
__device__ __forceinline__ void weight_norm_init(T* weight, float* norm, const float* g,
                                                 const float* v, int out, int in) {
    constexpr int N = Vec<T>::N;
    const int lane = threadIdx.x % WARP;
    const int64_t row =
        static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= out) return;
    const float* from = v + row * in;
    T* to = weight + row * in;
    const bool vectors = in % N == 0 && is_aligned_16(v) && is_aligned_16(weight);
    const float length = sqrtf(weight_norm_dot(from, from, in, vectors));
    if (lane == 0) norm[row] = length;
    const float scale = g[row] / length;
    if (vectors) {
        // The row again, from L1.
        for (int j = lane * N; j < in; j += WARP * N) {
            float x[N];
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                const float4 f = __ldg(reinterpret_cast<const float4*>(from + j + i));
                x[i] = f.x * scale, x[i + 1] = f.y * scale;
                x[i + 2] = f.z * scale, x[i + 3] = f.w * scale;
            }
            store_columns(to, j, x, N, true);
        }
    } else {
        for (int j = lane; j < in; j += WARP) to[j] = from_float<T>(__ldg(from + j) * scale);
    }
}

GLMAE_TWINS(weight_norm_linear_init_f32, weight_norm_linear_init_bf16, (128),
    (T* __restrict__ weight, float* __restrict__ norm, const float* __restrict__ g,
     const float* __restrict__ v, int out, int in),
    weight_norm_init(weight, norm, g, v, out, in))

// d = dy in bf16.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    weight_norm_linear_bwd_round_bf16(bf16* __restrict__ d, const float* __restrict__ dy,
                                      int64_t count) {
    constexpr int N = Vec<bf16>::N;
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (i >= count) return;
    const int left = count - i < N ? static_cast<int>(count - i) : N;
    const bool vectors = left == N && is_aligned_16(d) && is_aligned_16(dy);
    float x[N];
    if (vectors) {
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            float part[4];
            load_vec(dy, i + j).unpack(part);
#pragma unroll
            for (int e = 0; e < 4; ++e) x[j + e] = part[e];
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] = j < left ? dy[i + j] : 0.0f;
    }
    store_columns(d, i, x, left, vectors);
}
GLMAE_KERNEL(weight_norm_linear_bwd_round_bf16, 256)

// dg or dv may be null.
GLMAE_EXPORT __global__ void __launch_bounds__(128)
    weight_norm_linear_bwd_norm_f32(float* __restrict__ dg, float* __restrict__ dv,
                                    const float* __restrict__ dweight,
                                    const float* __restrict__ norm, const float* __restrict__ g,
                                    const float* __restrict__ v, int out, int in, int g_mode,
                                    int v_mode) {
    const int lane = threadIdx.x % WARP;
    const int64_t row =
        static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= out) return;
    const float* dw = dweight + row * in;
    const float* from = v + row * in;
    const bool vectors =
        in % 4 == 0 && is_aligned_16(dweight) && is_aligned_16(v) && is_aligned_16(dv);
    const float length = norm[row], dot = weight_norm_dot(dw, from, in, vectors);
    if (dg && lane == 0) {
        const float gradient = dot / length;
        dg[row] = g_mode == GLMAE_GRAD_ACCUMULATE ? dg[row] + gradient : gradient;
    }
    if (!dv) return;
    const float scale = g[row] / length, along = dot / (length * length);
    float* to = dv + row * in;
    const bool accumulates = v_mode == GLMAE_GRAD_ACCUMULATE;
    if (vectors) {
        for (int j = lane * 4; j < in; j += WARP * 4) {
            const float4 p = __ldg(reinterpret_cast<const float4*>(dw + j));
            const float4 q = __ldg(reinterpret_cast<const float4*>(from + j));
            float4 r = make_float4(scale * (p.x - q.x * along), scale * (p.y - q.y * along),
                                   scale * (p.z - q.z * along), scale * (p.w - q.w * along));
            if (accumulates) {
                const float4 old = *reinterpret_cast<const float4*>(to + j);
                r.x += old.x, r.y += old.y, r.z += old.z, r.w += old.w;
            }
            *reinterpret_cast<float4*>(to + j) = r;
        }
    } else {
        for (int j = lane; j < in; j += WARP) {
            const float r = scale * (__ldg(dw + j) - __ldg(from + j) * along);
            to[j] = accumulates ? to[j] + r : r;
        }
    }
}
GLMAE_KERNEL(weight_norm_linear_bwd_norm_f32, 128)

// dx [count] (+)= the sum of `parts` [parts, count], in order; four neighbours per thread.
template <typename T>
__device__ __forceinline__ void weight_norm_reduce(T* dx, const float* partial, int parts,
                                                   int64_t count, int mode) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
    if (i < count) reduce_partials(dx, partial, parts, count, i, mode == GLMAE_GRAD_ACCUMULATE);
}

GLMAE_TWINS(weight_norm_linear_bwd_reduce_f32, weight_norm_linear_bwd_reduce_bf16, (256),
    (T* dx, const float* __restrict__ partial, int parts, int64_t count, int mode),
    weight_norm_reduce(dx, partial, parts, count, mode))

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void weight_norm_fwd(float* y, const T* x, const T* weight, int rows,
                                                int out, int in) {
    const ForwardEpilogue<float> epilogue(y, nullptr, nullptr, nullptr, rows, out, false);
    gemm<Tile, true, true, VECTOR>(epilogue, x, in, weight, in, rows, out, in, in);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void weight_norm_bwd_x(float* partial, const T* dy, const T* weight,
                                                  int rows, int out, int in, int out_part) {
    const PartialEpilogue epilogue(partial, nullptr, rows, in, GLMAE_GRAD_OVERWRITE,
                                   GLMAE_GRAD_OVERWRITE);
    gemm<Tile, true, false, VECTOR>(epilogue, dy, out, weight, in, rows, in, out, out_part);
}

template <typename Tile, bool VECTOR, typename T = typename Tile::Element>
__device__ __forceinline__ void weight_norm_bwd_params(float* dweight, const T* dy, const T* x,
                                                       int rows, int out, int in) {
    const PartialEpilogue epilogue(dweight, nullptr, out, in, GLMAE_GRAD_OVERWRITE,
                                   GLMAE_GRAD_OVERWRITE);
    gemm<Tile, false, false, VECTOR>(epilogue, dy, out, x, in, out, in, rows, rows);
}

// As many blocks as the bounds say must fit the register file of an SM.
#define WEIGHT_NORM_FWD(...)                                                                          \
    (float* __restrict__ y, const T* __restrict__ x, const T* __restrict__ weight, int rows, int out, \
     int in),                                                                                         \
    weight_norm_fwd<__VA_ARGS__>(y, x, weight, rows, out, in)
GLMAE_INSTANCE(weight_norm_linear_fwd_bf16_64x64, bf16, (128, 4), WEIGHT_NORM_FWD(MmaTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_fwd_bf16_any, bf16, (128, 4), WEIGHT_NORM_FWD(MmaTile64x64, false))
GLMAE_INSTANCE(weight_norm_linear_fwd_f32_64x64, float, (256, 4), WEIGHT_NORM_FWD(SimtTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_fwd_f32_any, float, (256, 2), WEIGHT_NORM_FWD(SimtTile64x64, false))

#define WEIGHT_NORM_BWD_X(...)                                                                      \
    (float* __restrict__ partial, const T* __restrict__ dy, const T* __restrict__ weight, int rows, \
     int out, int in, int out_part),                                                                \
    weight_norm_bwd_x<__VA_ARGS__>(partial, dy, weight, rows, out, in, out_part)
GLMAE_INSTANCE(weight_norm_linear_bwd_x_bf16_64x64, bf16, (128, 4), WEIGHT_NORM_BWD_X(MmaTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_bwd_x_bf16_any, bf16, (128, 4), WEIGHT_NORM_BWD_X(MmaTile64x64, false))
GLMAE_INSTANCE(weight_norm_linear_bwd_x_f32_64x64, float, (256, 4), WEIGHT_NORM_BWD_X(SimtTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_bwd_x_f32_any, float, (256, 2), WEIGHT_NORM_BWD_X(SimtTile64x64, false))

#define WEIGHT_NORM_BWD_PARAMS(...)                                                            \
    (float* __restrict__ dweight, const T* __restrict__ dy, const T* __restrict__ x, int rows, \
     int out, int in),                                                                         \
    weight_norm_bwd_params<__VA_ARGS__>(dweight, dy, x, rows, out, in)
GLMAE_INSTANCE(weight_norm_linear_bwd_params_bf16_64x64, bf16, (128, 4), WEIGHT_NORM_BWD_PARAMS(MmaTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_bwd_params_bf16_any, bf16, (128, 4), WEIGHT_NORM_BWD_PARAMS(MmaTile64x64, false))
GLMAE_INSTANCE(weight_norm_linear_bwd_params_f32_64x64, float, (256, 4), WEIGHT_NORM_BWD_PARAMS(SimtTile64x64, true))
GLMAE_INSTANCE(weight_norm_linear_bwd_params_f32_any, float, (256, 2), WEIGHT_NORM_BWD_PARAMS(SimtTile64x64, false))

}  // namespace GLMAE_NS
