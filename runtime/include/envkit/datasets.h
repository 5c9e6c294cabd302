// Data sets for DataLoader. All of them are mapped from files, never read as a whole, and refuse
// with Failure what contradicts its own header.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "envkit/data.h"
#include "envkit/data_loader.h"

namespace envkit {

// Batches: images float [n, 1, rows, columns] with about zero mean and unit variance, labels int64
// [n].
class ImageDataset : public Dataset {
 public:
  explicit ImageDataset(ImageSet set, std::optional<Augmentation> augmentation = std::nullopt);
  std::int64_t size() const override { return set_.count(); }
  Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const override;
  const ImageSet& set() const { return set_; }

 private:
  ImageSet set_;
  std::optional<Augmentation> augmentation_;
};

// CIFAR-10's binary files: data_batch_1.bin … and test_batch.bin, in FOLDER or cifar-10-batches-bin
// below it. Batches: images float [n, 3, 32, 32] of zero mean and unit variance by channel, labels
// int64 [n]. AUGMENT: mirrored at random, and moved by up to 4 pixels.
class CifarDataset : public Dataset {
 public:
  CifarDataset(const std::filesystem::path& folder, bool train, bool augment, std::uint64_t seed);
  std::int64_t size() const override { return count_; }
  Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const override;

 private:
  struct File {
    std::shared_ptr<const void> owner;
    std::span<const std::uint8_t> bytes;
  };
  std::vector<File> files_;
  std::int64_t count_ = 0, per_file_ = 0;
  bool augment_;
  std::uint64_t seed_;
};

// Images of any size in folders: FOLDER/CLASS/…/NAME.jpg, .jpeg or .png (any case; hidden files are
// left out). Classes are numbered by name, in the order of bytes. Batches: images float [n, 3,
// size, size] of zero mean and unit variance by channel (ImageNet's), labels int64 [n]. An image's
// middle square of 7/8 of its shorter side becomes size x size; with AUGMENT a random part of it
// does (8 to 100 % of its area, 3:4 to 4:3), and half of them are mirrored. Images are decoded in
// Get, by the loader's threads.
class ImageFolderDataset : public Dataset {
 public:
  struct Options {
    std::int64_t size = 224;
    bool augment = false;
    std::uint64_t seed = 0;
    // What the classes must be, where another data set has said it; empty: FOLDER's own.
    std::vector<std::string> classes;
  };
  // Throws Failure when there is no image, or a class that is none of options.classes.
  ImageFolderDataset(const std::filesystem::path& folder, const Options& options);
  std::int64_t size() const override { return static_cast<std::int64_t>(files_.size()); }
  // Throws Failure that names the file which is no image.
  Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const override;
  const std::vector<std::string>& classes() const { return classes_; }

 private:
  Options options_;
  std::vector<std::string> classes_;
  std::vector<std::pair<std::filesystem::path, std::int64_t>> files_;  // with their class
};

// A row of tokens that were written one after the other: uint16, without a header (nanoGPT) or with
// llm.c's of 256 int32 (magic 20240520, version 1, count). Sample i is the tokens from i * context
// on. Batches: inputs and targets, the next tokens, int64 [n, context].
class TokenDataset : public Dataset {
 public:
  // Throws Failure when a token is not below VOCABULARY, or there is not one sample.
  TokenDataset(const std::filesystem::path& file, std::int64_t context, std::int64_t vocabulary);
  std::int64_t size() const override { return count_; }
  Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const override;

 private:
  std::shared_ptr<const void> owner_;
  std::span<const std::uint16_t> tokens_;
  std::int64_t context_ = 0, count_ = 0;
};

// A numpy file as a tensor over its bytes, mapped: C order, little-endian, of floats, integers or
// booleans.
at::Tensor MapNpy(const std::filesystem::path& file);

}  // namespace envkit
