#include "envkit/datasets.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "envkit/failure.h"
#include "mapped_file.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::int64_t Count(std::span<const std::int64_t> indices) {
  return static_cast<std::int64_t>(indices.size());
}

}  // namespace

ImageDataset::ImageDataset(ImageSet set, std::optional<Augmentation> augmentation)
    : set_(std::move(set)), augmentation_(augmentation) {}

Batch ImageDataset::Get(std::span<const std::int64_t> indices, std::int64_t epoch) const {
  Batch batch{at::empty({Count(indices), 1, set_.rows(), set_.columns()}, at::kFloat,
                        at::MemoryFormat::ChannelsLast),
              at::empty({Count(indices)}, at::kLong)};
  std::optional<Augmentation> augmentation = augmentation_;
  if (augmentation) augmentation->epoch = epoch;
  FillBatch(set_, indices, augmentation, batch[0].mutable_data_ptr<float>(),
            batch[1].mutable_data_ptr<std::int64_t>());
  return batch;
}

namespace {

constexpr std::int64_t kSide = 32, kPlane = kSide * kSide, kRecord = 1 + 3 * kPlane;
constexpr std::array<float, 3> kMean = {0.4914F, 0.4822F, 0.4465F};
constexpr std::array<float, 3> kDeviation = {0.2470F, 0.2435F, 0.2616F};

}  // namespace

CifarDataset::CifarDataset(const fs::path& folder, bool train, bool augment, std::uint64_t seed)
    : augment_(augment), seed_(seed) {
  fs::path in = folder;
  if (fs::exists(folder / "cifar-10-batches-bin")) in /= "cifar-10-batches-bin";
  std::vector<std::string> names = {"test_batch.bin"};
  if (train) {
    names.clear();
    for (int i = 1; i <= 5; ++i) names.push_back("data_batch_" + std::to_string(i) + ".bin");
  }
  for (const std::string& name : names) {
    const fs::path file = in / name;
    const MappedBytes bytes = MapFile(file);
    const auto size = static_cast<std::int64_t>(bytes.data.size());
    if (size == 0 || size % kRecord != 0)
      DamagedData(file, "is no CIFAR-10 batch: its size is no multiple of 3073");
    if (per_file_ == 0) per_file_ = size / kRecord;
    if (size / kRecord != per_file_)
      DamagedData(file, "has another number of images than the others");
    for (std::int64_t i = 0; i < per_file_; ++i)
      if (bytes.data[static_cast<std::size_t>(i * kRecord)] > 9)
        DamagedData(file, "label " + std::to_string(i) + " is not below 10");
    files_.push_back({bytes.owner, bytes.data});
    count_ += per_file_;
  }
}

Batch CifarDataset::Get(std::span<const std::int64_t> indices, std::int64_t epoch) const {
  Batch batch{
      at::empty({Count(indices), 3, kSide, kSide}, at::kFloat, at::MemoryFormat::ChannelsLast),
      at::empty({Count(indices)}, at::kLong)};
  float* out = batch[0].mutable_data_ptr<float>();
  auto* labels = batch[1].mutable_data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) {
    const std::uint8_t* record = files_[static_cast<std::size_t>(index / per_file_)].bytes.data() +
                                 index % per_file_ * kRecord;
    *labels++ = record[0];
    std::int64_t down = 0, right = 0;
    bool mirrored = false;
    if (augment_) {
      const std::uint64_t bits =
          HashBits(seed_, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(index));
      down = static_cast<std::int64_t>(bits % 9) - 4;
      right = static_cast<std::int64_t>(bits / 9 % 9) - 4;
      mirrored = (bits >> 32 & 1) != 0;
    }
    for (std::int64_t y = 0; y < kSide; ++y) {
      for (std::int64_t x = 0; x < kSide; ++x) {
        const std::int64_t from_y = y + down, from_x = (mirrored ? kSide - 1 - x : x) + right;
        const bool inside = from_y >= 0 && from_y < kSide && from_x >= 0 && from_x < kSide;
        for (std::size_t c = 0; c < 3; ++c) {
          const std::uint8_t* plane = record + 1 + static_cast<std::int64_t>(c) * kPlane;
          const float value = inside ? static_cast<float>(plane[from_y * kSide + from_x]) / 255 : 0;
          *out++ = (value - kMean[c]) / kDeviation[c];
        }
      }
    }
  }
  return batch;
}

TokenDataset::TokenDataset(const fs::path& file, std::int64_t context, std::int64_t vocabulary)
    : context_(context) {
  const MappedBytes bytes = MapFile(file);
  owner_ = bytes.owner;
  std::size_t header = 0;
  constexpr std::size_t kHeader = 1024;
  constexpr std::int32_t kMagic = 20240520;
  std::array<std::int32_t, 3> first{};
  if (bytes.data.size() >= kHeader) std::memcpy(first.data(), bytes.data.data(), sizeof first);
  if (first[0] == kMagic) {
    header = kHeader;
    if (first[1] != 1) DamagedData(file, "is of version " + std::to_string(first[1]) + ", not 1");
    if (first[2] < 0 || bytes.data.size() - header != 2 * static_cast<std::size_t>(first[2]))
      DamagedData(file, "declares " + std::to_string(first[2]) + " tokens and has " +
                            std::to_string((bytes.data.size() - header) / 2));
  }
  if (bytes.data.size() % 2 != 0) DamagedData(file, "has half a token");
  tokens_ = {reinterpret_cast<const std::uint16_t*>(bytes.data.data() + header),
             (bytes.data.size() - header) / 2};
  const auto tokens = static_cast<std::int64_t>(tokens_.size());
  if (tokens <= context)
    DamagedData(file, "has " + std::to_string(tokens) + " tokens, too few for a context of " +
                          std::to_string(context));
  const auto most = std::max_element(tokens_.begin(), tokens_.end());
  if (*most >= vocabulary)
    DamagedData(file, "token " + std::to_string(most - tokens_.begin()) + " is " +
                          std::to_string(*most) + "; the vocabulary has " +
                          std::to_string(vocabulary));
  count_ = (tokens - 1) / context;
}

Batch TokenDataset::Get(std::span<const std::int64_t> indices, std::int64_t /*epoch*/) const {
  Batch batch{at::empty({Count(indices), context_}, at::kLong),
              at::empty({Count(indices), context_}, at::kLong)};
  auto* inputs = batch[0].mutable_data_ptr<std::int64_t>();
  auto* targets = batch[1].mutable_data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) {
    const std::uint16_t* from = tokens_.data() + index * context_;
    for (std::int64_t i = 0; i < context_; ++i) {
      *inputs++ = from[i];
      *targets++ = from[i + 1];
    }
  }
  return batch;
}

at::Tensor MapNpy(const fs::path& file) {
  const MappedBytes bytes = MapFile(file);
  const std::string_view data(reinterpret_cast<const char*>(bytes.data.data()), bytes.data.size());
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
    at::ScalarType type;
  };
  constexpr Type kTypes[] = {{"'<f4'", at::kFloat}, {"'<f8'", at::kDouble}, {"'<f2'", at::kHalf},
                             {"'<i8'", at::kLong},  {"'<i4'", at::kInt},    {"'<i2'", at::kShort},
                             {"'|i1'", at::kChar},  {"'|u1'", at::kByte},   {"'|b1'", at::kBool}};
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
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(c10::elementSize(type->type)),
                             &size) ||
      size != static_cast<std::int64_t>(data.size() - values))
    DamagedData(file, "has " + std::to_string(data.size() - values) +
                          " bytes of values, which is not what its shape says");
  if (values % c10::elementSize(type->type) != 0)
    DamagedData(file, "has a header that leaves its values unaligned");
  if (type->type == at::kBool && std::any_of(data.begin() + static_cast<std::ptrdiff_t>(values),
                                             data.end(), [](char c) { return c != 0 && c != 1; }))
    DamagedData(file, "has a boolean that is neither 0 nor 1");
  return at::from_blob(
      const_cast<std::uint8_t*>(bytes.data.data()) + values, shape, [owner = bytes.owner](void*) {},
      at::TensorOptions(type->type));
}

}  // namespace envkit
