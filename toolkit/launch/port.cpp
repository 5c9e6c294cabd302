#include "launch/port.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::string ReadAll(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string UserName(unsigned uid) {
  passwd entry{};
  passwd* found = nullptr;
  char buffer[4096];
  if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) == 0 && found != nullptr) {
    return found->pw_name;
  }
  return std::to_string(uid);
}

// Binds without listening; errno says why not. One dual-stack socket holds the port for IPv4 too.
int Bind(int family, int port, Fd& held) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno;
  const int on = 1;
  const int off = 0;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_storage address{};
  socklen_t length = 0;
  if (family == AF_INET6) {
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    auto& in6 = reinterpret_cast<sockaddr_in6&>(address);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(static_cast<std::uint16_t>(port));
    length = sizeof in6;
  } else {
    auto& in4 = reinterpret_cast<sockaddr_in&>(address);
    in4.sin_family = AF_INET;
    in4.sin_port = htons(static_cast<std::uint16_t>(port));
    length = sizeof in4;
  }
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0) return errno;
  held = std::move(fd);
  return 0;
}

int BoundPort(const Fd& fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

struct Listener {
  unsigned uid = 0;
  std::string inode;
};

// Columns: sl local remote st queues timer retransmits uid timeout inode …
std::optional<Listener> FindListener(const fs::path& table, int port) {
  std::ifstream in(table);
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string slot, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
    words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >>
        inode;
    const std::size_t colon = local.rfind(':');
    if (state != "0A" || colon == std::string::npos) continue;
    if (std::strtol(local.c_str() + colon + 1, nullptr, 16) != port) continue;
    return Listener{static_cast<unsigned>(std::strtoul(uid.c_str(), nullptr, 10)), inode};
  }
  return std::nullopt;
}

std::optional<int> FindSocketOwner(const fs::path& proc, const std::string& inode) {
  const std::string wanted = "socket:[" + inode + "]";
  std::error_code error;
  for (const auto& process : fs::directory_iterator(proc, error)) {
    const std::string name = process.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code unreadable;
    for (const auto& fd : fs::directory_iterator(process.path() / "fd", unreadable)) {
      if (fs::read_symlink(fd.path(), unreadable) == wanted) return std::atoi(name.c_str());
    }
  }
  return std::nullopt;
}

// A name in the abstract namespace, which each network namespace has its own of, and which is free
// again when its last holder ends, however that ends.
std::string ClaimName(int port) { return fmt::format("envkit-launch/port/{}", port); }

// False: another launch has it.
bool Claim(int port, Fd& held) {
  const std::string name = ClaimName(port);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return true;
  const bool bound = bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0;
  if (!bound && errno == EADDRINUSE) return false;
  if (bound) held = std::move(fd);
  return true;
}

std::string Shortened(std::string text, std::size_t limit) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  if (text.size() > limit) text = text.substr(0, limit) + "…";
  return text;
}

PortHolder Describe(unsigned uid, const std::string& inode, const fs::path& proc) {
  PortHolder holder;
  holder.user = UserName(uid);
  holder.may_stop = geteuid() == 0 || geteuid() == uid;
  holder.pid = FindSocketOwner(proc, inode);
  if (!holder.pid) return holder;
  const fs::path process = proc / std::to_string(*holder.pid);
  holder.program = Shortened(ReadAll(process / "comm"), 40);
  const std::string command = ReadAll(process / "cmdline");
  const std::size_t first = command.find('\0');
  if (first != std::string::npos) holder.arguments = Shortened(command.substr(first + 1), 60);
  return holder;
}

}  // namespace

Result<HeldPort> HoldPort(int wanted) {
  HeldPort held;
  if (wanted != 0 && !Claim(wanted, held.claim)) {
    auto holder = FindPortHolder(wanted);  // its rank 0, once that listens
    return Unexpected(PortTaken(wanted, holder ? holder : FindClaimHolder(wanted)));
  }
  int error = Bind(AF_INET6, wanted, held.socket);
  if (error == EAFNOSUPPORT || error == EADDRNOTAVAIL || error == EPROTONOSUPPORT) {
    error = Bind(AF_INET, wanted, held.socket);  // IPv6 is switched off here
  }
  if (error == EADDRINUSE && wanted != 0) {
    return Unexpected(PortTaken(wanted, FindPortHolder(wanted)));
  }
  if (error == EACCES) {
    return Missing(fmt::format("port {} may only be used by root", wanted),
                   "Leave out --master-port to have a free one chosen, or name one above 1023.");
  }
  if (error != 0) {
    return Missing(fmt::format("no port for the ranks to meet at: {}", std::strerror(error)));
  }
  held.port = BoundPort(held.socket);
  // A launch that was told to use the very port that we were given: there are others.
  if (wanted == 0 && !Claim(held.port, held.claim)) return HoldPort(0);
  return held;
}

std::optional<PortHolder> FindPortHolder(int port, const fs::path& proc) {
  auto listener = FindListener(proc / "net/tcp", port);
  if (!listener) listener = FindListener(proc / "net/tcp6", port);
  if (!listener) return std::nullopt;
  return Describe(listener->uid, listener->inode, proc);
}

// Columns: address references protocol flags type state inode path; "@" stands for the 0 byte.
std::optional<PortHolder> FindClaimHolder(int port, const fs::path& proc) {
  std::ifstream in(proc / "net/unix");
  const std::string wanted = "@" + ClaimName(port);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string address, references, protocol, flags, type, state, inode, path;
    words >> address >> references >> protocol >> flags >> type >> state >> inode >> path;
    if (path != wanted) continue;
    const auto pid = FindSocketOwner(proc, inode);
    struct stat info {};
    const std::string process = (proc / std::to_string(pid.value_or(0))).string();
    const bool known = pid && stat(process.c_str(), &info) == 0;
    PortHolder holder = Describe(known ? info.st_uid : geteuid(), inode, proc);
    if (!known) holder.user = "another";
    holder.may_stop = known && holder.may_stop;
    return holder;
  }
  return std::nullopt;
}

Error PortTaken(int port, const std::optional<PortHolder>& holder) {
  Error error;
  error.code = ExitCode::kMissing;
  error.what = fmt::format("port {} is in use", port);
  std::string stop = "choose another port";
  if (holder && holder->may_stop && holder->pid) stop = "stop that process";
  if (holder && holder->pid) {
    error.what +=
        fmt::format(" by {} (pid {}, user {}{}{})", holder->program, *holder->pid, holder->user,
                    holder->arguments.empty() ? "" : ": ", holder->arguments);
  } else if (holder) {
    error.what +=
        fmt::format(" by a process of user {} that is not visible from here", holder->user);
  }
  error.next = "Leave out --master-port to have a free one chosen, or " + stop + ".";
  return error;
}

}  // namespace envkit
