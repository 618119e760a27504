// Backward attention on tensor cores, bf16. Scores and their gradients are kept transposed where a
// block owns keys (keys are rows), so that P^T and dS^T are A operands of dV += P^T dO and
// dK += dS^T Q without leaving the registers.
#pragma once

namespace GLMAE_NS {

constexpr int ATTENTION_STEP = 32;  // queries (or keys, in the dQ pass) per step of the backward

// delta = rowsum(dO * O) of rows 0 .. rows of a sequence's head, into shared (zero beyond `valid`).
// Eight lanes per row.
template <int D, int THREADS>
__device__ __forceinline__ void attention_delta(float* delta, const bf16* dout, const bf16* out,
                                                int stride, int rows, int valid) {
    const int chunk = threadIdx.x % 8;
    for (int row = threadIdx.x / 8; row < rows; row += THREADS / 8) {
        float sum = 0.0f;
        if (row < valid && chunk < D / 8) {
            float a[8], b[8];
            load_vec(dout, row * stride + chunk * 8).unpack(a);
            load_vec(out, row * stride + chunk * 8).unpack(b);
#pragma unroll
            for (int e = 0; e < 8; ++e) sum += a[e] * b[e];
        }
#pragma unroll
        for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, offset);
        if (chunk == 0) delta[row] = sum;
    }
}

// The part of shared memory that a block of `cap` keys needs, in elements.
template <int D>
struct KeyBlockMemory {
    bf16 *k, *v;      // [cap][D]
    bf16* stream;     // [2][Q, dO][STEP][D]
    bf16* ds;         // [cap][STEP], whole sequences only
    float *lse2;   // of all queries, or [2][STEP]
    float *delta;  // a warp's share of delta [warps][STEP], or delta [2][STEP]

    __device__ __forceinline__ KeyBlockMemory(bf16* shared, int cap, bool whole) {
        k = shared;
        v = k + cap * D;
        stream = v + cap * D;
        ds = stream + 4 * ATTENTION_STEP * D;
        lse2 = reinterpret_cast<float*>(ds + (whole ? cap * ATTENTION_STEP : 0));
        delta = lse2 + (whole ? cap : 2 * ATTENTION_STEP);
    }
};

// dQ [32, D] = scale * dS K over all `rows` keys of a sequence, dS^T in shared. A warp takes 16 queries
// of 16 columns at a time, or of 8 where there are more warps than that; even and odd groups of
// sixteen keys are added up apart (two short chains of products instead of a long one).
template <int D, int WARPS>
__device__ __forceinline__ void attention_dq_step(bf16* __restrict__ dq, int stride, const bf16* ds,
                                                  const bf16* k_tile, bf16* staging, int rows, int valid,
                                                  float scale) {
    using R = Rows<D>;
    using S = Rows<ATTENTION_STEP>;
    constexpr int N = D / 8 >= WARPS ? 2 : 1;  // chunks of 8 columns
    constexpr int COLUMNS = D / 8 / N, UNITS = 2 * COLUMNS;
    for (int unit = threadIdx.x / WARP; unit < UNITS; unit += WARPS) {
        const int mt = unit / COLUMNS, column = unit % COLUMNS, lane = fresh_lane();
        float c[N][2][4] = {};
        for (int row = 0; row < rows; row += 32) {
            uint32_t a[2][4];
            S::load_a_trans(a[0], ds, mt, row, lane);
            S::load_a_trans(a[1], ds, mt, row + 16, lane);
            if constexpr (N == 2) {
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    uint32_t b[2][2];
                    R::load_b_trans(b, k_tile, row + 16 * k, column, lane);
                    mma_m16n8k16_bf16(c[0][k], a[k], b[0], c[0][k]);
                    mma_m16n8k16_bf16(c[N - 1][k], a[k], b[1], c[N - 1][k]);
                }
            } else {
                uint32_t b[2][2];
                R::load_b_trans_tall(b, k_tile, row, column);
                mma_m16n8k16_bf16(c[0][0], a[0], b[0], c[0][0]);
                mma_m16n8k16_bf16(c[0][1], a[1], b[1], c[0][1]);
            }
        }
        // The Q tile of this step has served; the next use of its memory is behind a barrier.
#pragma unroll
        for (int n = 0; n < N; ++n) {
            float sum[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[e] = (c[n][0][e] + c[n][1][e]) * scale;
            R::store_c(staging, 16 * mt, N * column + n, sum, lane);
        }
        __syncwarp();
        R::template copy_out<N>(dq + 16 * mt * stride, stride, staging, 16 * mt, 16, N * column,
                                valid - 16 * mt);
    }
}

// Sums of 32 columns over the eight lanes that share a column: lane l gives v[2 n + e] of column
// 8 n + l % 4 * 2 + e and gets the sum of one column, whose number is returned. Seven shuffles.
__device__ __forceinline__ int attention_column_sum(float (&v)[8]) {
    const int lane = fresh_lane();
    int index = 0;
#pragma unroll
    for (int count = 4; count > 0; count /= 2) {
        const bool high = lane & 4 * count;
#pragma unroll
        for (int i = 0; i < count; ++i) {
            const float kept = high ? v[count + i] : v[i], sent = high ? v[i] : v[count + i];
            v[i] = kept + __shfl_xor_sync(FULL_WARP, sent, 4 * count);
        }
        index += high ? count : 0;
    }
    return index / 2 * 8 + lane % 4 * 2 + index % 2;
}

// dK and dV of the 16 * MT * WARPS keys of a block, over all queries in steps of 32. WHOLE: the block
// has all keys of the sequence, and so has delta = rowsum(P * dP) of every step, more exact than from
// a rounded O, and dQ: five products a step. Otherwise delta comes from the dQ pass.
template <int D, int MT, int WARPS, bool WHOLE>
__device__ __forceinline__ void attention_bwd_keys(bf16* __restrict__ dqkv,
                                                   const bf16* __restrict__ dout,
                                                   const bf16* __restrict__ qkv,
                                                   const float* __restrict__ lse,
                                                   const float* __restrict__ delta,
                                                   const AttentionTile& w, float scale,
                                                   bf16* shared) {
    using R = Rows<D>;
    using S = Rows<ATTENTION_STEP>;
    constexpr int STEP = ATTENTION_STEP, THREADS = 32 * WARPS, CAP = 16 * MT * WARPS;
    constexpr int NO = D / 8, KS = D / 16;
    // Where dK and dV alone take 128 registers, unrolling in full would spill one.
    [[maybe_unused]] constexpr int DP_UNROLL = D == 64 ? 2 : KS;
    const KeyBlockMemory<D> m(shared, CAP, WHOLE);
    const int warp = threadIdx.x / WARP;
    const int warp_row = warp * 16 * MT;
    const int first_key = WHOLE ? 0 : w.first;
    const int keys = WHOLE ? w.length : min(CAP, w.length - w.first);  // that exist
    const int rows = (keys + 31) / 32 * 32;                            // that are computed
    const int steps = (w.length + STEP - 1) / STEP;

    const auto fetch = [&](int step) {
        bf16* const to = m.stream + (step & 1) * 2 * STEP * D;
        const int query = step * STEP;
        R::template copy_async<THREADS>(to, qkv + w.qkv_at(query, 0), w.row_stride, STEP,
                                        w.length - query);
        R::template copy_async<THREADS>(to + STEP * D, dout + w.out_at(query), w.width, STEP,
                                        w.length - query);
        cp_async_commit();
    };
    // What a query beyond the end needs: lse = inf, so that its probabilities are 0.
    const auto lse2_of = [&](int query) {
        return query < w.length ? lse[w.stat_at(query)] * ATTENTION_LOG2E : INFINITY;
    };
    const auto delta_of = [&](int query) {
        return query < w.length ? delta[w.stat_at(query)] : 0.0f;
    };
    R::template copy_async<THREADS>(m.k, qkv + w.qkv_at(first_key, 1), w.row_stride, rows, keys);
    R::template copy_async<THREADS>(m.v, qkv + w.qkv_at(first_key, 2), w.row_stride, rows, keys);
    fetch(0);
    if constexpr (WHOLE) {
        for (int i = threadIdx.x; i < rows; i += THREADS) m.lse2[i] = lse2_of(i);
    } else if (threadIdx.x < STEP) {
        m.lse2[threadIdx.x] = lse2_of(threadIdx.x);
        m.delta[threadIdx.x] = delta_of(threadIdx.x);
    }

    float dk[MT][NO][4] = {}, dv[MT][NO][4] = {};
    const float scale2 = scale * ATTENTION_LOG2E;
    const bool works = warp_row < rows;

    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) fetch(step + 1);
        const int buffer = step & 1;
        bf16* const q_tile = m.stream + buffer * 2 * STEP * D;
        const bf16* const do_tile = q_tile + STEP * D;
        const float* const lse2 = m.lse2 + (WHOLE ? step : buffer) * STEP;

        float next_lse2 = 0.0f, next_delta = 0.0f;
        float p[MT][4][4] = {}, ds[MT][4][4] = {};
        if (works) {
            const int lane = fresh_lane();
#pragma unroll
            for (int ks = 0; ks < KS; ++ks) {
                uint32_t b[2][2][2];
                R::load_b(b[0], q_tile, 0, ks, lane);
                R::load_b(b[1], q_tile, 16, ks, lane);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    uint32_t a[4];
                    R::load_a(a, m.k, warp_row + 16 * mt, ks, lane);
#pragma unroll
                    for (int n = 0; n < 4; ++n)
                        mma_m16n8k16_bf16(p[mt][n], a, b[n / 2][n % 2], p[mt][n]);
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float2 shift = *reinterpret_cast<const float2*>(lse2 + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    p[mt][n][0] = fast_exp2(p[mt][n][0] * scale2 - shift.x);
                    p[mt][n][1] = fast_exp2(p[mt][n][1] * scale2 - shift.y);
                    p[mt][n][2] = fast_exp2(p[mt][n][2] * scale2 - shift.x);
                    p[mt][n][3] = fast_exp2(p[mt][n][3] * scale2 - shift.y);
                }
            }
            // Keys beyond the end: their score of 0 may exceed every lse and give infinity.
            if (warp_row + 16 * MT > keys) {
                const int row = warp_row + lane / 4;
#pragma unroll
                for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                    for (int n = 0; n < 4; ++n)
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            if (row + 16 * mt + e / 2 * 8 >= keys) p[mt][n][e] = 0.0f;
            }
#pragma unroll(DP_UNROLL)
            for (int ks = 0; ks < KS; ++ks) {
                uint32_t b[2][2][2];
                R::load_b(b[0], do_tile, 0, ks, lane);
                R::load_b(b[1], do_tile, 16, ks, lane);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    uint32_t a[4];
                    R::load_a(a, m.v, warp_row + 16 * mt, ks, lane);
#pragma unroll
                    for (int n = 0; n < 4; ++n)
                        mma_m16n8k16_bf16(ds[mt][n], a, b[n / 2][n % 2], ds[mt][n]);
                }
            }
            if constexpr (WHOLE) {
                float part[8] = {};
#pragma unroll
                for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                    for (int n = 0; n < 4; ++n)
#pragma unroll
                        for (int e = 0; e < 4; ++e) part[2 * n + e % 2] += p[mt][n][e] * ds[mt][n][e];
                const int column = attention_column_sum(part);
                m.delta[warp * STEP + column] = part[0];
            }
        }
        float mean = 0.0f;  // delta of query `lane` of this step
        if constexpr (WHOLE) {
            __syncthreads();
            const float* const share = m.delta + fresh_lane();
            for (int i = 0; 16 * MT * i < rows; ++i) mean += share[i * STEP];
        } else {
            mean = m.delta[buffer * STEP + fresh_lane()];
        }
        if (works) {
            const int lane = fresh_lane(), pair = lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float left = __shfl_sync(FULL_WARP, mean, 8 * n + pair);
                const float right = __shfl_sync(FULL_WARP, mean, 8 * n + pair + 1);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    ds[mt][n][0] = p[mt][n][0] * (ds[mt][n][0] - left);
                    ds[mt][n][1] = p[mt][n][1] * (ds[mt][n][1] - right);
                    ds[mt][n][2] = p[mt][n][2] * (ds[mt][n][2] - left);
                    ds[mt][n][3] = p[mt][n][3] * (ds[mt][n][3] - right);
                }
            }
            if constexpr (WHOLE) {
#pragma unroll
                for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                    for (int n = 0; n < 4; ++n) S::store_c(m.ds, warp_row + 16 * mt, n, ds[mt][n], lane);
            }
#pragma unroll
            for (int ks = 0; ks < STEP / 16; ++ks) {
                uint32_t a[MT][4];
#pragma unroll
                for (int mt = 0; mt < MT; ++mt)
                    accumulator_as_a(a[mt], p[mt][2 * ks], p[mt][2 * ks + 1]);
#pragma unroll
                for (int n = 0; n < NO / 2; ++n) {
                    uint32_t b[2][2];
                    R::load_b_trans(b, do_tile, 16 * ks, n, lane);
#pragma unroll
                    for (int mt = 0; mt < MT; ++mt) {
                        mma_m16n8k16_bf16(dv[mt][2 * n], a[mt], b[0], dv[mt][2 * n]);
                        mma_m16n8k16_bf16(dv[mt][2 * n + 1], a[mt], b[1], dv[mt][2 * n + 1]);
                    }
                }
            }
            // On their way during the last product.
            if (const int i = fresh_thread(); !WHOLE && i < STEP) {
                next_lse2 = lse2_of((step + 1) * STEP + i);
                next_delta = delta_of((step + 1) * STEP + i);
            }
#pragma unroll
            for (int ks = 0; ks < STEP / 16; ++ks) {
                uint32_t a[MT][4];
#pragma unroll
                for (int mt = 0; mt < MT; ++mt)
                    accumulator_as_a(a[mt], ds[mt][2 * ks], ds[mt][2 * ks + 1]);
#pragma unroll
                for (int n = 0; n < NO / 2; ++n) {
                    uint32_t b[2][2];
                    R::load_b_trans(b, q_tile, 16 * ks, n, lane);
#pragma unroll
                    for (int mt = 0; mt < MT; ++mt) {
                        mma_m16n8k16_bf16(dk[mt][2 * n], a[mt], b[0], dk[mt][2 * n]);
                        mma_m16n8k16_bf16(dk[mt][2 * n + 1], a[mt], b[1], dk[mt][2 * n + 1]);
                    }
                }
            }
        }
        if constexpr (WHOLE) {
            __syncthreads();
            attention_dq_step<D, WARPS>(dqkv + w.qkv_at(step * STEP, 0), w.row_stride, m.ds, m.k,
                                        q_tile, rows, w.length - step * STEP, scale);
        } else if (const int i = fresh_thread(); i < STEP) {
            m.lse2[(buffer ^ 1) * STEP + i] = next_lse2;
            m.delta[(buffer ^ 1) * STEP + i] = next_delta;
        }
    }

    // K and V are no longer needed: a warp's own rows of them carry dK and dV to 16-byte stores.
    if constexpr (WHOLE) {
        __syncthreads();
    } else {
        __syncwarp();
    }
    if (warp_row >= keys) return;
    const int lane = fresh_lane();
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int n = 0; n < NO; ++n) {
            const float c[4] = {dk[mt][n][0] * scale, dk[mt][n][1] * scale, dk[mt][n][2] * scale,
                                dk[mt][n][3] * scale};
            R::store_c(m.k, warp_row + 16 * mt, n, c, lane);
            R::store_c(m.v, warp_row + 16 * mt, n, dv[mt][n], lane);
        }
    }
    __syncwarp();
    const int first = first_key + warp_row;
    R::template copy_out<R::CHUNKS>(dqkv + w.qkv_at(first, 1), w.row_stride, m.k, warp_row, 16 * MT, 0,
                                    keys - warp_row);
    R::template copy_out<R::CHUNKS>(dqkv + w.qkv_at(first, 2), w.row_stride, m.v, warp_row, 16 * MT, 0,
                                    keys - warp_row);
}

// dQ of 128 queries over all keys in steps of 32, and the delta of these queries. Four warps of 32 queries.
template <int D>
__device__ __forceinline__ void attention_bwd_queries(bf16* __restrict__ dqkv, float* __restrict__ delta,
                                                      const bf16* __restrict__ dout,
                                                      const bf16* __restrict__ qkv,
                                                      const bf16* __restrict__ out,
                                                      const float* __restrict__ lse,
                                                      const AttentionTile& w, float scale,
                                                      bf16* shared) {
    using R = Rows<D>;
    constexpr int MT = 2, THREADS = 128, STEP = ATTENTION_STEP, QUERIES = ATTENTION_QUERIES;
    constexpr int NO = D / 8, KS = D / 16;
    bf16* const q_tile = shared;
    bf16* const do_tile = q_tile + QUERIES * D;
    bf16* const stream = do_tile + QUERIES * D;  // [2][K, V][STEP][D]
    float* const delta_tile = reinterpret_cast<float*>(stream + 4 * STEP * D);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warp_row = warp * 16 * MT;
    const int queries = min(QUERIES, w.length - w.first);
    const int steps = (w.length + STEP - 1) / STEP;

    const auto fetch = [&](int step) {
        bf16* const to = stream + (step & 1) * 2 * STEP * D;
        const int key = step * STEP;
        R::template copy_async<THREADS>(to, qkv + w.qkv_at(key, 1), w.row_stride, STEP,
                                        w.length - key);
        R::template copy_async<THREADS>(to + STEP * D, qkv + w.qkv_at(key, 2), w.row_stride, STEP,
                                        w.length - key);
        cp_async_commit();
    };
    R::template copy_async<THREADS>(q_tile, qkv + w.qkv_at(w.first, 0), w.row_stride, QUERIES,
                                    queries);
    R::template copy_async<THREADS>(do_tile, dout + w.out_at(w.first), w.width, QUERIES, queries);
    fetch(0);
    attention_delta<D, THREADS>(delta_tile, dout + w.out_at(w.first), out + w.out_at(w.first),
                                w.width, QUERIES, queries);
    __syncthreads();
    float lse2[MT][2], mean[MT][2], rest[MT][2] = {};
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = warp_row + 16 * mt + 8 * half + lane / 4;
            const int64_t at = w.stat_at(w.first + r);
            lse2[mt][half] = r < queries ? lse[at] * ATTENTION_LOG2E : INFINITY;
            mean[mt][half] = delta_tile[r];
        }
    }

    float dq[MT][NO][4] = {};
    const float scale2 = scale * ATTENTION_LOG2E;
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) fetch(step + 1);
        if (warp_row >= queries) continue;
        const bf16* const k_tile = stream + (step & 1) * 2 * STEP * D;
        const bf16* const v_tile = k_tile + STEP * D;
        float p[MT][4][4] = {}, ds[MT][4][4] = {};
#pragma unroll
        for (int ks = 0; ks < KS; ++ks) {
            uint32_t b[2][2][2];
            R::load_b(b[0], k_tile, 0, ks, lane);
            R::load_b(b[1], k_tile, 16, ks, lane);
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) {
                uint32_t a[4];
                R::load_a(a, q_tile, warp_row + 16 * mt, ks, lane);
#pragma unroll
                for (int n = 0; n < 4; ++n) mma_m16n8k16_bf16(p[mt][n], a, b[n / 2][n % 2], p[mt][n]);
            }
        }
        const int left = w.length - step * STEP;
#pragma unroll
        for (int mt = 0; mt < MT; ++mt)
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    p[mt][n][e] = fast_exp2(p[mt][n][e] * scale2 - lse2[mt][e / 2]);
        if (left < STEP) {
#pragma unroll
            for (int mt = 0; mt < MT; ++mt)
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (8 * n + lane % 4 * 2 + e % 2 >= left) p[mt][n][e] = 0.0f;
        }
#pragma unroll
        for (int ks = 0; ks < KS; ++ks) {
            uint32_t b[2][2][2];
            R::load_b(b[0], v_tile, 0, ks, lane);
            R::load_b(b[1], v_tile, 16, ks, lane);
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) {
                uint32_t a[4];
                R::load_a(a, do_tile, warp_row + 16 * mt, ks, lane);
#pragma unroll
                for (int n = 0; n < 4; ++n) mma_m16n8k16_bf16(ds[mt][n], a, b[n / 2][n % 2], ds[mt][n]);
            }
        }
#pragma unroll
        for (int mt = 0; mt < MT; ++mt)
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    ds[mt][n][e] = p[mt][n][e] * (ds[mt][n][e] - mean[mt][e / 2]);
                    rest[mt][e / 2] += ds[mt][n][e];
                }
#pragma unroll
        for (int ks = 0; ks < STEP / 16; ++ks) {
            uint32_t a[MT][4];
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) accumulator_as_a(a[mt], ds[mt][2 * ks], ds[mt][2 * ks + 1]);
#pragma unroll
            for (int n = 0; n < NO / 2; ++n) {
                uint32_t b[2][2];
                R::load_b_trans(b, k_tile, 16 * ks, n, lane);
#pragma unroll
                for (int mt = 0; mt < MT; ++mt) {
                    mma_m16n8k16_bf16(dq[mt][2 * n], a[mt], b[0], dq[mt][2 * n]);
                    mma_m16n8k16_bf16(dq[mt][2 * n + 1], a[mt], b[1], dq[mt][2 * n + 1]);
                }
            }
        }
    }
    if (warp_row >= queries) return;
    __syncwarp();
    // A row of dS adds up to 0; what is left over is the error of delta that the rounding of O made. The
    // pass over keys gets delta without it.
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = warp_row + 16 * mt + 8 * half + lane / 4;
            const float exact = mean[mt][half] + quad_sum(rest[mt][half]);
            if (r < queries && lane % 4 == 0) delta[w.stat_at(w.first + r)] = exact;
        }
    }
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int n = 0; n < NO; ++n) {
            const float c[4] = {dq[mt][n][0] * scale, dq[mt][n][1] * scale, dq[mt][n][2] * scale,
                                dq[mt][n][3] * scale};
            R::store_c(q_tile, warp_row + 16 * mt, n, c, lane);
        }
    }
    __syncwarp();
    R::template copy_out<R::CHUNKS>(dqkv + w.qkv_at(w.first + warp_row, 0), w.row_stride, q_tile,
                                    warp_row, 16 * MT, 0, queries - warp_row);
}

}  // namespace GLMAE_NS
