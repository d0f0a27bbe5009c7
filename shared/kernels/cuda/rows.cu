// Rows of tokens and of logits.

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

// The largest finite number so far, and the first place where it stands.
struct Best {
    float value;
    uint32_t id;

    __device__ __forceinline__ void consider(float other, uint32_t other_id) {
        if (other > value || (other == value && other_id < id)) {
            value = other;
            id = other_id;
        }
    }

    // Every lane gets the best of the warp's.
    __device__ __forceinline__ void of_warp() {
#pragma unroll
        for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, value, distance);
            consider(other, __shfl_xor_sync(ALL_LANES, id, distance));
        }
    }
};

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000) != 0x7f800000; }

// One thread block a row. Rows of an odd vocabulary begin anywhere: the numbers in front of the first multiple of 16
// bytes, and those behind the last, are taken one by one.
template <typename T>
__device__ void argmax(uint32_t* ids, const T* logits, uint32_t rows, uint32_t vocabulary) {
    const uint32_t row = blockIdx.x;
    if (row >= rows) return;
    const T* from = logits + static_cast<size_t>(row) * vocabulary;
    const uint32_t past = reinterpret_cast<uintptr_t>(from) % 16 / sizeof(T), most = 16 / sizeof(T);
    const uint32_t front = min(vocabulary, (most - past) % most);
    const uint32_t packs = (vocabulary - front) / PACK, back = front + packs * PACK;

    Best best = {negative_infinity(), NONE};
    if (threadIdx.x < front) {
        const float value = to_float(from[threadIdx.x]);
        if (is_finite(value)) best.consider(value, threadIdx.x);
    }
#pragma unroll 4
    for (uint32_t pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const uint32_t at = front + pack * PACK;
        const Pack<T> numbers = load_wide(from + at);
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            if (is_finite(numbers[index])) best.consider(numbers[index], at + index);
        }
    }
    if (back + threadIdx.x < vocabulary) {
        const float value = to_float(from[back + threadIdx.x]);
        if (is_finite(value)) best.consider(value, back + threadIdx.x);
    }

    // values: [32], then ids: [32]
    float* values = shared_room();
    uint32_t* places = reinterpret_cast<uint32_t*>(values + WARP);
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    best.of_warp();
    if (lane == 0) {
        values[warp] = best.value;
        places[warp] = best.id;
    }
    __syncthreads();
    if (warp != 0) return;
    best = {negative_infinity(), NONE};
    if (lane < blockDim.x / WARP) best = {values[lane], places[lane]};
    best.of_warp();
    if (lane == 0) ids[row] = best.id;
}

}  // namespace tessera

#define ROWS(T, SUFFIX)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) gather_##SUFFIX(                                               \
        T* out, const uint64_t* sources, uint32_t rows, uint32_t width) {                                            \
        tessera::gather(out, sources, rows, width);                                                                  \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(1024) argmax_##SUFFIX(                                              \
        uint32_t* ids, const T* logits, uint32_t rows, uint32_t vocabulary) {                                        \
        tessera::argmax(ids, logits, rows, vocabulary);                                                              \
    }
FOR_EACH_KIND(ROWS)
