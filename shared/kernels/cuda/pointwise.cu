// Functions of single numbers: a thread takes a pack of a row.

#include "common.cuh"

namespace tessera {

// The numbers of the activations are those of `Activation` in Rust.
constexpr uint32_t GELU = 1, GELU_TANH = 2, QUICK_GELU = 3, SILU = 4;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// The choice stands outside of the loops: all threads make the same.
__device__ __forceinline__ void activate(float (&values)[PACK], uint32_t activation) {
    if (activation == GELU) {
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            const float x = values[index];
            values[index] = 0.5f * x * (1.0f + erff(x * 0.70710678f));
        }
    } else if (activation == GELU_TANH) {
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) {
            const float x = values[index];
            values[index] = 0.5f * x * (1.0f + tanhf(0.7978846f * (x + 0.044715f * x * x * x)));
        }
    } else if (activation == QUICK_GELU) {
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) values[index] /= 1.0f + expf(-1.702f * values[index]);
    } else if (activation == SILU) {
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) values[index] = silu(values[index]);
    }
}

// x = activation(x + bias) + residual, rounded once.
template <typename T>
__device__ void bias_act(T* x, const T* bias, const T* residual, uint32_t rows, uint32_t width, uint32_t activation) {
    const Place place(width);
    if (place.row >= rows) return;
    const size_t at = static_cast<size_t>(place.row) * width + place.column;
    // All that there is to load is asked for before the first of it is used.
    const Pack<T> numbers = load(x + at, place.count);
    const Pack<T> biases = bias ? load(bias + place.column, place.count) : zeros<T>();
    const Pack<T> residuals = residual ? load(residual + at, place.count) : zeros<T>();
    float values[PACK];
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) values[index] = numbers[index] + biases[index];
    activate(values, activation);
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) values[index] += residuals[index];
    store(x + at, packed<T>(values), place.count);
}

// The gate stands in front of what it lets through.
template <typename T>
__device__ void silu_mul(T* out, const T* gate_up, uint32_t rows, uint32_t width) {
    const Place place(width);
    if (place.row >= rows) return;
    const T* gate = gate_up + static_cast<size_t>(place.row) * 2 * width + place.column;
    const Pack<T> gates = load(gate, place.count), ups = load(gate + width, place.count);
    float values[PACK];
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) values[index] = silu(gates[index]) * ups[index];
    store(out + static_cast<size_t>(place.row) * width + place.column, packed<T>(values), place.count);
}

}  // namespace tessera

#define POINTWISE(T, SUFFIX)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) bias_act_##SUFFIX(                                             \
        T* x, const T* bias, const T* residual, uint32_t rows, uint32_t width, uint32_t activation) {                \
        tessera::bias_act(x, bias, residual, rows, width, activation);                                               \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256) silu_mul_##SUFFIX(                                             \
        T* out, const T* gate_up, uint32_t rows, uint32_t width) {                                                   \
        tessera::silu_mul(out, gate_up, rows, width);                                                                \
    }
FOR_EACH_KIND(POINTWISE)
