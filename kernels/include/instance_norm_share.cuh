// How the kernels of instance norm divide a sample: a block has a share of its rows, a thread 16 bytes of
// channels (or one channel) of every r-th row of the share.
#pragma once

namespace GLMAE_NS {

constexpr int NORM_THREADS = 256;

// Which part of a matrix a thread has: columns column .. column + N of rows row, row + rows, ... < end of
// the share, which begins at row `start` of the sample.
struct NormPlace {
    int64_t sample, start;
    int row, rows, end, width, column;  // `rows`: how many the block takes at a time
    bool works;

    __device__ __forceinline__ NormPlace(int left, int columns, int n, int64_t voxels, int block_rows) {
        sample = blockIdx.y;
        width = min(NORM_THREADS, columns - left);
        rows = NORM_THREADS / width;
        row = threadIdx.x / width;
        works = row < rows;
        column = (left + static_cast<int>(threadIdx.x) - row * width) * n;
        start = static_cast<int64_t>(blockIdx.x) * block_rows;
        end = static_cast<int>(min(static_cast<int64_t>(block_rows), voxels - start));
    }
    // The first of its elements in a matrix of c columns.
    __device__ __forceinline__ int64_t base(int64_t voxels, int c) const {
        return (sample * voxels + start) * c + column;
    }
};

// Half of the largest power of two that covers `rows`: the first step of a tree over them.
__device__ __forceinline__ int norm_tree_start(int rows) {
    int step = 1;
    while (2 * step < rows) step *= 2;
    return step;
}

}  // namespace GLMAE_NS
