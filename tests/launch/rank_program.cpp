// A rank that does as it is told: rank_program STEP…, one after the other. A step may be meant for
// one rank alone: "2:exit=3".
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

extern char** environ;

namespace {

void Sleep(double seconds) {
  timespec time{
      static_cast<time_t>(seconds),
      static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
  while (nanosleep(&time, &time) != 0) {
  }
}

void Write(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = write(fd, text.data(), text.size());
    if (wrote < 0) _exit(99);
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

// A grandchild: out of the rank's session, its parent gone, deaf to SIGTERM where DEAF.
void Daemon(bool deaf) {
  int ends[2];
  if (pipe(ends) != 0) _exit(98);
  if (fork() == 0) {
    setsid();
    if (fork() == 0) {
      if (deaf) signal(SIGTERM, SIG_IGN);
      close(ends[0]);
      Write(ends[1], "x");
      Sleep(1000);
    }
    _exit(0);
  }
  char ready = 0;
  if (read(ends[0], &ready, 1) != 1) _exit(98);
  close(ends[0]);
  close(ends[1]);
}

// As rank 0's TCPStore does it; prints the port, which the kernel chooses for PORT 0.
void Listen(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd, generic, length) != 0 || listen(fd, 1) != 0) _exit(97);
  getsockname(fd, generic, &length);
  Write(1, std::to_string(ntohs(address.sin_port)) + "\n");
}

void Step(const std::string& name, const std::string& value) {
  const std::string rank = std::getenv("RANK") ? std::getenv("RANK") : "-";
  const auto exit_with = [](int) { _exit(std::atoi(std::getenv("EXIT_ON_SIGNAL"))); };
  if (name == "exit") _exit(std::atoi(value.c_str()));
  if (name == "once") {  // FILE,CODE: ends with CODE unless FILE is there already
    const std::string file = value.substr(0, value.find(','));
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd >= 0) _exit(std::atoi(value.c_str() + value.find(',') + 1));
  }
  if (name == "raise") {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    raise(std::atoi(value.c_str()));
  }
  if (name == "sleep") Sleep(std::atof(value.c_str()));
  if (name == "spin") {
    for (volatile bool on = true; on;) {
    }
  }
  if (name == "print") Write(1, value + "\n");
  if (name == "part") Write(1, value);  // no end of line
  if (name == "error") Write(2, value + "\n");
  if (name == "daemon") Daemon(value == "deaf");
  if (name == "worker" && fork() == 0) Sleep(1000);  // an ordinary child
  if (name == "ignore") signal(std::atoi(value.c_str()), SIG_IGN);
  if (name == "on-signal") {  // SIGNAL,CODE
    setenv("EXIT_ON_SIGNAL", value.substr(value.find(',') + 1).c_str(), 1);
    signal(std::atoi(value.c_str()), exit_with);
  }
  if (name == "stop") raise(SIGSTOP);
  if (name == "flood") {  // COUNT numbered lines
    std::string block;
    for (long i = 0, count = std::atol(value.c_str()); i < count; ++i) {
      block += "line " + rank + " " + std::to_string(i) + "\n";
      if (block.size() > 8000 || i + 1 == count) Write(1, std::exchange(block, ""));
    }
  }
  if (name == "cat") {  // standard input to standard output
    char buffer[4096];
    ssize_t got = 0;
    while ((got = read(0, buffer, sizeof buffer)) > 0) {
      Write(1, std::string_view(buffer, static_cast<std::size_t>(got)));
    }
  }
  if (name == "env") {
    nlohmann::json all;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string text(*entry);
      all[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
    }
    all["pid"] = getpid();
    all["session"] = getsid(0);
    sigset_t mask;
    sigprocmask(SIG_SETMASK, nullptr, &mask);
    for (int s = 1; s < 32; ++s) {
      if (sigismember(&mask, s) == 1) all["blocked"] += s;
    }
    Write(1, all.dump() + "\n");
  }
  if (name == "clock") {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    Write(1, std::to_string(now.tv_sec * 1'000'000'000L + now.tv_nsec) + "\n");
  }
  if (name == "error-file") {  // as torch's @record writes it
    const nlohmann::json content = {
        {"message", {{"message", value}, {"extraInfo", {{"timestamp", "1"}}}}}};
    const int fd = open(std::getenv("TORCHELASTIC_ERROR_FILE"), O_WRONLY | O_CREAT, 0644);
    Write(fd, content.dump());
    close(fd);
  }
  if (name == "listen") Listen(value == "master" ? std::atoi(std::getenv("MASTER_PORT")) : 0);
  if (name == "wait") {  // for a file
    while (access(value.c_str(), F_OK) != 0) Sleep(0.005);
  }
  if (name == "touch") close(open(value.c_str(), O_WRONLY | O_CREAT, 0644));
}

}  // namespace

int main(int argc, char** argv) {
  const char* rank = std::getenv("RANK");
  for (int i = 1; i < argc; ++i) {
    std::string step(argv[i]);
    const std::size_t colon = step.find(':');
    const std::size_t equals = step.find('=');
    if (colon != std::string::npos && (equals == std::string::npos || colon < equals)) {
      if (rank == nullptr || step.substr(0, colon) != rank) continue;
      step = step.substr(colon + 1);
    }
    const std::size_t split = std::min(step.find('='), step.size());
    Step(step.substr(0, split), split < step.size() ? step.substr(split + 1) : "");
  }
  return 0;
}
