#include "base/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/process/v2/posix/default_launcher.hpp>
#include <boost/process/v2/process.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>

#include "base/descriptor.h"

// Note [Boost.Process 1.81]
// Boost's launcher forks, and reports the errno of a failed exec through a pipe. Everything between
// fork and exec is ours (ChildSetup), since what Boost does there has defects:
// - it leaves descriptors open: ChildSetup marks all from 3 on close-on-exec, then execs itself;
// - after a failed exec it calls exit(), which prints this process's buffered stdout a second time:
//   on_exec_error leaves by _exit, and we look the program up and flush before forking;
// - it does not reap a child whose exec failed: Spawn does.
// Only async-signal-safe calls are made there, for this process has threads.

namespace envkit {
namespace fs = std::filesystem;
namespace bp = boost::process::v2;
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kLastLines = 15;

struct ChildSetup {
  const char* program = nullptr;
  char* const* argv = nullptr;
  char* const* environment = nullptr;
  const char* cwd = nullptr;
  std::array<int, 3> standard = {-1, -1, -1};  // -1: ours
  bool new_group = false;
  pid_t parent = 0;
  int last_descriptor = 0;

  using Code = boost::system::error_code;
  static Code Errno() { return {errno, boost::system::system_category()}; }

  template <class Launcher>
  Code on_exec_setup(Launcher&, const bp::filesystem::path&, const char* const*) const {
    // The parent may be gone before prctl takes effect.
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) return Errno();
    if (getppid() != parent) _exit(127);
    if (new_group && setpgid(0, 0) != 0) return Errno();
    for (int target = 0; target < 3; ++target) {
      const int fd = standard[static_cast<std::size_t>(target)];
      if (fd >= 0 && dup2(fd, target) < 0) return Errno();
    }
    if (cwd != nullptr && chdir(cwd) != 0) return Errno();
    CloseTheRest();
    std::signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execve(program, argv, environment);
    return Errno();
  }
  // Boost 1.81 asks for the five-argument form and calls the one with four.
  template <class Launcher>
  void on_exec_error(Launcher&, const bp::filesystem::path&, const char* const*,
                     const Code&) const {
    _exit(127);
  }
  template <class Launcher>
  void on_exec_error(Launcher&, const Code&, const bp::filesystem::path&, const char* const*,
                     const Code&) const {
    _exit(127);
  }

  void CloseTheRest() const {
#ifdef SYS_close_range
    constexpr unsigned kCloexec = 1U << 2;  // CLOSE_RANGE_CLOEXEC
    if (syscall(SYS_close_range, 3U, ~0U, kCloexec) == 0) return;
#endif
    for (int fd = 3; fd <= last_descriptor; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
};

Result<std::pair<Descriptor, Descriptor>> MakePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return Fail(ErrnoText("pipe"));
  Descriptor reader(ends[0]);
  Descriptor writer(ends[1]);
  // Descriptors below 3 (where our own were closed) would be overwritten in the child.
  for (Descriptor* end : {&reader, &writer}) {
    if (end->get() > 2) continue;
    *end = Descriptor(fcntl(end->get(), F_DUPFD_CLOEXEC, 3));
    if (!end->open()) return Fail(ErrnoText("fcntl"));
  }
  return std::pair(std::move(reader), std::move(writer));
}

Result<Descriptor> OpenNull() {
  Descriptor fd(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (fd.open() && fd.get() < 3) fd = Descriptor(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!fd.open()) return Fail(ErrnoText("opening /dev/null"));
  return fd;
}

// A file in memory instead of a pipe: nothing to feed, so nothing to block on, and no SIGPIPE from
// a child that does not read.
Result<Descriptor> InputFile(std::string_view text) {
  Descriptor fd(memfd_create("input", MFD_CLOEXEC));
  if (fd.open() && fd.get() < 3) fd = Descriptor(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!fd.open()) return Fail(ErrnoText("memfd_create"));
  while (!text.empty()) {
    const ssize_t put = write(fd.get(), text.data(), text.size());
    if (put > 0) {
      text.remove_prefix(static_cast<std::size_t>(put));
    } else if (errno != EINTR) {
      return Fail(ErrnoText("writing the input"));
    }
  }
  if (lseek(fd.get(), 0, SEEK_SET) != 0) return Fail(ErrnoText("lseek"));
  return fd;
}

std::vector<std::string> Environment(const ProcessSpec& spec) {
  std::vector<std::string> environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string name(text.substr(0, text.find('=')));
    const bool unset =
        std::find(spec.env_unset.begin(), spec.env_unset.end(), name) != spec.env_unset.end();
    if (!unset && spec.env.count(name) == 0) environment.emplace_back(text);
  }
  for (const auto& [name, value] : spec.env)
    environment.push_back(fmt::format("{}={}", name, value));
  return environment;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

bool IsExecutable(const fs::path& file) {
  struct stat info {};
  return stat(file.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(file.c_str(), X_OK) == 0;
}

// glibc has sigabbrev_np only since 2.32, and our binaries run on 2.28.
std::string SignalName(int signal) {
  constexpr std::array<std::pair<int, const char*>, 14> kNames = {{{SIGHUP, "SIGHUP"},
                                                                   {SIGINT, "SIGINT"},
                                                                   {SIGQUIT, "SIGQUIT"},
                                                                   {SIGILL, "SIGILL"},
                                                                   {SIGTRAP, "SIGTRAP"},
                                                                   {SIGABRT, "SIGABRT"},
                                                                   {SIGBUS, "SIGBUS"},
                                                                   {SIGFPE, "SIGFPE"},
                                                                   {SIGKILL, "SIGKILL"},
                                                                   {SIGSEGV, "SIGSEGV"},
                                                                   {SIGPIPE, "SIGPIPE"},
                                                                   {SIGTERM, "SIGTERM"},
                                                                   {SIGXCPU, "SIGXCPU"},
                                                                   {SIGXFSZ, "SIGXFSZ"}}};
  for (const auto& [number, name] : kNames) {
    if (number == signal) return fmt::format("signal {} ({})", signal, name);
  }
  return fmt::format("signal {}", signal);
}

std::string LastLines(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  std::size_t at = text.size();
  for (std::size_t lines = 0; lines < kLastLines && at != 0; ++lines) {
    const std::size_t newline = text.rfind('\n', at - 1);
    if (newline == std::string_view::npos) return std::string(text);
    at = newline;
  }
  return std::string(at == 0 ? text : text.substr(at + 1));
}

// Cuts what arrives into lines for on_line.
class Capture {
 public:
  Capture(std::string& into, const std::function<void(std::string_view)>& on_line)
      : into_(into), on_line_(on_line) {}
  void Take(std::string_view data) {
    into_.append(data);
    if (!on_line_) return;
    std::size_t newline = 0;
    while ((newline = into_.find('\n', line_)) != std::string::npos) {
      Emit(newline);
      line_ = newline + 1;
    }
  }
  void End() {
    if (on_line_ && line_ < into_.size()) Emit(into_.size());
    line_ = into_.size();
  }

 private:
  void Emit(std::size_t end) {
    std::string_view line = std::string_view(into_).substr(line_, end - line_);
    if (line.ends_with('\r')) line.remove_suffix(1);
    on_line_(line);
  }
  std::string& into_;
  const std::function<void(std::string_view)>& on_line_;
  std::size_t line_ = 0;
};

// Reads what is there. False at the end of the stream.
bool ReadSome(const Descriptor& fd, Capture& capture) {
  std::array<char, 65536> buffer{};
  const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
  if (got > 0) capture.Take({buffer.data(), static_cast<std::size_t>(got)});
  return got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN));
}

Result<pid_t> Spawn(const fs::path& program, const std::string& name, ChildSetup setup) {
  // Output that we buffered comes before the child's.
  std::cout.flush();
  std::fflush(stdout);
  std::fflush(stderr);
  setup.parent = getpid();
  rlimit limit{};
  setup.last_descriptor = getrlimit(RLIMIT_NOFILE, &limit) == 0
                              ? static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 65536))
                              : 1024;
  boost::asio::io_context context;
  bp::posix::default_launcher launcher;
  bp::error_code error;
  try {
    auto process = launcher(context.get_executor(), error, bp::filesystem::path(program.string()),
                            std::vector<std::string>{}, setup);
    if (!error) {
      process.detach();
      return static_cast<pid_t>(launcher.pid);
    }
  } catch (const boost::system::system_error& problem) {
    error = problem.code();
  }
  if (launcher.pid > 0) {
    while (waitpid(launcher.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  return Missing(fmt::format("{} could not be started: {}", name, error.message()));
}

}  // namespace

std::optional<fs::path> FindExecutable(std::string_view name) {
  if (name.empty()) return std::nullopt;
  if (name.find('/') != std::string_view::npos) {
    const fs::path file = fs::absolute(name);
    return IsExecutable(file) ? std::optional(file) : std::nullopt;
  }
  const char* set = std::getenv("PATH");
  const std::string path =
      std::string(set == nullptr ? "/usr/local/bin:/usr/bin:/bin" : set) + ":/usr/sbin:/sbin";
  std::size_t at = 0;
  while (at <= path.size()) {
    const std::size_t end = std::min(path.find(':', at), path.size());
    // An empty or relative part would run what lies in the current directory.
    if (end > at && path[at] == '/') {
      const fs::path file = fs::path(path.substr(at, end - at)) / name;
      if (IsExecutable(file)) return file;
    }
    at = end + 1;
  }
  return std::nullopt;
}

Result<ProcessResult> RunProcess(const ProcessSpec& spec) {
  if (spec.argv.empty()) return Fail("no command is given");
  const std::string& name = spec.argv[0];
  const auto program = FindExecutable(name);
  if (!program) {
    if (name.find('/') == std::string::npos) {
      return Missing(fmt::format("{} is not installed", name),
                     fmt::format("Install {}, or add its directory to PATH.", name));
    }
    std::error_code ignored;
    return Missing(fmt::format(
        "{} {}", name, fs::exists(name, ignored) ? "is not an executable file" : "does not exist"));
  }
  std::error_code ignored;
  if (!spec.cwd.empty() && !fs::is_directory(spec.cwd, ignored)) {
    return Fail(
        fmt::format("{} cannot start in {}: there is no such directory", name, spec.cwd.string()));
  }

  std::vector<std::string> arguments = spec.argv;
  std::vector<std::string> environment = Environment(spec);
  std::vector<char*> argument_pointers = Pointers(arguments);
  std::vector<char*> environment_pointers = Pointers(environment);
  ENVKIT_TRY(Descriptor null, OpenNull());
  ChildSetup setup;
  setup.program = program->c_str();
  setup.argv = argument_pointers.data();
  setup.environment = environment_pointers.data();
  setup.cwd = spec.cwd.empty() ? nullptr : spec.cwd.c_str();
  // A program that talks to a person stays in the terminal's foreground group.
  setup.new_group = spec.timeout.has_value() && !spec.inherit_input;

  Descriptor input;
  if (spec.input) {
    ENVKIT_TRY(input, InputFile(*spec.input));
    setup.standard[0] = input.get();
  } else if (!spec.inherit_input) {
    setup.standard[0] = null.get();
  }
  ProcessResult result;
  struct Pipe {
    Stream how;
    Capture capture;
    Descriptor reader;
    Descriptor writer;
  };
  std::array<Pipe, 2> pipes = {
      Pipe{spec.out, Capture(result.out, spec.on_line), Descriptor(), Descriptor()},
      Pipe{spec.err, Capture(result.err, spec.on_line), Descriptor(), Descriptor()}};
  for (std::size_t i = 0; i < pipes.size(); ++i) {
    if (pipes[i].how == Stream::kDiscard) setup.standard[i + 1] = null.get();
    if (pipes[i].how != Stream::kCapture) continue;
    ENVKIT_TRY(auto ends, MakePipe());
    pipes[i].reader = std::move(ends.first);
    pipes[i].writer = std::move(ends.second);
    fcntl(pipes[i].reader.get(), F_SETFL, O_NONBLOCK);
    setup.standard[i + 1] = pipes[i].writer.get();
  }

  ENVKIT_TRY(const pid_t pid, Spawn(*program, name, setup));
  for (Pipe& pipe : pipes) pipe.writer.Close();
  input.Close();
  Descriptor process;
#ifdef SYS_pidfd_open
  process = Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
#endif

  // A child may leave others behind that hold its pipes (a daemon): what comes within a moment of
  // its end still counts, but nobody waits for them.
  constexpr auto kQuiet = std::chrono::milliseconds(100);
  constexpr auto kAtMost = std::chrono::seconds(1);
  const auto deadline = spec.timeout ? Clock::now() + *spec.timeout : Clock::time_point::max();
  auto stop_reading = Clock::time_point::max();
  int status = 0;
  bool ended = false;
  bool timed_out = false;
  while (!ended || pipes[0].reader.open() || pipes[1].reader.open()) {
    const auto now = Clock::now();
    if (ended && now >= stop_reading) break;
    if (!ended && !timed_out && now >= deadline) {
      timed_out = true;
      kill(setup.new_group ? -pid : pid, SIGKILL);
    }
    auto wake = ended ? std::min(stop_reading, now + kQuiet) : deadline;
    // Old kernels have no pidfd: then look every 20 ms.
    if (!ended && !process.open()) wake = std::min(wake, now + std::chrono::milliseconds(20));
    if (timed_out && !ended) wake = now + std::chrono::milliseconds(20);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(wake - now).count();
    const int timeout = wake == Clock::time_point::max()
                            ? -1
                            : static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
    std::array<pollfd, 3> polled = {pollfd{pipes[0].reader.get(), POLLIN, 0},
                                    pollfd{pipes[1].reader.get(), POLLIN, 0},
                                    pollfd{ended ? -1 : process.get(), POLLIN, 0}};
    const int ready = poll(polled.data(), polled.size(), timeout);
    if (ready < 0 && errno != EINTR) break;
    bool read_any = false;
    for (std::size_t i = 0; i < pipes.size(); ++i) {
      if (!pipes[i].reader.open() || polled[i].revents == 0) continue;
      read_any = true;
      if (!ReadSome(pipes[i].reader, pipes[i].capture)) pipes[i].reader.Close();
    }
    if (ended) {
      if (!read_any && ready == 0) break;
      continue;
    }
    const pid_t reaped = waitpid(pid, &status, WNOHANG);
    if (reaped == pid || (reaped < 0 && errno != EINTR)) {
      ended = true;
      stop_reading = Clock::now() + kAtMost;
    }
  }
  for (Pipe& pipe : pipes) pipe.capture.End();
  if (timed_out) {
    const std::string last = LastLines(result.err.empty() ? result.out : result.err);
    return Fail(fmt::format("{} did not end within {:g} s and was stopped{}{}", name,
                            std::chrono::duration<double>(*spec.timeout).count(),
                            last.empty() ? "" : "; its last lines:\n", last));
  }
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

Result<std::string> RunForOutput(ProcessSpec spec) {
  spec.out = Stream::kCapture;
  ENVKIT_TRY(ProcessResult result, RunProcess(spec));
  if (result.exit_code == 0) return std::move(result.out);
  const std::string how = result.exit_code > 128 && result.exit_code < 128 + NSIG
                              ? "was ended by " + SignalName(result.exit_code - 128)
                              : fmt::format("ended with exit code {}", result.exit_code);
  const std::string last = LastLines(result.err.empty() ? result.out : result.err);
  return Fail(fmt::format("{} {}{}{}", spec.argv[0], how, last.empty() ? "" : ":\n", last));
}

std::string ShellQuote(const std::vector<std::string>& argv) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  std::string line;
  for (const std::string& argument : argv) {
    if (!line.empty()) line += ' ';
    if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) {
      line += argument;
      continue;
    }
    line += '\'';
    for (const char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace envkit
