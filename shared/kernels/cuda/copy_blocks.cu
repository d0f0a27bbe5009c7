// Copies of blocks of the KV cache.

#include "common.cuh"

namespace tessera {

// Packs that a thread has in flight.
constexpr uint32_t COPY_PACKS = 4;

// One thread block takes a piece of one block's keys or values of one layer: (piece, pair, layer and which of the two).
template <typename T>
__device__ void copy_blocks(
    T* pool, const uint32_t* pairs, uint32_t count, uint32_t layers, uint32_t blocks, uint32_t block_len) {
    const uint32_t pair = blockIdx.y, pages = blockIdx.z;
    if (pair >= count || pages >= 2 * layers) return;
    const T* from = pool + (static_cast<size_t>(pages) * blocks + pairs[2 * pair]) * block_len;
    T* to = pool + (static_cast<size_t>(pages) * blocks + pairs[2 * pair + 1]) * block_len;
    const uint32_t first = (blockIdx.x * COPY_PACKS * blockDim.x + threadIdx.x) * PACK;
    Pack<T> packs[COPY_PACKS];
#pragma unroll
    for (uint32_t step = 0; step < COPY_PACKS; step++) {
        const uint32_t at = first + step * blockDim.x * PACK;
        packs[step] = at < block_len ? load(from + at, block_len - at) : zeros<T>();
    }
#pragma unroll
    for (uint32_t step = 0; step < COPY_PACKS; step++) {
        const uint32_t at = first + step * blockDim.x * PACK;
        if (at < block_len) store(to + at, packs[step], block_len - at);
    }
}

}  // namespace tessera

#define COPY_BLOCKS(T, SUFFIX)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) copy_blocks_##SUFFIX(                                          \
        T* pool, const uint32_t* pairs, uint32_t count, uint32_t layers, uint32_t blocks, uint32_t block_len) {      \
        tessera::copy_blocks(pool, pairs, count, layers, blocks, block_len);                                         \
    }
FOR_EACH_KIND(COPY_BLOCKS)
