// u64 length of the header, the header (JSON, padded with spaces to 8 bytes), then the tensors'
// bytes without gaps, in the order and at the places that the header says.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../scalar_type.h"
#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "files.h"
#include "headers.h"

namespace envkit {
namespace {

constexpr std::uint64_t kMostHeader = 100'000'000;  // the format's own limit

[[noreturn]] void RefuseFile(const std::filesystem::path& file, const std::string& what) {
  throw Failure(file.string() + ": no valid safetensors file: " + what);
}

const char* DtypeOf(const at::Tensor& tensor) {
  constexpr auto kLast = static_cast<int>(ElementType::kBool);
  for (int i = 0; i <= kLast; ++i)
    if (ScalarTypeOf(static_cast<ElementType>(i)) == tensor.scalar_type())
      return SafetensorsName(static_cast<ElementType>(i));
  return nullptr;
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
    const char* dtype = DtypeOf(tensor);
    TORCH_CHECK(dtype != nullptr, "WriteSafetensors: dtype of ", name);
    TORCH_CHECK(name != "__metadata__" && !header.contains(name), "WriteSafetensors: ", name,
                " twice");
    data.push_back(tensor.detach().to(at::kCPU).contiguous());
    const std::uint64_t bytes = data.back().nbytes();
    header[name] = {{"dtype", dtype},
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
  if (size < 8 || !in.read(reinterpret_cast<char*>(&length), 8))
    RefuseFile(file, "it is too short");
  if (length > kMostHeader || length > size - 8)
    RefuseFile(file, "its header is longer than the file");
  std::string text(length, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(length)))
    RefuseFile(file, "it is too short");

  SafetensorsHeader header = ParseSafetensorsHeader(file, text, size - 8 - length);
  SafetensorsFile result;
  result.metadata = std::move(header.metadata);
  for (const SafetensorsEntry& entry : header.entries) {
    const at::Tensor tensor = at::empty(entry.shape, ScalarTypeOf(entry.type));
    if (tensor.nbytes() != 0 && !in.read(static_cast<char*>(tensor.mutable_data_ptr()),
                                         static_cast<std::streamsize>(tensor.nbytes())))
      RefuseFile(file, "it is too short");
    if (entry.type == ElementType::kBool) {
      const auto* bytes = static_cast<const std::uint8_t*>(tensor.const_data_ptr());
      if (std::any_of(bytes, bytes + tensor.nbytes(), [](std::uint8_t byte) { return byte > 1; }))
        RefuseFile(file, "tensor \"" + entry.name + "\": a BOOL that is neither 0 nor 1");
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
