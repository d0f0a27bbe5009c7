// The parts of a head of a row, added up.

#include "common.cuh"

namespace tessera {

// Warps that share the parts: warp w takes parts w, w + 4, ... So the order of a sum depends on which parts there are,
// not on how many the batch has room for.
constexpr uint32_t MERGE_WARPS = 4;
// Numbers of a head that a lane adds up.
constexpr uint32_t COLUMNS = 8;

template <typename T>
__device__ void paged_merge(
    T* out, const float* partials, const float* maxima, const float* sums, uint32_t rows, uint32_t heads,
    uint32_t head_dim, uint32_t splits) {
    const uint32_t head = blockIdx.x, row = blockIdx.y;
    if (row >= rows || head >= heads) return;
    const size_t line = static_cast<size_t>(row) * heads + head;
    maxima += line * splits;
    sums += line * splits;
    partials += line * splits * head_dim;
    // totals, largest: [4]; of_warp: [4, head_dim]
    float* totals = shared_room();
    float* of_warps = totals + MERGE_WARPS;
    float* largest_of = of_warps + MERGE_WARPS * head_dim;
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;

    float largest = negative_infinity();
    for (uint32_t part = threadIdx.x; part < splits; part += blockDim.x) largest = fmaxf(largest, maxima[part]);
    largest = warp_max(largest);
    if (lane == 0) largest_of[warp] = largest;
    __syncthreads();
#pragma unroll
    for (uint32_t other = 0; other < MERGE_WARPS; other++) largest = fmaxf(largest, largest_of[other]);

    // The lanes of a warp look at 32 of its parts at once, then add them up one after the other.
    float total = 0.0f, values[COLUMNS];
#pragma unroll
    for (uint32_t column = 0; column < COLUMNS; column++) values[column] = 0.0f;
    for (uint32_t done = warp; done < splits; done += MERGE_WARPS * WARP) {
        const uint32_t own = done + lane * MERGE_WARPS;
        const float sum = own < splits ? sums[own] : 0.0f;
        // A part without weights is empty, and its partial sums may be anything. What is not a number is no empty part.
        const float weight = sum == 0.0f ? -1.0f : expf(maxima[own] - largest);
        const uint32_t parts = min(WARP, (splits - done + MERGE_WARPS - 1) / MERGE_WARPS);
#pragma unroll 4
        for (uint32_t index = 0; index < parts; index++) {
            const float of_part = __shfl_sync(ALL_LANES, weight, index);
            const float its_sum = __shfl_sync(ALL_LANES, sum, index);
            if (of_part < 0.0f) continue;
            total += of_part * its_sum;
            const float* from = partials + static_cast<size_t>(done + index * MERGE_WARPS) * head_dim;
#pragma unroll
            for (uint32_t column = 0; column < COLUMNS; column++) {
                const uint32_t at = column * WARP + lane;
                if (at < head_dim) values[column] += of_part * from[at];
            }
        }
    }

#pragma unroll
    for (uint32_t column = 0; column < COLUMNS; column++) {
        const uint32_t at = column * WARP + lane;
        if (at < head_dim) of_warps[warp * head_dim + at] = values[column];
    }
    if (lane == 0) totals[warp] = total;
    __syncthreads();
    total = totals[0] + totals[1] + totals[2] + totals[3];
    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
    for (uint32_t column = threadIdx.x; column < head_dim; column += blockDim.x) {
        float value = 0.0f;
#pragma unroll
        for (uint32_t from = 0; from < MERGE_WARPS; from++) value += of_warps[from * head_dim + column];
        from_float(out[line * head_dim + column], value * factor);
    }
}

}  // namespace tessera

#define PAGED_MERGE(T, SUFFIX)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) paged_merge_##SUFFIX(                                          \
        T* out, const float* partials, const float* maxima, const float* sums, uint32_t rows, uint32_t heads,        \
        uint32_t head_dim, uint32_t splits) {                                                                        \
        tessera::paged_merge(out, partials, maxima, sums, rows, heads, head_dim, splits);                            \
    }
FOR_EACH_KIND(PAGED_MERGE)
