#include "formats.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

#include "mapped_file.h"

namespace envkit {
namespace fs = std::filesystem;

std::int64_t ParseCifar(const fs::path& file, std::span<const std::uint8_t> bytes) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  if (size == 0 || size % kCifarRecord != 0)
    DamagedData(file, "is no CIFAR-10 batch: its size is no multiple of 3073");
  for (std::int64_t i = 0; i < size / kCifarRecord; ++i)
    if (bytes[static_cast<std::size_t>(i * kCifarRecord)] > 9)
      DamagedData(file, "label " + std::to_string(i) + " is not below 10");
  return size / kCifarRecord;
}

std::span<const std::uint16_t> ParseTokens(const fs::path& file,
                                           std::span<const std::uint8_t> bytes,
                                           std::int64_t context, std::int64_t vocabulary) {
  std::size_t header = 0;
  constexpr std::size_t kHeader = 1024;
  constexpr std::int32_t kMagic = 20240520;
  std::array<std::int32_t, 3> first{};
  if (bytes.size() >= kHeader) std::memcpy(first.data(), bytes.data(), sizeof first);
  if (first[0] == kMagic) {
    header = kHeader;
    if (first[1] != 1) DamagedData(file, "is of version " + std::to_string(first[1]) + ", not 1");
    if (first[2] < 0 || bytes.size() - header != 2 * static_cast<std::size_t>(first[2]))
      DamagedData(file, "declares " + std::to_string(first[2]) + " tokens and has " +
                            std::to_string((bytes.size() - header) / 2));
  }
  if (bytes.size() % 2 != 0) DamagedData(file, "has half a token");
  const std::span<const std::uint16_t> tokens{
      reinterpret_cast<const std::uint16_t*>(bytes.data() + header), (bytes.size() - header) / 2};
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count <= context)
    DamagedData(file, "has " + std::to_string(count) + " tokens, too few for a context of " +
                          std::to_string(context));
  const auto most = std::max_element(tokens.begin(), tokens.end());
  if (*most >= vocabulary)
    DamagedData(file, "token " + std::to_string(most - tokens.begin()) + " is " +
                          std::to_string(*most) + "; the vocabulary has " +
                          std::to_string(vocabulary));
  return tokens;
}

NpyLayout ParseNpy(const fs::path& file, std::span<const std::uint8_t> bytes) {
  const std::string_view data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!data.starts_with("\x93NUMPY") || data.size() < 12) DamagedData(file, "is no numpy file");
  // Version 1 has a length of two bytes, later ones of four.
  const bool long_header = data[6] != 1;
  std::uint32_t length = 0;
  std::memcpy(&length, data.data() + 8, long_header ? 4 : 2);
  const std::size_t begin = long_header ? 12 : 10;
  if (data[6] < 1 || data[6] > 3 || length > data.size() - begin)
    DamagedData(file, "has a header longer than the file");
  // {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
  const std::string_view header = data.substr(begin, length);
  const auto after = [&](std::string_view key) {
    const std::size_t at = header.find(key);
    if (at == std::string_view::npos)
      DamagedData(file, "has no " + std::string(key) + " in its header");
    std::string_view rest = header.substr(at + key.size());
    while (!rest.empty() && (rest[0] == ' ' || rest[0] == ':')) rest.remove_prefix(1);
    return rest;
  };
  struct Type {
    const char* name;
    ElementType type;
  };
  constexpr Type kTypes[] = {{"'<f4'", ElementType::kFloat32}, {"'<f8'", ElementType::kFloat64},
                             {"'<f2'", ElementType::kFloat16}, {"'<i8'", ElementType::kInt64},
                             {"'<i4'", ElementType::kInt32},   {"'<i2'", ElementType::kInt16},
                             {"'|i1'", ElementType::kInt8},    {"'|u1'", ElementType::kUint8},
                             {"'|b1'", ElementType::kBool}};
  const std::string_view description = after("'descr'");
  const auto type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                 [&](const Type& t) { return description.starts_with(t.name); });
  if (type == std::end(kTypes))
    DamagedData(file, "has values of type " +
                          std::string(description.substr(0, description.find(','))) +
                          ", which are none of ours");
  if (!after("'fortran_order'").starts_with("False")) DamagedData(file, "is in Fortran order");
  std::string_view shape_text = after("'shape'");
  if (!shape_text.starts_with('(') || shape_text.find(')') == std::string_view::npos)
    DamagedData(file, "has no shape");
  shape_text = shape_text.substr(1, shape_text.find(')') - 1);
  std::vector<std::int64_t> shape;
  std::int64_t count = 1;
  while (!shape_text.empty()) {
    if (shape_text[0] == ' ' || shape_text[0] == ',') {
      shape_text.remove_prefix(1);
      continue;
    }
    std::int64_t extent = 0;
    const auto [end, error] =
        std::from_chars(shape_text.data(), shape_text.data() + shape_text.size(), extent);
    if (error != std::errc() || extent < 0 || shape.size() > 32 ||
        __builtin_mul_overflow(count, std::max<std::int64_t>(1, extent), &count))
      DamagedData(file, "has an impossible shape");
    if (extent == 0) DamagedData(file, "is empty");
    shape.push_back(extent);
    shape_text.remove_prefix(static_cast<std::size_t>(end - shape_text.data()));
  }
  const std::size_t values = begin + length;
  std::int64_t size = 0;
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(ElementSize(type->type)), &size) ||
      size != static_cast<std::int64_t>(data.size() - values))
    DamagedData(file, "has " + std::to_string(data.size() - values) +
                          " bytes of values, which is not what its shape says");
  if (values % ElementSize(type->type) != 0)
    DamagedData(file, "has a header that leaves its values unaligned");
  if (type->type == ElementType::kBool &&
      std::any_of(data.begin() + static_cast<std::ptrdiff_t>(values), data.end(),
                  [](char c) { return c != 0 && c != 1; }))
    DamagedData(file, "has a boolean that is neither 0 nor 1");
  return {type->type, shape, values};
}

}  // namespace envkit
