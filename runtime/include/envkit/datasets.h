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
