// The training runtime's readers of files. FUZZ_TARGET chooses one; without it the input's first
// byte does. A Failure is what they may throw.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/headers.h"
#include "config.h"
#include "data/formats.h"
#include "data/image_codec.h"
#include "envkit/data.h"
#include "envkit/failure.h"

using namespace envkit;

namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

const fs::path kFile = "some/file";

// A file in memory, for readers that open their own.
class MemoryFile {
 public:
  explicit MemoryFile(Bytes bytes) : descriptor_(memfd_create("fuzz", 0)) {
    if (write(descriptor_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      std::abort();
  }
  ~MemoryFile() { close(descriptor_); }
  fs::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

void FuzzIdx(Bytes bytes) {
  const std::uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 3, 9};
  const MemoryFile first(bytes), second(labels);
  const ImageSet set = ImageSet::OpenIdx(first.path(), second.path(), 10);
  std::vector<float> pixels(static_cast<std::size_t>(set.rows() * set.columns() * 2));
  std::int64_t to[2];
  const std::int64_t indices[] = {0, 1};
  if (set.count() != 2) std::abort();
  FillBatch(set, indices, Augmentation{1, 0, 2, 10, 0.1}, pixels.data(), to);
}

void FuzzIdxLabels(Bytes bytes) {
  const std::uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 8};
  const MemoryFile first(images), second(bytes);
  const ImageSet set = ImageSet::OpenIdx(first.path(), second.path(), 10);
  if (set.label(0) > 9 || set.label(1) > 9) std::abort();
}

// Through a name that ends in .gz; the whole of what is inflated is read.
void FuzzGzip(Bytes bytes) {
  static const fs::path link = [] {
    char name[] = "/tmp/envkit-fuzz-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    return fs::path(name) / "x.gz";
  }();
  const std::uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 3, 9};
  const MemoryFile first(bytes), second(labels);
  fs::remove(link);
  fs::create_symlink(first.path(), link);
  ImageSet::OpenIdx(link, second.path(), 10);
}

void FuzzNpy(Bytes bytes) {
  const NpyLayout layout = ParseNpy(kFile, bytes);
  std::uint64_t size = ElementSize(layout.type);
  for (const std::int64_t extent : layout.shape) size *= static_cast<std::uint64_t>(extent);
  if (layout.begin > bytes.size() || size != bytes.size() - layout.begin) std::abort();
}

void FuzzTokens(Bytes bytes) {
  std::uint64_t sum = 0;
  for (const std::uint16_t token : ParseTokens(kFile, bytes, 4, 50257)) sum += token;
  if (sum > 50256 * bytes.size()) std::abort();
}

void FuzzCifar(Bytes bytes) {
  const std::int64_t images = ParseCifar(kFile, bytes);
  for (std::int64_t i = 0; i < images; ++i)
    if (bytes[static_cast<std::size_t>(i * kCifarRecord)] > 9) std::abort();
}

void FuzzSafetensors(Bytes bytes) {
  if (bytes.size() < 2) return;
  // The size of the tensors' bytes, then the header: a whole file's are cut off by its reader.
  const std::uint64_t size = bytes[0] * std::uint64_t{256} + bytes[1];
  const std::string text(bytes.begin() + 2, bytes.end());
  const SafetensorsHeader header = ParseSafetensorsHeader(kFile, text, size);
  std::uint64_t offset = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    std::uint64_t count = ElementSize(entry.type);
    for (const std::int64_t extent : entry.shape) count *= static_cast<std::uint64_t>(extent);
    if (entry.begin != offset || entry.end - entry.begin != count) std::abort();
    offset = entry.end;
    const auto elements = static_cast<std::int64_t>(count / ElementSize(entry.type));
    const SliceName slice = ParseSliceName(kFile, entry.name, header.metadata, elements);
    if (!slice.whole && (slice.begin < 0 || slice.end > ElementCount(slice.shape))) std::abort();
  }
  if (offset != size) std::abort();
}

void FuzzManifest(Bytes bytes) {
  for (const ManifestEntry& entry : ParseManifest(kFile, {bytes.begin(), bytes.end()}))
    if (fs::path("x") / entry.name != fs::path("x/" + entry.name) ||
        entry.name.find('/') != std::string::npos || entry.name == "..")
      std::abort();
}

void FuzzState(Bytes bytes) { ParseTrainingState(kFile, {bytes.begin(), bytes.end()}); }

void FuzzConfig(Bytes bytes) {
  const MemoryFile file(bytes);
  const auto config = LoadConfig(file.path(), {});
  if (!config) {
    config.error().Text();
    return;
  }
  // What was read is written, and read the same.
  const std::string text = ConfigText(*config);
  const MemoryFile again({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  const auto twice = LoadConfig(again.path(), {});
  if (!twice || ConfigText(*twice) != text) std::abort();
}

// The value of a --set.
void FuzzSetting(Bytes bytes) {
  const MemoryFile file(Bytes{});
  LoadConfig(file.path(), {{bytes.begin(), bytes.end()}});
}

void FuzzImage(Bytes bytes) {
  const RgbImage image = DecodeImage(kFile, bytes, 8);
  if (image.pixels.size() != static_cast<std::size_t>(image.rows * image.columns * 3)) std::abort();
  std::vector<float> out(3 * 8 * 8);
  const auto rows = static_cast<double>(image.rows), columns = static_cast<double>(image.columns);
  Resample(image, {rows / 3, columns / 4, rows / 2, columns / 2}, 8, true, out.data());
  for (const float value : out)
    if (!(value > -0.01F && value < 255.01F)) std::abort();
}

struct Target {
  std::string_view name;
  void (*run)(Bytes);
};
constexpr Target kTargets[] = {{"idx", FuzzIdx},
                               {"idx-labels", FuzzIdxLabels},
                               {"gzip", FuzzGzip},
                               {"npy", FuzzNpy},
                               {"tokens", FuzzTokens},
                               {"cifar", FuzzCifar},
                               {"safetensors", FuzzSafetensors},
                               {"manifest", FuzzManifest},
                               {"state", FuzzState},
                               {"train-toml", FuzzConfig},
                               {"setting", FuzzSetting},
                               {"image", FuzzImage}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const char* const chosen = std::getenv("FUZZ_TARGET");
  Bytes bytes(data, size);
  const Target* target = nullptr;
  for (const Target& each : kTargets)
    if (chosen != nullptr && each.name == chosen) target = &each;
  if (target == nullptr) {
    if (chosen != nullptr) std::abort();
    if (bytes.empty()) return 0;
    target = &kTargets[bytes[0] % std::size(kTargets)];
    bytes = bytes.subspan(1);
  }
  // Where a mapped file would end: a reader that goes on finds nothing that is its own.
  const std::vector<std::uint8_t> own(bytes.begin(), bytes.end());
  try {
    target->run(own);
  } catch (const Failure&) {
  }
  return 0;
}
