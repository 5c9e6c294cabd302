#include "launch/gpu_health.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <string_view>

#include "launch/process.h"
#include "launch/report.h"

namespace envkit {
namespace {

using Device = void*;
struct Process {  // nvmlProcessInfo_t, since its second version
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
};

constexpr int kOk = 0, kInsufficientSize = 7, kVersions = 18;
constexpr unsigned kProhibited = 2, kExclusive = 3;

std::string Name(const VisibleGpu& gpu) { return fmt::format("GPU {} ({})", gpu.name, gpu.pci); }

class Library {
 public:
  explicit Library(void* handle) : handle_(handle) {}
  // What an old library lacks is not asked.
  template <class... Arguments>
  int Call(const char* name, Arguments... arguments) {
    const auto function = reinterpret_cast<int (*)(Arguments...)>(dlsym(handle_, name));
    return function == nullptr ? -1 : function(arguments...);
  }

 private:
  void* handle_;
};

std::string ProcessesText(const std::vector<Process>& processes) {
  const Process& first = processes.front();
  std::ifstream comm(fmt::format("/proc/{}/comm", first.pid));
  std::string name;
  if (!std::getline(comm, name)) name = "a process that is not visible from here";
  std::string text = fmt::format("{} (pid {})", name, first.pid);
  unsigned long long memory = 0;
  for (const Process& one : processes) memory += one.memory == ~0ULL ? 0 : one.memory;
  if (processes.size() > 1) text += fmt::format(" and {} more", processes.size() - 1);
  return memory == 0 ? text : fmt::format("{}, {}", text, MemoryText(memory));
}

// Lines for the parent: "B" or "N", then the text.
std::string Look(Library& nvml, const VisibleGpu& gpu) {
  Device device = nullptr;
  const int code = nvml.Call("nvmlDeviceGetHandleByPciBusId_v2", gpu.pci.c_str(), &device);
  if (code == 15) return fmt::format("B{} is lost: it does not answer on the bus\n", Name(gpu));
  if (code == 16) return fmt::format("B{} must be reset before anything runs on it\n", Name(gpu));
  if (code != kOk) return "";
  std::string lines;
  unsigned mode = 0;
  if (nvml.Call("nvmlDeviceGetComputeMode", device, &mode) != kOk) mode = 0;
  if (mode == kProhibited) {
    return fmt::format("B{} takes no programs: its compute mode is Prohibited\n", Name(gpu));
  }
  std::array<Process, 64> buffer{};
  auto count = static_cast<unsigned>(buffer.size());
  const int listed =
      nvml.Call("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, buffer.data());
  if ((listed == kOk || listed == kInsufficientSize) && count > 0) {
    const std::size_t known = std::min<std::size_t>(count, buffer.size());
    const std::string who = ProcessesText({buffer.data(), buffer.data() + known});
    lines += mode == kExclusive
                 ? fmt::format("B{} takes one program only, and has {}\n", Name(gpu), who)
                 : fmt::format("N{} is in use by {}\n", Name(gpu), who);
  }
  unsigned long long errors = 0;
  if (nvml.Call("nvmlDeviceGetTotalEccErrors", device, 1, 0, &errors) == kOk && errors > 0) {
    lines += fmt::format("N{} has had {} memory errors that could not be corrected\n", Name(gpu),
                         errors);
  }
  unsigned correctable = 0, uncorrectable = 0, pending = 0, failed = 0;
  if (nvml.Call("nvmlDeviceGetRemappedRows", device, &correctable, &uncorrectable, &pending,
                &failed) == kOk) {
    if (failed != 0) lines += fmt::format("N{} has bad memory that it cannot replace\n", Name(gpu));
    if (pending != 0) lines += fmt::format("N{} has bad memory until it is reset\n", Name(gpu));
  }
  return lines;
}

[[noreturn]] void LookInChild(const std::vector<VisibleGpu>& gpus, const std::string& library,
                              int out) {
  for (const int fault : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) signal(fault, SIG_DFL);
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) _exit(0);
  Library nvml(handle);
  const auto say = [out](const std::string& text) {
    [[maybe_unused]] const auto written = write(out, text.data(), text.size());
  };
  const int started = nvml.Call("nvmlInit_v2");
  if (started == kVersions) {
    say("BNVIDIA's kernel module and its libraries are of different versions: reload the module or "
        "reboot\n");
  }
  if (started != kOk) _exit(0);
  for (const VisibleGpu& gpu : gpus) {
    if (!gpu.pci.empty()) say(Look(nvml, gpu));
  }
  _exit(0);  // and no shutdown, which wakes and closes devices
}

}  // namespace

GpuHealth LookAtGpus(const std::vector<VisibleGpu>& gpus, std::chrono::milliseconds limit,
                     const std::string& nvml) {
  GpuHealth health;
  int ends[2];
  if (gpus.empty() || pipe2(ends, O_CLOEXEC) != 0) return health;
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t child = fork();
  if (child < 0) return health;
  if (child == 0) LookInChild(gpus, nvml, write_end.get());
  write_end.Close();
  std::string text;
  const auto end = std::chrono::steady_clock::now() + limit;
  bool answered = false;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd waiting{read_end.get(), POLLIN, 0};
    const int ready = poll(&waiting, 1, static_cast<int>(std::max<long>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    char buffer[4096];
    const ssize_t got = read(read_end.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    answered = got == 0;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  if (!answered) kill(child, SIGKILL);
  // One that hangs in the kernel is left to be reaped when it ends, or with us.
  waitpid(child, nullptr, answered ? 0 : WNOHANG);
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t line_end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, line_end);
    rest.remove_prefix(std::min(line_end + 1, rest.size()));
    if (line.size() < 2) continue;
    (line.front() == 'B' ? health.broken : health.notes).emplace_back(line.substr(1));
  }
  if (!answered) {
    health.notes.push_back(
        fmt::format("NVIDIA's management library has not answered for {}: envkit doctor says more",
                    DurationText(limit)));
  }
  return health;
}

}  // namespace envkit
