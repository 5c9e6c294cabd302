// CRC-32C (Castagnoli), as TensorBoard's records and our checkpoints' manifests use it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace envkit {

// Of SIZE bytes at DATA, continued from CRC, the checksum of what came before.
std::uint32_t Crc32c(const void* data, std::size_t size, std::uint32_t crc = 0);

}  // namespace envkit
