// SHA-256 (OpenSSL inside). Digests are 64 lower-case hex digits without a prefix.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace envkit {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(const void* data, std::size_t size);
  void Update(std::string_view text) { Update(text.data(), text.size()); }
  std::string Hex();  // ends the computation

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Of(std::string_view text);
Result<std::string> Sha256OfFile(const std::filesystem::path& file);
// What dpkg's lists of files have; nothing to rely on by itself.
Result<std::string> Md5OfFile(const std::filesystem::path& file);
bool IsSha256(std::string_view hex);

}  // namespace envkit
