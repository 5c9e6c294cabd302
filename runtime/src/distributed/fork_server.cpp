// The ranks' side of toolkit/launch/fork_server.h: while this library is initialised, which is
// after all of LibTorch and before main, the process that the launcher asks to becomes its ranks.
// No thread exists yet, and nothing of LibTorch has been used.
#include "launch/fork_server.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace envkit {
namespace {

struct ForkedRank {
  int standard[3] = {-1, -1, -1};
  std::vector<int> cpus;
  std::vector<char*> env;
};

// The description's words, one after the other; they live as long as the process.
class Words {
 public:
  explicit Words(int fd) {
    struct stat info {};
    if (fstat(fd, &info) != 0) return;
    text_ = new std::string(static_cast<std::size_t>(info.st_size), '\0');
    if (pread(fd, text_->data(), text_->size(), 0) != info.st_size) text_->clear();
  }
  char* Next() {
    char* const word = text_ != nullptr && at_ < text_->size() ? text_->data() + at_ : empty_;
    at_ += std::char_traits<char>::length(word) + 1;
    return word;
  }
  int Number() { return std::atoi(Next()); }

 private:
  std::string* text_ = nullptr;
  std::size_t at_ = 0;
  char empty_[1] = {};
};

std::vector<int> Numbers(const char* text) {
  std::vector<int> numbers;
  char* end = nullptr;
  for (long number = std::strtol(text, &end, 10); end != text;
       number = std::strtol(text, &end, 10)) {
    numbers.push_back(static_cast<int>(number));
    text = *end == ',' ? end + 1 : end;
  }
  return numbers;
}

// In a rank that was forked: what Spawn in toolkit/launch does between vfork and execve.
void BecomeRank(const ForkedRank& rank, const std::vector<int>& others, pid_t supervisor, int go) {
  setsid();
  for (int i = 0; i < 3; ++i)
    if (rank.standard[i] >= 0) dup2(rank.standard[i], i);
  char byte = 0;
  ssize_t got = 0;
  while ((got = read(go, &byte, 1)) < 0 && errno == EINTR) {
  }
  if (got != 1) _exit(127);  // the launcher has given up on forking, or is gone
  for (const int fd : others)
    if (fd > 2) close(fd);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != supervisor) _exit(127);
  if (!rank.cpus.empty()) {
    const int most = *std::max_element(rank.cpus.begin(), rank.cpus.end()) + 1;
    cpu_set_t* const cpus = CPU_ALLOC(static_cast<std::size_t>(most));
    const std::size_t size = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    CPU_ZERO_S(size, cpus);
    for (const int cpu : rank.cpus) CPU_SET_S(static_cast<std::size_t>(cpu), size, cpus);
    sched_setaffinity(0, size, cpus);
    CPU_FREE(cpus);
  }
  environ = (new std::vector<char*>(rank.env))->data();
}

__attribute__((constructor)) void ServeForks() {
  const char* const variable = std::getenv(kForkServerVariable);
  if (variable == nullptr) return;
  const std::vector<int> ends = Numbers(variable);
  unsetenv(kForkServerVariable);
  if (ends.size() != 3) _exit(127);
  const int description = ends[0], answer = ends[1], go = ends[2];
  Words words(description);
  const pid_t supervisor = words.Number();
  std::vector<ForkedRank> ranks(static_cast<std::size_t>(words.Number()));
  std::vector<int> descriptors = ends;
  for (ForkedRank& rank : ranks) {
    for (int& fd : rank.standard) {
      fd = words.Number();
      descriptors.push_back(fd);
    }
    rank.cpus = Numbers(words.Next());
    for (int count = words.Number(); count > 0; --count) rank.env.push_back(words.Next());
    rank.env.push_back(nullptr);
  }
  std::vector<pid_t> pids;
  for (const ForkedRank& rank : ranks) {
    const pid_t pid = fork();
    if (pid == 0) return BecomeRank(rank, descriptors, supervisor, go);
    if (pid < 0) _exit(127);  // the launcher closes GO then, which ends those that were forked
    pids.push_back(pid);
  }
  const auto size = static_cast<ssize_t>(pids.size() * sizeof(pid_t));
  _exit(write(answer, pids.data(), static_cast<std::size_t>(size)) == size ? 0 : 127);
}

}  // namespace
}  // namespace envkit
