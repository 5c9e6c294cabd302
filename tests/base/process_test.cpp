#include "base/process.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/scratch.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;

// A zombie waits only for some init to look: it is not alive.
bool Alive(pid_t pid) {
  const std::string stat = ReadFile("/proc/" + std::to_string(pid) + "/stat").value_or("");
  const std::size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && stat.substr(name_end + 2, 1) != "Z";
}

bool EndsSoon(pid_t pid) {
  for (int i = 0; i < 200 && Alive(pid); ++i) std::this_thread::sleep_for(10ms);
  return !Alive(pid);
}

std::string Child() { return ENVKIT_TEST_CHILD; }

}  // namespace

TEST_CASE("a program's output, error output and exit code come back") {
  const auto result = RunProcess({.argv = {"sh", "-c", "echo out; echo err >&2; exit 7"}});
  REQUIRE(result);
  CHECK(result->exit_code == 7);
  CHECK(result->out == "out\n");
  CHECK(result->err == "err\n");
}

TEST_CASE("a signal is 128 plus its number") {
  const auto result = RunProcess({.argv = {"sh", "-c", "kill -9 $$"}});
  REQUIRE(result);
  CHECK(result->exit_code == 137);
}

TEST_CASE("input and output larger than any pipe do not block each other") {
  const std::string input(5'000'000, 'i');
  const auto result = RunProcess({.argv = {Child(), "flood", "3000000"}, .input = input});
  REQUIRE(result);
  CHECK(result->out.size() == 3'000'007);
  CHECK(result->out.substr(3'000'000) == "5000000");
  CHECK(result->err.size() == 3'000'000);
}

TEST_CASE("a program that does not read its input does no harm") {
  const auto result = RunProcess({.argv = {"true"}, .input = std::string(1'000'000, 'x')});
  REQUIRE(result);
  CHECK(result->exit_code == 0);
}

TEST_CASE("without input a program reads nothing") {
  CHECK(RunForOutput({.argv = {"cat"}}).value().empty());
}

TEST_CASE("directory, environment and discarded output are as asked") {
  const Scratch scratch;
  REQUIRE(setenv("ENVKIT_TEST_GONE", "1", 1) == 0);
  const auto result = RunProcess(
      {.argv = {"sh", "-c", "pwd -P; echo $ENVKIT_TEST_NEW-$ENVKIT_TEST_GONE; echo x >&2"},
       .cwd = scratch.path(),
       .env = {{"ENVKIT_TEST_NEW", "new"}},
       .env_unset = {"ENVKIT_TEST_GONE"},
       .err = Stream::kDiscard});
  REQUIRE(result);
  CHECK(result->out == std::filesystem::canonical(scratch.path()).string() + "\nnew-\n");
  CHECK(result->err.empty());
}

TEST_CASE("on_line sees each line while the program runs, the last one too") {
  std::vector<std::string> lines;
  double first = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto result =
      RunProcess({.argv = {"sh", "-c", "echo one; sleep 0.3; printf 'two\\r\\nthree'"},
                  .on_line = [&](std::string_view line) {
                    if (lines.empty()) first = SecondsSince(start);
                    lines.emplace_back(line);
                  }});
  REQUIRE(result);
  CHECK(lines == std::vector<std::string>{"one", "two", "three"});
  CHECK(first < SecondsSince(start) - 0.2);
}

TEST_CASE("a timeout stops the whole process group and says so") {
  const Scratch scratch;
  const auto start = std::chrono::steady_clock::now();
  const auto result =
      RunProcess({.argv = {"sh", "-c", "sleep 60 & echo $! > pid; echo working; sleep 60"},
                  .cwd = scratch.path(),
                  .timeout = 300ms});
  CHECK(SecondsSince(start) < 5);
  REQUIRE(!result);
  CHECK(result.error().Text() ==
        "error: sh did not end within 0.3 s and was stopped; its last lines:\nworking\n");
  CHECK(EndsSoon(std::stoi(ReadFile(scratch / "pid").value())));
}

TEST_CASE("a program that left a daemon behind is not waited for") {
  const auto start = std::chrono::steady_clock::now();
  const auto result = RunProcess({.argv = {"sh", "-c", "sleep 5 & echo started"}});
  REQUIRE(result);
  CHECK(result->out == "started\n");
  CHECK(SecondsSince(start) < 3);
}

TEST_CASE("a new process group only for a timeout without a terminal's input") {
  const auto group = [](ProcessSpec spec) {
    spec.argv = {Child(), "group"};
    const std::string out = RunForOutput(std::move(spec)).value();
    const auto space = out.find(' ');
    return out.substr(0, space) == out.substr(space + 1);
  };
  CHECK(group({.timeout = 10s}));
  CHECK(!group({}));
  CHECK(!group({.inherit_input = true, .timeout = 10s}));
}

TEST_CASE("Boost.Process 1.81: descriptors do not leak into the child") {
  const Scratch scratch;
  const int leaky = open("/dev/null", O_RDONLY);  // without O_CLOEXEC, as libraries open them
  const int high = fcntl(leaky, F_DUPFD, 200);
  REQUIRE(high >= 200);
  CHECK(RunForOutput({.argv = {Child(), "descriptors"}}).value() == "0 1 2 ");
  close(leaky);
  close(high);
}

TEST_CASE("Boost.Process 1.81: a program that cannot start does not print our output twice") {
  const Scratch scratch;
  const auto script = scratch / "script";
  REQUIRE(WriteFileAtomic(script, "#!/nonexistent/interpreter\n", 0755));
  for (const std::string& program : {script.string(), std::string("envkit-no-such-program")}) {
    const auto result = RunProcess({.argv = {Child(), "buffered-then-run", program}});
    REQUIRE(result);
    for (const std::string word : {"once", "twice", "exit", "failed"}) {
      CAPTURE(word);
      CHECK(result->out.find(word) != std::string::npos);
      CHECK(result->out.find(word) == result->out.rfind(word));
    }
  }
  // Nor does it leave a zombie.
  const auto failed = RunProcess({.argv = {script.string()}});
  REQUIRE(!failed);
  CHECK(failed.error().Text() ==
        "error: " + script.string() + " could not be started: No such file or directory\n");
  CHECK(waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("what we printed comes before what a child prints") {
  CHECK(RunForOutput({.argv = {Child(), "buffered-then-echo"}}).value() == "before after\n");
}

TEST_CASE("Boost.Process 1.81: output is captured also where our own descriptors are closed") {
  CHECK(RunProcess({.argv = {Child(), "no-standard-run"}}).value().exit_code == 0);
}

TEST_CASE("the child gets SIGTERM when we die") {
  const Scratch scratch;
  const std::string command = "echo $$ > " + (scratch / "pid").string() + "; exec sleep 60";
  const pid_t parent = fork();
  if (parent == 0) {
    execl(ENVKIT_TEST_CHILD, ENVKIT_TEST_CHILD, "run-and-wait", command.c_str(), nullptr);
    _exit(127);
  }
  std::string pid;
  for (int i = 0; i < 500 && pid.find('\n') == std::string::npos; ++i) {
    std::this_thread::sleep_for(10ms);
    pid = ReadFile(scratch / "pid").value_or("");
  }
  REQUIRE(!pid.empty());
  REQUIRE(Alive(std::stoi(pid)));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  CHECK(EndsSoon(std::stoi(pid)));
}

TEST_CASE("many threads start programs at once") {
  std::vector<std::jthread> threads;
  threads.reserve(8);
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&right, i] {
      for (int k = 0; k < 5; ++k) {
        const auto result =
            RunProcess({.argv = {"sh", "-c", "cat; exit " + std::to_string(i)}, .input = "abc"});
        if (result && result->exit_code == i && result->out == "abc") ++right;
      }
    });
  }
  threads.clear();
  CHECK(right == 40);
}

TEST_CASE("a blocked signal mask and an ignored SIGPIPE are not passed on") {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const auto old = signal(SIGPIPE, SIG_IGN);
  const auto result =
      RunProcess({.argv = {"sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"}});
  signal(SIGPIPE, old);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  REQUIRE(result);
  CHECK(result->out.find("SigBlk:\t0000000000000000") != std::string::npos);
  CHECK((std::stoull(result->out.substr(result->out.find("SigIgn:") + 8), nullptr, 16) >>
             (SIGPIPE - 1) &
         1) == 0);
}

TEST_CASE("errors of starting a program") {
  const Scratch scratch;
  const auto text = [](const ProcessSpec& spec) { return RunProcess(spec).error().Text(); };
  CHECK(text({.argv = {"envkit-no-such"}}) ==
        "error: envkit-no-such is not installed\n"
        "  Install envkit-no-such, or add its directory to PATH.\n");
  CHECK(RunProcess({.argv = {"envkit-no-such"}}).error().code == ExitCode::kMissing);
  CHECK(text({.argv = {"/no/such/program"}}) == "error: /no/such/program does not exist\n");
  CHECK(text({.argv = {"/etc/passwd"}}) == "error: /etc/passwd is not an executable file\n");
  CHECK(text({.argv = {"true"}, .cwd = "/no/such/directory"}) ==
        "error: true cannot start in /no/such/directory: there is no such directory\n");
  CHECK(text({}) == "error: no command is given\n");
}

TEST_CASE("RunForOutput tells the program's own last lines") {
  CHECK(RunForOutput({.argv = {"sh", "-c", "echo fine"}}).value() == "fine\n");
  CHECK(
      RunForOutput({.argv = {"sh", "-c", "echo out; echo bad luck >&2; exit 3"}}).error().Text() ==
      "error: sh ended with exit code 3:\nbad luck\n");
  CHECK(RunForOutput({.argv = {"sh", "-c", "kill -9 $$"}}).error().Text() ==
        "error: sh was ended by signal 9 (SIGKILL)\n");
  const auto many = RunForOutput({.argv = {"sh", "-c", "seq 100; exit 1"}});
  CHECK(many.error().what.substr(0, 36) == "sh ended with exit code 1:\n86\n87\n88\n");
}

TEST_CASE("executables are found on PATH and in the administrator's directories") {
  CHECK(FindExecutable("sh").has_value());
  CHECK(!FindExecutable("envkit-no-such").has_value());
  CHECK(!FindExecutable("").has_value());
  CHECK(!FindExecutable("/etc").has_value());
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "tool", "#!/bin/sh\n", 0755));
  REQUIRE(WriteFileAtomic(scratch / "plain", "text", 0644));
  const std::string path = getenv("PATH");
  setenv("PATH", (":relative:" + scratch.path().string()).c_str(), 1);
  CHECK(FindExecutable("tool") == scratch / "tool");
  CHECK(!FindExecutable("plain").has_value());
  CHECK(FindExecutable("ldconfig").has_value());  // in /sbin
  setenv("PATH", path.c_str(), 1);
}

TEST_CASE("a command line is quoted as a person would") {
  CHECK(ShellQuote({"docker", "run", "-v", "/a:/b", "it's", "", "a b", "$x", "a;b"}) ==
        "docker run -v /a:/b 'it'\\''s' '' 'a b' '$x' 'a;b'");
}

}  // namespace envkit
