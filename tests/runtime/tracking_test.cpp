// Checksums, TensorBoard's event files parsed back, metrics.jsonl.
#include "envkit/tracking.h"

#include <zlib.h>

#include <cstring>
#include <numeric>

#include "helpers.h"
#include "tracking/crc32c.h"

namespace envkit {
namespace {

// The definition, bit by bit: independent of the tables.
std::uint32_t SlowCrc32c(const std::string& bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78U : crc >> 1;
  }
  return ~crc;
}

std::uint32_t Of(const std::string& bytes) { return Crc32c(bytes.data(), bytes.size()); }

TEST_CASE("crc32c: RFC 3720's vectors") {
  std::string up(32, '\0');
  std::iota(up.begin(), up.end(), '\0');
  CHECK(Of("") == 0);
  CHECK(Of("123456789") == 0xe3069283);
  CHECK(Of(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(Of(std::string(32, '\xff')) == 0x62a8ab43);
  CHECK(Of(up) == 0x46dd794e);
  CHECK(Of({up.rbegin(), up.rend()}) == 0x113fdb5c);
}

TEST_CASE("crc32c: in pieces, at any length and place") {
  std::mt19937 random(1);
  std::string bytes(100, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    CHECK(Of(bytes.substr(0, size)) == SlowCrc32c(bytes.substr(0, size)));
    CHECK(Crc32c(bytes.data() + size, bytes.size() - size, Of(bytes.substr(0, size))) == Of(bytes));
  }
}

template <class T>
T Take(std::string_view* bytes) {
  T value{};
  REQUIRE(bytes->size() >= sizeof value);
  std::memcpy(&value, bytes->data(), sizeof value);
  bytes->remove_prefix(sizeof value);
  return value;
}

std::uint64_t TakeVarint(std::string_view* bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = Take<unsigned char>(bytes);
    value |= std::uint64_t{byte & 127U} << shift;
    if (byte < 128) return value;
  }
}

std::string_view TakeBytes(std::string_view* bytes) {
  const std::uint64_t size = TakeVarint(bytes);
  REQUIRE(size <= bytes->size());
  const std::string_view taken = bytes->substr(0, size);
  bytes->remove_prefix(size);
  return taken;
}

struct Event {
  double time = 0;
  std::uint64_t step = 0;
  std::string version;
  std::vector<std::pair<std::string, float>> scalars;
};

Event ParseEvent(std::string_view bytes) {
  Event event;
  while (!bytes.empty()) {
    const std::uint64_t key = TakeVarint(&bytes);
    if (key == 9) {  // wall_time = 1: 64 bits
      event.time = Take<double>(&bytes);
    } else if (key == 16) {  // step = 2: varint
      event.step = TakeVarint(&bytes);
    } else if (key == 26) {  // file_version = 3: bytes
      event.version = TakeBytes(&bytes);
    } else {
      REQUIRE(key == 42);  // summary = 5: bytes
      std::string_view summary = TakeBytes(&bytes);
      while (!summary.empty()) {
        REQUIRE(TakeVarint(&summary) == 10);  // value = 1: bytes
        std::string_view value = TakeBytes(&summary);
        REQUIRE(TakeVarint(&value) == 10);  // tag = 1: bytes
        const std::string tag(TakeBytes(&value));
        REQUIRE(TakeVarint(&value) == 21);  // simple_value = 2: 32 bits
        event.scalars.emplace_back(tag, Take<float>(&value));
        CHECK(value.empty());
      }
    }
  }
  return event;
}

std::vector<Event> ParseRecords(std::string_view bytes) {
  const auto masked = [](std::string_view part) {
    const std::uint32_t crc = SlowCrc32c(std::string(part));
    return (crc >> 15 | crc << 17) + 0xa282ead8U;
  };
  std::vector<Event> events;
  while (!bytes.empty()) {
    const std::string_view length_bytes = bytes.substr(0, 8);
    const auto length = Take<std::uint64_t>(&bytes);
    CHECK(Take<std::uint32_t>(&bytes) == masked(length_bytes));
    REQUIRE(length <= bytes.size());
    const std::string_view payload = bytes.substr(0, length);
    bytes.remove_prefix(length);
    CHECK(Take<std::uint32_t>(&bytes) == masked(payload));
    events.push_back(ParseEvent(payload));
  }
  return events;
}

TEST_CASE("event files: records as TensorBoard frames them") {
  const Scratch scratch;
  EventWriter writer(scratch / "run");
  CHECK(writer.file().parent_path() == scratch / "run");
  CHECK(writer.file().filename().string().starts_with("events.out.tfevents."));
  writer.Add(1234.5, 1, {{"loss", 2.25}, {"rate", 1e-3}});
  writer.Add(1235.5, 1'000'000'000'000, {{std::string(300, 'x'), -0.5}});
  writer.Add(1236.5, 0, {});
  const auto events = ParseRecords(ReadFile(writer.file()));  // there before the writer is closed
  REQUIRE(events.size() == 4);
  CHECK(events[0].version == "brain.Event:2");
  CHECK(events[0].time > 1.6e9);
  CHECK(events[1].time == 1234.5);
  CHECK(events[1].step == 1);
  CHECK(events[1].scalars ==
        std::vector<std::pair<std::string, float>>{{"loss", 2.25F}, {"rate", 1e-3F}});
  CHECK(events[2].step == 1'000'000'000'000);
  CHECK(events[2].scalars ==
        std::vector<std::pair<std::string, float>>{{std::string(300, 'x'), -0.5F}});
  CHECK(events[3].scalars.empty());
  WriteFile(scratch / "file", "");
  CHECK(FailureText([&] { EventWriter(scratch / "file"); }).starts_with("cannot write "));
}

// Inflates the one IDAT chunk of a PNG, after checking each chunk's checksum.
std::string PngRows(std::string_view png) {
  REQUIRE(png.starts_with(std::string_view("\x89PNG\r\n\x1a\n", 8)));
  png.remove_prefix(8);
  const auto number = [](std::string_view bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
  };
  std::string rows;
  while (!png.empty()) {
    const std::uint32_t size = number(png);
    const std::string_view body = png.substr(4, 4 + size);
    CHECK(number(png.substr(8 + size)) ==
          crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
    if (body.starts_with("IDAT")) {
      rows.resize(1 << 16);
      uLongf length = rows.size();
      REQUIRE(uncompress(reinterpret_cast<Bytef*>(rows.data()), &length,
                         reinterpret_cast<const Bytef*>(body.data() + 4), size) == Z_OK);
      rows.resize(length);
    }
    png.remove_prefix(12 + size);
  }
  return rows;
}

TEST_CASE("PNG: rows of grey and of colour") {
  const std::uint8_t pixels[] = {1, 2, 3, 4, 5, 6};
  CHECK(PngRows(EncodePng(2, 3, 1, pixels)) == std::string("\0\1\2\3\0\4\5\6", 8));
  CHECK(PngRows(EncodePng(1, 2, 3, pixels)) == std::string("\0\1\2\3\4\5\6", 7));
}

TEST_CASE("metrics: whole lines, also after one that a killed writer left") {
  const Scratch scratch;
  const auto file = scratch.path() / "run" / "metrics.jsonl";
  {
    MetricsFile metrics(file);
    metrics.Append(R"({"step":1})");
    CHECK(ReadFile(file) == "{\"step\":1}\n");
  }
  MetricsFile(file).Append("{}");
  CHECK(ReadFile(file) == "{\"step\":1}\n{}\n");
  WriteFile(file, "{\"step\":1}\n{\"st");
  MetricsFile(file).Append("{}");
  CHECK(ReadFile(file) == "{\"step\":1}\n{\"st\n{}\n");
}

}  // namespace
}  // namespace envkit
