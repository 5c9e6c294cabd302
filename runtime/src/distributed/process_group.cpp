// How ranks find each other: a TCPStore of rank 0, and Gloo, NCCL and shared memory on top of it.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include "communicator_state.h"
#include "cuda_half.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

using Clock = std::chrono::steady_clock;

std::optional<int> IntegerFromEnvironment(const char* name, int least, int most) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, value);
  if (error != std::errc() || at != end || value < least || value > most)
    throw Failure(std::string(name) + "=" + text + " is no number from " + std::to_string(least) +
                      " to " + std::to_string(most),
                  "start ranks with envkit-launch or torchrun, which set it", 2);
  return value;
}

struct Address {
  sockaddr_storage value{};
  socklen_t size = 0;
};

std::vector<Address> Resolve(const RankInfo& ranks, std::string* problem) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(ranks.master_address.c_str(),
                                std::to_string(ranks.master_port).c_str(), &hints, &found);
  std::vector<Address> addresses;
  if (error != 0) {
    *problem = gai_strerror(error);
    return addresses;
  }
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    Address address;
    std::memcpy(&address.value, at->ai_addr, at->ai_addrlen);
    address.size = at->ai_addrlen;
    addresses.push_back(address);
  }
  freeaddrinfo(found);
  return addresses;
}

// Our own address on the way to rank 0's: what peers can reach us by. Asking for the host's name
// instead, as Gloo does, finds 127.0.1.1 on Debian and nothing in many containers.
std::optional<std::string> AddressTowards(const Address& peer) {
  const int descriptor = socket(peer.value.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return std::nullopt;
  std::optional<std::string> result;
  Address own;
  own.size = sizeof own.value;
  char text[NI_MAXHOST];
  if (connect(descriptor, reinterpret_cast<const sockaddr*>(&peer.value), peer.size) == 0 &&
      getsockname(descriptor, reinterpret_cast<sockaddr*>(&own.value), &own.size) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&own.value), own.size, text, sizeof text, nullptr, 0,
                  NI_NUMERICHOST) == 0)
    result = text;
  close(descriptor);
  return result;
}

bool Listens(const Address& address, std::string* problem) {
  const int descriptor =
      socket(address.value.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return false;
  int error = 0;
  if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address.value), address.size) != 0) {
    error = errno;
    pollfd waiting{descriptor, POLLOUT, 0};
    socklen_t size = sizeof error;
    if (error == EINPROGRESS) {
      if (poll(&waiting, 1, 1000) != 1)
        error = ETIMEDOUT;
      else
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  close(descriptor);
  if (error != 0) *problem = std::strerror(error);
  return error == 0;
}

std::string Endpoint(const RankInfo& ranks) {
  return ranks.master_address + ":" + std::to_string(ranks.master_port);
}

// TCPStore's client sleeps a whole second after a refused connection, and ranks start at the same
// time: so wait until rank 0 listens, and connect then.
std::vector<Address> WaitForRankZero(const RankInfo& ranks, Clock::time_point deadline) {
  std::string problem;
  while (true) {
    const std::vector<Address> addresses = Resolve(ranks, &problem);
    for (const Address& address : addresses)
      if (Listens(address, &problem)) return addresses;
    if (Clock::now() > deadline)
      throw Failure("rank " + std::to_string(ranks.rank) + " cannot reach rank 0 at " +
                        Endpoint(ranks) + " (MASTER_ADDR:MASTER_PORT)\n" + problem,
                    "check that rank 0 is running, and that its host lets this one connect");
    std::this_thread::sleep_for(std::chrono::milliseconds(addresses.empty() ? 200 : 2));
  }
}

c10::intrusive_ptr<c10d::Store> OpenStore(const RankInfo& ranks, std::chrono::seconds timeout,
                                          std::vector<Address>* addresses) {
  const Clock::time_point deadline = Clock::now() + timeout;
  const bool is_server = ranks.rank == 0;
  if (!is_server) *addresses = WaitForRankZero(ranks, deadline);
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(ranks.master_port);
  options.isServer = is_server;
  options.numWorkers = static_cast<std::size_t>(ranks.world_size);
  options.waitWorkers = false;  // the first key that another rank reads waits just as well
  options.timeout = timeout;
  try {
    auto store = c10::make_intrusive<c10d::TCPStore>(ranks.master_address, options);
    std::string problem;
    if (is_server) *addresses = Resolve(ranks, &problem);
    return store;
  } catch (const std::exception& error) {
    std::string text = error.what();
    const bool in_use = text.find("EADDRINUSE") != std::string::npos ||
                        text.find("already in use") != std::string::npos ||
                        text.find("in use") != std::string::npos;
    if (is_server && in_use)
      throw Failure("port " + std::to_string(ranks.master_port) + " (MASTER_PORT) is in use",
                    "leave the port to the launcher, which chooses a free one");
    throw Failure((is_server ? "rank 0 cannot listen at " : "cannot join the store of rank 0 at ") +
                  Endpoint(ranks) + "\n" + text.substr(0, text.find('\n')));
  }
}

// The device that Gloo's connections go through. One host: loopback.
std::shared_ptr<::gloo::transport::Device> GlooDevice(const RankInfo& ranks,
                                                      const std::vector<Address>& addresses) {
  using c10d::ProcessGroupGloo;
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
      interface != nullptr && *interface != '\0')
    return ProcessGroupGloo::createDeviceForInterface(interface);
  if (ranks.local_world_size == ranks.world_size)
    return ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  for (const Address& address : addresses) {
    const std::optional<std::string> own = AddressTowards(address);
    if (own && !own->starts_with("127.") && *own != "::1")
      return ProcessGroupGloo::createDeviceForHostname(*own);
  }
  throw Failure("MASTER_ADDR=" + ranks.master_address +
                    " is a loopback address here, which ranks of other hosts cannot reach",
                "set MASTER_ADDR to the address of rank 0's network interface, or "
                "GLOO_SOCKET_IFNAME to its name");
}

c10::intrusive_ptr<c10d::Store> Prefixed(const char* prefix,
                                         const c10::intrusive_ptr<c10d::Store>& store) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, store);
}

template <class Wait>
void Waited(const char* what, const RankInfo& ranks, Wait wait) {
  try {
    wait();
  } catch (const Failure&) {
    throw;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    throw Failure("rank " + std::to_string(ranks.rank) + " lost its peers in " + what + "\n" +
                      text.substr(0, text.find('\n')),
                  "the logs of the other ranks say why they ended");
  }
}

// Renamed in torch 2.13. Templates, so that branches for other releases are not compiled.
template <class Group>
c10::intrusive_ptr<c10d::Work> GatherInto(Group& group, at::Tensor full, at::Tensor shard) {
  if constexpr (requires { group.all_gather_single(full, shard); })
    return group.all_gather_single(full, shard);
  else
    return group._allgather_base(full, shard);
}

template <class Group>
c10::intrusive_ptr<c10d::Work> ReduceScatterInto(Group& group, at::Tensor shard, at::Tensor full) {
  if constexpr (requires { group.reduce_scatter_single(shard, full); })
    return group.reduce_scatter_single(shard, full);
  else
    return group._reduce_scatter_base(shard, full);
}

bool SumsInSharedMemory(const at::Tensor& tensor) {
  return tensor.is_cpu() &&
         (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
}

}  // namespace

RankInfo RankInfoFromEnvironment() {
  RankInfo ranks;
  constexpr int kMost = 1 << 20;
  const std::optional<int> world = IntegerFromEnvironment("WORLD_SIZE", 1, kMost);
  const std::optional<int> rank = IntegerFromEnvironment("RANK", 0, kMost);
  if (world.has_value() != rank.has_value())
    throw Failure(
        std::string("of RANK and WORLD_SIZE only ") + (rank ? "RANK" : "WORLD_SIZE") + " is set",
        "start ranks with envkit-launch or torchrun, which set both", 2);
  if (!world) return ranks;
  ranks.world_size = *world;
  ranks.rank = *rank;
  if (ranks.rank >= ranks.world_size)
    throw Failure("RANK=" + std::to_string(ranks.rank) +
                      " is not below WORLD_SIZE=" + std::to_string(ranks.world_size),
                  "ranks count from 0", 2);
  ranks.local_rank = IntegerFromEnvironment("LOCAL_RANK", 0, kMost).value_or(0);
  ranks.local_world_size = IntegerFromEnvironment("LOCAL_WORLD_SIZE", 1, kMost).value_or(1);
  if (ranks.local_world_size > ranks.world_size || ranks.local_rank >= ranks.local_world_size)
    throw Failure("LOCAL_RANK=" + std::to_string(ranks.local_rank) +
                      ", LOCAL_WORLD_SIZE=" + std::to_string(ranks.local_world_size) +
                      " and WORLD_SIZE=" + std::to_string(ranks.world_size) +
                      " do not fit together",
                  "start ranks with envkit-launch or torchrun, which set them", 2);
  if (const char* address = std::getenv("MASTER_ADDR"); address != nullptr && *address != '\0')
    ranks.master_address = address;
  ranks.master_port = IntegerFromEnvironment("MASTER_PORT", 1, 65535).value_or(0);
  if (ranks.world_size > 1 && ranks.master_port == 0)
    throw Failure("WORLD_SIZE=" + std::to_string(ranks.world_size) + ", but MASTER_PORT is not set",
                  "start ranks with envkit-launch or torchrun, which set it", 2);
  return ranks;
}

Communicator::Communicator(std::unique_ptr<State> state) : state_(std::move(state)) {}
Communicator::~Communicator() = default;

std::shared_ptr<Communicator> Communicator::Connect(const RankInfo& ranks, at::Device device,
                                                    const CommunicatorOptions& options) {
  auto state = std::make_unique<State>();
  state->ranks = ranks;
  state->device = device;
  const auto gloo_options = c10d::ProcessGroupGloo::Options::create(options.timeout);
  const State::MakeGloo make_gloo = [gloo_options, state = state.get()](
                                        const char* prefix, int index,
                                        int count) -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<c10d::ProcessGroupGloo>(Prefixed(prefix, state->store), index, count,
                                                       gloo_options);
  };
  if (ranks.world_size > 1) {
    std::vector<Address> addresses;
    state->store = OpenStore(ranks, options.timeout, &addresses);
    gloo_options->devices.push_back(GlooDevice(ranks, addresses));
    gloo_options->threads = 2;
    state->group = c10::make_intrusive<c10d::ProcessGroup>(Prefixed("group", state->store),
                                                           ranks.rank, ranks.world_size);
    Waited("connecting to each other", ranks, [&] {
      state->group->setBackend(at::kCPU, c10d::ProcessGroup::GLOO,
                               make_gloo("gloo", ranks.rank, ranks.world_size));
      state->group->setDefaultBackend(c10d::ProcessGroup::GLOO);
      if (!device.is_cuda()) return;
      state->group->setBoundDeviceId(device);
      c10::intrusive_ptr<c10d::Backend> nccl;
      const auto store = Prefixed("nccl", state->store);
      reinterpret_cast<decltype(&envkit_cuda_create_nccl)>(
          CudaHalfSymbol("envkit_cuda_create_nccl"))(&store, ranks.rank, ranks.world_size,
                                                     device.index(), options.timeout, &nccl);
      state->group->setBackend(at::kCUDA, c10d::ProcessGroup::NCCL, nccl);
      state->group->setDefaultBackend(c10d::ProcessGroup::NCCL);
    });
  }
  std::shared_ptr<Communicator> communicator(new Communicator(std::move(state)));
  if (ranks.world_size > 1 && device.is_cpu() && options.shared_memory)
    State::ShareMemory(*communicator, options.timeout, make_gloo);
  return communicator;
}

// Between the ranks of each host. All hosts or none: a rank that cannot map its host's segment
// makes everybody stay with Gloo.
void Communicator::State::ShareMemory(Communicator& communicator, std::chrono::seconds timeout,
                                      const MakeGloo& make_gloo) {
  State& state = *communicator.state_;
  const RankInfo& ranks = state.ranks;
  const auto world = static_cast<std::size_t>(ranks.world_size);
  const int first = ranks.rank - ranks.local_rank;  // of this host, where launchers count as usual
  std::vector<int> firsts = {0};
  if (ranks.local_world_size < ranks.world_size) {
    std::vector<double> of_rank(world);
    of_rank[static_cast<std::size_t>(ranks.rank)] = first;
    communicator.AllReduceSum(of_rank);
    bool usual = true;
    firsts.clear();
    for (std::size_t rank = 0; rank < world; ++rank) {
      const bool leads = of_rank[rank] == static_cast<double>(rank);
      if (leads) firsts.push_back(static_cast<int>(rank));
      usual &= !firsts.empty() && of_rank[rank] == firsts.back();
    }
    if (!usual || firsts.size() == world) return;
  }
  std::unique_ptr<SharedMemory> shared;
  const auto names = Prefixed("shared memory", state.store);
  const std::string key = std::to_string(first);
  Waited("connecting to each other", ranks, [&] {
    if (ranks.local_rank == 0) {
      shared = SharedMemory::Create(ranks.local_world_size, timeout);
      const std::string name = shared ? shared->name() : "";
      names->set(key, std::vector<std::uint8_t>(name.begin(), name.end()));
      return;
    }
    const std::vector<std::uint8_t> name = names->get(key);
    if (!name.empty())
      shared = SharedMemory::Open(std::string(name.begin(), name.end()), ranks.local_rank,
                                  ranks.local_world_size, timeout);
  });
  double mapped = shared ? 1 : 0;
  communicator.AllReduceSum({&mapped, 1});
  if (shared) shared->Unlink();
  if (static_cast<int>(mapped) != ranks.world_size) return;
  state.shared = std::move(shared);
  state.hosts = static_cast<int>(firsts.size());
  if (firsts.size() == 1 || ranks.local_rank != 0) return;
  const auto index = std::lower_bound(firsts.begin(), firsts.end(), first) - firsts.begin();
  const auto count = static_cast<int>(firsts.size());
  Waited("connecting to each other", ranks, [&] {
    state.leaders = c10::make_intrusive<c10d::ProcessGroup>(Prefixed("leaders", state.store),
                                                            static_cast<int>(index), count);
    state.leaders->setBackend(at::kCPU, c10d::ProcessGroup::GLOO,
                              make_gloo("gloo of leaders", static_cast<int>(index), count));
    state.leaders->setDefaultBackend(c10d::ProcessGroup::GLOO);
  });
}

void Communicator::State::Reduce(const at::Tensor& tensor, double scale,
                                 std::optional<at::ScalarType> narrow) {
  const auto reduce = [&](auto* values, auto factor) {
    const auto count = static_cast<std::size_t>(tensor.numel());
    shared->AllReduce(values, count, hosts == 1 ? factor : decltype(factor)(1));
    if (hosts == 1) return;
    if (leaders) {
      const c10::AutoGradMode no_grad(false);
      const at::Tensor flat = tensor.as_strided({tensor.numel()}, {1});
      std::vector<at::Tensor> sent = {flat.mul_(scale)};
      if (narrow) sent[0] = flat.to(*narrow);
      Waited("an all-reduce", ranks, [&] { leaders->allreduce(sent)->wait(); });
      if (narrow) flat.copy_(sent[0]);
    }
    shared->Broadcast(values, count * sizeof(*values));
  };
  if (tensor.scalar_type() == at::kFloat)
    reduce(tensor.mutable_data_ptr<float>(), static_cast<float>(scale));
  else
    reduce(tensor.mutable_data_ptr<double>(), scale);
}

const RankInfo& Communicator::ranks() const { return state_->ranks; }
at::Device Communicator::device() const { return state_->device; }

double Communicator::Seconds() const { return state_->seconds; }

std::string Communicator::Transport() const {
  if (!state_->group) return "one rank";
  if (state_->device.is_cuda()) return "nccl";
  if (!state_->shared) return "gloo";
  return state_->hosts == 1 ? "shared memory" : "shared memory and gloo";
}

void Communicator::AllReduceSum(std::span<double> values) {
  if (!state_->group) return;
  const Stopwatch stopwatch(&state_->seconds);
  if (SharedMemory* const shared = state_->OneHost())
    return shared->AllReduce(values.data(), values.size(), 1.0);
  const at::Tensor tensor =
      at::from_blob(values.data(), {static_cast<std::int64_t>(values.size())}, at::kDouble);
  if (state_->shared) return state_->Reduce(tensor, 1);
  Waited("an all-reduce", ranks(), [&] {
    std::vector<at::Tensor> tensors = {tensor};
    state_->group->allreduce(tensors)->wait();
  });
}

void Communicator::AllReduceTensor(const at::Tensor& tensor) {
  if (!state_->group) return;
  const Stopwatch stopwatch(&state_->seconds);
  Waited("an all-reduce", ranks(), [&] {
    std::vector<at::Tensor> tensors = {tensor};
    state_->group->allreduce(tensors)->wait();
  });
}

void Communicator::AllReduceSum(const at::Tensor& tensor) {
  if (!state_->group) return;
  if (!state_->shared || !SumsInSharedMemory(tensor)) return AllReduceTensor(tensor);
  const Stopwatch stopwatch(&state_->seconds);
  TORCH_CHECK(tensor.is_non_overlapping_and_dense(), "AllReduceSum: a tensor with gaps");
  state_->Reduce(tensor, 1);
}

Communicator::Pending Communicator::StartAllGather(const at::Tensor& shard,
                                                   const at::Tensor& full) {
  TORCH_CHECK(shard.is_contiguous() && full.is_contiguous() &&
                  full.numel() == shard.numel() * ranks().world_size &&
                  full.scalar_type() == shard.scalar_type(),
              "AllGather: shard and full do not fit together");
  Pending pending;
  const Stopwatch stopwatch(&state_->seconds);
  if (!state_->group) {
    full.copy_(shard.view(full.sizes()));
  } else if (state_->OneHost() != nullptr && shard.is_cpu()) {
    state_->shared->AllGather(shard.const_data_ptr(), full.mutable_data_ptr(), shard.nbytes());
  } else {
    Waited("an all-gather", ranks(), [&] {
      pending.wait_ = [work = GatherInto(*state_->group, full.view({-1}), shard.view({-1})),
                       &ranks = ranks(), seconds = &state_->seconds] {
        const Stopwatch waiting(seconds);
        Waited("an all-gather", ranks, [&] { work->wait(); });
      };
    });
  }
  return pending;
}

void Communicator::AllGather(const at::Tensor& shard, const at::Tensor& full) {
  StartAllGather(shard, full).Wait();
}

void Communicator::ReduceScatterSum(const at::Tensor& full, const at::Tensor& shard) {
  TORCH_CHECK(shard.is_contiguous() && full.is_contiguous() &&
                  full.numel() == shard.numel() * ranks().world_size &&
                  full.scalar_type() == shard.scalar_type(),
              "ReduceScatterSum: shard and full do not fit together");
  const Stopwatch stopwatch(&state_->seconds);
  if (!state_->group) {
    shard.copy_(full.view(shard.sizes()));
  } else if (state_->OneHost() != nullptr && SumsInSharedMemory(full)) {
    const auto count = static_cast<std::size_t>(shard.numel());
    if (full.scalar_type() == at::kFloat)
      state_->shared->ReduceScatter(full.const_data_ptr<float>(), shard.mutable_data_ptr<float>(),
                                    count);
    else
      state_->shared->ReduceScatter(full.const_data_ptr<double>(), shard.mutable_data_ptr<double>(),
                                    count);
  } else {
    Waited("a reduce-scatter", ranks(),
           [&] { ReduceScatterInto(*state_->group, shard.view({-1}), full.view({-1}))->wait(); });
  }
}

std::vector<std::string> Communicator::Gather(const std::string& text) {
  const auto world = static_cast<std::size_t>(ranks().world_size);
  std::vector<double> sizes(world);
  sizes[static_cast<std::size_t>(ranks().rank)] = static_cast<double>(text.size());
  AllReduceSum(sizes);
  // As bytes, padded to the longest.
  const double longest = *std::max_element(sizes.begin(), sizes.end());
  const auto bytes = std::max<std::int64_t>(1, static_cast<std::int64_t>(longest));
  const at::Tensor own = at::zeros({bytes}, at::kByte);
  std::memcpy(own.mutable_data_ptr(), text.data(), text.size());
  const at::Tensor all = at::empty({ranks().world_size, bytes}, at::kByte);
  if (state_->device.is_cuda()) {
    const at::Tensor there = all.to(state_->device);
    AllGather(own.to(state_->device), there);
    all.copy_(there);
  } else {
    AllGather(own, all);
  }
  std::vector<std::string> texts;
  for (std::size_t rank = 0; rank < world; ++rank)
    texts.emplace_back(
        static_cast<const char*>(all.const_data_ptr()) + rank * static_cast<std::size_t>(bytes),
        static_cast<std::size_t>(sizes[rank]));
  return texts;
}

void Communicator::Barrier() {
  double nothing = 0;
  AllReduceSum({&nothing, 1});
}

std::string Communicator::Broadcast(const std::string& text) {
  if (!state_->group) return text;
  std::string result = text;
  Waited("a broadcast", ranks(), [&] {
    at::Tensor size = at::empty({1}, at::kLong);
    *size.mutable_data_ptr<std::int64_t>() = static_cast<std::int64_t>(text.size());
    std::vector<at::Tensor> tensors = {size};
    state_->group->broadcast(tensors)->wait();
    result.resize(static_cast<std::size_t>(*size.const_data_ptr<std::int64_t>()));
    if (result.empty()) return;
    tensors = {at::from_blob(result.data(), {static_cast<std::int64_t>(result.size())}, at::kByte)};
    state_->group->broadcast(tensors)->wait();
  });
  return result;
}

void Communicator::Broadcast(const std::vector<at::Tensor>& tensors, int root) {
  if (!state_->group) return;
  const Stopwatch stopwatch(&state_->seconds);
  Waited("a broadcast", ranks(), [&] {
    constexpr std::size_t kBytes = std::size_t{250} << 20;
    c10d::broadcast_coalesced(state_->group, tensors, kBytes, root);
  });
}

}  // namespace envkit
