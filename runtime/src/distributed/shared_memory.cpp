#include "shared_memory.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

#include "envkit/failure.h"

namespace envkit {
namespace {

constexpr std::size_t kSlotBytes = std::size_t{1} << 20;
constexpr int kSpins = 2000;  // some tens of microseconds, a usual difference between ranks

long Futex(std::atomic<std::uint32_t>* word, int operation, std::uint32_t value,
           const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), operation, value, timeout,
                 nullptr, 0);
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// One cache line per word that ranks fight for.
struct SharedMemory::Header {
  alignas(64) std::atomic<std::uint32_t> arrived;
  alignas(64) std::atomic<std::uint32_t> generation;
  alignas(64) std::atomic<std::uint32_t> sleepers;
};

// A slot for each rank's contribution, and one for the result.
std::size_t SharedMemory::Size(int ranks) {
  return sizeof(Header) + kSlotBytes * (static_cast<std::size_t>(ranks) + 1);
}

std::byte* SharedMemory::Slot(int rank) const {
  return reinterpret_cast<std::byte*>(header_) + sizeof(Header) +
         kSlotBytes * static_cast<std::size_t>(rank);
}

bool SharedMemory::Map(int descriptor, std::size_t size) {
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (at == MAP_FAILED) return false;
  static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
  header_ = static_cast<Header*>(at);
  size_ = size;
  cpu_set_t allowed;
  spin_ = sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) >= ranks_;
  return true;
}

std::unique_ptr<SharedMemory> SharedMemory::Create(int ranks, std::chrono::seconds timeout) {
  std::uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) return nullptr;
  char name[40];
  std::snprintf(name, sizeof name, "/envkit-%016llx", static_cast<unsigned long long>(number));
  const int descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return nullptr;
  std::unique_ptr<SharedMemory> memory(new SharedMemory);
  memory->name_ = name;
  memory->ranks_ = ranks;
  memory->timeout_ = timeout;
  // posix_fallocate and not ftruncate: a /dev/shm that is too small shows here, and not as SIGBUS.
  if (posix_fallocate(descriptor, 0, static_cast<off_t>(Size(ranks))) != 0) {
    close(descriptor);
    return nullptr;  // the destructor unlinks
  }
  if (!memory->Map(descriptor, Size(ranks))) return nullptr;
  return memory;
}

std::unique_ptr<SharedMemory> SharedMemory::Open(const std::string& name, int rank, int ranks,
                                                 std::chrono::seconds timeout) {
  const int descriptor = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) return nullptr;
  std::unique_ptr<SharedMemory> memory(new SharedMemory);
  memory->rank_ = rank;
  memory->ranks_ = ranks;
  memory->timeout_ = timeout;
  if (!memory->Map(descriptor, Size(ranks))) return nullptr;
  return memory;
}

void SharedMemory::Unlink() {
  if (!name_.empty()) shm_unlink(name_.c_str());
  name_.clear();
}

SharedMemory::~SharedMemory() {
  Unlink();
  if (header_ != nullptr) munmap(header_, size_);
}

void SharedMemory::Barrier() {
  const std::uint32_t before = header_->generation.load(std::memory_order_acquire);
  if (header_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 ==
      static_cast<std::uint32_t>(ranks_)) {
    header_->arrived.store(0, std::memory_order_relaxed);
    // Sequentially consistent with the sleepers' own pair, so that one of the two sees the other.
    header_->generation.store(before + 1, std::memory_order_seq_cst);
    if (header_->sleepers.load(std::memory_order_seq_cst) != 0)
      Futex(&header_->generation, FUTEX_WAKE, INT32_MAX, nullptr);
    return;
  }
  for (int i = 0; spin_ && i < kSpins; ++i) {
    if (header_->generation.load(std::memory_order_acquire) != before) return;
    Pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  header_->sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (header_->generation.load(std::memory_order_seq_cst) == before) {
    const timespec slice{1, 0};
    Futex(&header_->generation, FUTEX_WAIT, before, &slice);
    if (std::chrono::steady_clock::now() > deadline) {
      header_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
      throw Failure("rank " + std::to_string(rank_) + " waited " +
                        std::to_string(timeout_.count()) +
                        " s in an all-reduce; the other ranks did not come to it",
                    "the logs of the other ranks say what they were doing");
    }
  }
  header_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

template <class T>
void SharedMemory::AllReduce(T* values, std::size_t count, T scale) {
  constexpr std::size_t kChunk = kSlotBytes / sizeof(T);
  constexpr std::size_t kLine = 64 / sizeof(T), kBlock = 16384 / sizeof(T);
  const auto ranks = static_cast<std::size_t>(ranks_);
  for (std::size_t at = 0; at < count; at += kChunk) {
    const std::size_t size = std::min(kChunk, count - at);
    // Each rank sums one share. Shares start on cache lines, so that no two ranks write to one.
    const std::size_t share = (size / kLine + ranks - 1) / ranks * kLine + kLine;
    const std::size_t begin = std::min(size, share * static_cast<std::size_t>(rank_));
    const std::size_t end = std::min(size, begin + share);
    // The own share is taken from where it lies.
    T* const own = values + at;
    T* const slot = reinterpret_cast<T*>(Slot(rank_));
    std::memcpy(slot, own, begin * sizeof(T));
    std::memcpy(slot + end, own + end, (size - end) * sizeof(T));
    Barrier();
    T* const result = reinterpret_cast<T*>(Slot(ranks_));
    const auto part = [&](int rank) {
      return rank == rank_ ? own : reinterpret_cast<const T*>(Slot(rank));
    };
    // By blocks that stay in a core's first cache; in the ranks' order, whoever sums.
    std::array<T, kBlock> sum;
    for (std::size_t block = begin; block < end; block += kBlock) {
      const std::size_t length = std::min(kBlock, end - block);
      std::memcpy(sum.data(), part(0) + block, length * sizeof(T));
      for (int rank = 1; rank < ranks_; ++rank) {
        const T* const other = part(rank) + block;
        for (std::size_t i = 0; i < length; ++i) sum[i] += other[i];
      }
      for (std::size_t i = 0; i < length; ++i) sum[i] *= scale;
      std::memcpy(result + block, sum.data(), length * sizeof(T));
      std::memcpy(own + block, sum.data(), length * sizeof(T));
    }
    // Nobody writes to the result again before everybody has passed the next chunk's first barrier,
    // which a rank enters only after this copy.
    Barrier();
    std::memcpy(own, result, begin * sizeof(T));
    std::memcpy(own + end, result + end, (size - end) * sizeof(T));
  }
}

void SharedMemory::AllGather(const void* shard, void* full, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += kSlotBytes) {
    const std::size_t size = std::min(kSlotBytes, bytes - at);
    std::memcpy(Slot(rank_), static_cast<const std::byte*>(shard) + at, size);
    Barrier();
    for (int rank = 0; rank < ranks_; ++rank)
      std::memcpy(static_cast<std::byte*>(full) + static_cast<std::size_t>(rank) * bytes + at,
                  Slot(rank), size);
    Barrier();  // before anybody writes to its slot again
  }
}

void SharedMemory::Broadcast(void* values, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += kSlotBytes) {
    const std::size_t size = std::min(kSlotBytes, bytes - at);
    std::byte* const here = static_cast<std::byte*>(values) + at;
    if (rank_ == 0) std::memcpy(Slot(0), here, size);
    Barrier();
    if (rank_ != 0) std::memcpy(here, Slot(0), size);
    Barrier();  // before rank 0 writes to its slot again
  }
}

template <class T>
void SharedMemory::ReduceScatter(const T* full, T* shard, std::size_t count) {
  const std::size_t ranks = static_cast<std::size_t>(ranks_);
  const std::size_t piece = kSlotBytes / sizeof(T) / ranks;
  for (std::size_t at = 0; at < count; at += piece) {
    const std::size_t size = std::min(piece, count - at);
    for (std::size_t rank = 0; rank < ranks; ++rank)
      std::memcpy(reinterpret_cast<T*>(Slot(rank_)) + rank * piece, full + rank * count + at,
                  size * sizeof(T));
    Barrier();
    const std::size_t own = static_cast<std::size_t>(rank_) * piece;
    std::memcpy(shard + at, reinterpret_cast<const T*>(Slot(0)) + own, size * sizeof(T));
    for (int rank = 1; rank < ranks_; ++rank) {
      const T* const slot = reinterpret_cast<const T*>(Slot(rank)) + own;
      for (std::size_t i = 0; i < size; ++i) shard[at + i] += slot[i];
    }
    Barrier();
  }
}

template void SharedMemory::ReduceScatter<float>(const float*, float*, std::size_t);
template void SharedMemory::ReduceScatter<double>(const double*, double*, std::size_t);
template void SharedMemory::AllReduce<float>(float*, std::size_t, float);
template void SharedMemory::AllReduce<double>(double*, std::size_t, double);

}  // namespace envkit
