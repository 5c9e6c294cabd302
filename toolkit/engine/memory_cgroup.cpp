#include "engine/memory_cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

namespace envkit {
namespace {

namespace fs = std::filesystem;

const char* const kMount = "/sys/fs/cgroup";

bool WriteTo(const fs::path& file, const std::string& text) {
  int fd = open(file.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int error = errno;
  close(fd);
  errno = error;
  return written;
}

// Left by an envkit that was killed: empty by then, since its processes died with it.
void RemoveStale(const fs::path& parent) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename();
    if (name.rfind("envkit-", 0) != 0) continue;
    const int pid = std::atoi(name.c_str() + 7);
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) rmdir(entry.path().c_str());
  }
}

struct Place {
  fs::path parent;
  const char* limit;
};

// Where a cgroup of ours could be: below the hierarchy's root for root, else beside our own.
std::vector<Place> Places() {
  std::vector<Place> places;
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path own = fs::path(line.substr(second + 1)).relative_path();
    if (controllers == "memory") {
      places.push_back({fs::path(kMount) / "memory" / own, "memory.limit_in_bytes"});
    } else if (controllers.empty() && fs::exists(fs::path(kMount) / "cgroup.controllers")) {
      if (geteuid() == 0) places.push_back({kMount, "memory.max"});
      places.push_back({fs::path(kMount) / own.parent_path(), "memory.max"});
    }
  }
  return places;
}

}  // namespace

Result<MemoryCgroup> MemoryCgroup::Make(std::uint64_t bytes) {
  std::string happened = "no memory controller is mounted below /sys/fs/cgroup";
  for (const Place& place : Places()) {
    RemoveStale(place.parent);
    MemoryCgroup group;
    group.directory_ = place.parent / fmt::format("envkit-{}", getpid());
    if (mkdir(group.directory_.c_str(), 0755) != 0) {
      happened = ErrnoText("mkdir " + group.directory_.string());
      continue;
    }
    if (WriteTo(group.directory_ / place.limit, std::to_string(bytes))) return group;
    happened = ErrnoText("writing " + (group.directory_ / place.limit).string());
    rmdir(group.directory_.c_str());
  }
  return Missing("--memory needs a cgroup, and none can be made here: " + happened,
                 "Start it in a scope that has the limit:  systemd-run --user --scope -p "
                 "MemoryMax=… envkit run …\nor use a daemon:  --engine docker");
}

Result<void> MemoryCgroup::Join() const {
  if (WriteTo(directory_ / "cgroup.procs", "0")) return {};
  return Missing("--memory needs a cgroup, and none can be entered here: " +
                     ErrnoText("writing " + (directory_ / "cgroup.procs").string()),
                 "Start it in a scope that has the limit:  systemd-run --user --scope -p "
                 "MemoryMax=… envkit run …\nor use a daemon:  --engine docker");
}

void MemoryCgroup::Remove() const { rmdir(directory_.c_str()); }

}  // namespace envkit
