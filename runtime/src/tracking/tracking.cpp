// TensorBoard's records, encoded by hand: LibTorch has its own copy of protobuf inside, with which
// another one would clash. A record is
//   u64 length, u32 masked crc32c(length), payload, u32 masked crc32c(payload)
// and the payload an Event: wall_time=1 double, step=2 int64, file_version=3 string,
// summary=5 {value=1 {tag=1 string, and one of simple_value=2 float, image=4, histo=5, tensor=8}}.
#include "envkit/tracking.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
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
               kSimpleValue = 2 << 3 | 5, kImage = 4 << 3 | 2, kHistogram = 5 << 3 | 2,
               kTensor = 8 << 3 | 2, kMetadata = 9 << 3 | 2;

void AppendVarintField(std::string* to, int field, std::uint64_t value) {
  to->push_back(static_cast<char>(field << 3));
  AppendVarint(to, value);
}

void AppendDoubleField(std::string* to, int field, double value) {
  to->push_back(static_cast<char>(field << 3 | 1));
  Append(to, value);
}

// {value=1 {tag=1 TAG, KIND CONTENTS}}
std::string Summary(const std::string& tag, char kind, const std::string& contents,
                    const std::string& metadata = {}) {
  std::string value, summary;
  AppendBytes(&value, kTag, tag);
  AppendBytes(&value, kind, contents);
  if (!metadata.empty()) AppendBytes(&value, kMetadata, metadata);
  AppendBytes(&summary, kValue, value);
  return summary;
}

void AppendBigEndian(std::string* to, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to->push_back(static_cast<char>(value >> shift));
}

void AppendChunk(std::string* png, const char* type, const std::string& data) {
  AppendBigEndian(png, static_cast<std::uint32_t>(data.size()));
  const std::string body = type + data;
  *png += body;
  AppendBigEndian(png,
                  static_cast<std::uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(body.data()),
                                                   static_cast<uInt>(body.size()))));
}

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
  Event(unix_time, step, summary);
}

void EventWriter::Event(double unix_time, std::int64_t step, const std::string& summary) {
  std::string event;
  event.push_back(kWallTime);
  Append(&event, unix_time);
  event.push_back(kStep);
  AppendVarint(&event, static_cast<std::uint64_t>(step));
  AppendBytes(&event, kSummary, summary);
  Record(event);
}

void EventWriter::AddHistogram(double unix_time, std::int64_t step, const std::string& tag,
                               std::span<const float> values) {
  constexpr std::size_t kBuckets = 40;
  double sum = 0, squares = 0, least = 0, most = 0;
  std::size_t count = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    least = count == 0 ? value : std::min<double>(least, value);
    most = count == 0 ? value : std::max<double>(most, value);
    sum += value;
    squares += double{value} * value;
    ++count;
  }
  const double width = most > least ? (most - least) / kBuckets : 1;
  std::array<double, kBuckets> buckets{};
  for (const float value : values)
    if (std::isfinite(value))
      ++buckets[std::min(kBuckets - 1, static_cast<std::size_t>((value - least) / width))];
  std::string histogram, limits, counts;
  AppendDoubleField(&histogram, 1, least);
  AppendDoubleField(&histogram, 2, most);
  AppendDoubleField(&histogram, 3, static_cast<double>(count));
  AppendDoubleField(&histogram, 4, sum);
  AppendDoubleField(&histogram, 5, squares);
  for (std::size_t i = 0; i < kBuckets; ++i) {
    Append(&limits, least + width * static_cast<double>(i + 1));
    Append(&counts, buckets[i]);
  }
  AppendBytes(&histogram, 6 << 3 | 2, limits);
  AppendBytes(&histogram, 7 << 3 | 2, counts);
  Event(unix_time, step, Summary(tag, kHistogram, histogram));
}

void EventWriter::AddText(double unix_time, std::int64_t step, const std::string& tag,
                          const std::string& markdown) {
  std::string shape, extent, tensor, plugin, metadata;
  AppendVarintField(&extent, 1, 1);
  AppendBytes(&shape, 2 << 3 | 2, extent);
  constexpr std::uint64_t kString = 7;
  AppendVarintField(&tensor, 1, kString);
  AppendBytes(&tensor, 2 << 3 | 2, shape);
  AppendBytes(&tensor, 8 << 3 | 2, markdown);
  AppendBytes(&plugin, 1 << 3 | 2, "text");
  AppendBytes(&metadata, 1 << 3 | 2, plugin);
  // The text plugin looks for this ending.
  Event(unix_time, step, Summary(tag + "/text_summary", kTensor, tensor, metadata));
}

void EventWriter::AddImage(double unix_time, std::int64_t step, const std::string& tag,
                           std::int64_t rows, std::int64_t columns, int channels,
                           std::span<const std::uint8_t> pixels) {
  std::string image;
  AppendVarintField(&image, 1, static_cast<std::uint64_t>(rows));
  AppendVarintField(&image, 2, static_cast<std::uint64_t>(columns));
  AppendVarintField(&image, 3, static_cast<std::uint64_t>(channels));
  AppendBytes(&image, 4 << 3 | 2, EncodePng(rows, columns, channels, pixels));
  Event(unix_time, step, Summary(tag, kImage, image));
}

std::string EncodePng(std::int64_t rows, std::int64_t columns, int channels,
                      std::span<const std::uint8_t> pixels) {
  const auto width = static_cast<std::size_t>(columns) * static_cast<std::size_t>(channels);
  std::string raw;
  for (std::int64_t row = 0; row < rows; ++row) {
    raw.push_back(0);  // no filter
    raw.append(reinterpret_cast<const char*>(pixels.data()) + static_cast<std::size_t>(row) * width,
               width);
  }
  uLongf size = compressBound(static_cast<uLong>(raw.size()));
  std::string packed(size, '\0');
  compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
            reinterpret_cast<const Bytef*>(raw.data()), static_cast<uLong>(raw.size()), 6);
  packed.resize(size);
  std::string header;
  AppendBigEndian(&header, static_cast<std::uint32_t>(columns));
  AppendBigEndian(&header, static_cast<std::uint32_t>(rows));
  header += {8, static_cast<char>(channels == 3 ? 2 : 0), 0, 0, 0};
  std::string png = "\x89PNG\r\n\x1a\n";
  AppendChunk(&png, "IHDR", header);
  AppendChunk(&png, "IDAT", packed);
  AppendChunk(&png, "IEND", "");
  return png;
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
