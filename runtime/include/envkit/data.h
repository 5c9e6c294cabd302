// What ranks train on: a sampler that deals the same global batches to any number of ranks, and
// MNIST-shaped image sets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace envkit {

// The global batch of a step is a slice of one shuffle that depends on (seed, epoch) alone; each
// rank takes its contiguous share of it. What is left at an epoch's end, less than one global
// batch, is not used in that epoch.
class ShardedSampler {
 public:
  struct Options {
    std::int64_t samples = 0;       // in the data set
    std::int64_t global_batch = 0;  // over all ranks; a multiple of world_size, at most SAMPLES
    std::uint64_t seed = 0;
    int rank = 0, world_size = 1;
  };
  // All that a checkpoint needs: independent of the number of ranks.
  struct Position {
    std::int64_t epoch = 0;   // from 0
    std::int64_t offset = 0;  // samples of this epoch that all ranks together have had
  };

  explicit ShardedSampler(const Options& options);  // throws Failure (exit code 2)

  std::int64_t steps_per_epoch() const { return options_.samples / options_.global_batch; }
  Position position() const { return position_; }
  void Seek(Position position);  // throws Failure when it is no batch boundary of this sampler

  // This rank's sample indices of the next global batch, global_batch / world_size of them; valid
  // until the next call. Goes on to the next epoch by itself.
  std::span<const std::int64_t> Next();

 private:
  void Shuffle();
  Options options_;
  Position position_;
  std::vector<std::int64_t> order_;
};

// The order in which an epoch has its samples: 0 to SAMPLES - 1, shuffled by (SEED, EPOCH) alone or
// not at all.
std::vector<std::int64_t> EpochOrder(std::int64_t samples, std::uint64_t seed, std::int64_t epoch,
                                     bool shuffle);

// Uniform random bits of (seed, a, b): counter-based, so that what happens to a sample depends
// neither on the rank that has it nor on what was drawn before.
std::uint64_t HashBits(std::uint64_t seed, std::uint64_t a, std::uint64_t b);

// Images of equal size with one label each, row-major bytes. Read-only, so thread-safe. The bytes
// are mapped from the file where it is not compressed.
class ImageSet {
 public:
  // idx files (idx3-ubyte and idx1-ubyte), gzip-compressed when the name ends in ".gz". Throws
  // Failure that names the file when anything in it contradicts its header, when the two disagree,
  // or when a label is not below CLASSES.
  static ImageSet OpenIdx(const std::filesystem::path& images, const std::filesystem::path& labels,
                          int classes);

  std::int64_t count() const { return count_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::span<const std::uint8_t> image(std::int64_t index) const {
    return pixels_.subspan(static_cast<std::size_t>(index * rows_ * columns_),
                           static_cast<std::size_t>(rows_ * columns_));
  }
  std::uint8_t label(std::int64_t index) const { return labels_[static_cast<std::size_t>(index)]; }

 private:
  std::shared_ptr<const void> pixel_owner_, label_owner_;
  std::span<const std::uint8_t> pixels_, labels_;
  std::int64_t count_ = 0, rows_ = 0, columns_ = 0;
};

struct Mnist {
  static constexpr int kClasses = 10;
  ImageSet train, test;

  // Finds train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k-… files in DIRECTORY
  // or at most four folders below it, with '.' for the '-' before "idx" and with ".gz" as well.
  // Throws Failure (exit code 3) when they are not there, (2) when several folders have them.
  static Mnist Open(const std::filesystem::path& directory);
};

// Random shifts, rotations and scalings, drawn per sample from (seed, epoch, sample index).
struct Augmentation {
  std::uint64_t seed = 0;
  std::int64_t epoch = 0;
  double max_shift = 0;     // pixels
  double max_rotation = 0;  // degrees
  double max_scaling = 0;   // 0.1: from 0.9 to 1.1
};

// Writes INDICES' images to PIXELS, [indices.size(), 1, rows, columns] floats with about zero mean
// and unit variance over MNIST, and their labels to LABELS.
void FillBatch(const ImageSet& set, std::span<const std::int64_t> indices,
               const std::optional<Augmentation>& augmentation, float* pixels,
               std::int64_t* labels);

}  // namespace envkit
