// Powers of e and their sums, to the same bits as `src/powers.rs`: additions and multiplications alone, each rounded for
// itself, which the intrinsics say, for else the compiler would join them.
#pragma once

#include "common.cuh"

namespace tessera {

// Threads of a block, each of which adds up a lane: the powers of the ids that leave the same rest.
constexpr uint32_t LANES = 1024;
// Lanes that are added up first, and groups of them.
constexpr uint32_t GROUP = 32, GROUPS = LANES / GROUP;

// e to the power of a number that is not above 0.
__device__ __forceinline__ double power(double x) {
    if (x < -700.0) return 0.0;
    constexpr double LOG2_E = 1.4426950408889634, ROUNDING = 6755399441055744.0;
    constexpr double HIGH = 6.931471803691238e-1, LOW = 1.9082149292705877e-10;
    constexpr double SERIES[] = {
        1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
        1.0 / 40320.0,      1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,     1.0 / 24.0,
        1.0 / 6.0,          1.0 / 2.0,         1.0,              1.0};
    const double rounded = __dadd_rn(__dmul_rn(x, LOG2_E), ROUNDING), whole = __dadd_rn(rounded, -ROUNDING);
    const double rest = __dadd_rn(__dadd_rn(x, -__dmul_rn(whole, HIGH)), -__dmul_rn(whole, LOW));
    double sum = SERIES[0];
#pragma unroll
    for (uint32_t term = 1; term < sizeof SERIES / sizeof *SERIES; term++) {
        sum = __dadd_rn(__dmul_rn(sum, rest), SERIES[term]);
    }
    const unsigned long long exponent = static_cast<unsigned long long>(__double_as_longlong(rounded)) << 52;
    return __longlong_as_double(static_cast<long long>(__double_as_longlong(sum) + exponent));
}

// A number of 64 bits by its halves.
__device__ __forceinline__ double number_of(uint32_t low, uint32_t high) {
    return __longlong_as_double(static_cast<long long>(static_cast<unsigned long long>(high) << 32 | low));
}

// What scores are divided by: where the largest would be infinite, their distances from it.
struct Scale {
    float shift, temperature, top;

    __device__ __forceinline__ Scale(float largest, float temperature) : temperature(temperature) {
        shift = is_finite(largest / temperature) ? 0.0f : largest;
        top = of(largest);
    }

    __device__ __forceinline__ float of(float score) const { return (score - shift) / temperature; }

    // The power of a score, to the largest.
    __device__ __forceinline__ double power_of(float score) const {
        return is_finite(score) ? power(static_cast<double>(of(score)) - static_cast<double>(top)) : 0.0;
    }
};

// In which of some parts, one behind the other, a number falls, and how far into it. Where rounding has left it behind all, that
// is the end of the last that is not empty.
__device__ inline uint32_t part_of(const double* parts, uint32_t count, double& left) {
    uint32_t last = 0;
    for (uint32_t index = 0; index < count; index++) {
        const double part = parts[index];
        if (left < part) return index;
        if (part > 0.0) last = index;
        left = __dadd_rn(left, -part);
    }
    left = __longlong_as_double(0x7ff0000000000000ll);
    return last;
}

// Adds up the powers of a row by all threads of a block; every thread gets the sum. lanes: [LANES], groups: [GROUPS]
template <typename T>
__device__ double sum_of_powers(const T* scores, uint32_t count, const Scale& scale, double* lanes, double* groups) {
    double sum = 0.0;
#pragma unroll 4
    for (uint32_t id = threadIdx.x; id < count; id += LANES) sum = __dadd_rn(sum, scale.power_of(to_float(scores[id])));
    // The room may still be read for something else.
    __syncthreads();
    lanes[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < GROUPS) {
        double group = 0.0;
        for (uint32_t lane = 0; lane < GROUP; lane++) group = __dadd_rn(group, lanes[threadIdx.x * GROUP + lane]);
        groups[threadIdx.x] = group;
    }
    __syncthreads();
    double total = 0.0;
    for (uint32_t group = 0; group < GROUPS; group++) total = __dadd_rn(total, groups[group]);
    return total;
}

}  // namespace tessera
