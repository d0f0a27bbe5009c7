#include "buffer.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

#include "fibers.h"

namespace {
constexpr unsigned char POISON = 0xff;
}

Buffer::Buffer(const std::vector<unsigned char>& bytes, uint32_t misalignment) : size_(bytes.size()) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    room_ = (size_ + 32 + page - 1) / page * page;
    mapped_ = room_ + 2 * page;
    void* mapped = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) fail("there is no memory for another buffer");
    pages_ = static_cast<unsigned char*>(mapped) + page;
    mprotect(pages_, room_, PROT_READ | PROT_WRITE);
    std::memset(pages_, POISON, room_);
    const size_t last = room_ - size_;
    data_ = pages_ + (misalignment < 16 ? (last - misalignment) / 16 * 16 + misalignment : last);
    std::copy(bytes.begin(), bytes.end(), data_);
}

Buffer::~Buffer() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(pages_ - page, mapped_);
}

bool Buffer::is_intact() const {
    const auto is_poison = [](unsigned char byte) { return byte == POISON; };
    return std::all_of(pages_, data_, is_poison) && std::all_of(data_ + size_, pages_ + room_, is_poison);
}
