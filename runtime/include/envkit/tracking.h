// What a run leaves to look at: TensorBoard events and a JSON-lines file. Each call reaches the
// file before it returns. One process writes: rank 0. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace envkit {

using Scalars = std::vector<std::pair<std::string, double>>;

// events.out.tfevents.<time>.<host>.<pid> in DIRECTORY, as TensorBoard reads it.
class EventWriter {
 public:
  explicit EventWriter(const std::filesystem::path& directory);  // throws Failure
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  void Add(double unix_time, std::int64_t step,
           const Scalars& scalars);  // one event; throws Failure
  void AddHistogram(double unix_time, std::int64_t step, const std::string& tag,
                    std::span<const float> values);
  void AddText(double unix_time, std::int64_t step, const std::string& tag,
               const std::string& markdown);
  // PIXELS: rows, from the top, of columns of CHANNELS (1 grey, 3 RGB) bytes each.
  void AddImage(double unix_time, std::int64_t step, const std::string& tag, std::int64_t rows,
                std::int64_t columns, int channels, std::span<const std::uint8_t> pixels);
  const std::filesystem::path& file() const { return file_; }

 private:
  void Event(double unix_time, std::int64_t step, const std::string& summary);
  void Record(const std::string& payload);
  std::filesystem::path file_;
  int descriptor_ = -1;
};

// A PNG file of such pixels.
std::string EncodePng(std::int64_t rows, std::int64_t columns, int channels,
                      std::span<const std::uint8_t> pixels);

// One JSON object a line, appended whole. A last line that a killed writer left unfinished is ended
// first.
class MetricsFile {
 public:
  explicit MetricsFile(const std::filesystem::path& file);  // throws Failure
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  void Append(std::string_view json_object);  // without a newline; throws Failure

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace envkit
