// Batches of a data set, dealt to ranks.
//
//   envkit::DataLoader loader(dataset, {.batch_size = 32, .shuffle = true});
//   for (const envkit::Batch& batch : loader) …   // one epoch; the next loop is the next epoch
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace envkit {

using Batch = std::vector<at::Tensor>;

// What there is to learn from. Get is called from the loader's threads, from several at once
// where it has several: it must not change anything, and must throw nothing but Failure.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;  // samples
  // Tensors on the CPU, each with a first dimension of indices.size(). EPOCH counts from 0, for
  // data that is changed at random: draw from HashBits(seed, epoch, index).
  virtual Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const = 0;
};

// Tensors of equal first dimension as a data set.
class TensorDataset : public Dataset {
 public:
  explicit TensorDataset(Batch tensors);
  std::int64_t size() const override;
  Batch Get(std::span<const std::int64_t> indices, std::int64_t epoch) const override;

 private:
  Batch tensors_;
};

struct DataLoaderOptions {
  std::int64_t batch_size = 1;  // samples a rank gets at a time
  bool shuffle = false;         // by SEED and epoch alone, whatever the number of ranks
  std::uint64_t seed = 0;
  bool drop_last = false;  // else a last, short batch is filled up from the epoch's start
  int read_ahead = 2;      // batches that are prepared in advance; 0: none, and no thread
  int threads = 1;         // that prepare them, each a batch at a time; at most read_ahead work
};

// Deals the global batch, batch_size * world_size samples, in contiguous shares by rank. Not
// thread-safe. What goes wrong in Get is thrown by Next.
class DataLoader {
 public:
  DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options);
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  std::int64_t size() const;  // batches an epoch, the same on every rank
  // The next batch, on the device; false, once, at an epoch's end. Valid until the next call.
  bool Next(Batch* batch);

  // Where the next batch comes from; the same on every rank.
  struct Position {
    std::int64_t epoch = 0, batch = 0;
  };
  Position position() const;
  void Seek(Position position);  // throws Failure when there is no such batch

  bool at_end() const;  // the batch that Next gave was its epoch's last
  // How many samples of the global batch that Next gave are no repetitions; over all ranks.
  std::int64_t real_samples() const;
  // Seconds that Next has waited for data, since the start.
  double waited() const;

  void Shard(int rank, int world_size, at::Device device);  // what Accelerator::prepare calls

  class Iterator {
   public:
    explicit Iterator(DataLoader* loader) : loader_(loader) { ++*this; }
    Iterator() = default;
    const Batch& operator*() const { return batch_; }
    Iterator& operator++() {
      if (!loader_->Next(&batch_)) loader_ = nullptr;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return loader_ != other.loader_; }

   private:
    DataLoader* loader_ = nullptr;
    Batch batch_;
  };
  Iterator begin() { return Iterator(this); }
  Iterator end() { return {}; }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace envkit
