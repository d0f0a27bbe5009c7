// Attention of one row to one part of its positions, for all queries that share a head of keys and values.
//
// A decode step reads every key and value once and computes little with it, so what counts is that they come as fast as
// memory gives them. A thread block takes (head of keys and values, part of 64 positions, row). Its threads are 8 lines
// of LANES lanes; a line has 8 positions, a lane 8 numbers of each of their keys and values: 16 loads of 16 bytes (32
// in f32), all in flight before the first is used. Neighbouring lanes load neighbouring addresses: a key of 128 numbers
// in 16 bit is 256 bytes by 16 lanes. There is no loop over positions; the softmax of a part needs no second look.
//
// Queries are rows of shared memory that all lines read, so a key is turned to float once, for whatever number of
// queries. Sums are f32. Their order depends on the position of a key in its part and on the width of a head: not on
// who else is in the batch, how long the row is, or in which block a position lies.

#include "common.cuh"

namespace tessera {

// Positions of a part: `SPLIT_POSITIONS` in Rust.
constexpr uint32_t SPLIT_POSITIONS = 64;
// Lines of a thread block, and positions of a line.
constexpr uint32_t LINES = 8, POSITIONS = 8;
// Queries whose sums of values are added up over the warps together.
constexpr uint32_t QUERIES_AT_ONCE = 4;

static_assert(LINES * POSITIONS == SPLIT_POSITIONS, "lines make up a part");
static_assert(BLOCK_POSITIONS % POSITIONS == 0, "a line's positions lie in one block");

template <typename T>
struct Attend {
    const T* queries;
    uint32_t stride;
    const T* keys;
    const T* values;
    const uint32_t* tables;
    const uint32_t* table_of;
    const uint32_t* lengths;
    uint32_t window;
    float scale;
    uint32_t heads, kv_heads, head_dim, table_width;
    float* partials;
    float* maxima;
    float* sums;
    uint32_t splits;
};

// Adds eight numbers up over the LANES lanes of a line, each on its own. Lane i ends with the sum of number i / (LANES
// / 8).
//
// At first every lane has all eight; the lanes of the upper half give the lower four away and take the upper four, and
// so on by halves: 7 exchanges for eight sums, then one for each further halving, where eight sums apart would take
// three to five each.
template <uint32_t LANES>
__device__ __forceinline__ float add_over_lanes(float (&values)[PACK], uint32_t lane) {
    uint32_t distance = LANES / 2;
#pragma unroll
    for (uint32_t kept = PACK / 2; kept > 0; kept /= 2) {
        const bool upper = lane & distance;
#pragma unroll
        for (uint32_t index = 0; index < kept; index++) {
            const float given = upper ? values[index] : values[index + kept];
            const float own = upper ? values[index + kept] : values[index];
            values[index] = own + __shfl_xor_sync(ALL_LANES, given, distance);
        }
        distance /= 2;
    }
#pragma unroll
    for (uint32_t rest = LANES / PACK / 2; rest > 0; rest /= 2) {
        values[0] += __shfl_xor_sync(ALL_LANES, values[0], rest);
    }
    return values[0];
}

// Adds eight numbers up over the lines of a warp, in the same way. A lane ends with 8 LANES / 32 sums, in front;
// returns the index of the first.
template <uint32_t LANES>
__device__ __forceinline__ uint32_t add_over_lines(float (&values)[PACK]) {
    uint32_t first = 0, kept = PACK;
#pragma unroll
    for (uint32_t distance = WARP / 2; distance >= LANES; distance /= 2) {
        const bool upper = threadIdx.x & distance;
        kept /= 2;
        first += upper ? kept : 0;
#pragma unroll
        for (uint32_t index = 0; index < PACK / 2; index++) {
            if (index >= kept) break;
            const float given = upper ? values[index] : values[index + kept];
            const float own = upper ? values[index + kept] : values[index];
            values[index] = own + __shfl_xor_sync(ALL_LANES, given, distance);
        }
    }
    return first;
}

__device__ __forceinline__ void read_eight(float (&values)[PACK], const float* low, const float* high) {
    const float4 four = *reinterpret_cast<const float4*>(low), others = *reinterpret_cast<const float4*>(high);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    values[4] = others.x, values[5] = others.y, values[6] = others.z, values[7] = others.w;
}

// One thread's view of a thread block's work.
template <typename T, uint32_t LANES>
struct Part {
    static constexpr uint32_t THREADS = LINES * LANES, WARPS = THREADS / WARP, WIDTH = LANES * PACK;
    static_assert(THREADS == WIDTH, "a thread for each number of a head");

    const Attend<T>& in;
    const uint32_t kv_head = blockIdx.x, split = blockIdx.y, row = blockIdx.z;
    const uint32_t group = in.heads / in.kv_heads;
    const size_t first_head = static_cast<size_t>(row) * in.heads + kv_head * group;
    const uint32_t warp = threadIdx.x / WARP, warp_lane = threadIdx.x % WARP;
    // The thread's number of a head, where it takes one, and whether heads are that wide.
    const uint32_t column = threadIdx.x;
    const bool has_column = column < in.head_dim;
    // What the row sees of the part: positions from `begin` to `end`.
    const uint32_t length = in.lengths[row], start = split * SPLIT_POSITIONS;
    const uint32_t begin = max(in.window > 0 && length > in.window ? length - in.window : 0, start);
    const uint32_t end = min(length, start + SPLIT_POSITIONS);
    // The thread's positions begin here, and its numbers at 8 * lane.
    const uint32_t line = threadIdx.x / LANES, lane = threadIdx.x % LANES, position = start + line * POSITIONS;

    __device__ __forceinline__ bool sees(uint32_t at) const { return at >= begin && at < end; }

    // Where the keys and the values of the line's positions begin. Of a block that the row sees nothing of, the table
    // may hold anything.
    __device__ __forceinline__ size_t place() const {
        if (position >= end || position + POSITIONS <= begin) return 0;
        const uint32_t* table = in.tables + static_cast<size_t>(in.table_of[row]) * in.table_width;
        const size_t block = table[position / BLOCK_POSITIONS];
        const size_t slot = block * BLOCK_POSITIONS + position % BLOCK_POSITIONS;
        return (slot * in.kv_heads + kv_head) * in.head_dim + lane * PACK;
    }

    // Loads the lane's numbers of the line's positions; zeros for those that the row does not see.
    __device__ __forceinline__ void load(Pack<T> (&packs)[POSITIONS], const T* from, bool is_wide) const {
        const size_t step = static_cast<size_t>(in.kv_heads) * in.head_dim;
#pragma unroll
        for (uint32_t index = 0; index < POSITIONS; index++) {
            packs[index] = zeros<T>();
            if (sees(position + index) && lane * PACK < in.head_dim) {
                packs[index] = is_wide ? load_wide(from + index * step) : load_singly(from + index * step, PACK);
            }
        }
    }

    // Writes the queries, scaled, [group, 2, LANES, 4]: a lane's eight numbers in two parts, so that lanes read side by
    // side.
    __device__ __forceinline__ void write_queries(float* room) const {
        const T* queries = in.queries + static_cast<size_t>(row) * in.stride + kv_head * group * in.head_dim;
        const uint32_t place = column / 4 % 2 * LANES * 4 + column / PACK * 4 + column % 4;
        for (uint32_t query = 0; query < group; query++) {
            const float value = has_column ? to_float(queries[query * in.head_dim + column]) * in.scale : 0.0f;
            room[query * WIDTH + place] = value;
        }
    }

    // Writes the scores of all queries with the line's positions.
    __device__ __forceinline__ void write_scores(
        float* scores, const float* queries, const Pack<T> (&keys)[POSITIONS]) const {
        float numbers[POSITIONS][PACK];
#pragma unroll
        for (uint32_t index = 0; index < POSITIONS; index++) unpack(numbers[index], keys[index]);
        const uint32_t own = lane / (LANES / PACK);
#pragma unroll 1
        for (uint32_t query = 0; query < group; query++) {
            float of_query[PACK], dots[POSITIONS];
            const float* low = queries + query * WIDTH + lane * 4;
            read_eight(of_query, low, low + LANES * 4);
#pragma unroll
            for (uint32_t index = 0; index < POSITIONS; index++) {
                dots[index] = of_query[0] * numbers[index][0];
#pragma unroll
                for (uint32_t number = 1; number < PACK; number++) {
                    dots[index] += of_query[number] * numbers[index][number];
                }
            }
            const float score = add_over_lanes<LANES>(dots, lane);
            if (lane % (LANES / PACK) == 0) {
                const uint32_t at = query * SPLIT_POSITIONS + line * POSITIONS + own;
                scores[at] = sees(position + own) ? score : negative_infinity();
            }
        }
    }

    // Makes scores weights relative to the largest, by a warp for each query, and writes that and the weights' sum.
    __device__ __forceinline__ void soften(float* scores) const {
        for (uint32_t query = warp; query < group; query += WARPS) {
            float* of_query = scores + query * SPLIT_POSITIONS;
            const float left = of_query[warp_lane], right = of_query[warp_lane + WARP];
            const float largest = warp_max(fmaxf(left, right));
            const float left_weight = sees(start + warp_lane) ? expf(left - largest) : 0.0f;
            const float right_weight = sees(start + warp_lane + WARP) ? expf(right - largest) : 0.0f;
            of_query[warp_lane] = left_weight;
            of_query[warp_lane + WARP] = right_weight;
            write_sums(query, largest, warp_sum(left_weight + right_weight), warp_lane == 0);
        }
    }

    __device__ __forceinline__ void write_sums(uint32_t query, float largest, float sum, bool is_writer) const {
        const size_t at = (first_head + query) * in.splits + split;
        if (is_writer) {
            in.maxima[at] = largest;
            in.sums[at] = sum;
        }
    }

    // Writes the sums of values under the weights of all queries. room: [queries at once, WARPS, WIDTH]
    __device__ __forceinline__ void write_partials(
        float* room, const float* weights, const Pack<T> (&values)[POSITIONS]) const {
        float numbers[POSITIONS][PACK];
#pragma unroll
        for (uint32_t index = 0; index < POSITIONS; index++) unpack(numbers[index], values[index]);
        for (uint32_t done = 0; done < group; done += QUERIES_AT_ONCE) {
            const uint32_t count = min(QUERIES_AT_ONCE, group - done);
#pragma unroll 1
            for (uint32_t query = 0; query < count; query++) {
                const float* of_line = weights + (done + query) * SPLIT_POSITIONS + line * POSITIONS;
                write_warps_sums(room + (query * WARPS + warp) * WIDTH, of_line, numbers);
            }
            __syncthreads();
            for (uint32_t query = 0; query < count; query++) {
                float sum = 0.0f;
#pragma unroll
                for (uint32_t from = 0; from < WARPS; from++) sum += room[(query * WARPS + from) * WIDTH + column];
                const size_t part = (first_head + done + query) * in.splits + split;
                if (has_column) in.partials[part * in.head_dim + column] = sum;
            }
            // The room is written anew.
            __syncthreads();
        }
    }

    // Writes the sums of values of the warp's positions, for one query.
    __device__ __forceinline__ void write_warps_sums(
        float* room, const float* weights, const float (&numbers)[POSITIONS][PACK]) const {
        float of_line[POSITIONS], sums[PACK];
        read_eight(of_line, weights, weights + 4);
#pragma unroll
        for (uint32_t number = 0; number < PACK; number++) {
            sums[number] = of_line[0] * numbers[0][number];
#pragma unroll
            for (uint32_t index = 1; index < POSITIONS; index++) {
                sums[number] += of_line[index] * numbers[index][number];
            }
        }
        float* to = room + lane * PACK + add_over_lines<LANES>(sums);
        if constexpr (LANES == 8) {
            *reinterpret_cast<float2*>(to) = {sums[0], sums[1]};
        } else {
            *reinterpret_cast<float4*>(to) = {sums[0], sums[1], sums[2], sums[3]};
        }
        if constexpr (LANES == 32) {
            *reinterpret_cast<float4*>(to + 4) = {sums[4], sums[5], sums[6], sums[7]};
        }
    }
};

template <typename T, uint32_t LANES>
__device__ __forceinline__ void attend(const Attend<T>& in) {
    const Part<T, LANES> part{in};
    if (part.begin >= part.end) {
        part.write_sums(threadIdx.x, negative_infinity(), 0.0f, threadIdx.x < part.group);
        return;
    }
    Pack<T> keys[POSITIONS], values[POSITIONS];
    const size_t place = part.place();
    const bool is_wide = is_aligned(in.keys) && is_aligned(in.values);
    part.load(keys, in.keys + place, is_wide);
    part.load(values, in.values + place, is_wide);

    // The room is for the queries first, then for sums of values; the scores behind it become weights.
    float* room = shared_room();
    float* scores = room + max(part.group, part.WARPS * min(part.group, QUERIES_AT_ONCE)) * part.WIDTH;
    part.write_queries(room);
    __syncthreads();
    part.write_scores(scores, room, keys);
    __syncthreads();
    part.soften(scores);
    __syncthreads();
    part.write_partials(room, scores, values);
}

// Eight lanes a line for heads up to 64 wide, 16 up to 128, 32 up to 256: `launch::paged_attend` counts the threads.
template <typename T>
__device__ void paged_attend(const Attend<T>& in) {
    if (blockDim.x == LINES * 8) {
        attend<T, 8>(in);
    } else if (blockDim.x == LINES * 16) {
        attend<T, 16>(in);
    } else {
        attend<T, 32>(in);
    }
}

}  // namespace tessera

#define PAGED_ATTEND(T, SUFFIX)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) paged_attend_##SUFFIX(                                         \
        const T* queries, uint32_t stride, const T* keys, const T* values, const uint32_t* tables,                   \
        const uint32_t* table_of, const uint32_t* lengths, uint32_t window, float scale, uint32_t rows,              \
        uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t table_width, float* partials, float* maxima,  \
        float* sums, uint32_t splits) {                                                                              \
        if (blockIdx.z >= rows) return;                                                                              \
        tessera::paged_attend<T>({queries, stride, keys, values, tables, table_of, lengths, window, scale, heads,    \
                                  kv_heads, head_dim, table_width, partials, maxima, sums, splits});                 \
    }
FOR_EACH_KIND(PAGED_ATTEND)
