// What happens to the sums of a GEMM: epilogues for gemm.cuh. Each takes COLUMNS neighbouring sums of
// a row, 16 bytes of output, and clips at the edges of the matrix. `row_sum` takes sum_k A[row, k].
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

// gelu(u) = u Phi(u), Phi(u) = (1 + erf(u / sqrt 2)) / 2: the exact form, as timm's blocks use it.
__device__ __forceinline__ float gelu(float u) {
    return 0.5f * u * (1.0f + erff(u * 0.70710678118654752f));
}
// gelu'(u) = Phi(u) + u phi(u).
__device__ __forceinline__ float gelu_derivative(float u) {
    const float density = 0.39894228040143268f * expf(-0.5f * u * u);
    return fmaf(u, density, 0.5f * (1.0f + erff(u * 0.70710678118654752f)));
}

// Columns `column` .. of a row; `vectors`: all of them are inside and 16-byte aligned.
template <typename T, int N>
__device__ __forceinline__ void load_columns(float (&v)[N], const T* p, int64_t at, int count,
                                             bool vectors) {
    if (vectors) {
        load_vec(p, at).unpack(v);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = i < count ? to_float(p[at + i]) : 0.0f;
    }
}
template <typename T, int N>
__device__ __forceinline__ void store_columns(T* p, int64_t at, const float (&v)[N], int count,
                                              bool vectors) {
    if (vectors) {
        Vec<T> out;
        out.pack(v);
        store_vec(p, at, out);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i < count) p[at + i] = from_float<T>(v[i]);
    }
}

// v[i] += bias[column + i].
template <int N>
__device__ __forceinline__ void add_bias(float (&v)[N], const float* bias, int column, int count,
                                         bool vectors) {
    float b[N];
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        float part[4];
        load_columns(part, bias, column + i, count - i, vectors);
#pragma unroll
        for (int j = 0; j < 4; ++j) b[i + j] = part[j];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += b[i];
}

// y = activation(sums + bias) + residual; each part may be absent (null pointer).
template <typename T>
struct ForwardEpilogue {
    static constexpr int COLUMNS = Vec<T>::N;
    static constexpr bool ROW_SUMS = false;
    T* y;
    T* pre;              // the activation's input, for the backward pass
    const float* bias;   // [n]
    const T* residual;
    int m, n;
    bool applies_gelu, vectors;

    __device__ __forceinline__ ForwardEpilogue(T* y, T* pre, const float* bias,
                                               const T* residual, int m, int n, bool applies_gelu)
        : y(y), pre(pre), bias(bias), residual(residual), m(m), n(n),
          applies_gelu(applies_gelu),
          vectors(n % COLUMNS == 0 && is_aligned_16(y) && is_aligned_16(pre) &&
                  is_aligned_16(bias) && is_aligned_16(residual)) {}

    __device__ __forceinline__ void operator()(int row, int column, float (&v)[COLUMNS]) const {
        if (row >= m || column >= n) return;
        const int count = n - column;
        const int64_t at = static_cast<int64_t>(row) * n + column;
        if (bias) add_bias(v, bias, column, count, vectors);
        if (pre) store_columns(pre, at, v, count, vectors);
        if (applies_gelu) {
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) v[i] = gelu(v[i]);
        }
        if (residual) {
            float r[COLUMNS];
            load_columns(r, residual, at, count, vectors);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) v[i] += r[i];
        }
        store_columns(y, at, v, count, vectors);
    }
};

// dx (+)= sums * gelu'(pre), or without the factor when `pre` is null.
template <typename T>
struct GradientEpilogue {
    static constexpr int COLUMNS = Vec<T>::N;
    static constexpr bool ROW_SUMS = false;
    T* dx;
    const T* pre;
    int m, n;
    bool accumulates, vectors;

    __device__ __forceinline__ GradientEpilogue(T* dx, const T* pre, int m, int n, int mode)
        : dx(dx), pre(pre), m(m), n(n), accumulates(mode == GLMAE_GRAD_ACCUMULATE),
          vectors(n % COLUMNS == 0 && is_aligned_16(dx) && is_aligned_16(pre)) {}

    __device__ __forceinline__ void operator()(int row, int column, float (&v)[COLUMNS]) const {
        if (row >= m || column >= n) return;
        const int count = n - column;
        const int64_t at = static_cast<int64_t>(row) * n + column;
        float other[COLUMNS];
        if (pre) {
            load_columns(other, pre, at, count, vectors);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) v[i] *= gelu_derivative(other[i]);
        }
        if (accumulates) {
            load_columns(other, dx, at, count, vectors);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) v[i] += other[i];
        }
        store_columns(dx, at, v, count, vectors);
    }
};

// dweight (+)= sums and dbias (+)= row sums (null: unwanted), in f32. With several blocks along k
// (gridDim.y), both point to partial sums, [gridDim.y, m, n] and [gridDim.y, m], and are overwritten.
struct WeightGradientEpilogue {
    static constexpr int COLUMNS = 4;
    static constexpr bool ROW_SUMS = true;
    float* dweight;
    float* dbias;
    int m, n;
    bool weight_accumulates, bias_accumulates, vectors;

    __device__ __forceinline__ WeightGradientEpilogue(float* dweight, float* dbias, int m, int n,
                                                      int weight_mode, int bias_mode)
        : dweight(dweight + static_cast<int64_t>(blockIdx.y) * m * n),
          dbias(dbias ? dbias + static_cast<int64_t>(blockIdx.y) * m : nullptr), m(m), n(n),
          weight_accumulates(gridDim.y == 1 && weight_mode == GLMAE_GRAD_ACCUMULATE),
          bias_accumulates(gridDim.y == 1 && bias_mode == GLMAE_GRAD_ACCUMULATE),
          vectors(n % COLUMNS == 0 && is_aligned_16(dweight)) {}

    __device__ __forceinline__ bool wants_row_sums(int column0) const {
        return dbias != nullptr && column0 == 0;
    }
    __device__ __forceinline__ void row_sum(int row, float sum) const {
        if (row < m) dbias[row] = bias_accumulates ? dbias[row] + sum : sum;
    }
    __device__ __forceinline__ void operator()(int row, int column, float (&v)[COLUMNS]) const {
        if (row >= m || column >= n) return;
        const int count = n - column;
        const int64_t at = static_cast<int64_t>(row) * n + column;
        if (weight_accumulates) {
            float other[COLUMNS];
            load_columns(other, dweight, at, count, vectors);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) v[i] += other[i];
        }
        store_columns(dweight, at, v, count, vectors);
    }
};

// Parts of a sum without row sums: out [gridDim.y, m, n].
struct PartialEpilogue : WeightGradientEpilogue {
    static constexpr bool ROW_SUMS = false;
    using WeightGradientEpilogue::WeightGradientEpilogue;
};

// out [count] (+)= partial[0] + partial[1] + ..., in that order, for the four neighbours from element
// `i` (a multiple of 4) on; partial [parts, count].
template <typename T>
__device__ __forceinline__ void reduce_partials(T* out, const float* partial, int parts,
                                                int64_t count, int64_t i, bool accumulates) {
    const int left = count - i < 4 ? static_cast<int>(count - i) : 4;
    const bool vectors = count % 4 == 0 && is_aligned_16(partial);
    float sum[4] = {};
#pragma unroll 4
    for (int p = 0; p < parts; ++p) {
        float v[4];
        load_columns(v, partial, p * count + i, left, vectors);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (j >= left) continue;
        if (accumulates) sum[j] += to_float(out[i + j]);
        if (sizeof(T) == 2 || !is_aligned_16(out) || left < 4) out[i + j] = from_float<T>(sum[j]);
    }
    if constexpr (sizeof(T) == 4) {
        if (is_aligned_16(out) && left == 4) store_columns(out, i, sum, left, true);
    }
}

}  // namespace GLMAE_NS
