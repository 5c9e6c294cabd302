#include "session/place.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <sstream>

#include "base/digest.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Below Linux's ports for outgoing connections (32768…) and Kubernetes' own (30000…).
constexpr unsigned kFirstPort = 20000, kPorts = 10000;

// The file as the topmost layer that has it shows it.
std::string FromImage(const std::vector<fs::path>& layer_trees, const char* name) {
  for (auto tree = layer_trees.rbegin(); tree != layer_trees.rend(); ++tree) {
    if (auto text = ReadFile(*tree / "etc" / name)) return *text;
  }
  return "";
}

// TEXT without the lines of that name or number.
std::string Without(const std::string& text, const std::string& name, const std::string& number) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string entry, password, id;
    std::getline(fields, entry, ':');
    std::getline(fields, password, ':');
    std::getline(fields, id, ':');
    if (entry != name && id != number && !line.empty()) kept += line + "\n";
  }
  return kept;
}

}  // namespace

Result<SessionPlace> FindSessionPlace(const fs::path& project_root,
                                      const std::string& project_name) {
  SessionPlace place;
  const char* given = std::getenv("XDG_STATE_HOME");
  if (given != nullptr && *given == '/') {
    place.state = fs::path(given) / "envkit";
  } else {
    const char* home = std::getenv("HOME");
    if (home == nullptr || *home != '/') {
      return Missing("HOME is not set, and sessions keep their keys below it",
                     "Set it, or XDG_STATE_HOME.");
    }
    place.state = fs::path(home) / ".local/state/envkit";
  }
  place.id = project_name + "-" + Sha256Of(project_root.string()).substr(0, 8);
  place.directory = place.state / "sessions" / place.id;
  return place;
}

Result<void> MakePrivateDirectory(const fs::path& directory) {
  ENVKIT_CHECK(MakeDirectories(directory.parent_path()));
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return FileFailure("making", directory, errno);
  }
  struct stat status {};
  if (lstat(directory.c_str(), &status) != 0) return FileFailure("reading", directory, errno);
  if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid()) {
    return Fail(fmt::format("{} is not a directory of this user's own", directory.string()),
                "Move it away: keys and tokens are to be kept there.");
  }
  if ((status.st_mode & 0077) != 0 && chmod(directory.c_str(), 0700) != 0) {
    return FileFailure("closing to others", directory, errno);
  }
  return {};
}

Result<JobPlace> MakeJobPlace(const SessionPlace& place) {
  ENVKIT_CHECK(MakePrivateDirectory(place.directory));
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(place.directory, ignored)) {
    if (!entry.path().filename().string().starts_with("job-")) continue;
    bool busy = true;
    const auto lock = FileLock::TryAcquire(entry.path() / "lock", busy);
    if (lock && !busy) (void)RemoveTree(entry.path());
  }
  // Not under its final name before it is locked: another envkit may be tidying up.
  ENVKIT_TRY(const fs::path made, MakeTempDirectory(place.directory, ".job"));
  ENVKIT_CHECK(MakePrivateDirectory(made));
  ENVKIT_TRY(FileLock lock, FileLock::Acquire(made / "lock"));
  const fs::path final = place.directory / made.filename().string().substr(1);
  if (rename(made.c_str(), final.c_str()) != 0) return FileFailure("making", final, errno);
  return JobPlace{final, std::move(lock)};
}

Result<std::string> RandomToken() {
  unsigned char bytes[24];
  if (getrandom(bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes)) {
    return Fail(ErrnoText("getrandom"));
  }
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

bool IsFreePort(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;  // as servers bind: what a connection of before left there does not count
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool free = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return free;
}

bool PortAnswers(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool answers =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return answers;
}

Result<int> StablePort(const SessionPlace& place, const std::string& service,
                       const std::function<bool(int)>& is_free) {
  const std::string digest =
      Sha256Of(fmt::format("{}\n{}\n{}", geteuid(), place.directory.string(), service));
  const unsigned start = static_cast<unsigned>(std::stoul(digest.substr(0, 7), nullptr, 16));
  constexpr unsigned kStep = 37;  // prime to the number of ports, so that all are tried
  for (unsigned i = 0; i < kPorts; ++i) {
    const int port = static_cast<int>(kFirstPort + (start + i * kStep) % kPorts);
    if (is_free(port)) return port;
  }
  return Fail(fmt::format("no port between {} and {} is free on 127.0.0.1", kFirstPort,
                          kFirstPort + kPorts - 1));
}

Accounts AccountsOf(const std::vector<fs::path>& layer_trees, unsigned uid, unsigned gid,
                    const std::string& user, bool foreign_groups) {
  const std::string name = user.empty() ? "envkit" : user;
  Accounts accounts;
  accounts.passwd = Without(FromImage(layer_trees, "passwd"), name, std::to_string(uid));
  accounts.passwd += fmt::format("{}:x:{}:{}::/home/envkit:/bin/bash\n", name, uid, gid);
  std::string groups = FromImage(layer_trees, "group");
  if (!foreign_groups) groups = Without(groups, "tty", "5");
  const std::string number = std::to_string(gid);
  // Its name in the image, where the image knows the number.
  const bool known = Without(groups, "", number) != Without(groups, "", "");
  if (!known) groups = Without(groups, name, number) + fmt::format("{}:x:{}:\n", name, gid);
  accounts.group = groups;
  return accounts;
}

}  // namespace envkit
