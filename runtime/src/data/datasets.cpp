#include "envkit/datasets.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "../scalar_type.h"
#include "envkit/data.h"
#include "envkit/failure.h"
#include "formats.h"
#include "image_codec.h"
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

constexpr std::int64_t kSide = 32, kPlane = kSide * kSide, kRecord = kCifarRecord;
constexpr std::array<float, 3> kCifarMean = {0.4914F, 0.4822F, 0.4465F};
constexpr std::array<float, 3> kCifarDeviation = {0.2470F, 0.2435F, 0.2616F};

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
    const std::int64_t images = ParseCifar(file, bytes.data);
    if (per_file_ == 0) per_file_ = images;
    if (images != per_file_) DamagedData(file, "has another number of images than the others");
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
          *out++ = (value - kCifarMean[c]) / kCifarDeviation[c];
        }
      }
    }
  }
  return batch;
}

namespace {

constexpr std::array<float, 3> kImageMean = {0.485F, 0.456F, 0.406F};
constexpr std::array<float, 3> kImageDeviation = {0.229F, 0.224F, 0.225F};

bool IsImageName(const fs::path& file) {
  std::string ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return (ending == ".jpg" || ending == ".jpeg" || ending == ".png") &&
         !file.filename().string().starts_with('.');
}

// Folders of FOLDER, or images at any depth below it, by name.
std::vector<fs::path> Sorted(const fs::path& folder, bool images) {
  std::vector<fs::path> found;
  std::error_code error;
  if (images) {
    for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end;
         at.increment(error))
      if (std::error_code ignored; IsImageName(at->path()) && at->is_regular_file(ignored))
        found.push_back(at->path());
  } else {
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
      if (std::error_code ignored;
          at->is_directory(ignored) && !at->path().filename().string().starts_with('.'))
        found.push_back(at->path());
  }
  if (error)
    throw Failure(
        "cannot read " + folder.string() + ": " + error.message(),
        "set data.dir in train.toml to a folder with train/CLASS/IMAGE and val/CLASS/IMAGE", 3);
  std::sort(found.begin(), found.end());
  return found;
}

// What torchvision's RandomResizedCrop takes, drawn from BITS: an area, and a shape that fits.
Box RandomBox(const RgbImage& image, std::uint64_t bits) {
  const auto rows = static_cast<double>(image.rows), columns = static_cast<double>(image.columns);
  const auto uniform = [&bits](double from, double to) {
    bits = HashBits(bits, 1, 2);
    return from + (to - from) * static_cast<double>(bits >> 11) * 0x1p-53;
  };
  for (int tries = 0; tries < 10; ++tries) {
    const double area = rows * columns * uniform(0.08, 1);
    const double shape = std::exp(uniform(-0.2876820724517809, 0.2876820724517809));  // log of 4/3
    const double wide = std::round(std::sqrt(area * shape));
    const double high = std::round(std::sqrt(area / shape));
    if (wide >= 1 && high >= 1 && wide <= columns && high <= rows)
      return {std::floor(uniform(0, rows - high + 1)), std::floor(uniform(0, columns - wide + 1)),
              high, wide};
  }
  const double side = std::min(rows, columns);
  return {(rows - side) / 2, (columns - side) / 2, side, side};
}

Box MiddleBox(const RgbImage& image) {
  const auto rows = static_cast<double>(image.rows), columns = static_cast<double>(image.columns);
  const double side = std::min(rows, columns) * 7 / 8;
  return {(rows - side) / 2, (columns - side) / 2, side, side};
}

}  // namespace

ImageFolderDataset::ImageFolderDataset(const fs::path& folder, const Options& options)
    : options_(options), classes_(options.classes) {
  const std::vector<fs::path> folders = Sorted(folder, false);
  if (classes_.empty())
    for (const fs::path& each : folders) classes_.push_back(each.filename().string());
  for (const fs::path& each : folders) {
    const auto found = std::find(classes_.begin(), classes_.end(), each.filename().string());
    if (found == classes_.end())
      throw Failure(each.string() + ": no class of the training set has this name",
                    "give train/ and val/ the same folders", 2);
    for (fs::path& file : Sorted(each, true))
      files_.emplace_back(std::move(file), found - classes_.begin());
  }
  if (files_.empty())
    throw Failure(
        folder.string() + " has no image CLASS/NAME.jpg, .jpeg or .png",
        "set data.dir in train.toml to a folder with train/CLASS/IMAGE and val/CLASS/IMAGE", 3);
}

Batch ImageFolderDataset::Get(std::span<const std::int64_t> indices, std::int64_t epoch) const {
  const std::int64_t size = options_.size;
  Batch batch{
      at::empty({Count(indices), 3, size, size}, at::kFloat, at::MemoryFormat::ChannelsLast),
      at::empty({Count(indices)}, at::kLong)};
  auto* out = batch[0].mutable_data_ptr<float>();
  auto* labels = batch[1].mutable_data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) {
    const auto& [file, label] = files_[static_cast<std::size_t>(index)];
    *labels++ = label;
    // A random part may be small: it is not made of an image that was shrunk while decoding.
    const RgbImage image =
        DecodeImage(file, MapFile(file).data, options_.augment ? INT64_MAX : size * 2);
    const std::uint64_t bits = HashBits(options_.seed, static_cast<std::uint64_t>(epoch),
                                        static_cast<std::uint64_t>(index));
    const bool mirrored = options_.augment && (bits & 1) != 0;
    Resample(image, options_.augment ? RandomBox(image, bits) : MiddleBox(image), size, mirrored,
             out);
    for (std::int64_t i = 0; i < size * size; ++i)
      for (std::size_t c = 0; c < 3; ++c, ++out)
        *out = (*out / 255 - kImageMean[c]) / kImageDeviation[c];
  }
  return batch;
}

TokenDataset::TokenDataset(const fs::path& file, std::int64_t context, std::int64_t vocabulary)
    : context_(context) {
  const MappedBytes bytes = MapFile(file);
  owner_ = bytes.owner;
  tokens_ = ParseTokens(file, bytes.data, context, vocabulary);
  count_ = (static_cast<std::int64_t>(tokens_.size()) - 1) / context;
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
  const NpyLayout layout = ParseNpy(file, bytes.data);
  return at::from_blob(
      const_cast<std::uint8_t*>(bytes.data.data()) + layout.begin, layout.shape,
      [owner = bytes.owner](void*) {}, at::TensorOptions(ScalarTypeOf(layout.type)));
}

}  // namespace envkit
