// Runs the threads of a block as fibers.
//
// A fiber begins with a context of its own and from then on is left and entered by jumps, which unlike a change of
// context ask nothing of the operating system. A thread runs until it has to wait for others; then the first that can
// go on does, in the order that the case asks for. So a warp is a whole barrier ahead of another in one order and behind
// it in the other, and what a barrier should have kept apart meets in at least one.

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "fibers.h"

Extent threadIdx, blockIdx, blockDim, gridDim;

namespace tessera {
alignas(64) float4 shared_memory[(MOST_SHARED_BYTES + WATCHED_SHARED_BYTES) / sizeof(float4)];
}

namespace {

constexpr uint32_t WARP = 32;
constexpr size_t STACK_BYTES = 128 << 10;
// No number in any type, so that what is computed from it shows.
constexpr unsigned char POISON = 0xff;

enum class State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber {
    ucontext_t context;
    jmp_buf here;
    bool started = false;
    State state = State::DONE;
};

struct Warp {
    Meeting meeting;
    uint32_t arrived, brought[WARP], met[WARP];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
const std::function<void()>* body;
jmp_buf scheduler;
uint32_t current;
// Whether threads that had to wait can go on.
bool woken;

void wake(uint32_t first, uint32_t count) {
    for (uint32_t thread = first; thread < first + count; thread++) fibers[thread].state = State::READY;
    woken = true;
}

void let_others_run() {
    if (_setjmp(fibers[current].here) == 0) _longjmp(scheduler, 1);
}

void run_threads() {
    for (;;) {
        (*body)();
        fibers[current].state = State::DONE;
        let_others_run();
    }
}

void make_fibers(uint32_t count) {
    // A vector that grew would move contexts that point into themselves.
    fibers.reserve(1024);
    while (fibers.size() < count) {
        Fiber& fiber = fibers.emplace_back();
        getcontext(&fiber.context);
        void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) fail("there is no memory for another thread's stack");
        fiber.context.uc_stack.ss_sp = stack;
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_threads, 0);
    }
}

void resume(uint32_t thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    if (_setjmp(scheduler) != 0) return;
    if (fibers[thread].started) _longjmp(fibers[thread].here, 1);
    fibers[thread].started = true;
    setcontext(&fibers[thread].context);
}

void arrange(std::vector<uint32_t>& items, Order order, std::mt19937& random) {
    if (order.kind == Order::DESCENDING) std::reverse(items.begin(), items.end());
    if (order.kind == Order::SHUFFLED) std::shuffle(items.begin(), items.end(), random);
}

uint32_t count(State state) {
    return std::count_if(fibers.begin(), fibers.begin() + blockDim.x, [&](const Fiber& f) { return f.state == state; });
}

// Who goes first: warps as the order says, and in each its lanes.
std::vector<uint32_t> ranking(Order order, std::mt19937& random) {
    std::vector<uint32_t> threads, of_warps(blockDim.x / WARP), lanes(WARP);
    std::iota(of_warps.begin(), of_warps.end(), 0);
    arrange(of_warps, order, random);
    for (uint32_t warp : of_warps) {
        std::iota(lanes.begin(), lanes.end(), warp * WARP);
        arrange(lanes, order, random);
        threads.insert(threads.end(), lanes.begin(), lanes.end());
    }
    return threads;
}

// Always the first goes on that can, so that a warp gets as far ahead of the others as barriers let it.
void run_until_all_wait(const std::vector<uint32_t>& threads) {
    for (size_t place = 0; place < threads.size(); place = woken ? 0 : place + 1) {
        woken = false;
        if (fibers[threads[place]].state == State::READY) resume(threads[place]);
    }
}

void run_block(uint32_t shared_bytes, Order order, std::mt19937& random) {
    std::memset(tessera::shared_memory, POISON, shared_bytes + WATCHED_SHARED_BYTES);
    warps.assign(blockDim.x / WARP, Warp{});
    const std::vector<uint32_t> threads = ranking(order, random);
    do {
        wake(0, blockDim.x);
        run_until_all_wait(threads);
    } while (count(State::AT_BARRIER) == blockDim.x);
    if (count(State::DONE) < blockDim.x) {
        fail("waits for ever: " + std::to_string(count(State::AT_BARRIER)) + " threads at a barrier, " +
             std::to_string(count(State::IN_WARP)) + " in a shuffle, " + std::to_string(count(State::DONE)) + " gone");
    }
    const unsigned char* behind = reinterpret_cast<unsigned char*>(tessera::shared_memory) + shared_bytes;
    if (!std::all_of(behind, behind + WATCHED_SHARED_BYTES, [](unsigned char byte) { return byte == POISON; })) {
        fail("writes behind its shared memory");
    }
}

}  // namespace

void __syncthreads() {
    fibers[current].state = State::AT_BARRIER;
    let_others_run();
}

const uint32_t* meet_warp(Meeting meeting, uint32_t mask, uint32_t word) {
    Warp& warp = warps[current / WARP];
    if (mask != 0xffffffffu) fail("shuffles among some lanes of a warp, which is not emulated");
    if (warp.arrived > 0 && warp.meeting != meeting) fail("lanes of a warp meet in different shuffles");
    warp.meeting = meeting;
    warp.brought[current % WARP] = word;
    if (++warp.arrived < WARP) {
        fibers[current].state = State::IN_WARP;
        let_others_run();
    } else {
        // What was met before has been read by all: they are here.
        std::copy(warp.brought, warp.brought + WARP, warp.met);
        warp.arrived = 0;
        wake(current / WARP * WARP, WARP);
    }
    return warp.met;
}

void run(const Geometry& geometry, Order order, const std::function<void()>& kernel) {
    const uint32_t threads = geometry.block.x;
    if (threads == 0 || threads > 1024 || threads % WARP != 0 || geometry.block.y != 1 || geometry.block.z != 1) {
        fail("is launched with a block that is not emulated: whole warps along one axis");
    }
    if (geometry.shared_bytes > MOST_SHARED_BYTES) fail("asks for more shared memory than there is");
    make_fibers(threads);
    body = &kernel;
    blockDim = geometry.block;
    gridDim = geometry.grid;
    std::mt19937 random(order.seed);
    std::vector<uint32_t> blocks(gridDim.x * gridDim.y * gridDim.z);
    std::iota(blocks.begin(), blocks.end(), 0);
    arrange(blocks, order, random);
    for (uint32_t block : blocks) {
        blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
        run_block(geometry.shared_bytes, order, random);
    }
}
