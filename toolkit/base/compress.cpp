#include "base/compress.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <new>
#include <vector>

namespace envkit {
namespace {

constexpr int kZstdLevel = 3;  // 19 takes 70 times as long for 3 % less
constexpr int kGzipLevel = 6;
constexpr std::size_t kBuffer = 256 << 10;

}  // namespace

struct Compressor::State {
  State(Compression kind, ByteSink to) : compression(kind), sink(std::move(to)), buffer(kBuffer) {
    if (compression == Compression::kZstd) {
      zstd = ZSTD_createCCtx();
      if (zstd == nullptr) throw std::bad_alloc();
      ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, kZstdLevel);
      ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    } else if (deflateInit2(&gzip, kGzipLevel, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) !=
               Z_OK) {  // 16: a gzip header, without a name or a time
      throw std::bad_alloc();
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    ZSTD_freeCCtx(zstd);
    if (compression == Compression::kGzip) deflateEnd(&gzip);
  }

  Result<void> Zstd(const char* data, std::size_t size, bool end) const {
    ZSTD_inBuffer in = {data, size, 0};
    while (true) {
      ZSTD_outBuffer out = {buffer.data(), buffer.size(), 0};
      const std::size_t left =
          ZSTD_compressStream2(zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
      if (ZSTD_isError(left) != 0) {
        return Fail(fmt::format("compressing: {}", ZSTD_getErrorName(left)));
      }
      if (out.pos > 0) ENVKIT_CHECK(sink(buffer.data(), out.pos));
      if (end ? left == 0 : in.pos == in.size) return {};
    }
  }

  Result<void> Gzip(const char* data, std::size_t size, bool end) {
    // zlib counts in 32 bits; callers pass buffers far below that.
    gzip.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data));
    gzip.avail_in = static_cast<uInt>(size);
    while (true) {
      gzip.next_out = reinterpret_cast<Bytef*>(buffer.data());
      gzip.avail_out = static_cast<uInt>(buffer.size());
      const int code = deflate(&gzip, end ? Z_FINISH : Z_NO_FLUSH);
      if (code == Z_STREAM_ERROR) return Fail("compressing: zlib's state is damaged");
      const std::size_t got = buffer.size() - gzip.avail_out;
      if (got > 0) ENVKIT_CHECK(sink(buffer.data(), got));
      if (end ? code == Z_STREAM_END : gzip.avail_in == 0 && gzip.avail_out != 0) return {};
    }
  }

  Compression compression;
  ByteSink sink;
  mutable std::vector<char> buffer;
  ZSTD_CCtx* zstd = nullptr;
  z_stream gzip{};
};

Compressor::Compressor(Compression compression, ByteSink sink)
    : state_(std::make_unique<State>(compression, std::move(sink))) {}
Compressor::~Compressor() = default;
Compressor::Compressor(Compressor&&) noexcept = default;
Compressor& Compressor::operator=(Compressor&&) noexcept = default;

Result<void> Compressor::Write(const char* data, std::size_t size) {
  return state_->compression == Compression::kZstd ? state_->Zstd(data, size, false)
                                                   : state_->Gzip(data, size, false);
}

Result<void> Compressor::Finish() {
  return state_->compression == Compression::kZstd ? state_->Zstd(nullptr, 0, true)
                                                   : state_->Gzip(nullptr, 0, true);
}

std::string EncoderName(Compression compression) {
  return compression == Compression::kZstd
             ? fmt::format("zstd {} level {}", ZSTD_versionString(), kZstdLevel)
             : fmt::format("zlib {} level {}", zlibVersion(), kGzipLevel);
}

}  // namespace envkit
