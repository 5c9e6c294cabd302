// What a run leaves to look at: TensorBoard scalars and a JSON-lines file. Each call reaches the
// file before it returns. One process writes: rank 0. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
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
  const std::filesystem::path& file() const { return file_; }

 private:
  void Record(const std::string& payload);
  std::filesystem::path file_;
  int descriptor_ = -1;
};

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
