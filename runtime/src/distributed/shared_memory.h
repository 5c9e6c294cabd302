// All-reduce between the ranks of one host through a segment of shared memory: no sockets, no
// threads, and the same bits on every rank, since each element is summed once, in rank order.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace envkit {

class SharedMemory {
 public:
  // Rank 0 creates a segment and hands its name to the others, who open it; afterwards Unlink, so
  // that nothing is left in /dev/shm whatever happens to the ranks. nullptr where the system has
  // too little of it or none.
  static std::unique_ptr<SharedMemory> Create(int ranks, std::chrono::seconds timeout);
  static std::unique_ptr<SharedMemory> Open(const std::string& name, int rank, int ranks,
                                            std::chrono::seconds timeout);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  const std::string& name() const { return name_; }
  void Unlink();

  // Collective, in place: element-wise sum over ranks times SCALE. Throws Failure when the other
  // ranks do not come within the timeout.
  template <class T>
  void AllReduce(T* values, std::size_t count, T scale);
  // Collective. Rank 0's BYTES at VALUES, on every rank.
  void Broadcast(void* values, std::size_t bytes);
  // Collective. FULL is every rank's SHARD, of BYTES each, one after the other.
  void AllGather(const void* shard, void* full, std::size_t bytes);
  // Collective. SHARD, of COUNT values, is this rank's part of the element-wise sum of every rank's
  // FULL, of ranks * COUNT values.
  template <class T>
  void ReduceScatter(const T* full, T* shard, std::size_t count);

 private:
  struct Header;
  SharedMemory() = default;
  static std::size_t Size(int ranks);
  bool Map(int descriptor, std::size_t size);
  void Barrier();
  std::byte* Slot(int rank) const;

  std::string name_;
  int rank_ = 0, ranks_ = 1;
  std::chrono::seconds timeout_{};
  bool spin_ = true;
  Header* header_ = nullptr;
  std::size_t size_ = 0;
};

extern template void SharedMemory::ReduceScatter<float>(const float*, float*, std::size_t);
extern template void SharedMemory::ReduceScatter<double>(const double*, double*, std::size_t);
extern template void SharedMemory::AllReduce<float>(float*, std::size_t, float);
extern template void SharedMemory::AllReduce<double>(double*, std::size_t, double);

}  // namespace envkit
