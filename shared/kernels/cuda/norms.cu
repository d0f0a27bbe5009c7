// Normalisation: one thread block a row.
//
// A row is read twice (three times by layer norm), from memory the first time and from the nearest cache after that: it
// is a few KiB. The order of its sums depends on its width alone, not on how it is aligned.

#include "common.cuh"

namespace tessera {

// Calls `visit(column, count)` for the packs of a row that are this thread's.
template <typename Visit>
__device__ __forceinline__ void each_pack(uint32_t width, Visit visit) {
    for (uint32_t column = threadIdx.x * PACK; column < width; column += blockDim.x * PACK) {
        visit(column, min(PACK, width - column));
    }
}

// Llama's: rounded to T, then times the weight in T.
template <typename T>
__device__ void rms_norm(T* out, const T* x, const T* weight, uint32_t rows, uint32_t width, float epsilon) {
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    if (blockIdx.x >= rows) return;
    float sum = 0.0f;
    each_pack(width, [&](uint32_t column, uint32_t count) {
        const Pack<T> numbers = load(x + start + column, count);
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) sum += numbers[index] * numbers[index];
    });
    const float mean_square = block_sum(sum, shared_room()) / static_cast<float>(width);
    const float factor = 1.0f / sqrtf(mean_square + epsilon);
    each_pack(width, [&](uint32_t column, uint32_t count) {
        const Pack<T> numbers = load(x + start + column, count), weights = load(weight + column, count);
        float values[PACK];
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            values[index] = rounded<T>(numbers[index] * factor) * weights[index];
        }
        store(out + start + column, packed<T>(values), count);
    });
}

// The variance is the mean of the squares of the differences from the mean: the mean of the squares less the square of
// the mean loses the digits of rows that lie far from zero.
template <typename T>
__device__ void layer_norm(
    T* out, const T* x, const T* weight, const T* bias, uint32_t rows, uint32_t width, float epsilon) {
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    if (blockIdx.x >= rows) return;
    float sum = 0.0f;
    each_pack(width, [&](uint32_t column, uint32_t count) {
        const Pack<T> numbers = load(x + start + column, count);
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) sum += numbers[index];
    });
    const float mean = block_sum(sum, shared_room()) / static_cast<float>(width);
    float squares = 0.0f;
    each_pack(width, [&](uint32_t column, uint32_t count) {
        const Pack<T> numbers = load(x + start + column, count);
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            // What fills a pack up is no part of the row.
            const float difference = index < count ? numbers[index] - mean : 0.0f;
            squares += difference * difference;
        }
    });
    const float variance = block_sum(squares, shared_room()) / static_cast<float>(width);
    const float factor = 1.0f / sqrtf(variance + epsilon);
    each_pack(width, [&](uint32_t column, uint32_t count) {
        const Pack<T> numbers = load(x + start + column, count);
        const Pack<T> weights = load(weight + column, count), biases = load(bias + column, count);
        float values[PACK];
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            values[index] = (numbers[index] - mean) * factor * weights[index] + biases[index];
        }
        store(out + start + column, packed<T>(values), count);
    });
}

}  // namespace tessera

#define NORMS(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(512) rms_norm_##SUFFIX(                                             \
        T* out, const T* x, const T* weight, uint32_t rows, uint32_t width, float epsilon) {                         \
        tessera::rms_norm(out, x, weight, rows, width, epsilon);                                                     \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(512) layer_norm_##SUFFIX(                                           \
        T* out, const T* x, const T* weight, const T* bias, uint32_t rows, uint32_t width, float epsilon) {          \
        tessera::layer_norm(out, x, weight, bias, rows, width, epsilon);                                             \
    }
FOR_EACH_KIND(NORMS)
