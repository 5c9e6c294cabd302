#include "base/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/files.h"

namespace envkit {

namespace {

std::string Finish(EVP_MD_CTX* context) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context, raw.data(), &size);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(std::size_t{size} * 2);
  for (unsigned int i = 0; i < size; ++i) {
    hex += kDigits[raw[i] >> 4];
    hex += kDigits[raw[i] & 15];
  }
  return hex;
}

template <class Update>
Result<void> ReadThrough(const std::filesystem::path& file, const Update& update) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileFailure("reading", file, errno);
  posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::string buffer(1 << 20, '\0');
  while (true) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got == 0) break;
    if (got < 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      close(fd);
      return FileFailure("reading", file, error);
    }
    update(buffer.data(), static_cast<std::size_t>(got));
  }
  close(fd);
  return {};
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(const void* data, std::size_t size) {
  EVP_DigestUpdate(state_->context, data, size);
}

std::string Sha256::Hex() { return Finish(state_->context); }

std::string Sha256Of(std::string_view text) {
  Sha256 hash;
  hash.Update(text);
  return hash.Hex();
}

Result<std::string> Sha256OfFile(const std::filesystem::path& file) {
  Sha256 hash;
  ENVKIT_CHECK(
      ReadThrough(file, [&](const char* data, std::size_t size) { hash.Update(data, size); }));
  return hash.Hex();
}

Result<std::string> Md5OfFile(const std::filesystem::path& file) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  // Some systems' settings forbid it altogether.
  if (EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) != 1) {
    return Missing("this system's OpenSSL does not compute MD5");
  }
  ENVKIT_CHECK(ReadThrough(file, [&](const char* data, std::size_t size) {
    EVP_DigestUpdate(context.get(), data, size);
  }));
  return Finish(context.get());
}

bool IsSha256(std::string_view hex) {
  return hex.size() == 64 && hex.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace envkit
