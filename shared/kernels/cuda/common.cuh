// What all kernels share: numbers in packs of eight, and sums over warps and thread blocks.
//
// Only what is used of CUDA's headers here and in the kernels is known to the emulator of the tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// Defines an entry point for each type: MACRO(type, suffix of the name).
#define FOR_EACH_KIND(MACRO) MACRO(float, f32) MACRO(__half, f16) MACRO(__nv_bfloat16, bf16)

namespace tessera {

constexpr uint32_t WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffff;
// Numbers that a thread takes at once: 16 bytes of a 16-bit type, the widest load that there is.
constexpr uint32_t PACK = 8;
// The slot of a row that is padding, and the id where no logit is finite.
constexpr uint32_t NONE = 0xffffffff;
// Positions of a block of the KV cache.
constexpr uint32_t BLOCK_POSITIONS = 32;

__device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000); }

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000) != 0x7f800000; }

// The bits of a number, in the lower half of a word where it has 16.

__device__ __forceinline__ uint32_t bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ uint32_t bits_of(__half x) { return __half_as_ushort(x); }
__device__ __forceinline__ uint32_t bits_of(__nv_bfloat16 x) { return __bfloat16_as_ushort(x); }

__device__ __forceinline__ void from_bits(float& x, uint32_t bits) { x = __uint_as_float(bits); }
__device__ __forceinline__ void from_bits(__half& x, uint32_t bits) {
    x = __ushort_as_half(static_cast<unsigned short>(bits));
}
__device__ __forceinline__ void from_bits(__nv_bfloat16& x, uint32_t bits) {
    x = __ushort_as_bfloat16(static_cast<unsigned short>(bits));
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
// A bf16 is the upper half of a float.
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __uint_as_float(bits_of(x) << 16); }

__device__ __forceinline__ void from_float(float& x, float value) { x = value; }
__device__ __forceinline__ void from_float(__half& x, float value) { x = __float2half_rn(value); }
__device__ __forceinline__ void from_float(__nv_bfloat16& x, float value) { x = __float2bfloat16_rn(value); }

// Returns the nearest number of type T.
template <typename T>
__device__ __forceinline__ float rounded(float value) {
    T x;
    from_float(x, value);
    return to_float(x);
}

// Eight numbers as they lie in memory, in registers: every index is known when this is compiled.
template <typename T>
struct Pack {
    static constexpr uint32_t PER_WORD = 4 / sizeof(T);
    static constexpr uint32_t WORDS = PACK / PER_WORD;

    uint32_t words[WORDS];

    __device__ __forceinline__ float operator[](uint32_t index) const {
        T x;
        from_bits(x, words[index / PER_WORD] >> 8 * sizeof(T) * (index % PER_WORD));
        return to_float(x);
    }

    __device__ __forceinline__ void set_bits(uint32_t index, uint32_t bits) {
        words[index / PER_WORD] |= bits << 8 * sizeof(T) * (index % PER_WORD);
    }
};

template <typename T>
__device__ __forceinline__ Pack<T> zeros() {
    Pack<T> pack;
#pragma unroll
    for (uint32_t word = 0; word < Pack<T>::WORDS; word++) pack.words[word] = 0;
    return pack;
}

__device__ __forceinline__ bool is_aligned(const void* address) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Loads eight numbers from an address that is a multiple of 16.
template <typename T>
__device__ __forceinline__ Pack<T> load_wide(const T* from) {
    Pack<T> pack;
#pragma unroll
    for (uint32_t word = 0; word < Pack<T>::WORDS; word += 4) {
        const uint4 vector = reinterpret_cast<const uint4*>(from)[word / 4];
        pack.words[word] = vector.x;
        pack.words[word + 1] = vector.y;
        pack.words[word + 2] = vector.z;
        pack.words[word + 3] = vector.w;
    }
    return pack;
}

// Loads `count` numbers one by one, the rest of the eight being zero.
template <typename T>
__device__ __forceinline__ Pack<T> load_singly(const T* from, uint32_t count) {
    Pack<T> pack = zeros<T>();
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) {
        if (index < count) pack.set_bits(index, bits_of(from[index]));
    }
    return pack;
}

// Loads `count` numbers: wide where address and count allow.
template <typename T>
__device__ __forceinline__ Pack<T> load(const T* from, uint32_t count) {
    return count >= PACK && is_aligned(from) ? load_wide(from) : load_singly(from, count);
}

// Stores the first `count` numbers.
template <typename T>
__device__ __forceinline__ void store(T* to, const Pack<T>& pack, uint32_t count) {
    if (count >= PACK && is_aligned(to)) {
#pragma unroll
        for (uint32_t word = 0; word < Pack<T>::WORDS; word += 4) {
            const uint4 vector = {pack.words[word], pack.words[word + 1], pack.words[word + 2], pack.words[word + 3]};
            reinterpret_cast<uint4*>(to)[word / 4] = vector;
        }
        return;
    }
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) {
        if (index < count) {
            from_bits(to[index], pack.words[index / Pack<T>::PER_WORD] >> 8 * sizeof(T) * (index % Pack<T>::PER_WORD));
        }
    }
}

template <typename T>
__device__ __forceinline__ void unpack(float (&values)[PACK], const Pack<T>& pack) {
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) values[index] = pack[index];
}

// Rounds eight numbers.
template <typename T>
__device__ __forceinline__ Pack<T> packed(const float (&values)[PACK]) {
    Pack<T> pack = zeros<T>();
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) {
        T x;
        from_float(x, values[index]);
        pack.set_bits(index, bits_of(x));
    }
    return pack;
}

// A thread's pack of a matrix whose rows are cut in packs.
struct Place {
    uint32_t row, column, count;

    __device__ __forceinline__ explicit Place(uint32_t width) {
        const uint32_t packs = (width + PACK - 1) / PACK, index = blockIdx.x * blockDim.x + threadIdx.x;
        row = index / packs;
        column = index % packs * PACK;
        count = min(PACK, width - column);
    }
};

// A thread block's dynamic shared memory.
__device__ __forceinline__ float* shared_room() {
    extern __shared__ float4 shared_memory[];
    return reinterpret_cast<float*>(shared_memory);
}

// Every lane gets the sum. Pairs are added that lie ever nearer, so the order is the same in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// Every lane gets the largest number that is one.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// Every thread of the block gets the sum. room: [32]; all threads of the block, whole warps of them, call this.
__device__ __forceinline__ float block_sum(float value, float* room) {
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    value = warp_sum(value);
    // The room may still be read from the last time.
    __syncthreads();
    if (lane == 0) room[warp] = value;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? room[lane] : 0.0f);
}

}  // namespace tessera
