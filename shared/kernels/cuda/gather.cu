// Rows from anywhere.

#include "common.cuh"

namespace tessera {

// Packs of a row that a thread has in flight.
constexpr uint32_t GATHER_PACKS = 4;

// One thread block a row: sources holds addresses.
template <typename T>
__device__ void gather(T* out, const uint64_t* sources, uint32_t rows, uint32_t width) {
    const uint32_t row = blockIdx.x, stride = blockDim.x * PACK;
    if (row >= rows) return;
    const T* from = reinterpret_cast<const T*>(static_cast<uintptr_t>(sources[row]));
    T* to = out + static_cast<size_t>(row) * width;
    for (uint32_t first = threadIdx.x * PACK; first < width; first += GATHER_PACKS * stride) {
        Pack<T> packs[GATHER_PACKS];
#pragma unroll
        for (uint32_t step = 0; step < GATHER_PACKS; step++) {
            const uint32_t at = first + step * stride;
            packs[step] = at < width ? load(from + at, width - at) : zeros<T>();
        }
#pragma unroll
        for (uint32_t step = 0; step < GATHER_PACKS; step++) {
            const uint32_t at = first + step * stride;
            if (at < width) store(to + at, packs[step], width - at);
        }
    }
}

}  // namespace tessera

#define GATHER(T, SUFFIX)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128) gather_##SUFFIX(                                               \
        T* out, const uint64_t* sources, uint32_t rows, uint32_t width) {                                            \
        tessera::gather(out, sources, rows, width);                                                                  \
    }
FOR_EACH_KIND(GATHER)
