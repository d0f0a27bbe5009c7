// How a kernel is run.
#pragma once

#include <functional>
#include <string>

#include "device.h"

struct Geometry {
    Extent grid, block;
    uint32_t shared_bytes;
};

// In which order blocks, and threads that can go on, take their turns.
struct Order {
    enum Kind : uint32_t { ASCENDING, DESCENDING, SHUFFLED } kind;
    uint32_t seed;
};

// Runs `kernel` for every thread of every block.
void run(const Geometry& geometry, Order order, const std::function<void()>& kernel);

// Says on standard error what the kernel does wrong, and ends the program.
[[noreturn]] void fail(const std::string& what);
