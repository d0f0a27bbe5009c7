// What the next token is chosen by: the likeliest id, one that is drawn, or the largest scores. One thread block a row.

#include "powers.cuh"

namespace tessera {

// What is wished for, and the words of a wish.
constexpr uint32_t NOTHING = 0, LIKELIEST = 1, SCORES = 2, TOP_SCORES = 3, DRAW = 4, WISH_WORDS = 4;
// The largest scores that are told, the words that they are told in and those of them in front, and how many may be as large
// as the last.
constexpr uint32_t TOP = 128, HEADER = 4, TOP_WORDS = HEADER + 2 * TOP, MOST_EQUAL = 1024;

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

// A thread block's shared memory.
struct Room {
    // [LANES], also [MOST_EQUAL] scores and as many ids
    double* lanes;
    // [GROUPS]
    double* groups;
    // [2 * WARP]: what warps tell each other
    float* warps;
    // What one thread tells all.
    double* left;
    float* least;
    uint32_t* lane;

    __device__ __forceinline__ Room() {
        lanes = reinterpret_cast<double*>(shared_room());
        groups = lanes + LANES;
        left = groups + GROUPS;
        warps = reinterpret_cast<float*>(left + 1);
        least = warps + 2 * WARP;
        lane = reinterpret_cast<uint32_t*>(least + 1);
    }
};

// Calls `visit(score, id)` for the finite scores of a row that are this thread's. Rows of an odd vocabulary begin anywhere: the
// numbers in front of the first multiple of 16 bytes, and those behind the last, are taken one by one.
template <typename T, typename Visit>
__device__ __forceinline__ void each_finite(const T* from, uint32_t vocabulary, Visit visit) {
    const auto visit_finite = [&](float score, uint32_t id) {
        if (is_finite(score)) visit(score, id);
    };
    const uint32_t past = reinterpret_cast<uintptr_t>(from) % 16 / sizeof(T), most = 16 / sizeof(T);
    const uint32_t front = min(vocabulary, (most - past) % most);
    const uint32_t packs = (vocabulary - front) / PACK, back = front + packs * PACK;
    if (threadIdx.x < front) visit_finite(to_float(from[threadIdx.x]), threadIdx.x);
#pragma unroll 4
    for (uint32_t pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const uint32_t at = front + pack * PACK;
        const Pack<T> numbers = load_wide(from + at);
#pragma unroll
        for (uint32_t index = 0; index < PACK; index++) visit_finite(numbers[index], at + index);
    }
    if (back + threadIdx.x < vocabulary) visit_finite(to_float(from[back + threadIdx.x]), back + threadIdx.x);
}

// How many finite scores of this thread reach a bound.
template <typename T>
__device__ uint32_t reaching(const T* from, uint32_t vocabulary, float least) {
    uint32_t count = 0;
    each_finite(from, vocabulary, [&](float score, uint32_t) { count += score >= least; });
    return count;
}

// The sum over all threads, in every one; it is below 2^24, and so exact.
__device__ __forceinline__ uint32_t block_count(uint32_t count, float* room) {
    return static_cast<uint32_t>(block_sum(static_cast<float>(count), room));
}

// The sum over the threads in front of this one. room: [32]
__device__ __forceinline__ uint32_t count_before(uint32_t count, uint32_t* room) {
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t sum = count;
#pragma unroll
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        const uint32_t other = __shfl_sync(ALL_LANES, sum, (lane + WARP - distance) % WARP);
        if (lane >= distance) sum += other;
    }
    // The room may still be read from the last time.
    __syncthreads();
    if (lane == WARP - 1) room[warp] = sum;
    __syncthreads();
    for (uint32_t other = 0; other < warp; other++) sum += room[other];
    return sum - count;
}

// Numbers in the order of what they stand for, and back.

__device__ __forceinline__ uint32_t order_of(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

__device__ __forceinline__ float in_order(uint32_t order) {
    return __uint_as_float(order & 0x80000000 ? order & 0x7fffffff : ~order);
}

// The best of the block, in every thread.
__device__ Best best_of(Best best, float* room) {
    uint32_t* ids = reinterpret_cast<uint32_t*>(room + WARP);
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    best.of_warp();
    if (lane == 0) {
        room[warp] = best.value;
        ids[warp] = best.id;
    }
    __syncthreads();
    best = {room[lane], ids[lane]};
    best.of_warp();
    return best;
}

// A score that at least TOP scores of the row reach, or all: the TOP-th of the threads' own largest.
__device__ float bound_of(float own, const Room& room) {
    float* largest = reinterpret_cast<float*>(room.lanes);
    largest[threadIdx.x] = own;
    __syncthreads();
    uint32_t above = 0;
    for (uint32_t other = 0; other < LANES; other++) {
        const float value = largest[other];
        above += value > own || (value == own && other < threadIdx.x);
    }
    if (above == TOP - 1) *room.least = own;
    __syncthreads();
    return *room.least;
}

// Tells the largest scores of a row, of which `best` is the largest of all and `own` that of this thread's: finds a bound that few
// reach, brings these together, and counts for each how many are in front of it.
template <typename T>
__device__ void top_scores(uint32_t* out, const T* from, uint32_t vocabulary, float own, float best, const Room& room) {
    const uint32_t finite = block_count(reaching(from, vocabulary, negative_infinity()), room.warps);
    float least = bound_of(own, room);
    uint32_t reached = reaching(from, vocabulary, least), all = block_count(reached, room.warps);
    // Where too many reach it, it is raised as long as enough do.
    uint32_t low = order_of(least), high = order_of(best) + 1;
    while (all > MOST_EQUAL && high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t own_count = reaching(from, vocabulary, in_order(middle));
        const uint32_t count = block_count(own_count, room.warps);
        if (count >= TOP) {
            low = middle;
            least = in_order(middle);
            reached = own_count;
            all = count;
        } else {
            high = middle;
        }
    }
    const uint32_t given = all > MOST_EQUAL ? 0 : min(all, TOP);
    uint32_t place = count_before(reached, reinterpret_cast<uint32_t*>(room.warps));
    if (threadIdx.x == 0) {
        out[0] = finite;
        out[1] = given;
    }
    if (given == 0) return;
    float* scores = reinterpret_cast<float*>(room.lanes);
    uint32_t* ids = reinterpret_cast<uint32_t*>(scores + MOST_EQUAL);
    if (reached > 0) {
        each_finite(from, vocabulary, [&](float score, uint32_t id) {
            if (score >= least) {
                scores[place] = score;
                ids[place] = id;
                place++;
            }
        });
    }
    __syncthreads();
    if (threadIdx.x >= all) return;
    const float score = scores[threadIdx.x];
    const uint32_t id = ids[threadIdx.x];
    uint32_t rank = 0;
    for (uint32_t other = 0; other < all; other++) {
        rank += scores[other] > score || (scores[other] == score && ids[other] < id);
    }
    if (rank < TOP) {
        out[HEADER + rank] = id;
        out[HEADER + TOP + rank] = __float_as_uint(score);
    }
}

// The id in whose part of all powers a number falls; what they add up to lies in the room.
template <typename T>
__device__ uint32_t drawn(const T* from, uint32_t vocabulary, const Scale& scale, double number, const Room& room) {
    if (threadIdx.x == 0) {
        double left = number;
        const uint32_t group = part_of(room.groups, GROUPS, left);
        *room.lane = group * GROUP + part_of(room.lanes + group * GROUP, GROUP, left);
        *room.left = left;
    }
    __syncthreads();
    // A thread for each id of the lane.
    const uint32_t lane = *room.lane, count = (vocabulary - lane + LANES - 1) / LANES;
    if (threadIdx.x < count) {
        room.lanes[threadIdx.x] = scale.power_of(to_float(from[lane + threadIdx.x * LANES]));
    }
    __syncthreads();
    double left = *room.left;
    return threadIdx.x == 0 ? lane + part_of(room.lanes, count, left) * LANES : 0;
}

template <typename T>
__device__ void choose(
    uint32_t* tokens, uint32_t* top, T* scores, const T* logits, const uint32_t* wishes, uint32_t rows,
    uint32_t vocabulary, uint32_t stride) {
    const uint32_t row = blockIdx.x;
    if (row >= rows) return;
    const uint32_t* wish = wishes + row * WISH_WORDS;
    const uint32_t what = wish[0];
    if (what == NOTHING) return;
    const T* from = logits + static_cast<size_t>(row) * vocabulary;
    if (what == SCORES || what == TOP_SCORES) {
        T* to = scores + static_cast<size_t>(row) * stride;
        for (uint32_t at = threadIdx.x * PACK; at < vocabulary; at += blockDim.x * PACK) {
            store(to + at, load(from + at, vocabulary - at), vocabulary - at);
        }
        if (what == SCORES) return;
    }

    const Room room;
    Best own = {negative_infinity(), NONE};
    each_finite(from, vocabulary, [&](float score, uint32_t id) { own.consider(score, id); });
    const Best best = best_of(own, room.warps);
    if (what == LIKELIEST) {
        if (threadIdx.x == 0) tokens[row] = best.id;
        return;
    }
    uint32_t* out = top + static_cast<size_t>(row) * TOP_WORDS;
    if (what != DRAW) top_scores(out, from, vocabulary, own.value, best.value, room);
    const float temperature = __uint_as_float(wish[1]);
    const Scale scale(best.value, temperature);
    const bool adds_up = temperature > 0.0f && best.id != NONE;
    const double total = adds_up ? sum_of_powers(from, vocabulary, scale, room.lanes, room.groups) : 0.0;
    if (what != DRAW) {
        if (threadIdx.x == 0) {
            const long long bits = __double_as_longlong(total);
            out[2] = static_cast<uint32_t>(bits);
            out[3] = static_cast<uint32_t>(bits >> 32);
        }
        return;
    }
    const double number = __dmul_rn(number_of(wish[2], wish[3]), total);
    const uint32_t id = adds_up ? drawn(from, vocabulary, scale, number, room) : NONE;
    if (threadIdx.x == 0) tokens[row] = id;
}

}  // namespace tessera

#define CHOOSE(T, SUFFIX)                                                                                            \
    extern "C" __global__ void __launch_bounds__(1024, 1) choose_##SUFFIX(                                           \
        uint32_t* tokens, uint32_t* top, T* scores, const T* logits, const uint32_t* wishes, uint32_t rows,          \
        uint32_t vocabulary, uint32_t stride) {                                                                      \
        tessera::choose(tokens, top, scores, logits, wishes, rows, vocabulary, stride);                              \
    }
FOR_EACH_KIND(CHOOSE)
