// idx files: big-endian header (two zero bytes, a type, the number of dimensions, the dimensions),
// then the values.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string>

#include "envkit/data.h"
#include "envkit/failure.h"
#include "mapped_file.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostBytes = std::uint64_t{4} << 30;  // of one inflated file

using Bytes = MappedBytes;

[[noreturn]] void Damaged(const fs::path& file, const std::string& what) {
  DamagedData(file, what);
}

[[noreturn]] void Unreadable(const fs::path& file) {
  throw Failure(file.string() + ": " + std::strerror(errno), "", 3);
}

Bytes Inflate(const fs::path& file) {
  const gzFile input = gzopen(file.c_str(), "rb");
  if (input == nullptr) Unreadable(file);
  const auto bytes = std::make_shared<std::vector<std::uint8_t>>();
  std::array<std::uint8_t, 1 << 16> piece;
  int got = 0;
  while ((got = gzread(input, piece.data(), piece.size())) > 0) {
    bytes->insert(bytes->end(), piece.begin(), piece.begin() + got);
    if (bytes->size() > kMostBytes) break;
  }
  int error = Z_OK;
  const std::string reason = gzerror(input, &error);
  const bool plain = gzdirect(input) != 0;
  const int closed = gzclose(input);
  if (bytes->size() > kMostBytes) Damaged(file, "more than 4 GiB when decompressed");
  if (got < 0 || closed != Z_OK || error != Z_OK)
    Damaged(file, "cannot be decompressed: " + (reason.empty() ? "it ends early" : reason));
  if (plain) Damaged(file, "is no gzip file");
  return {bytes, *bytes};
}

struct Idx {
  Bytes bytes;
  std::vector<std::uint64_t> dimensions;
  std::span<const std::uint8_t> values;
};

Idx ReadIdx(const fs::path& file, std::size_t dimensions) {
  Idx idx;
  idx.bytes = file.extension() == ".gz" ? Inflate(file) : MapFile(file);
  const std::span<const std::uint8_t> data = idx.bytes.data;
  const std::size_t header = 4 + 4 * dimensions;
  if (data.size() < header)
    Damaged(file, "ends within its header (" + std::to_string(data.size()) + " bytes)");
  if (data[0] != 0 || data[1] != 0 || data[2] != 8 || data[3] != dimensions)
    Damaged(file, "is no idx" + std::to_string(dimensions) + "-ubyte file");
  std::uint64_t size = 1;
  for (std::size_t i = 0; i < dimensions; ++i) {
    const std::uint8_t* at = data.data() + 4 + 4 * i;
    const std::uint64_t extent = std::uint64_t{at[0]} << 24 | std::uint64_t{at[1]} << 16 |
                                 std::uint64_t{at[2]} << 8 | std::uint64_t{at[3]};
    if (extent == 0) Damaged(file, "is empty");
    if (size > UINT64_MAX / extent) Damaged(file, "declares an impossible size");
    size *= extent;
    idx.dimensions.push_back(extent);
  }
  if (data.size() - header != size)
    Damaged(file, "declares " + std::to_string(size) + " bytes of values and has " +
                      std::to_string(data.size() - header));
  idx.values = data.subspan(header);
  return idx;
}

constexpr std::array<const char*, 4> kNames = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                               "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};

// The file of this name in FOLDER, in any of its four spellings; plain ones first.
std::optional<fs::path> Spelled(const fs::path& folder, std::string name) {
  for (const char* ending : {"", ".gz"}) {
    for (const char separator : {'-', '.'}) {
      name[name.find("idx") - 1] = separator;
      std::error_code error;
      fs::path file = folder / (name + ending);
      if (fs::is_regular_file(file, error)) return file;
    }
  }
  return std::nullopt;
}

// FOLDER and what lies below it, to a bounded depth and number, each level in order of name.
void CollectFolders(const fs::path& folder, int depth, std::vector<fs::path>* folders) {
  constexpr std::size_t kMostFolders = 10'000;
  folders->push_back(folder);
  if (depth == 0) return;
  std::vector<fs::path> below;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (std::error_code ignored; at->is_directory(ignored) && !at->is_symlink(ignored))
      below.push_back(at->path());
  std::sort(below.begin(), below.end());
  for (const fs::path& each : below)
    if (folders->size() < kMostFolders) CollectFolders(each, depth - 1, folders);
}

double Uniform(std::uint64_t bits) {  // in [-1, 1)
  return static_cast<double>(bits >> 11) * 0x1p-52 - 1;
}

// MNIST's mean and standard deviation.
constexpr float kMean = 0.1307F, kDeviation = 0.3081F;
constexpr float kScale = 1 / (255 * kDeviation), kShift = -kMean / kDeviation;

// Bilinear, with black around the image.
void Transform(std::span<const std::uint8_t> image, std::int64_t rows, std::int64_t columns,
               const Augmentation& augmentation, std::int64_t index, float* out) {
  std::uint64_t draw = HashBits(augmentation.seed, static_cast<std::uint64_t>(augmentation.epoch),
                                static_cast<std::uint64_t>(index));
  const auto next = [&draw] { return Uniform(draw = HashBits(draw, 1, 2)); };
  const double shift_y = next() * augmentation.max_shift;
  const double shift_x = next() * augmentation.max_shift;
  const double angle = next() * augmentation.max_rotation * std::numbers::pi / 180;
  const double scale = 1 / (1 + next() * augmentation.max_scaling);
  const auto cosine = static_cast<float>(std::cos(angle) * scale);
  const auto sine = static_cast<float>(std::sin(angle) * scale);
  const float middle_y = static_cast<float>(rows - 1) / 2;
  const float middle_x = static_cast<float>(columns - 1) / 2;
  const auto pixel = [&](int y, int x) {
    return y >= 0 && x >= 0 && y < rows && x < columns
               ? static_cast<float>(image[static_cast<std::size_t>(y * columns + x)])
               : 0.0F;
  };
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const float y = static_cast<float>(row) - middle_y - static_cast<float>(shift_y);
      const float x = static_cast<float>(column) - middle_x - static_cast<float>(shift_x);
      const float from_y = cosine * y - sine * x + middle_y;
      const float from_x = sine * y + cosine * x + middle_x;
      const float floor_y = std::floor(from_y), floor_x = std::floor(from_x);
      const int top = static_cast<int>(floor_y), left = static_cast<int>(floor_x);
      const float down = from_y - floor_y, right = from_x - floor_x;
      const float above = pixel(top, left) * (1 - right) + pixel(top, left + 1) * right;
      const float under = pixel(top + 1, left) * (1 - right) + pixel(top + 1, left + 1) * right;
      *out++ = (above * (1 - down) + under * down) * kScale + kShift;
    }
  }
}

}  // namespace

void DamagedData(const fs::path& file, const std::string& what) {
  throw Failure(file.string() + ": " + what, "fetch the file again, or point data.dir elsewhere");
}

MappedBytes MapFile(const fs::path& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) Unreadable(file);
  struct stat status {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor);
    Damaged(file, "not a regular file");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) {
    close(descriptor);
    return {};
  }
  void* at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  close(descriptor);
  if (at == MAP_FAILED) Unreadable(file);
  std::shared_ptr<const void> owner(
      at, [size](const void* mapped) { munmap(const_cast<void*>(mapped), size); });
  return {owner, {static_cast<const std::uint8_t*>(at), size}};
}

ImageSet ImageSet::OpenIdx(const fs::path& images, const fs::path& labels, int classes) {
  const Idx pixels = ReadIdx(images, 3);
  const Idx classes_of = ReadIdx(labels, 1);
  if (pixels.dimensions[0] != classes_of.dimensions[0])
    Damaged(labels, "has " + std::to_string(classes_of.dimensions[0]) + " labels for the " +
                        std::to_string(pixels.dimensions[0]) + " images of " +
                        images.filename().string());
  constexpr std::uint64_t kMostExtent = 4096;
  if (pixels.dimensions[1] > kMostExtent || pixels.dimensions[2] > kMostExtent)
    Damaged(images, "has images of " + std::to_string(pixels.dimensions[1]) + " x " +
                        std::to_string(pixels.dimensions[2]) + " pixels");
  for (std::size_t i = 0; i < classes_of.values.size(); ++i)
    if (classes_of.values[i] >= classes)
      Damaged(labels, "label " + std::to_string(i) + " is " + std::to_string(classes_of.values[i]) +
                          "; there are " + std::to_string(classes) + " classes, from 0");
  ImageSet set;
  set.pixel_owner_ = pixels.bytes.owner;
  set.label_owner_ = classes_of.bytes.owner;
  set.pixels_ = pixels.values;
  set.labels_ = classes_of.values;
  set.count_ = static_cast<std::int64_t>(pixels.dimensions[0]);
  set.rows_ = static_cast<std::int64_t>(pixels.dimensions[1]);
  set.columns_ = static_cast<std::int64_t>(pixels.dimensions[2]);
  return set;
}

Mnist Mnist::Open(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw Failure("there is no data folder " + directory.string(),
                  "set data.dir in train.toml to a folder with MNIST's idx files", 3);
  constexpr int kDepth = 4;
  std::vector<fs::path> folders;
  CollectFolders(directory, kDepth, &folders);
  std::vector<std::array<fs::path, kNames.size()>> sets;
  std::string missing;
  for (const fs::path& folder : folders) {
    std::array<fs::path, kNames.size()> files;
    std::size_t found = 0;
    std::string absent;
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      if (const auto file = Spelled(folder, kNames[i])) {
        files[i] = *file;
        ++found;
      } else {
        absent += std::string(absent.empty() ? "" : ", ") + kNames[i];
      }
    }
    if (found == kNames.size())
      sets.push_back(files);
    else if (found > 0 && missing.empty())
      missing = folder.string() + " lacks " + absent;
  }
  if (sets.empty())
    throw Failure("there is no complete MNIST below " + directory.string() + "\n" +
                      (missing.empty() ? "looked for train-images-idx3-ubyte, train-labels-idx1-"
                                         "ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, "
                                         "plain or .gz"
                                       : missing),
                  "set data.dir in train.toml to the folder that has the files", 3);
  if (sets.size() > 1)
    throw Failure("there are several data sets below " + directory.string() + ": " +
                      sets[0][0].parent_path().string() + ", " + sets[1][0].parent_path().string(),
                  "set data.dir in train.toml to one of them", 2);
  Mnist mnist{ImageSet::OpenIdx(sets[0][0], sets[0][1], kClasses),
              ImageSet::OpenIdx(sets[0][2], sets[0][3], kClasses)};
  if (mnist.train.rows() != mnist.test.rows() || mnist.train.columns() != mnist.test.columns())
    Damaged(sets[0][2], "has images of another size than the training set");
  return mnist;
}

void FillBatch(const ImageSet& set, std::span<const std::int64_t> indices,
               const std::optional<Augmentation>& augmentation, float* pixels,
               std::int64_t* labels) {
  for (const std::int64_t index : indices) {
    const std::span<const std::uint8_t> image = set.image(index);
    if (augmentation)
      Transform(image, set.rows(), set.columns(), *augmentation, index, pixels);
    else
      for (std::size_t i = 0; i < image.size(); ++i)
        pixels[i] = static_cast<float>(image[i]) * kScale + kShift;
    pixels += image.size();
    *labels++ = set.label(index);
  }
}

}  // namespace envkit
