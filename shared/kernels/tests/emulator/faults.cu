// Kernels that do what a kernel must not: the tests of the emulator itself.

#include "common.cuh"

#define FAULT(NAME) extern "C" __global__ void fault_##NAME(uint32_t* out, const uint32_t* in, uint32_t count)

// Right: every thread gives its word to the thread that mirrors it.
FAULT(none) {
    uint32_t* room = reinterpret_cast<uint32_t*>(tessera::shared_room());
    room[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = room[count - 1 - threadIdx.x];
}

// The same without the barrier.
FAULT(no_barrier) {
    uint32_t* room = reinterpret_cast<uint32_t*>(tessera::shared_room());
    room[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = room[count - 1 - threadIdx.x];
}

// The room is written anew while others still read it.
FAULT(no_second_barrier) {
    uint32_t* room = reinterpret_cast<uint32_t*>(tessera::shared_room());
    room[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = room[count - 1 - threadIdx.x];
    room[threadIdx.x] = 0;
}

// A warp that is ahead writes its second sum while another still reads the first.
FAULT(room_used_again) {
    float* room = tessera::shared_room();
    float total = 0.0f;
    for (uint32_t round = 1; round <= 2; round++) {
        const float sum = tessera::warp_sum(static_cast<float>(round * in[threadIdx.x]));
        if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = sum;
        __syncthreads();
        for (uint32_t warp = 0; warp < count / 32; warp++) total += room[warp];
    }
    out[threadIdx.x] = static_cast<uint32_t>(total);
}

FAULT(uninitialised) { out[threadIdx.x] = reinterpret_cast<uint32_t*>(tessera::shared_room())[threadIdx.x]; }

FAULT(read_behind) { out[threadIdx.x] = in[threadIdx.x + 1]; }

FAULT(read_in_front) { out[threadIdx.x] = in[static_cast<int>(threadIdx.x) - 1]; }

FAULT(write_behind) { out[threadIdx.x + count] = in[threadIdx.x]; }

FAULT(write_in_front) { (out - 1)[threadIdx.x] = in[threadIdx.x]; }

FAULT(shared_behind) { tessera::shared_room()[threadIdx.x + 1] = static_cast<float>(in[threadIdx.x]); }

FAULT(misaligned) { out[threadIdx.x] = tessera::load_wide(reinterpret_cast<const float*>(in + 1)).words[0]; }

FAULT(barrier_of_some) {
    if (threadIdx.x < count / 2) __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

FAULT(shuffle_of_some) {
    if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_xor_sync(tessera::ALL_LANES, in[threadIdx.x], 2);
}
