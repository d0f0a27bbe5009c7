// Runs kernels on the CPU, compiled from the very sources that nvcc compiles.
//
// Cases come on standard input, results go to standard output, all numbers in the machine's own byte order:
//
//   case:     text name, u32 grid[3], block[3], shared bytes, order, seed, u32 arguments, then each argument
//   argument: u8 0                                                      a null pointer
//             u8 1, u32 misalignment, u64 length, bytes                 memory
//             u8 2, u32 bits                                            a number of 32 bits
//             u8 3, u64 count, (u32 argument, u64 offset) for each      memory that holds addresses in other memory
//             u8 4, u64 length, bytes                                   memory that only addresses lead to
//   result:   the bytes of each argument of the second kind, then a byte 1
//
// A kernel that does what it must not ends the program, with a sentence on standard error.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "fibers.h"
#include "buffer.h"

#include "kernels.cu"

#include "faults.cu"

namespace {

std::string kernel_name = "no kernel";

struct Argument {
    enum Kind : unsigned char { NOTHING, MEMORY, NUMBER, ADDRESSES, ELSEWHERE } kind;
    uint32_t number = 0;
    std::unique_ptr<Buffer> buffer;
};
using Arguments = std::vector<Argument>;
using Parameters = std::vector<const Argument*>;

bool read(void* to, size_t size) { return size == 0 || std::fread(to, size, 1, stdin) == 1; }

template <typename T>
T read() {
    T value;
    if (!read(&value, sizeof value)) fail("is a case that ends early");
    return value;
}

std::vector<unsigned char> read_bytes(size_t size) {
    std::vector<unsigned char> bytes(size);
    if (!read(bytes.data(), size)) fail("is a case that ends early");
    return bytes;
}

Argument read_argument(const Arguments& others) {
    Argument argument{read<Argument::Kind>(), 0, nullptr};
    if (argument.kind == Argument::MEMORY) {
        const auto misalignment = read<uint32_t>();
        argument.buffer = std::make_unique<Buffer>(read_bytes(read<uint64_t>()), misalignment);
    } else if (argument.kind == Argument::NUMBER) {
        argument.number = read<uint32_t>();
    } else if (argument.kind == Argument::ELSEWHERE) {
        argument.buffer = std::make_unique<Buffer>(read_bytes(read<uint64_t>()), 0);
    } else if (argument.kind == Argument::ADDRESSES) {
        std::vector<unsigned char> bytes(read<uint64_t>() * sizeof(uint64_t));
        for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
            const Argument& other = others.at(read<uint32_t>());
            const uint64_t address = reinterpret_cast<uintptr_t>(other.buffer->data()) + read<uint64_t>();
            std::memcpy(&bytes[at], &address, sizeof address);
        }
        argument.buffer = std::make_unique<Buffer>(bytes, 0);
    }
    return argument;
}

// An argument as a kernel's parameter.
template <typename T>
struct Parameter {
    static T of(const Argument& argument) {
        static_assert(sizeof(T) == 4, "a number of 32 bits");
        if (argument.kind != Argument::NUMBER) fail("is given memory for a number");
        return same_bits<T>(argument.number);
    }
};
template <typename T>
struct Parameter<T*> {
    static T* of(const Argument& argument) {
        if (argument.kind == Argument::NUMBER) fail("is given a number for memory");
        return argument.buffer ? reinterpret_cast<T*>(argument.buffer->data()) : nullptr;
    }
};

// A function that calls the kernel with arguments.
using Body = std::function<void()>;
using Bind = std::function<Body(const Parameters&)>;

template <typename... T, size_t... INDEX>
Body bound(void (*kernel)(T...), const Parameters& arguments, std::index_sequence<INDEX...>) {
    if (arguments.size() != sizeof...(T)) fail("is given another number of arguments than it has parameters");
    return std::bind(kernel, Parameter<T>::of(*arguments[INDEX])...);
}

template <typename... T>
Bind binder(void (*kernel)(T...)) {
    return [=](const Parameters& arguments) { return bound(kernel, arguments, std::index_sequence_for<T...>()); };
}

#define KERNEL(NAME) {#NAME, binder(NAME)},
#define KINDS(NAME) KERNEL(NAME##_f32) KERNEL(NAME##_f16) KERNEL(NAME##_bf16)
const std::map<std::string, Bind> KERNELS = {
    KINDS(gather) KINDS(rms_norm) KINDS(layer_norm) KINDS(bias_act) KINDS(silu_mul) KINDS(rope_cache)
    KINDS(paged_attend) KINDS(paged_merge) KINDS(choose) KINDS(copy_blocks) KINDS(unfold) KINDS(embed_tiles)
    KERNEL(fault_none) KERNEL(fault_no_barrier) KERNEL(fault_no_second_barrier) KERNEL(fault_room_used_again)
    KERNEL(fault_uninitialised) KERNEL(fault_read_behind) KERNEL(fault_read_in_front) KERNEL(fault_write_behind)
    KERNEL(fault_write_in_front) KERNEL(fault_shared_behind) KERNEL(fault_misaligned) KERNEL(fault_barrier_of_some)
    KERNEL(fault_shuffle_of_some)
};

void run_case(uint32_t name_length) {
    const std::vector<unsigned char> name = read_bytes(name_length);
    kernel_name.assign(name.begin(), name.end());
    Geometry geometry;
    geometry.grid = read<Extent>();
    geometry.block = read<Extent>();
    geometry.shared_bytes = read<uint32_t>();
    const Order order = read<Order>();
    const auto count = read<uint32_t>();
    Arguments arguments;
    for (uint32_t index = 0; index < count; index++) arguments.push_back(read_argument(arguments));
    const auto found = KERNELS.find(kernel_name);
    if (found == KERNELS.end()) fail("is not known to the emulator");
    Parameters parameters;
    for (const Argument& argument : arguments) {
        if (argument.kind != Argument::ELSEWHERE) parameters.push_back(&argument);
    }
    run(geometry, order, found->second(parameters));
    for (const Argument& argument : arguments) {
        if (argument.buffer && !argument.buffer->is_intact()) fail("writes beside its memory");
        if (argument.kind == Argument::MEMORY) std::fwrite(argument.buffer->data(), 1, argument.buffer->size(), stdout);
    }
    std::fputc(1, stdout);
    std::fflush(stdout);
}

void on_signal(int signal) {
    const bool is_outside = signal == SIGSEGV || signal == SIGBUS;
    fail(is_outside ? "accesses what is none of its memory"
                    : "does what no compiler defines: a misaligned access, or a shift too far");
}

// Handlers run on a stack of their own: a fiber's may be what is full.
void watch_signals() {
    static unsigned char stack[64 << 10];
    stack_t alternative = {};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE}) sigaction(signal, &action, nullptr);
}

}  // namespace

void fail(const std::string& what) {
    std::fprintf(stderr, "%s: block (%u, %u, %u), thread %u: %s\n", kernel_name.c_str(), blockIdx.x, blockIdx.y,
                 blockIdx.z, threadIdx.x, what.c_str());
    std::fflush(stderr);
    _exit(1);
}

int main() {
    watch_signals();
    uint32_t name_length;
    while (read(&name_length, sizeof name_length)) run_case(name_length);
    return 0;
}
