#include "headers.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "envkit/failure.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct DtypeName {
  ElementType type;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{ElementType::kFloat64, "F64"}, {ElementType::kFloat32, "F32"},
                                 {ElementType::kFloat16, "F16"}, {ElementType::kBfloat16, "BF16"},
                                 {ElementType::kInt64, "I64"},   {ElementType::kInt32, "I32"},
                                 {ElementType::kInt16, "I16"},   {ElementType::kInt8, "I8"},
                                 {ElementType::kUint8, "U8"},    {ElementType::kBool, "BOOL"}};

[[noreturn]] void Refuse(const std::filesystem::path& file, const std::string& what) {
  throw Failure(file.string() + ": no valid safetensors file: " + what);
}

// The header, with names that appear twice refused: JSON parsers differ about which one counts.
Json ParseHeader(const std::filesystem::path& file, const std::string& text) {
  std::set<std::string> names;
  bool twice = false;
  const Json header = Json::parse(
      text,
      [&](int depth, Json::parse_event_t event, const Json& value) {
        if (event == Json::parse_event_t::key && depth == 1)
          twice |= !names.insert(value.get<std::string>()).second;
        return true;
      },
      /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) Refuse(file, "the header is no JSON object");
  if (twice) Refuse(file, "a name appears twice");
  return header;
}

SafetensorsEntry ParseEntry(const std::filesystem::path& file, const std::string& name,
                            const Json& value) {
  SafetensorsEntry entry;
  entry.name = name;
  const auto bad = [&](const char* what) { Refuse(file, "tensor \"" + name + "\": " + what); };
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets"))
    bad("wants dtype, shape and data_offsets");
  const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  const auto known = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeName& d) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == d.name;
  });
  if (known == std::end(kDtypes)) bad("unknown dtype");
  entry.type = known->type;
  std::uint64_t bytes = ElementSize(entry.type);
  if (!shape.is_array() || shape.size() > 64) bad("impossible shape");
  std::int64_t stride = 1;  // which LibTorch computes from extents of 0 too
  for (const Json& extent : shape) {
    if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > INT64_MAX)
      bad("impossible shape");
    entry.shape.push_back(static_cast<std::int64_t>(extent.get<std::uint64_t>()));
    if (__builtin_mul_overflow(bytes, extent.get<std::uint64_t>(), &bytes) ||
        __builtin_mul_overflow(stride, std::max<std::int64_t>(1, entry.shape.back()), &stride))
      bad("impossible shape");
  }
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    bad("impossible data_offsets");
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    bad("data_offsets and shape disagree");
  return entry;
}

Json ParseObject(const fs::path& file, const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw Failure(file.string() + ": no JSON object");
  return json;
}

std::vector<std::int64_t> ParseShape(std::string_view text, bool* good) {
  std::vector<std::int64_t> shape;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    shape.push_back(ParseCount(text.substr(0, comma)));
    *good = *good && shape.back() >= 0;
    text.remove_prefix(std::min(text.size(), comma + 1));
  }
  return shape;
}

}  // namespace

const char* SafetensorsName(ElementType type) {
  for (const DtypeName& each : kDtypes)
    if (each.type == type) return each.name;
  return nullptr;
}

SafetensorsHeader ParseSafetensorsHeader(const fs::path& file, const std::string& text,
                                         std::uint64_t data_size) {
  SafetensorsHeader result;
  std::vector<SafetensorsEntry>& entries = result.entries;
  const Json header = ParseHeader(file, text);
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(ParseEntry(file, name, value));
      continue;
    }
    if (!value.is_object()) Refuse(file, "__metadata__ is no object");
    for (const auto& [key, word] : value.items()) {
      if (!word.is_string()) Refuse(file, "__metadata__ has a value that is no string");
      result.metadata[key] = word.get<std::string>();
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  std::uint64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != offset) Refuse(file, "there is a gap or an overlap before " + entry.name);
    offset = entry.end;
  }
  if (offset != data_size) Refuse(file, "header and file size disagree");
  return result;
}

std::vector<ManifestEntry> ParseManifest(const fs::path& file, const std::string& text) {
  const Json manifest = ParseObject(file, text);
  const auto files = manifest.find("files");
  if (manifest.value("schema", Json()) != 1 || files == manifest.end() || !files->is_object())
    throw Failure(file.string() + ": of an unknown kind");
  std::vector<ManifestEntry> entries;
  for (const auto& [name, entry] : files->items()) {
    const Json bytes = entry.is_object() ? entry.value("bytes", Json()) : Json();
    const Json crc = entry.is_object() ? entry.value("crc32c", Json()) : Json();
    if (!bytes.is_number_unsigned() || !crc.is_string() || fs::path(name).filename() != name ||
        name == "." || name == "..")
      throw Failure(file.string() + ": \"" + name + "\" wants a file's name, bytes and crc32c");
    entries.push_back({name, bytes.get<std::uint64_t>(), crc.get<std::string>()});
  }
  return entries;
}

TrainingState ParseTrainingState(const fs::path& file, const std::string& text_of) {
  const Json json = ParseObject(file, text_of);
  TrainingState state;
  const auto number = [&](const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_integer())
      throw Failure(file.string() + ": lacks " + key);
    return *found;
  };
  const auto text = [&](const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) throw Failure(file.string() + ": lacks " + key);
    return found->get<std::string>();
  };
  if (number("schema") != 1) throw Failure(file.string() + ": of an unknown kind");
  state.job = text("job");
  state.model = text("model");
  state.step = number("step").get<std::int64_t>();
  state.epoch = number("epoch").get<std::int64_t>();
  state.sample_offset = number("sample_offset").get<std::int64_t>();
  state.seed = number("seed").get<std::uint64_t>();
  state.global_batch = number("global_batch").get<std::int64_t>();
  state.dataset_samples = number("dataset_samples").get<std::int64_t>();
  state.world_size = number("world_size").get<int>();
  return state;
}

std::int64_t ElementCount(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(count, extent, &count)) return -1;
  return count;
}

std::int64_t ParseCount(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error != std::errc() || end != text.data() + text.size() || value < 0 ? -1 : value;
}

SliceName ParseSliceName(const fs::path& file, const std::string& name,
                         const std::map<std::string, std::string>& metadata, std::int64_t count) {
  const std::size_t open = name.rfind('['), colon = name.rfind(':');
  if (open == std::string::npos || !name.ends_with(']') || colon < open ||
      colon == std::string::npos)
    return {};
  SliceName slice{false, name.substr(0, open), {}, 0, 0};
  const auto shape_text = metadata.find(kShapeKey + slice.name);
  if (shape_text == metadata.end()) return {};
  bool good = true;
  slice.begin = ParseCount(std::string_view(name).substr(open + 1, colon - open - 1));
  slice.end = ParseCount(std::string_view(name).substr(colon + 1, name.size() - colon - 2));
  slice.shape = ParseShape(shape_text->second, &good);
  if (!good || slice.begin < 0 || slice.end < slice.begin || slice.end - slice.begin != count ||
      slice.end > ElementCount(slice.shape))
    throw Failure(file.string() + ": tensor \"" + name + "\" is not the slice that it claims");
  return slice;
}

}  // namespace envkit
