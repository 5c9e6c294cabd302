// Files of slices, and reading them into any other division of the same tensors.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "files.h"
#include "headers.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string Hex(std::uint32_t number) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", number);
  return text;
}

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape)
    text += (text.empty() ? "" : ",") + std::to_string(extent);
  return text;
}

// A tensor of a file as the slice that its name says it is.
Slice AsSlice(const fs::path& file, const NamedTensor& tensor,
              const std::map<std::string, std::string>& metadata) {
  const std::int64_t count = tensor.tensor.numel();
  const SliceName name = ParseSliceName(file, tensor.name, metadata, count);
  const at::Tensor values = tensor.tensor.view({-1});
  if (name.whole) return {tensor.name, tensor.tensor.sizes().vec(), 0, count, values};
  return {name.name, name.shape, name.begin, name.end, values};
}

// STEM.safetensors, or all of STEM-0000i-of-0000n.safetensors.
std::vector<fs::path> Files(const fs::path& folder, const std::string& stem) {
  std::error_code error;
  const fs::path single = folder / (stem + ".safetensors");
  if (fs::exists(single, error)) return {single};
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const std::string first = stem + "-00001-of-";
    if (!name.starts_with(first) || !name.ends_with(".safetensors")) continue;
    const std::int64_t world =
        ParseCount(std::string_view(name).substr(first.size(), name.size() - first.size() - 12));
    if (world < 0 || world > 100'000) continue;
    std::vector<fs::path> files;
    for (int rank = 0; rank < world; ++rank)
      files.push_back(folder / (ShardName(stem, rank, static_cast<int>(world)) + ".safetensors"));
    return files;
  }
  throw Failure("there is no " + single.string() + ", in one piece or in several");
}

}  // namespace

std::string ShardName(const std::string& stem, int rank, int world_size) {
  if (world_size == 1) return stem;
  char number[64];
  std::snprintf(number, sizeof number, "-%05d-of-%05d", rank + 1, world_size);
  return stem + number;
}

void WriteSlices(const fs::path& file, const std::vector<Slice>& slices,
                 const std::map<std::string, std::string>& metadata) {
  const c10::AutoGradMode no_grad(false);
  std::vector<NamedTensor> tensors;
  std::map<std::string, std::string> all = metadata;
  for (const Slice& slice : slices) {
    if (slice.begin == 0 && slice.end == ElementCount(slice.shape)) {
      tensors.push_back({slice.name, slice.values.contiguous().view(slice.shape)});
      continue;
    }
    all[kShapeKey + slice.name] = ShapeText(slice.shape);
    tensors.push_back(
        {slice.name + "[" + std::to_string(slice.begin) + ":" + std::to_string(slice.end) + "]",
         slice.values});
  }
  WriteSafetensors(file, tensors, all);
}

void ReadSlices(const fs::path& folder, const std::string& stem,
                const std::vector<Slice>& targets) {
  const c10::AutoGradMode no_grad(false);
  std::map<std::string, std::vector<const Slice*>> wanted;
  std::vector<at::Tensor> flat;
  std::map<const Slice*, std::pair<at::Tensor, std::int64_t>> filled;  // values, how many
  for (const Slice& target : targets) {
    wanted[target.name].push_back(&target);
    const bool direct =
        target.values.dim() == 1 && target.values.is_contiguous() && target.values.is_cpu();
    filled[&target] = {
        direct ? target.values.detach()
               : at::empty({target.end - target.begin},
                           target.values.options().device(at::kCPU).requires_grad(false)),
        0};
  }
  for (const fs::path& file : Files(folder, stem)) {
    const SafetensorsFile contents = ReadSafetensors(file);
    for (const NamedTensor& tensor : contents.tensors) {
      const Slice source = AsSlice(file, tensor, contents.metadata);
      const auto found = wanted.find(source.name);
      if (found == wanted.end()) continue;
      for (const Slice* target : found->second) {
        if (source.shape != target->shape ||
            source.values.scalar_type() != target->values.scalar_type())
          throw Failure(file.string() + ": tensor " + source.name +
                        " has another shape or type than the model's");
        const std::int64_t begin = std::max(source.begin, target->begin);
        const std::int64_t end = std::min(source.end, target->end);
        if (begin >= end) continue;
        auto& [values, count] = filled[target];
        values.narrow(0, begin - target->begin, end - begin)
            .copy_(source.values.narrow(0, begin - source.begin, end - begin));
        count += end - begin;
      }
    }
  }
  for (const Slice& target : targets) {
    const auto& [values, count] = filled[&target];
    if (count < target.end - target.begin)
      throw Failure((folder / stem).string() + ": values of " + target.name + " are missing");
    if (!values.is_alias_of(target.values)) target.values.copy_(values.view(target.values.sizes()));
  }
}

std::vector<Slice> WholeSlices(const std::vector<NamedTensor>& tensors) {
  std::vector<Slice> slices;
  for (const auto& [name, tensor] : tensors)
    slices.push_back({name, tensor.sizes().vec(), 0, tensor.numel(), tensor.detach()});
  return slices;
}

std::vector<Slice> ShareOf(const std::vector<NamedTensor>& tensors, int rank, int world_size) {
  // Each to the rank with the least so far: the same choice on every rank.
  std::vector<std::int64_t> load(static_cast<std::size_t>(world_size));
  std::vector<Slice> share;
  for (Slice& slice : WholeSlices(tensors)) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += slice.end;
    if (least - load.begin() == rank) share.push_back(std::move(slice));
  }
  return share;
}

std::vector<NamedTensor> MergeSlices(const fs::path& folder, const std::string& stem) {
  std::map<std::string, std::pair<at::Tensor, std::int64_t>> whole;
  for (const fs::path& file : Files(folder, stem)) {
    const SafetensorsFile contents = ReadSafetensors(file);
    for (const NamedTensor& tensor : contents.tensors) {
      const Slice source = AsSlice(file, tensor, contents.metadata);
      auto& [values, count] = whole[source.name];
      if (!values.defined()) values = at::empty(source.shape, source.values.options());
      if (values.sizes() != source.shape || values.scalar_type() != source.values.scalar_type())
        throw Failure(file.string() + ": tensor " + source.name + " has two shapes or types");
      values.view({-1}).narrow(0, source.begin, source.end - source.begin).copy_(source.values);
      count += source.end - source.begin;
    }
  }
  std::vector<NamedTensor> tensors;
  for (auto& [name, value] : whole) {
    if (value.second != value.first.numel())
      throw Failure((folder / stem).string() + ": values of " + name + " are missing");
    tensors.push_back({name, value.first});
  }
  return tensors;
}

fs::path BeginFolder(const fs::path& folder) {
  const std::string name = ".new-" + folder.filename().string() + "-";
  const fs::path parent = folder.parent_path().empty() ? "." : folder.parent_path();
  std::error_code error;
  fs::create_directories(parent, error);
  for (const auto& entry : fs::directory_iterator(parent, error))
    if (entry.path().filename().string().starts_with(name)) fs::remove_all(entry.path(), error);
  const fs::path hidden = parent / (name + std::to_string(getpid()));
  if (!fs::create_directories(hidden, error))
    throw Failure("cannot create " + hidden.string() + ": " + error.message());
  return hidden;
}

void CommitFolder(const fs::path& hidden, const fs::path& folder) {
  Json files = Json::object();
  for (const auto& entry : fs::directory_iterator(hidden))
    files[entry.path().filename().string()] = {{"bytes", fs::file_size(entry.path())},
                                               {"crc32c", Hex(FileCrc32c(entry.path()))}};
  WriteDurably(hidden / "manifest.json", Json{{"schema", 1}, {"files", files}}.dump(2) + "\n");
  SyncFolder(hidden);
  ReplaceFolder(hidden, folder);
}

void CheckFolder(const fs::path& folder) {
  const fs::path file = folder / "manifest.json";
  for (const auto& [name, bytes, crc32c] : ParseManifest(file, ReadTextFile(file))) {
    const fs::path each = folder / name;
    std::error_code error;
    const auto size = fs::file_size(each, error);
    if (error) throw Failure(each.string() + ": " + error.message());
    if (bytes != size)
      throw Failure(each.string() + ": " + std::to_string(size) + " bytes, not as many as written");
    if (crc32c != Hex(FileCrc32c(each)))
      throw Failure(each.string() + ": not the bytes that were written (CRC-32C differs)");
  }
}

void WriteText(const fs::path& file, const std::string& text) { WriteDurably(file, text); }
std::string ReadTextFile(const fs::path& file) { return ReadText(file, std::size_t{64} << 20); }

}  // namespace envkit
