// Buffers whose ends are watched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// A kernel's argument in memory of its own. Its last byte lies as near to a page that nobody may touch as its alignment
// lets it, so that an access behind it ends the program; what room there is in front of it, and between, is filled with
// bytes that are no number in any type, and must stay so.
class Buffer {
public:
    // The address of the first byte is `misalignment` past a multiple of 16; where that is no number below 16, the last
    // byte is the last before the page.
    Buffer(const std::vector<unsigned char>& bytes, uint32_t misalignment);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    unsigned char* data() const { return data_; }
    size_t size() const { return size_; }
    bool is_intact() const;

private:
    unsigned char* pages_;
    // Of the pages that may be touched, and of those with one in front and one behind that may not.
    size_t room_, mapped_;
    unsigned char* data_;
    size_t size_;
};
