// u64 length of the header, the header (JSON, padded with spaces to 8 bytes), then the tensors'
// bytes without gaps, in the order and at the places that the header says.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "files.h"

namespace envkit {
namespace {

using Json = nlohmann::json;

struct DtypeName {
  at::ScalarType type;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{at::kDouble, "F64"},    {at::kFloat, "F32"}, {at::kHalf, "F16"},
                                 {at::kBFloat16, "BF16"}, {at::kLong, "I64"},  {at::kInt, "I32"},
                                 {at::kShort, "I16"},     {at::kChar, "I8"},   {at::kByte, "U8"},
                                 {at::kBool, "BOOL"}};

constexpr std::uint64_t kMostHeader = 100'000'000;  // the format's own limit

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

struct Entry {
  std::string name;
  at::ScalarType type{};
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

Entry ParseEntry(const std::filesystem::path& file, const std::string& name, const Json& value) {
  Entry entry;
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
  std::uint64_t bytes = c10::elementSize(entry.type);
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

}  // namespace

void WriteSafetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  const c10::AutoGradMode no_grad(false);
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  std::vector<at::Tensor> data;
  for (const auto& [name, tensor] : tensors) {
    const auto type =
        std::find_if(std::begin(kDtypes), std::end(kDtypes),
                     [&](const DtypeName& dtype) { return dtype.type == tensor.scalar_type(); });
    TORCH_CHECK(type != std::end(kDtypes), "WriteSafetensors: dtype of ", name);
    TORCH_CHECK(name != "__metadata__" && !header.contains(name), "WriteSafetensors: ", name,
                " twice");
    data.push_back(tensor.detach().to(at::kCPU).contiguous());
    const std::uint64_t bytes = data.back().nbytes();
    header[name] = {{"dtype", type->name},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  DurableFile out(file);
  out.Write(&length, sizeof length);
  out.Write(text.data(), text.size());
  for (const at::Tensor& tensor : data) out.Write(tensor.const_data_ptr(), tensor.nbytes());
  out.Finish();
}

SafetensorsFile ReadSafetensors(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::error_code error;
  const std::uint64_t size = std::filesystem::file_size(file, error);
  if (!in || error) throw Failure("cannot read " + file.string() + ": " + error.message());
  std::uint64_t length = 0;
  if (size < 8 || !in.read(reinterpret_cast<char*>(&length), 8)) Refuse(file, "it is too short");
  if (length > kMostHeader || length > size - 8) Refuse(file, "its header is longer than the file");
  std::string text(length, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(length))) Refuse(file, "it is too short");

  SafetensorsFile result;
  std::vector<Entry> entries;
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
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t offset = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != offset) Refuse(file, "there is a gap or an overlap before " + entry.name);
    offset = entry.end;
  }
  if (offset != size - 8 - length) Refuse(file, "header and file size disagree");
  for (const Entry& entry : entries) {
    const at::Tensor tensor = at::empty(entry.shape, entry.type);
    if (tensor.nbytes() != 0 && !in.read(static_cast<char*>(tensor.mutable_data_ptr()),
                                         static_cast<std::streamsize>(tensor.nbytes())))
      Refuse(file, "it is too short");
    if (entry.type == at::kBool) {
      const auto* bytes = static_cast<const std::uint8_t*>(tensor.const_data_ptr());
      if (std::any_of(bytes, bytes + tensor.nbytes(), [](std::uint8_t byte) { return byte > 1; }))
        Refuse(file, "tensor \"" + entry.name + "\": a BOOL that is neither 0 nor 1");
    }
    result.tensors.push_back({entry.name, tensor});
  }
  return result;
}

void CopyInto(const std::vector<NamedTensor>& target, const std::vector<NamedTensor>& source,
              const std::string& what) {
  const c10::AutoGradMode no_grad(false);
  std::map<std::string, at::Tensor> from;
  for (const auto& [name, tensor] : source) from[name] = tensor;
  for (const auto& [name, tensor] : target) {
    const auto found = from.find(name);
    if (found == from.end()) throw Failure(what + " has no tensor " + name);
    if (found->second.sizes() != tensor.sizes() ||
        found->second.scalar_type() != tensor.scalar_type())
      throw Failure(what + ": tensor " + name + " has another shape or type than the model's");
  }
  if (from.size() != target.size())
    throw Failure(what + " has " + std::to_string(from.size()) + " tensors, the model " +
                  std::to_string(target.size()));
  for (const auto& [name, tensor] : target) tensor.copy_(from[name]);
}

}  // namespace envkit
