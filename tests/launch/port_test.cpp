#include "launch/port.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/scratch.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// As a TCPStore does it: whether PORT can be listened on; the socket stays until the end of FD.
bool Listen(int port, Fd& fd) {
  fd = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
         listen(fd.get(), 1) == 0;
}

// rank_program, listening on a port that the kernel chose.
struct Listener {
  pid_t pid = -1;
  int port = 0;

  Listener() {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    pid = fork();
    if (pid == 0) {
      dup2(write_end.get(), 1);
      execl(ENVKIT_TEST_RANK, ENVKIT_TEST_RANK, "listen", "sleep=60", nullptr);
      _exit(127);
    }
    write_end.Close();
    char text[16] = {};
    REQUIRE(read(read_end.get(), text, sizeof text - 1) > 0);
    port = std::atoi(text);
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
};

void PutFile(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  REQUIRE(WriteFileAtomic(file, text));
}

constexpr const char* kHeader =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode\n";

}  // namespace

TEST_CASE("a held port is nobody else's, and rank 0 can listen on it") {
  const HeldPort held = HoldPort(0).value();
  CHECK(held.port > 0);
  Fd rank0;
  CHECK(Listen(held.port, rank0));
  rank0.Close();
  CHECK(HoldPort(0).value().port != held.port);
}

TEST_CASE("a port that was asked for is the one that is held") {
  int wanted = 0;
  {
    const HeldPort held = HoldPort(0).value();
    wanted = held.port;
  }
  CHECK(HoldPort(wanted).value().port == wanted);
}

TEST_CASE("a taken port is an error that names who has it") {
  const Listener listener;
  const auto held = HoldPort(listener.port);
  REQUIRE(!held);
  CHECK(held.error().code == ExitCode::kMissing);
  const std::string user = FindPortHolder(listener.port).value().user;
  CHECK(held.error().Text() ==
        "error: port " + std::to_string(listener.port) + " is in use by rank_program (pid " +
            std::to_string(listener.pid) + ", user " + user +
            ": listen sleep=60)\n"
            "  Leave out --master-port to have a free one chosen, or stop that process.\n");
}

TEST_CASE("who listens on a port, from the tables of a kernel") {
  const Scratch proc;
  PutFile(proc / "net/tcp",
          std::string(kHeader) +
              "   0: 0100007F:7345 00000000:0000 01 0:0 0:0 0 0 0 111\n"
              "   1: 00000000:7345 00000000:0000 0A 0:0 0:0 0 4294901 0 12345 1\n"
              "   2: 00000000:7346 00000000:0000 0A 0:0 0:0 0 4294902 0 12346 1\n");
  PutFile(
      proc / "net/tcp6",
      std::string(kHeader) +
          "   0: 00000000000000000000000000000000:7347 0:0000 0A 0:0 0:0 0 4294903 0 12347 1\n");
  PutFile(proc / "4242/comm", "python3\n");
  PutFile(proc / "4242/cmdline", std::string("python3\0train_old.py\0--lr\0"
                                             "0.1\0",
                                             30));
  fs::create_directories(proc / "4242/fd");
  fs::create_symlink("/dev/null", proc / "4242/fd/0");
  fs::create_symlink("socket:[12345]", proc / "4242/fd/7");
  fs::create_directories(proc / "4243/fd");
  fs::create_symlink("socket:[111]", proc / "4243/fd/3");
  PutFile(proc / "77/comm", "a\n");
  PutFile(proc / "77/cmdline", std::string("a\0", 2) + std::string(100, 'x'));
  fs::create_directories(proc / "77/fd");
  fs::create_symlink("socket:[12347]", proc / "77/fd/3");

  auto holder = FindPortHolder(0x7345, proc.path());
  REQUIRE(holder);
  CHECK(holder->pid == 4242);
  CHECK(holder->program == "python3");
  CHECK(holder->arguments == "train_old.py --lr 0.1");
  CHECK(holder->user == "4294901");
  CHECK(PortTaken(29509, holder).Text() ==
        "error: port 29509 is in use by python3 (pid 4242, user 4294901: train_old.py --lr 0.1)\n"
        "  Leave out --master-port to have a free one chosen, or stop that process.\n");

  holder = FindPortHolder(0x7346, proc.path());  // no process that we may see has it
  REQUIRE(holder);
  CHECK_FALSE(holder->pid);
  CHECK(PortTaken(29510, holder).Text() ==
        "error: port 29510 is in use by a process of user 4294902 that is not visible from here\n"
        "  Leave out --master-port to have a free one chosen, or choose another port.\n");
  holder->pid = 5;
  holder->program = "python3";
  holder->may_stop = false;  // it is another user's
  CHECK(PortTaken(29510, holder).Text() ==
        "error: port 29510 is in use by python3 (pid 5, user 4294902)\n"
        "  Leave out --master-port to have a free one chosen, or choose another port.\n");

  holder = FindPortHolder(0x7347, proc.path());  // IPv6, and a long command line
  REQUIRE(holder);
  CHECK(holder->pid == 77);
  CHECK(holder->arguments == std::string(60, 'x') + "…");

  CHECK_FALSE(FindPortHolder(0x7348, proc.path()));
  CHECK(PortTaken(29512, std::nullopt).Text() ==
        "error: port 29512 is in use\n"
        "  Leave out --master-port to have a free one chosen, or choose another port.\n");
}

}  // namespace envkit
