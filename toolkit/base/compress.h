// Compression for what leaves the machine (libzstd and zlib inside): the same bytes in, the same
// bytes out, whatever the number of cores.
#pragma once

#include <memory>
#include <string>

#include "base/archive.h"
#include "base/result.h"

namespace envkit {

enum class Compression { kZstd, kGzip };

class Compressor {
 public:
  Compressor(Compression compression, ByteSink sink);
  ~Compressor();
  Compressor(Compressor&&) noexcept;
  Compressor& operator=(Compressor&&) noexcept;
  Result<void> Write(const char* data, std::size_t size);
  Result<void> Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "zstd 1.5.4 level 3": what shapes the compressed bytes.
std::string EncoderName(Compression compression);

}  // namespace envkit
