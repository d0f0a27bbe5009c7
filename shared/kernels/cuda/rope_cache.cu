// Rotary position embedding, halves layout, on the way into the KV cache.

#include "common.cuh"

namespace tessera {

// A thread takes a pack of the left half of a head and the one beside it in the right half, which turn together. Heads
// of queries go back to where they were, those of keys and values to the row's slot.
template <typename T>
__device__ void rope_cache(
    T* qkv, T* keys, T* values, const float* cos, const float* sin, const uint32_t* positions, const uint32_t* slots,
    uint32_t rows, uint32_t heads, uint32_t kv_heads, uint32_t head_dim) {
    const uint32_t row = blockIdx.x, half = head_dim / 2, packs = (half + PACK - 1) / PACK;
    const uint32_t task = blockIdx.y * blockDim.x + threadIdx.x, head = task / packs, column = task % packs * PACK;
    if (row >= rows || head >= heads + 2 * kv_heads) return;
    const uint32_t slot = slots[row], count = min(PACK, half - column);
    const bool is_query = head < heads, is_value = head >= heads + kv_heads, turns = cos && !is_value;
    if (slot == NONE || (is_query && !turns)) return;

    T* from = qkv + (static_cast<size_t>(row) * (heads + 2 * kv_heads) + head) * head_dim + column;
    Pack<T> left = load(from, count), right = load(from + half, count);
    if (turns) {
        const size_t angle = static_cast<size_t>(positions[row]) * half + column;
        const Pack<float> cosines = load(cos + angle, count), sines = load(sin + angle, count);
        float lefts[PACK], rights[PACK];
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            lefts[index] = left[index] * cosines[index] - right[index] * sines[index];
            rights[index] = left[index] * sines[index] + right[index] * cosines[index];
        }
        left = packed<T>(lefts);
        right = packed<T>(rights);
    }
    T* to = from;
    if (!is_query) {
        const uint32_t kv_head = head - heads - (is_value ? kv_heads : 0);
        to = (is_value ? values : keys) + (static_cast<size_t>(slot) * kv_heads + kv_head) * head_dim + column;
    }
    store(to, left, count);
    store(to + half, right, count);
}

}  // namespace tessera

#define ROPE_CACHE(T, SUFFIX)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) rope_cache_##SUFFIX(                                           \
        T* qkv, T* keys, T* values, const float* cos, const float* sin, const uint32_t* positions,                   \
        const uint32_t* slots, uint32_t rows, uint32_t heads, uint32_t kv_heads, uint32_t head_dim) {                \
        tessera::rope_cache(qkv, keys, values, cos, sin, positions, slots, rows, heads, kv_heads, head_dim);         \
    }
FOR_EACH_KIND(ROPE_CACHE)
