// What a vision tower begins with.

#include "common.cuh"

namespace tessera {

// The patch convolution has stride and kernel equal, so it is a matrix product over patches: one thread block takes a
// patch, its pixels in the order of the convolution's kernel. Lines of a patch are too short, and begin too unevenly,
// for wide loads; a thread takes single pixels, neighbours take neighbours.
template <typename T>
__device__ void unfold(T* out, const float* pixels, uint32_t tiles, uint32_t channels, uint32_t side, uint32_t patch) {
    const uint32_t per_side = side / patch, per_tile = per_side * per_side, area = patch * patch;
    const uint32_t tile = blockIdx.x / per_tile, place = blockIdx.x % per_tile;
    if (tile >= tiles) return;
    const uint32_t top = place / per_side * patch, left = place % per_side * patch, width = channels * area;
    for (uint32_t index = threadIdx.x; index < width; index += blockDim.x) {
        const uint32_t channel = index / area, line = index % area / patch, column = index % patch;
        const size_t from = (static_cast<size_t>(tile) * channels + channel) * side + top + line;
        from_float(out[static_cast<size_t>(blockIdx.x) * width + index], pixels[from * side + left + column]);
    }
}

// A thread takes a pack of a row: the class, or a patch and its bias, and the position's embedding.
template <typename T>
__device__ void embed_tiles(
    T* out, const T* patches, const T* bias, const T* class_row, const T* table, uint32_t tiles, uint32_t positions,
    uint32_t width) {
    const Place place(width);
    if (place.row >= tiles * positions) return;
    const uint32_t tile = place.row / positions, position = place.row % positions, front = class_row ? 1 : 0;
    const bool is_class = position < front;
    const size_t patch = static_cast<size_t>(tile) * (positions - front) + position - front;
    const T* from = is_class ? class_row + place.column : patches + patch * width + place.column;
    const Pack<T> contents = load(from, place.count);
    const Pack<T> biases = bias && !is_class ? load(bias + place.column, place.count) : zeros<T>();
    const Pack<T> embeddings = load(table + static_cast<size_t>(position) * width + place.column, place.count);
    float values[PACK];
#pragma unroll
    for (uint32_t index = 0; index < PACK; index++) values[index] = contents[index] + biases[index] + embeddings[index];
    store(out + static_cast<size_t>(place.row) * width + place.column, packed<T>(values), place.count);
}

}  // namespace tessera

#define TILES(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) unfold_##SUFFIX(                                               \
        T* out, const float* pixels, uint32_t tiles, uint32_t channels, uint32_t side, uint32_t patch) {             \
        tessera::unfold(out, pixels, tiles, channels, side, patch);                                                  \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256) embed_tiles_##SUFFIX(                                          \
        T* out, const T* patches, const T* bias, const T* class_row, const T* table, uint32_t tiles,                 \
        uint32_t positions, uint32_t width) {                                                                        \
        tessera::embed_tiles(out, patches, bias, class_row, table, tiles, positions, width);                         \
    }
FOR_EACH_KIND(TILES)
