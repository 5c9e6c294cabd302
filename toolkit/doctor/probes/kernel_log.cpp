#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cctype>
#include <cstring>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

constexpr std::size_t kMostEvents = 200;

// "6,339,5140900,-;NVRM: version…": the record's text alone. Other lines pass as they are.
std::string_view Message(std::string_view line) {
  const std::size_t semicolon = line.find(';');
  if (semicolon != line.npos && semicolon < 64 && !line.empty() &&
      std::isdigit(static_cast<unsigned char>(line.front())))
    return line.substr(semicolon + 1);
  return line;
}

// "NVRM: Xid (PCI:0000:17:00): 79, pid=1234, GPU has fallen off the bus."
bool ParseXid(std::string_view line, LogEvent& event) {
  constexpr std::string_view kStart = "NVRM: Xid (PCI:";
  const std::size_t at = line.find(kStart);
  if (at == line.npos) return false;
  const std::string_view rest = line.substr(at + kStart.size());
  const std::size_t close = rest.find("): ");
  if (close == rest.npos || close > 32) return false;
  const std::string_view number = rest.substr(close + 3);
  const auto code = ToInteger(number.substr(0, number.find_first_not_of("0123456789")));
  if (!code || *code < 0 || *code > 100000) return false;
  event.kind = "xid";
  event.gpu = rest.substr(0, close);
  event.code = static_cast<int>(*code);
  return true;
}

bool ParseEvent(std::string_view line, LogEvent& event) {
  if (ParseXid(line, event)) return true;
  if (line.find("NVRM: API mismatch") != line.npos) {
    event.kind = "mismatch";
  } else if (line.find("Out of memory: Killed process") != line.npos ||
             line.find("Memory cgroup out of memory: Killed process") != line.npos) {
    event.kind = "oom";
  } else if (line.find("DMAR: [DMA") != line.npos && line.find("fault") != line.npos) {
    event.kind = "iommu";
  } else {
    return false;
  }
  return true;
}

// /dev/kmsg gives one record a read and EAGAIN at the end; EPIPE: that record was overwritten.
std::string ReadKmsg(int fd) {
  std::string text;
  char buffer[8192];
  constexpr std::size_t kMost = std::size_t{8} << 20;
  while (text.size() < kMost) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && (errno == EPIPE || errno == EINTR)) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text;
}

}  // namespace

std::vector<LogEvent> ParseKernelLog(std::string_view text) {
  std::vector<LogEvent> events;
  while (!text.empty()) {
    const std::string_view whole = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), whole.size() + 1));
    const std::string_view line = Message(whole);
    LogEvent event;
    if (!ParseEvent(line, event)) continue;
    constexpr std::size_t kLongest = 200;
    event.text = Trimmed(line.substr(0, kLongest));
    for (char& c : event.text)
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    events.push_back(std::move(event));
    if (events.size() > kMostEvents) events.erase(events.begin());
  }
  return events;
}

void ProbeKernelLog(const Root& root, KernelLogFacts& facts) {
  if (root.live()) {
    facts.from = "/dev/kmsg";
    const int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
      facts.events = ParseKernelLog(ReadKmsg(fd));
      close(fd);
      return;
    }
    facts.unknown = "/dev/kmsg: " + std::string(std::strerror(errno)) +
                    (errno == EPERM || errno == EACCES ? " (root may read it)" : "");
  }
  for (const char* file : {"/.envkit/kernel.log", "/var/log/kern.log", "/var/log/dmesg"}) {
    if (!root.Exists(file)) continue;
    const std::string text = root.Read(file);
    if (text.empty()) continue;
    facts.from = file;
    facts.unknown.clear();
    facts.events = ParseKernelLog(text);
    return;
  }
  if (!root.live()) facts.unknown = "no kernel log was captured";
}

}  // namespace envkit::doctor
