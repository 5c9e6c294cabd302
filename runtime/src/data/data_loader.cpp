#include "envkit/data_loader.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "envkit/data.h"
#include "envkit/failure.h"

namespace envkit {

TensorDataset::TensorDataset(Batch tensors) : tensors_(std::move(tensors)) {
  for (const at::Tensor& tensor : tensors_)
    TORCH_CHECK(tensor.dim() > 0 && tensor.size(0) == tensors_[0].size(0),
                "TensorDataset: tensors of different first dimensions");
}

std::int64_t TensorDataset::size() const { return tensors_.empty() ? 0 : tensors_[0].size(0); }

Batch TensorDataset::Get(std::span<const std::int64_t> indices, std::int64_t /*epoch*/) const {
  const at::Tensor rows = at::from_blob(const_cast<std::int64_t*>(indices.data()),
                                        {static_cast<std::int64_t>(indices.size())}, at::kLong);
  Batch batch;
  for (const at::Tensor& tensor : tensors_) batch.push_back(at::index_select(tensor, 0, rows));
  return batch;
}

namespace {

struct Read {
  Batch batch;
  DataLoader::Position position;
  std::exception_ptr error;
};

}  // namespace

struct DataLoader::State {
  std::shared_ptr<const Dataset> dataset;
  DataLoaderOptions options;
  int rank = 0, world_size = 1;
  at::Device device{at::kCPU};
  Position next;  // that Next gives
  Position given;
  bool ended = false, any = false;
  double waited = 0;

  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by it: the order of the last epoch that was asked for, and what threads have read by
  // its number since they were started; they claim numbers in order.
  std::shared_ptr<const std::vector<std::int64_t>> order;
  std::int64_t order_of = -1;
  std::map<std::int64_t, Read> ready;
  Position claim;
  std::int64_t claimed = 0, taken = 0;
  bool stop = false;
  std::vector<std::thread> threads;

  std::int64_t GlobalBatch() const { return options.batch_size * world_size; }
  std::int64_t Batches() const {
    const std::int64_t samples = dataset->size(), batch = GlobalBatch();
    return options.drop_last ? samples / batch : (samples + batch - 1) / batch;
  }
  Position After(Position position) const {
    return position.batch + 1 < Batches() ? Position{position.epoch, position.batch + 1}
                                          : Position{position.epoch + 1, 0};
  }
  std::shared_ptr<const std::vector<std::int64_t>> OrderOf(std::int64_t epoch);
  Read Make(Position position);
  void Start();
  void Stop();
  void Run();
};

std::shared_ptr<const std::vector<std::int64_t>> DataLoader::State::OrderOf(std::int64_t epoch) {
  const std::lock_guard lock(mutex);
  if (order_of != epoch) {
    order = std::make_shared<const std::vector<std::int64_t>>(
        EpochOrder(dataset->size(), options.seed, epoch, options.shuffle));
    order_of = epoch;
  }
  return order;
}

Read DataLoader::State::Make(Position position) {
  Read read;
  read.position = position;
  try {
    const auto samples = OrderOf(position.epoch);
    std::vector<std::int64_t> indices;
    const std::int64_t begin = position.batch * GlobalBatch() + rank * options.batch_size;
    for (std::int64_t i = 0; i < options.batch_size; ++i)
      indices.push_back((*samples)[static_cast<std::size_t>((begin + i) % dataset->size())]);
    read.batch = dataset->Get(indices, position.epoch);
  } catch (...) {
    read.error = std::current_exception();
  }
  return read;
}

void DataLoader::State::Run() {
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [this] { return stop || claimed - taken < options.read_ahead; });
    if (stop) return;
    const std::int64_t number = claimed++;
    const Position position = claim;
    claim = After(claim);
    lock.unlock();
    Read read = Make(position);
    lock.lock();
    ready.emplace(number, std::move(read));
    changed.notify_all();
  }
}

void DataLoader::State::Start() {
  claim = next;
  claimed = taken = 0;
  for (int i = 0; i < std::max(1, std::min(options.threads, options.read_ahead)); ++i)
    threads.emplace_back([this] { Run(); });
}

void DataLoader::State::Stop() {
  {
    const std::lock_guard lock(mutex);
    stop = true;
  }
  changed.notify_all();
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  stop = false;
  ready.clear();
  order_of = -1;
}

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, const DataLoaderOptions& options)
    : state_(std::make_unique<State>()) {
  state_->dataset = std::move(dataset);
  state_->options = options;
  Shard(0, 1, at::kCPU);
}

DataLoader::~DataLoader() { state_->Stop(); }

void DataLoader::Shard(int rank, int world_size, at::Device device) {
  State& state = *state_;
  state.Stop();
  state.rank = rank;
  state.world_size = world_size;
  state.device = device;
  if (state.options.batch_size < 1 || state.Batches() < 1)
    throw Failure("batches of " + std::to_string(state.options.batch_size) + " for " +
                      std::to_string(world_size) + " ranks cannot be taken from " +
                      std::to_string(state.dataset->size()) + " samples",
                  "choose a smaller batch", 2);
}

std::int64_t DataLoader::size() const { return state_->Batches(); }
DataLoader::Position DataLoader::position() const { return state_->next; }

void DataLoader::Seek(Position position) {
  if (position.epoch < 0 || position.batch < 0 || position.batch > size())
    throw Failure("there is no batch " + std::to_string(position.batch) + " in epoch " +
                  std::to_string(position.epoch) + ": it has " + std::to_string(size()));
  state_->Stop();
  state_->ended = state_->any = false;
  state_->next = position.batch < size() ? position : Position{position.epoch + 1, 0};
}

bool DataLoader::Next(Batch* batch) {
  State& state = *state_;
  if (at_end() && !state.ended) {
    state.ended = true;
    return false;
  }
  state.ended = false;
  const auto begin = std::chrono::steady_clock::now();
  Read read;
  if (state.options.read_ahead < 1) {
    read = state.Make(state.next);
  } else {
    if (state.threads.empty()) state.Start();
    std::unique_lock lock(state.mutex);
    state.changed.wait(lock, [&] { return state.ready.contains(state.taken); });
    read = std::move(state.ready.extract(state.taken).mapped());
    ++state.taken;
    state.changed.notify_all();
  }
  state.waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (read.error) {
    state.Stop();
    std::rethrow_exception(read.error);
  }
  state.any = true;
  state.given = read.position;
  state.next = state.After(read.position);
  *batch = std::move(read.batch);
  if (!state.device.is_cpu())
    for (at::Tensor& tensor : *batch)
      tensor = tensor.pin_memory().to(state.device, /*non_blocking=*/true);
  return true;
}

bool DataLoader::at_end() const {
  return state_->any && state_->given.batch + 1 == state_->Batches();
}

std::int64_t DataLoader::real_samples() const {
  const std::int64_t batch = state_->GlobalBatch();
  if (!state_->any) return 0;
  return std::min(batch, state_->dataset->size() - state_->given.batch * batch);
}

double DataLoader::waited() const { return state_->waited; }

}  // namespace envkit
