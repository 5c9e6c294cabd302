// What is believed of an image that someone else made, before its contents are looked at.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace envkit {

// A manifest, a config or an index, in bytes.
inline constexpr std::uint64_t kLargestImageJson = 16 << 20;

// A layer unpacks to at most kAlwaysAllowed + kLargestGrowth times its bytes. CUDA's libraries grow
// to the twofold.
inline constexpr std::uint64_t kLargestGrowth = 200;
inline constexpr std::uint64_t kAlwaysAllowed = 64 << 20;

// The text that is OBJECT's KEY; "" where OBJECT is none, lacks it, or has something else there.
inline std::string TextIn(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace envkit
