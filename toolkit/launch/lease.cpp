#include "launch/lease.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <sstream>
#include <system_error>

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Other users' files cannot be opened with O_CREAT in a sticky directory (fs.protected_regular).
Fd OpenLease(const fs::path& file) {
  for (int tries = 0; tries < 3; ++tries) {
    Fd fd(open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (fd || errno == EACCES)
      return fd ? std::move(fd) : Fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (errno != ENOENT) return fd;
    fd = Fd(open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (fd) {
      fchmod(fd.get(), 0666);  // whatever our umask is: the next holder may be another user
      return fd;
    }
    if (errno != EEXIST) return fd;
  }
  return Fd();
}

std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
  return text;
}

// Anybody may have written it: one line, no control characters, not longer than a screen's.
std::string Tame(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  }
  if (text.size() > 120) text = text.substr(0, 120) + "…";
  return text;
}

// Pids are its own: "pid:[4026531836]".
std::string PidSpace() {
  std::error_code error;
  return fs::read_symlink("/proc/self/ns/pid", error).string();
}

struct Holder {
  std::string pid, command, since, space;
  bool shares = false;
};

Holder ReadHolder(const Fd& fd) {
  char buffer[1024];
  const ssize_t got = pread(fd.get(), buffer, sizeof buffer, 0);
  std::istringstream lines(
      std::string(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0))));
  Holder holder;
  std::string shares;
  std::getline(lines, holder.pid);
  std::getline(lines, holder.command);
  std::getline(lines, holder.since);
  std::getline(lines, holder.space);
  std::getline(lines, shares);
  holder.pid = Tame(holder.pid);
  holder.command = Tame(holder.command);
  holder.since = Tame(holder.since);
  holder.shares = shares == "shared";
  return holder;
}

void WriteHolder(const Fd& fd, const LeasePlan& plan) {
  const std::string text = fmt::format("{}\n{}\n{}\n{}\n{}\n", getpid(), Tame(plan.holder), Now(),
                                       PidSpace(), plan.share ? "shared" : "alone");
  if (ftruncate(fd.get(), 0) == 0) {
    [[maybe_unused]] const auto written = pwrite(fd.get(), text.data(), text.size(), 0);
  }
}

}  // namespace

fs::path LeaseDirectory(const char* named) {
  if (named != nullptr) return named;
  for (const char* directory : {"/run/lock", "/tmp"}) {
    if (access(directory, W_OK | X_OK) == 0) return directory;
  }
  return {};
}

Result<Leases> TakeLeases(const LeasePlan& plan) {
  Leases leases;
  if (plan.directory.empty()) return leases;
  for (const auto& [key, name] : plan.gpus) {
    std::string file_name = "envkit-gpu-" + key;
    std::replace(file_name.begin(), file_name.end(), '/', '_');
    const fs::path file = plan.directory / file_name;
    Fd fd = OpenLease(file);
    int error = errno;
    if (fd && flock(fd.get(), (plan.share ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
      WriteHolder(fd, plan);
      leases.held.push_back(std::move(fd));
      continue;
    }
    if (fd) error = errno;
    if (fd && error == EWOULDBLOCK) {
      if (plan.share) continue;  // whoever has it wants it alone, and we were told to go on
      const Holder holder = ReadHolder(fd);
      const std::string who =
          holder.pid.empty()
              ? "another launch"
              : fmt::format("{} (launcher pid {}{}, since {}{})", holder.command, holder.pid,
                            holder.space == PidSpace() ? "" : " in another PID namespace",
                            holder.since, holder.shares ? ", with --share" : "");
      return Missing(fmt::format("GPU {} trains already: {}", name, who),
                     "Wait for it or end it, choose other GPUs (--gpu-ids), or let both have it: "
                     "--share");
    }
    leases.notes.push_back(fmt::format("GPU {} is used without a lease: {}: {}", name,
                                       file.string(), std::strerror(error)));
  }
  return leases;
}

}  // namespace envkit
