// Ranks as processes of a test's own.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

namespace envkit {

// In a process of its own, before it has threads. A sandbox without a network has its loopback
// interface down: then another namespace, in which it may be up. Returns a port, 0 if there is
// none.
inline int FreePort() {
  for (int attempt = 0; attempt < 2; ++attempt) {
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ifreq loopback{};
    loopback.ifr_name[0] = 'l';
    loopback.ifr_name[1] = 'o';
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    const bool up = ioctl(descriptor, SIOCGIFFLAGS, &loopback) == 0 &&
                    (loopback.ifr_flags & IFF_UP) != 0 &&
                    bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                    getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0;
    close(descriptor);
    if (up) return ntohs(address.sin_port);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return 0;
    const int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    loopback.ifr_flags = IFF_UP | IFF_RUNNING;
    const bool raised = ioctl(other, SIOCSIFFLAGS, &loopback) == 0;
    close(other);
    if (!raised) return 0;
  }
  return 0;
}

inline constexpr int kNoNetwork = 77;

// Runs a program as WORLD ranks, and returns the first exit code that is not 0. PER_HOST of them
// take this machine for a host of its own; 0: all.
inline int RunProgram(int world, const std::vector<std::string>& arguments, int per_host = 0) {
  if (per_host == 0) per_host = world;
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = fork();
  if (parent == 0) {
    const int port = FreePort();
    if (port == 0) _exit(kNoNetwork);
    setenv("OMP_NUM_THREADS", "1", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("MASTER_PORT", std::to_string(port).c_str(), 1);
    // As ranks of several hosts they would look for an address that is no loopback.
    if (per_host < world) setenv("GLOO_SOCKET_IFNAME", "lo", 1);
    const auto set = [](const char* name, int value) {
      setenv(name, std::to_string(value).c_str(), 1);
    };
    set("WORLD_SIZE", world);
    for (int rank = 0; rank < world; ++rank) {
      set("RANK", rank);
      set("LOCAL_RANK", rank % per_host);
      set("LOCAL_WORLD_SIZE", std::min(per_host, world - rank / per_host * per_host));
      if (fork() != 0) continue;
      execv(argv[0], argv.data());
      _exit(127);
    }
    int code = 0;
    for (int status = 0; wait(&status) > 0;)
      if (code == 0) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    _exit(code);
  }
  int status = 0;
  REQUIRE(waitpid(parent, &status, 0) == parent);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The same for test case CHILD of this program.
inline int RunRanks(int world, const std::string& child, int per_host = 0) {
  return RunProgram(world, {"/proc/self/exe", "--test-case=" + child, "--no-skip", "--minimal"},
                    per_host);
}

}  // namespace envkit
