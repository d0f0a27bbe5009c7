// What kernels see of CUDA, on a CPU: one block at a time, its threads as fibers that take turns. `fibers.cpp` runs
// them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

struct Extent {
    uint32_t x, y, z;
};
extern Extent threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

// The dynamic shared memory of a block; what lies behind what a launch asked for is watched.
constexpr uint32_t MOST_SHARED_BYTES = 48 << 10, WATCHED_SHARED_BYTES = 4 << 10;
namespace tessera {
extern float4 shared_memory[];
}

// Where threads meet. A thread that waits lets others run; one that nobody can meet any more is reported.

enum class Meeting : uint32_t { SHUFFLE_XOR = 1, SHUFFLE };
// All threads of the block.
void __syncthreads();
// All lanes of the warp, each bringing a word; returns the words of all.
const uint32_t* meet_warp(Meeting meeting, uint32_t mask, uint32_t word);

template <typename To, typename From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "of the same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float __uint_as_float(uint32_t bits) { return same_bits<float>(bits); }
inline uint32_t __float_as_uint(float x) { return same_bits<uint32_t>(x); }

inline double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
// Rounded for themselves: the emulator is compiled so that nothing is joined.
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }

template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, uint32_t distance) {
    return same_bits<T>(meet_warp(Meeting::SHUFFLE_XOR, mask, same_bits<uint32_t>(value))[threadIdx.x % 32 ^ distance]);
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, uint32_t lane) {
    return same_bits<T>(meet_warp(Meeting::SHUFFLE, mask, same_bits<uint32_t>(value))[lane % 32]);
}

// Numbers of 16 bits, rounded to the nearest, of two that are as near to the even one.

struct __half {
    unsigned short bits;
};
struct __nv_bfloat16 {
    unsigned short bits;
};

inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

inline float __half2float(__half x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ffu;
    if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(fraction), -24), __uint_as_float(sign));
    const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
    return __uint_as_float(sign | wide << 23 | fraction << 13);
}

inline __half __float2half_rn(float x) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u) {
        half = 0x7fff;
    } else if (rest >= 0x477ff000u) {  // 65520, half way to what would be the next number
        half = 0x7c00;
    } else if (rest < 0x38800000u) {  // below 2^-14 numbers lie 2^-24 apart
        half = static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(x), 24)));
    } else {
        half = (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13;
    }
    return {static_cast<unsigned short>(sign | half)};
}

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
