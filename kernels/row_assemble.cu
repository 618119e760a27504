// Token rows, a learnable token and positions put together:
//
//     y[i] = (source[i] >= 0 ? x[source[i]] : token) + table[position[i]]
//     dx[r] = dy[target[r]] (zero where target[r] < 0)      dtoken = sum of dy over the token rows
//
// x, dx [inputs, c], y, dy [rows, c] f32 or bf16; token, dtoken [c], table [positions, c] f32; source,
// position, target, token_rows i32. The addition is in f32 and is rounded once.
//
// Threads: forward and dx: one warp per row, 8 per block, units of 8 elements when c is a multiple of 8
// (f32: 4) and all pointers are 16-byte aligned, single elements otherwise. dtoken: block (32, 8), grid
// (ceil(c / (32 N)), parts): thread (i, k) adds token rows part_first + k, + 8, ... of unit i, then the
// eight sums are added in order; row_assemble_bwd_params_f32_sum adds the parts in order.
// Shared memory: 8 * 32 * N * 4 bytes (4 KiB f32, 8 KiB bf16) in bwd_params, else none.
// Bytes moved: forward x + y elements and rows * c * 4 of the table (which stays in L2: 1001 x 512 f32
// is 2 MB); dx: dy rows used + dx; dtoken: dy of the token rows. FLOPs: one per element. Floor: bytes
// over bandwidth (14952 x 512 bf16 forward: 19 MB, 4.5 us at 4.3 TB/s).
// Deterministic: one writer per element; dtoken in the order above, `parts` from the sizes alone.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

// One unit of N columns per lane and step; all of a row's sources lie at the same columns.
template <typename T, int N>
__device__ __forceinline__ void row_assemble_row(T* y, const T* x, const float* token,
                                                 const float* position, int c) {
    const int lane = threadIdx.x % WARP;
#pragma unroll 2
    for (int j = lane * N; j < c; j += WARP * N) {
        float v[N], p[N];
        if (x) {
            load_elements<N>(x, j, v);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] = __ldg(token + j + k);
        }
        if constexpr (N % 4 == 0) {
#pragma unroll
            for (int k = 0; k < N; k += 4) {
                const float4 f = __ldg(reinterpret_cast<const float4*>(position + j + k));
                p[k] = f.x, p[k + 1] = f.y, p[k + 2] = f.z, p[k + 3] = f.w;
            }
        } else {
            p[0] = __ldg(position + j);
        }
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] += p[k];
        store_elements<N>(y, j, v);
    }
}

template <typename T>
__device__ __forceinline__ void row_assemble_fwd(T* y, const T* x, const float* token,
                                                 const float* table, const int* source,
                                                 const int* position, int64_t rows, int c) {
    constexpr int N = Vec<T>::N;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int64_t from = source[row];
    const T* given = from >= 0 ? x + from * c : nullptr;
    const float* at = table + static_cast<int64_t>(position[row]) * c;
    if (c % N == 0 && is_aligned_16(y) && is_aligned_16(x) && is_aligned_16(table)) {
        row_assemble_row<T, N>(y + row * c, given, token, at, c);
    } else {
        row_assemble_row<T, 1>(y + row * c, given, token, at, c);
    }
}

constexpr int ASSEMBLE_LANES = 8;  // rows of a block that dtoken is summed in

// Sums of 32 N columns from `left` on. A lane holds N neighbouring columns (16 bytes), or N columns 32
// apart where the rows are not aligned.
template <typename T>
__device__ __forceinline__ void row_assemble_bwd_params(float* partial, const T* dy,
                                                        const int* token_rows, int count, int c) {
    constexpr int N = Vec<T>::N, WIDTH = WARP * N;
    __shared__ float sums[ASSEMBLE_LANES][WIDTH];
    const int left = blockIdx.x * WIDTH, lane = threadIdx.x;
    const int per_part = (count + gridDim.y - 1) / gridDim.y;
    const int first = blockIdx.y * per_part, end = min(first + per_part, count);
    float sum[N] = {}, v[N];
    if (c % N == 0 && is_aligned_16(dy)) {
        if (left + lane * N < c) {
#pragma unroll 4
            for (int i = first + threadIdx.y; i < end; i += ASSEMBLE_LANES) {
                load_elements<N>(dy, static_cast<int64_t>(token_rows[i]) * c + left + lane * N, v);
#pragma unroll
                for (int k = 0; k < N; ++k) sum[k] += v[k];
            }
        }
#pragma unroll
        for (int k = 0; k < N; ++k) sums[threadIdx.y][lane * N + k] = sum[k];
    } else {
        for (int i = first + threadIdx.y; i < end; i += ASSEMBLE_LANES) {
            const T* row = dy + static_cast<int64_t>(token_rows[i]) * c + left;
#pragma unroll
            for (int k = 0; k < N; ++k)
                if (left + k * WARP + lane < c) sum[k] += to_float(row[k * WARP + lane]);
        }
#pragma unroll
        for (int k = 0; k < N; ++k) sums[threadIdx.y][k * WARP + lane] = sum[k];
    }
    __syncthreads();
    for (int j = threadIdx.y * WARP + lane; j < WIDTH && left + j < c; j += ASSEMBLE_LANES * WARP) {
        float total = 0.0f;
#pragma unroll
        for (int k = 0; k < ASSEMBLE_LANES; ++k) total += sums[k][j];
        partial[static_cast<int64_t>(blockIdx.y) * c + left + j] = total;
    }
}

GLMAE_TWINS(row_assemble_fwd_f32, row_assemble_fwd_bf16, (256),
    (T* __restrict__ y, const T* __restrict__ x, const float* __restrict__ token,
     const float* __restrict__ table, const int* __restrict__ source,
     const int* __restrict__ position, int64_t rows, int c),
    row_assemble_fwd(y, x, token, table, source, position, rows, c))

GLMAE_TWINS(row_assemble_bwd_x_f32, row_assemble_bwd_x_bf16, (256),
    (T* __restrict__ dx, const T* __restrict__ dy, const int* __restrict__ target,
     int64_t inputs, int c, int mode),
    give_rows_back(dx, dy, target, inputs, c, mode == GLMAE_GRAD_ACCUMULATE))

// partial [gridDim.y, c].
GLMAE_TWINS(row_assemble_bwd_params_f32, row_assemble_bwd_params_bf16, (256),
    (float* __restrict__ partial, const T* __restrict__ dy,
     const int* __restrict__ token_rows, int count, int c),
    row_assemble_bwd_params(partial, dy, token_rows, count, c))

// dtoken (+)= the parts in order; one thread per column.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    row_assemble_bwd_params_f32_sum(float* __restrict__ dtoken, const float* __restrict__ partial,
                                    int parts, int c, int mode) {
    const int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= c) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int p = 0; p < parts; ++p) sum += partial[static_cast<int64_t>(p) * c + j];
    dtoken[j] = mode == GLMAE_GRAD_ACCUMULATE ? dtoken[j] + sum : sum;
}
GLMAE_KERNEL(row_assemble_bwd_params_f32_sum, 256)

}  // namespace GLMAE_NS
