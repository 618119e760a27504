// Forward attention of one tile of queries on tensor cores, bf16.
#pragma once

namespace GLMAE_NS {

constexpr int ATTENTION_KEYS = 64;      // keys per step of the forward
constexpr int ATTENTION_QUERIES = 128;  // queries per block

// MT: 16-row tiles per warp, so that a fragment of K or V serves MT products. Four warps hold 64 * MT
// queries. O, the scores and Q stay in registers; K and V stream through two buffers.
template <int D, int MT>
__device__ __forceinline__ void attention_fwd_tile(bf16* __restrict__ out, float* __restrict__ lse,
                                                   const bf16* __restrict__ qkv,
                                                   const AttentionTile& w, float scale,
                                                   bf16* shared) {
    using R = Rows<D>;
    constexpr int THREADS = 128, NS = ATTENTION_KEYS / 8, NO = D / 8, KS = D / 16;
    bf16* const q_tile = shared;
    bf16* const kv = shared + ATTENTION_QUERIES * D;  // [2][K, V][keys][D]
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warp_row = warp * 16 * MT;
    const int valid = w.length - w.first;
    const int steps = (w.length + ATTENTION_KEYS - 1) / ATTENTION_KEYS;

    const auto fetch = [&](int step) {
        bf16* const to = kv + (step & 1) * 2 * ATTENTION_KEYS * D;
        const int key = step * ATTENTION_KEYS;
        R::template copy_async<THREADS>(to, qkv + w.qkv_at(key, 1), w.row_stride, ATTENTION_KEYS,
                                        w.length - key);
        R::template copy_async<THREADS>(to + ATTENTION_KEYS * D, qkv + w.qkv_at(key, 2),
                                        w.row_stride, ATTENTION_KEYS, w.length - key);
        cp_async_commit();
    };
    R::template copy_async<THREADS>(q_tile, qkv + w.qkv_at(w.first, 0), w.row_stride, 64 * MT, valid);
    fetch(0);

    uint32_t q[MT][KS][4];
    float o[MT][NO][4] = {};
    float top[MT][2], sum[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
        top[mt][0] = top[mt][1] = -INFINITY;
        sum[mt][0] = sum[mt][1] = 0.0f;
    }
    const float scale2 = scale * ATTENTION_LOG2E;

    for (int step = 0; step < steps; ++step) {
        // One barrier a step: what this thread copied has arrived, then what all copied; and all have
        // left the buffer that is filled next.
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) fetch(step + 1);
        if (step == 0) {
#pragma unroll
            for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                for (int ks = 0; ks < KS; ++ks) R::load_a(q[mt][ks], q_tile, warp_row + 16 * mt, ks, lane);
        }
        const bf16* const k_tile = kv + (step & 1) * 2 * ATTENTION_KEYS * D;
        const bf16* const v_tile = k_tile + ATTENTION_KEYS * D;

        float s[MT][NS][4] = {};
#pragma unroll
        for (int ks = 0; ks < KS; ++ks) {
#pragma unroll
            for (int n = 0; n < NS / 2; ++n) {
                uint32_t b[2][2];
                R::load_b(b, k_tile, 16 * n, ks, lane);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    mma_m16n8k16_bf16(s[mt][2 * n], q[mt][ks], b[0], s[mt][2 * n]);
                    mma_m16n8k16_bf16(s[mt][2 * n + 1], q[mt][ks], b[1], s[mt][2 * n + 1]);
                }
            }
        }
        const int left = w.length - step * ATTENTION_KEYS;
        if (left < ATTENTION_KEYS) {
#pragma unroll
            for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                for (int n = 0; n < NS; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (8 * n + lane % 4 * 2 + e % 2 >= left) s[mt][n][e] = -INFINITY;
        }
#pragma unroll
        for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float most = top[mt][half];
#pragma unroll
                for (int n = 0; n < NS; ++n)
                    most = fmaxf(most, fmaxf(s[mt][n][2 * half], s[mt][n][2 * half + 1]));
                most = quad_max(most);
                const float shift = most * scale2;
                // Not fused: exactly 1 while the maximum stays.
                const float shrink = fast_exp2(__fmul_rn(top[mt][half], scale2) - shift);
                top[mt][half] = most;
                float part = 0.0f;
#pragma unroll
                for (int n = 0; n < NS; ++n) {
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        s[mt][n][e] = fast_exp2(s[mt][n][e] * scale2 - shift);
                        part += s[mt][n][e];
                    }
                }
                sum[mt][half] = sum[mt][half] * shrink + part;
#pragma unroll
                for (int n = 0; n < NO; ++n) {
                    o[mt][n][2 * half] *= shrink;
                    o[mt][n][2 * half + 1] *= shrink;
                }
            }
        }
#pragma unroll
        for (int ks = 0; ks < ATTENTION_KEYS / 16; ++ks) {
            uint32_t p[MT][4];
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) accumulator_as_a(p[mt], s[mt][2 * ks], s[mt][2 * ks + 1]);
#pragma unroll
            for (int n = 0; n < NO / 2; ++n) {
                uint32_t b[2][2];
                R::load_b_trans(b, v_tile, 16 * ks, n, lane);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    mma_m16n8k16_bf16(o[mt][2 * n], p[mt], b[0], o[mt][2 * n]);
                    mma_m16n8k16_bf16(o[mt][2 * n + 1], p[mt], b[1], o[mt][2 * n + 1]);
                }
            }
        }
    }

    // A warp's rows of the Q tile are its own: they carry the result to 16-byte stores.
    __syncwarp();
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
        const int row = warp_row + 16 * mt;
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float all = quad_sum(sum[mt][half]);
            inverse[half] = __fdividef(1.0f, all);
            const int r = row + lane / 4 + 8 * half;
            if (lane % 4 == 0 && r < valid)
                lse[w.stat_at(w.first + r)] =
                    top[mt][half] * scale + __log2f(all) * ATTENTION_LN2;
        }
#pragma unroll
        for (int n = 0; n < NO; ++n) {
            const float c[4] = {o[mt][n][0] * inverse[0], o[mt][n][1] * inverse[0],
                                o[mt][n][2] * inverse[1], o[mt][n][3] * inverse[1]};
            R::store_c(q_tile, row, n, c, lane);
        }
    }
    __syncwarp();
    if (warp_row < valid)
        R::template copy_out<R::CHUNKS>(out + w.out_at(w.first + warp_row), w.width, q_tile, warp_row,
                                        16 * MT, 0, valid - warp_row);
}

template <int D>
__device__ __forceinline__ void attention_fwd(bf16* out, float* lse, const bf16* qkv,
                                              const AttentionTile& w, float scale, bf16* shared) {
    if (w.length - w.first > 64) {
        attention_fwd_tile<D, 2>(out, lse, qkv, w, scale, shared);
    } else {
        attention_fwd_tile<D, 1>(out, lse, qkv, w, scale, shared);
    }
}

}  // namespace GLMAE_NS
