// TensorBoard's records, encoded by hand: LibTorch has its own copy of protobuf inside, with which
// another one would clash. A record is
//   u64 length, u32 masked crc32c(length), payload, u32 masked crc32c(payload)
// and the payload an Event: wall_time=1 double, step=2 int64, file_version=3 string,
// summary=5 {value=1 {tag=1 string, simple_value=2 float}}.
#include "envkit/tracking.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "crc32c.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

[[noreturn]] void CannotWrite(const std::filesystem::path& file) {
  const int error = errno;
  throw Failure("cannot write " + file.string() + ": " + std::strerror(error),
                error == ENOSPC ? "free some space on that disk" : "");
}

int OpenForAppend(const std::filesystem::path& file, int flags) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  const int descriptor = open(file.c_str(), O_CREAT | O_APPEND | O_CLOEXEC | flags, 0644);
  if (descriptor < 0) CannotWrite(file);
  return descriptor;
}

// In one write call, so that a kill leaves whole records.
void WriteAll(int descriptor, const std::string& bytes, const std::filesystem::path& file) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = write(descriptor, bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) CannotWrite(file);
    done += static_cast<std::size_t>(wrote);
  }
}

template <class T>
void Append(std::string* to, T value) {
  to->append(reinterpret_cast<const char*>(&value), sizeof value);  // little-endian hosts only
}

void AppendVarint(std::string* to, std::uint64_t value) {
  for (; value >= 128; value >>= 7) to->push_back(static_cast<char>(value | 128));
  to->push_back(static_cast<char>(value));
}

void AppendBytes(std::string* to, char key, std::string_view bytes) {
  to->push_back(key);
  AppendVarint(to, bytes.size());
  to->append(bytes);
}

std::uint32_t Masked(std::string_view bytes) {
  const std::uint32_t crc = Crc32c(bytes.data(), bytes.size());
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

constexpr char kWallTime = 1 << 3 | 1, kStep = 2 << 3, kFileVersion = 3 << 3 | 2,
               kSummary = 5 << 3 | 2, kValue = 1 << 3 | 2, kTag = 1 << 3 | 2,
               kSimpleValue = 2 << 3 | 5;

}  // namespace

EventWriter::EventWriter(const std::filesystem::path& directory) {
  const std::time_t now = std::time(nullptr);
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  file_ = directory / ("events.out.tfevents." + std::to_string(now) + "." + host + "." +
                       std::to_string(getpid()));
  descriptor_ = OpenForAppend(file_, O_WRONLY);
  std::string event;
  event.push_back(kWallTime);
  Append(&event, static_cast<double>(now));
  AppendBytes(&event, kFileVersion, "brain.Event:2");
  Record(event);
}

EventWriter::~EventWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void EventWriter::Add(double unix_time, std::int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    AppendBytes(&value, kTag, tag);
    value.push_back(kSimpleValue);
    Append(&value, static_cast<float>(number));
    AppendBytes(&summary, kValue, value);
  }
  std::string event;
  event.push_back(kWallTime);
  Append(&event, unix_time);
  event.push_back(kStep);
  AppendVarint(&event, static_cast<std::uint64_t>(step));
  AppendBytes(&event, kSummary, summary);
  Record(event);
}

void EventWriter::Record(const std::string& payload) {
  std::string record;
  Append(&record, static_cast<std::uint64_t>(payload.size()));
  Append(&record, Masked(record));
  record += payload;
  Append(&record, Masked(payload));
  WriteAll(descriptor_, record, file_);
}

MetricsFile::MetricsFile(const std::filesystem::path& file) : file_(file) {
  descriptor_ = OpenForAppend(file, O_RDWR);
  struct stat status {};
  char last = '\n';
  if (fstat(descriptor_, &status) == 0 && status.st_size > 0 &&
      pread(descriptor_, &last, 1, status.st_size - 1) == 1 && last != '\n')
    WriteAll(descriptor_, "\n", file_);
}

MetricsFile::~MetricsFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void MetricsFile::Append(std::string_view json_object) {
  WriteAll(descriptor_, std::string(json_object) + "\n", file_);
}

}  // namespace envkit
