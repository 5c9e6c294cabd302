#include "launch/fork_server.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

namespace envkit {
namespace {

constexpr int kLoadTimeoutMs = 60'000;

template <class T>
bool ReadAt(int fd, std::uint64_t offset, T* to, std::size_t count = 1) {
  const std::size_t bytes = sizeof(T) * count;
  return pread(fd, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

// The value of each variable that libraries read when they are loaded: OMP_NUM_THREADS=4 ….
std::vector<std::string> LoadTimeVariables(const SpawnSpec& rank) {
  std::vector<std::string> found;
  for (const std::string& entry : rank.env) {
    for (const std::string_view prefix : {"OMP_", "GOMP_", "KMP_", "MKL_", "LD_", "GLIBC_"}) {
      if (entry.compare(0, prefix.size(), prefix) == 0) found.push_back(entry);
    }
  }
  return found;
}

Fd MemoryFile(const std::string& text) {
  Fd file(static_cast<int>(syscall(SYS_memfd_create, "envkit-ranks", 1U /* MFD_CLOEXEC */)));
  if (file && write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    file.Close();
  }
  return file;
}

// COUNT pids from ANSWER; fewer when it ended, INTERRUPT became readable or time was up.
std::vector<pid_t> ReadPids(int answer, int interrupt, std::size_t count) {
  std::vector<pid_t> pids(count);
  std::size_t got = 0;
  std::array<pollfd, 2> waiting{pollfd{answer, POLLIN, 0}, pollfd{interrupt, POLLIN, 0}};
  while (got < count * sizeof(pid_t)) {
    const int ready = poll(waiting.data(), waiting.size(), kLoadTimeoutMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || (waiting[0].revents == 0 && waiting[1].revents != 0)) break;
    const ssize_t more =
        read(answer, reinterpret_cast<char*>(pids.data()) + got, count * sizeof(pid_t) - got);
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) break;
    got += static_cast<std::size_t>(more);
  }
  pids.resize(got / sizeof(pid_t));
  return pids;
}

void Reap(pid_t pid) {
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

std::string ForkDescription(pid_t supervisor, const std::vector<SpawnSpec>& ranks) {
  std::string text;
  const auto add = [&](const std::string& word) {
    text += word;
    text += '\0';
  };
  add(std::to_string(supervisor));
  add(std::to_string(ranks.size()));
  for (const SpawnSpec& rank : ranks) {
    for (const int fd : {rank.in, rank.out, rank.err}) add(std::to_string(fd));
    add(fmt::format("{}", fmt::join(rank.cpus, ",")));
    add(std::to_string(rank.env.size()));
    for (const std::string& entry : rank.env) add(entry);
  }
  return text;
}

bool NeedsLibrary(const std::string& program, std::string_view library) {
  const Fd fd(open(program.c_str(), O_RDONLY | O_CLOEXEC));
  Elf64_Ehdr header{};
  if (!fd || !ReadAt(fd.get(), 0, &header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr) ||
      header.e_phnum > 256) {
    return false;
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!ReadAt(fd.get(), header.e_phoff, segments.data(), segments.size())) return false;
  const auto dynamic = std::find_if(segments.begin(), segments.end(),
                                    [](const Elf64_Phdr& s) { return s.p_type == PT_DYNAMIC; });
  constexpr std::uint64_t kMost = 1 << 20;
  if (dynamic == segments.end() || dynamic->p_filesz > kMost) return false;
  std::vector<Elf64_Dyn> entries(dynamic->p_filesz / sizeof(Elf64_Dyn));
  if (!ReadAt(fd.get(), dynamic->p_offset, entries.data(), entries.size())) return false;
  std::uint64_t names = 0;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_STRTAB) names = entry.d_un.d_ptr;
  }
  // DT_STRTAB is an address; the segment that is loaded there says where it is in the file.
  const auto holds = std::find_if(segments.begin(), segments.end(), [&](const Elf64_Phdr& s) {
    return s.p_type == PT_LOAD && names >= s.p_vaddr && names - s.p_vaddr < s.p_filesz;
  });
  if (holds == segments.end()) return false;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag != DT_NEEDED) continue;
    std::string name(library.size() + 1, 'x');
    if (ReadAt(fd.get(), holds->p_offset + (names - holds->p_vaddr) + entry.d_un.d_val, name.data(),
               name.size()) &&
        name.compare(0, library.size(), library) == 0 && name.back() == '\0') {
      return true;
    }
  }
  return false;
}

bool CanFork(const std::vector<SpawnSpec>& ranks) {
  return ranks.size() > 1 && std::all_of(ranks.begin(), ranks.end(), [&](const SpawnSpec& rank) {
           return rank.program == ranks[0].program && rank.argv == ranks[0].argv &&
                  LoadTimeVariables(rank) == LoadTimeVariables(ranks[0]);
         });
}

std::vector<pid_t> ForkRanks(const std::vector<SpawnSpec>& ranks, int interrupt) {
  const Fd description = MemoryFile(ForkDescription(getpid(), ranks));
  int answer_ends[2];
  int go_ends[2];
  if (!description || pipe2(answer_ends, O_CLOEXEC) != 0) return {};
  const Fd answer(answer_ends[0]);
  Fd answer_here(answer_ends[1]);
  if (pipe2(go_ends, O_CLOEXEC) != 0) return {};
  Fd go_there(go_ends[0]);
  const Fd go(go_ends[1]);
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));

  SpawnSpec server = ranks[0];
  server.out = server.err = null.get();  // what it could say, ranks that are started singly say too
  server.cpus.clear();
  server.env.push_back(fmt::format("{}={},{},{}", kForkServerVariable, description.get(),
                                   answer_here.get(), go_there.get()));
  server.kept = {description.get(), answer_here.get(), go_there.get()};
  for (const SpawnSpec& rank : ranks) {
    for (const int fd : {rank.in, rank.out, rank.err}) {
      if (fd >= 0) server.kept.push_back(fd);
    }
  }
  const Spawned spawned = Spawn(server);
  if (spawned.pid < 0) return {};
  answer_here.Close();
  go_there.Close();
  std::vector<pid_t> pids = ReadPids(answer.get(), interrupt, ranks.size());
  const bool complete = pids.size() == ranks.size();
  if (!complete) kill(spawned.pid, SIGKILL);
  Reap(spawned.pid);
  const std::string bytes(ranks.size(), '.');
  if (complete && write(go.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()))
    return pids;
  return {};  // GO is closed: those that were forked end by themselves
}

}  // namespace envkit
