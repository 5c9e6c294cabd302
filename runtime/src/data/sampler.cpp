#include <string>

#include "envkit/data.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

// splitmix64's finalizer: every bit of the input changes half of the output's.
std::uint64_t Mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Uniform below BOUND, without modulo bias (Lemire).
class Below {
 public:
  explicit Below(std::uint64_t state) : state_(state) {}
  std::uint64_t operator()(std::uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    const std::uint64_t threshold = (0 - bound) % bound;
    while (true) {
      const Wide product = static_cast<Wide>(Mix(state_++)) * bound;
      if (static_cast<std::uint64_t>(product) >= threshold)
        return static_cast<std::uint64_t>(product >> 64);
    }
  }

 private:
  std::uint64_t state_;
};

}  // namespace

std::uint64_t HashBits(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  return Mix(Mix(Mix(seed) ^ a) ^ b);
}

std::vector<std::int64_t> EpochOrder(std::int64_t samples, std::uint64_t seed, std::int64_t epoch,
                                     bool shuffle) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(samples));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  if (!shuffle) return order;
  Below below(HashBits(seed, static_cast<std::uint64_t>(epoch), 0x5a4d504c));
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
  return order;
}

ShardedSampler::ShardedSampler(const Options& options) : options_(options) {
  const std::int64_t batch = options.global_batch, world = options.world_size;
  if (batch < 1 || batch > options.samples)
    throw Failure("a global batch of " + std::to_string(batch) + " cannot be taken from " +
                      std::to_string(options.samples) + " samples",
                  "choose a batch of 1 to " + std::to_string(options.samples), 2);
  if (batch % world != 0) {
    const std::int64_t below = batch / world * world;
    throw Failure("a global batch of " + std::to_string(batch) + " cannot be dealt equally to " +
                      std::to_string(world) + " ranks",
                  "choose " + (below > 0 ? std::to_string(below) + " or " : "") +
                      std::to_string(below + world) + ", or another number of ranks",
                  2);
  }
  Shuffle();
}

void ShardedSampler::Seek(Position position) {
  if (position.epoch < 0 || position.offset < 0 || position.offset % options_.global_batch != 0 ||
      position.offset / options_.global_batch > steps_per_epoch())
    throw Failure("no global batch of " + std::to_string(options_.global_batch) +
                  " starts at sample " + std::to_string(position.offset) + " of epoch " +
                  std::to_string(position.epoch));
  position_ = position;
  Shuffle();
}

void ShardedSampler::Shuffle() {
  order_ = EpochOrder(options_.samples, options_.seed, position_.epoch, true);
}

std::span<const std::int64_t> ShardedSampler::Next() {
  if (position_.offset / options_.global_batch >= steps_per_epoch()) {
    position_ = {position_.epoch + 1, 0};
    Shuffle();
  }
  const std::int64_t share = options_.global_batch / options_.world_size;
  const std::int64_t begin = position_.offset + share * options_.rank;
  position_.offset += options_.global_batch;
  return {order_.data() + begin, static_cast<std::size_t>(share)};
}

}  // namespace envkit
