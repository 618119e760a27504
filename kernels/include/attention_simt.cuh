// Attention without tensor cores: f32, and head dims that tensor cores do not take, in either dtype.
// Tiles of 64 queries by 64 keys, the head dim in slices of 64 columns, all in shared memory as f32.
// Thread (ty, tx) of 16 x 16 owns rows ty + 16 i and columns tx + 16 j of a score tile (i, j < 4).
#pragma once

namespace GLMAE_NS {

constexpr int SIMT_TILE = 64, SIMT_SLICE = 64, SIMT_THREADS = 256;
// 17 chunks of 16 bytes: rows that differ by 1 to 7 lie in different banks.
constexpr int SIMT_STRIDE = 68;
constexpr int SIMT_FLOATS = SIMT_TILE * SIMT_STRIDE;

__device__ __forceinline__ void load_four(const float* p, float (&v)[4]) {
    Vec<float>{*reinterpret_cast<const uint4*>(p)}.unpack(v);
}
__device__ __forceinline__ void load_four(const bf16* p, float (&v)[4]) {
    const uint2 r = *reinterpret_cast<const uint2*>(p);
    v[0] = __uint_as_float(r.x << 16), v[1] = __uint_as_float(r.x & 0xffff0000u);
    v[2] = __uint_as_float(r.y << 16), v[3] = __uint_as_float(r.y & 0xffff0000u);
}
__device__ __forceinline__ void store_four(float* p, const float (&v)[4]) {
    Vec<float> out;
    out.pack(v);
    *reinterpret_cast<uint4*>(p) = out.raw;
}
__device__ __forceinline__ void store_four(bf16* p, const float (&v)[4]) {
    *reinterpret_cast<uint2*>(p) =
        make_uint2(Vec<bf16>::pack_bf16(v[0], v[1]), Vec<bf16>::pack_bf16(v[2], v[3]));
}

// Where the columns of a head dim of any size lie: slice `s` has columns 64 s .. 64 s + width(s).
struct Slices {
    int d, count;
    bool vectors;  // groups of four columns are aligned

    template <typename T>
    __device__ __forceinline__ Slices(int d_, const T* a, const T* b, const T* c, const T* e) {
        d = d_;
        count = (d + SIMT_SLICE - 1) / SIMT_SLICE;
        vectors = d % 4 == 0 && is_aligned_16(a) && is_aligned_16(b) && is_aligned_16(c) &&
                  is_aligned_16(e);
    }
    __device__ __forceinline__ int width(int s) const { return min(SIMT_SLICE, d - s * SIMT_SLICE); }
    __device__ __forceinline__ int padded(int s) const { return (width(s) + 3) / 4 * 4; }

    // Fills a tile from slice `s` of rows `stride` apart; rows from `valid` on and the columns that pad
    // to a multiple of four are zeros.
    template <typename T>
    __device__ __forceinline__ void load(float* tile, const T* from, int stride, int valid,
                                         int s) const {
        const int column = static_cast<int>(threadIdx.x) % 16 * 4, columns = width(s);
        if (column >= padded(s)) return;
        for (int row = threadIdx.x / 16; row < SIMT_TILE; row += 16) {
            float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (row < valid) {
                const T* const p = from + row * stride + s * SIMT_SLICE + column;
                if (vectors) {
                    load_four(p, v);
                } else {
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (column + e < columns) v[e] = to_float(p[e]);
                }
            }
            store_four(tile + row * SIMT_STRIDE + column, v);
        }
    }
    // Writes four columns from `column` on of slice `s`; `to` is the row's first column.
    template <typename T>
    __device__ __forceinline__ void store(T* to, int s, int column, const float (&v)[4]) const {
        const int columns = width(s);
        T* const p = to + s * SIMT_SLICE + column;
        if (vectors && column < columns) {
            store_four(p, v);
        } else {
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (column + e < columns) p[e] = from_float<T>(v[e]);
        }
    }
};

// s[i][j] += row ty + 16 i of `a` times row tx + 16 j of `b`, over `columns` (a multiple of four).
__device__ __forceinline__ void simt_scores(float (&s)[4][4], const float* a, const float* b, int tx,
                                            int ty, int columns) {
    for (int c = 0; c < columns; c += 4) {
        float x[4][4], y[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) load_four(a + (ty + 16 * i) * SIMT_STRIDE + c, x[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j) load_four(b + (tx + 16 * j) * SIMT_STRIDE + c, y[j]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) s[i][j] += x[i][e] * y[j][e];
    }
}
__device__ __forceinline__ void simt_write(float* tile, const float (&s)[4][4], int tx, int ty) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) tile[(ty + 16 * i) * SIMT_STRIDE + tx + 16 * j] = s[i][j];
}
// acc[i][e] += row ty + 16 i of `s` times column 4 tx + e of `b`, over the first `keys` rows of `b`
// (rounded up to four: the tiles are zero there).
__device__ __forceinline__ void simt_rows(float (&acc)[4][4], const float* s, const float* b, int tx,
                                          int ty, int keys) {
    for (int k = 0; k < keys; k += 4) {
        float x[4][4], y[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) load_four(s + (ty + 16 * i) * SIMT_STRIDE + k, x[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j) load_four(b + (k + j) * SIMT_STRIDE + 4 * tx, y[j]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) acc[i][e] += x[i][j] * y[j][e];
    }
}
// acc[i][e] += column 4 ty + i of `s` times column 4 tx + e of `b`, over the first `queries` rows.
__device__ __forceinline__ void simt_columns(float (&acc)[4][4], const float* s, const float* b, int tx,
                                             int ty, int queries) {
    for (int q = 0; q < queries; ++q) {
        float x[4], y[4];
        load_four(s + q * SIMT_STRIDE + 4 * ty, x);
        load_four(b + q * SIMT_STRIDE + 4 * tx, y);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[i][e] += x[i] * y[e];
    }
}
// Sum over the 16 threads of a row.
__device__ __forceinline__ float simt_row_sum(float x) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}
__device__ __forceinline__ float simt_row_max(float x) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    return x;
}

// Output slice blockIdx.y of 64 queries.
template <typename T>
__device__ __forceinline__ void attention_fwd_simt(T* __restrict__ out, float* __restrict__ lse,
                                                   const T* __restrict__ qkv, const AttentionTile& w,
                                                   int d, float scale, float* shared) {
    float* const q_tile = shared;
    float* const k_tile = q_tile + SIMT_FLOATS;
    float* const v_tile = k_tile + SIMT_FLOATS;
    float* const p_tile = v_tile + SIMT_FLOATS;
    const Slices slices(d, out, qkv, qkv, qkv);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, z = blockIdx.y;
    const int valid = w.length - w.first;
    const bool owns_columns = 4 * tx < slices.padded(z);
    const float scale2 = scale * ATTENTION_LOG2E;
    float acc[4][4] = {}, top[4], sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i] = -INFINITY, sum[i] = 0.0f;

    for (int key = 0; key < w.length; key += SIMT_TILE) {
        const int left = w.length - key;
        float s[4][4] = {};
        for (int slice = 0; slice < slices.count; ++slice) {
            __syncthreads();
            if (key == 0 || slices.count > 1)
                slices.load(q_tile, qkv + w.qkv_at(w.first, 0), w.row_stride, valid, slice);
            slices.load(k_tile, qkv + w.qkv_at(key, 1), w.row_stride, left, slice);
            if (slice == 0) slices.load(v_tile, qkv + w.qkv_at(key, 2), w.row_stride, left, z);
            __syncthreads();
            simt_scores(s, q_tile, k_tile, tx, ty, slices.padded(slice));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float most = top[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[i][j] = tx + 16 * j < left ? s[i][j] * scale2 : -INFINITY;
                most = fmaxf(most, s[i][j]);
            }
            most = simt_row_max(most);
            const float shrink = exp2f(top[i] - most);
            top[i] = most;
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[i][j] = exp2f(s[i][j] - most);
                part += s[i][j];
            }
            sum[i] = sum[i] * shrink + part;
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[i][e] *= shrink;
        }
        simt_write(p_tile, s, tx, ty);
        __syncthreads();
        if (owns_columns) simt_rows(acc, p_tile, v_tile, tx, ty, min(left, SIMT_TILE));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = ty + 16 * i;
        const float all = simt_row_sum(sum[i]);
        if (row >= valid) continue;
        if (z == 0 && tx == 0)
            lse[w.stat_at(w.first + row)] = top[i] * ATTENTION_LN2 + logf(all);
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) v[e] = acc[i][e] / all;
        if (owns_columns) slices.store(out + w.out_at(w.first + row), z, 4 * tx, v);
    }
}

// dQ, slice blockIdx.y, of 64 queries, and delta of them. In f32 delta = rowsum(dO * O). An O that was
// rounded to bf16 leaves an error in delta that the mean of K multiplies; delta is then
// rowsum(P * dP), from a sweep over the keys of its own (the sum of a row of dS is 0 again).
template <typename T>
__device__ __forceinline__ void attention_bwd_q_simt(T* __restrict__ dqkv, float* __restrict__ delta,
                                                     const T* __restrict__ dout,
                                                     const T* __restrict__ qkv,
                                                     const T* __restrict__ out,
                                                     const float* __restrict__ lse,
                                                     const AttentionTile& w, int d,
                                                     float scale, float* shared) {
    float* const q_tile = shared;
    float* const do_tile = q_tile + SIMT_FLOATS;
    float* const k_tile = do_tile + SIMT_FLOATS;
    float* const v_tile = k_tile + SIMT_FLOATS;
    float* const ds_tile = v_tile + SIMT_FLOATS;
    const Slices slices(d, dqkv, dout, qkv, qkv);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, z = blockIdx.y;
    const int valid = w.length - w.first;
    const bool owns_columns = 4 * tx < slices.padded(z);
    const float scale2 = scale * ATTENTION_LOG2E;
    constexpr bool SWEEP = sizeof(T) < sizeof(float);
    float lse2[4], mean[4], acc[4][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = ty + 16 * i;
        float sum = 0.0f;
        lse2[i] = INFINITY;
        if (row < valid) {
            const int64_t at = w.out_at(w.first + row);
            for (int e = SWEEP ? d : tx; e < d; e += 16)
                sum += to_float(dout[at + e]) * to_float(out[at + e]);
            lse2[i] = lse[w.stat_at(w.first + row)] * ATTENTION_LOG2E;
        }
        mean[i] = SWEEP ? 0.0f : simt_row_sum(sum);
    }

    // Key tiles 0 .. tiles, twice with the sweep.
    const int tiles = (w.length + SIMT_TILE - 1) / SIMT_TILE;
    for (int step = SWEEP ? -tiles : 0; step < tiles; ++step) {
        const int key = (step < 0 ? step + tiles : step) * SIMT_TILE;
        const int left = w.length - key;
        float s[4][4] = {}, ds[4][4] = {};
        // The slice that this block writes comes last: its K is then at hand.
        for (int turn = 1; turn <= slices.count; ++turn) {
            const int slice = (z + turn) % slices.count;
            __syncthreads();
            if (key == 0 || slices.count > 1) {
                slices.load(q_tile, qkv + w.qkv_at(w.first, 0), w.row_stride, valid, slice);
                slices.load(do_tile, dout + w.out_at(w.first), w.width, valid, slice);
            }
            slices.load(k_tile, qkv + w.qkv_at(key, 1), w.row_stride, left, slice);
            slices.load(v_tile, qkv + w.qkv_at(key, 2), w.row_stride, left, slice);
            __syncthreads();
            simt_scores(s, q_tile, k_tile, tx, ty, slices.padded(slice));
            simt_scores(ds, do_tile, v_tile, tx, ty, slices.padded(slice));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float p = tx + 16 * j < left ? exp2f(s[i][j] * scale2 - lse2[i]) : 0.0f;
                ds[i][j] = p * (step < 0 ? ds[i][j] : ds[i][j] - mean[i]);
            }
        if (step < 0) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) mean[i] += ds[i][j];
                if (step == -1) mean[i] = simt_row_sum(mean[i]);
            }
            continue;
        }
        simt_write(ds_tile, ds, tx, ty);
        __syncthreads();
        if (owns_columns) simt_rows(acc, ds_tile, k_tile, tx, ty, min(left, SIMT_TILE));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = ty + 16 * i;
        if (row < valid && z == 0 && tx == 0) delta[w.stat_at(w.first + row)] = mean[i];
        if (row >= valid || !owns_columns) continue;
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[i][e] *= scale;
        slices.store(dqkv + w.qkv_at(w.first + row, 0), z, 4 * tx, acc[i]);
    }
}

// dK and dV, slice blockIdx.y, of 64 keys.
template <typename T>
__device__ __forceinline__ void attention_bwd_kv_simt(T* __restrict__ dqkv, const T* __restrict__ dout,
                                                      const T* __restrict__ qkv,
                                                      const float* __restrict__ lse,
                                                      const float* __restrict__ delta,
                                                      const AttentionTile& w, int d,
                                                      float scale, float* shared) {
    float* const k_tile = shared;
    float* const v_tile = k_tile + SIMT_FLOATS;
    float* const q_tile = v_tile + SIMT_FLOATS;
    float* const do_tile = q_tile + SIMT_FLOATS;
    float* const s_tile = do_tile + SIMT_FLOATS;  // P, then dS
    const Slices slices(d, dqkv, dout, qkv, qkv);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, z = blockIdx.y;
    const int valid = w.length - w.first;
    const bool owns_columns = 4 * tx < slices.padded(z);
    const float scale2 = scale * ATTENTION_LOG2E;
    float dk[4][4] = {}, dv[4][4] = {};

    for (int query = 0; query < w.length; query += SIMT_TILE) {
        const int left = w.length - query;
        float p[4][4] = {}, ds[4][4] = {};
        for (int turn = 1; turn <= slices.count; ++turn) {
            const int slice = (z + turn) % slices.count;
            __syncthreads();
            if (query == 0 || slices.count > 1) {
                slices.load(k_tile, qkv + w.qkv_at(w.first, 1), w.row_stride, valid, slice);
                slices.load(v_tile, qkv + w.qkv_at(w.first, 2), w.row_stride, valid, slice);
            }
            slices.load(q_tile, qkv + w.qkv_at(query, 0), w.row_stride, left, slice);
            slices.load(do_tile, dout + w.out_at(query), w.width, left, slice);
            __syncthreads();
            simt_scores(p, q_tile, k_tile, tx, ty, slices.padded(slice));
            simt_scores(ds, do_tile, v_tile, tx, ty, slices.padded(slice));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = ty + 16 * i;
            const bool exists = row < left;
            const int64_t at = w.stat_at(query + (exists ? row : 0));
            const float lse2 = exists ? lse[at] * ATTENTION_LOG2E : INFINITY;
            const float mean = exists ? delta[at] : 0.0f;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                p[i][j] = tx + 16 * j < valid ? exp2f(p[i][j] * scale2 - lse2) : 0.0f;
                ds[i][j] = p[i][j] * (ds[i][j] - mean);
            }
        }
        simt_write(s_tile, p, tx, ty);
        __syncthreads();
        if (owns_columns) simt_columns(dv, s_tile, do_tile, tx, ty, min(left, SIMT_TILE));
        __syncthreads();
        simt_write(s_tile, ds, tx, ty);
        __syncthreads();
        if (owns_columns) simt_columns(dk, s_tile, q_tile, tx, ty, min(left, SIMT_TILE));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = 4 * ty + i;
        if (row >= valid || !owns_columns) continue;
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[i][e] *= scale;
        slices.store(dqkv + w.qkv_at(w.first + row, 1), z, 4 * tx, dk[i]);
        slices.store(dqkv + w.qkv_at(w.first + row, 2), z, 4 * tx, dv[i]);
    }
}

}  // namespace GLMAE_NS
