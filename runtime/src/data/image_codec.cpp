#include "image_codec.h"

#include <csetjmp>
#include <cstdio>
// jpeglib.h wants stdio.h before it.
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "mapped_file.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void BadImage(const fs::path& file, const std::string& what) {
  DamagedData(file, "is no whole image: " + what);
}

void CheckExtent(const fs::path& file, std::uint64_t rows, std::uint64_t columns) {
  if (rows == 0 || columns == 0 || rows > kMostPixels || columns > kMostPixels ||
      rows * columns > static_cast<std::uint64_t>(kMostPixels))
    DamagedData(file, "has an image of " + std::to_string(columns) + " x " + std::to_string(rows) +
                          " pixels");
}

// libjpeg's errors leave it by longjmp: between setjmp and there is nothing that has a destructor.
struct JpegState {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf out;
  char message[JMSG_LENGTH_MAX] = "";
};

constexpr int kMostScans = 100;  // of a progressive file: a few bytes can ask for thousands

[[noreturn]] void JpegFailed(j_common_ptr info) {
  auto* state = static_cast<JpegState*>(info->client_data);
  if (state->message[0] == '\0') info->err->format_message(info, state->message);
  std::longjmp(state->out, 1);
}

// A warning about missing or wrong data, after which libjpeg would invent pixels, is an error.
// Three of them change nothing.
void JpegMessage(j_common_ptr info, int level) {
  const int code = info->err->msg_code;
  if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM &&
      code != JWRN_JFIF_MAJOR)
    JpegFailed(info);
}

void JpegProgress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMostScans) return;
  auto* state = static_cast<JpegState*>(info->client_data);
  std::snprintf(state->message, sizeof state->message, "it has more than %d scans", kMostScans);
  JpegFailed(info);
}

bool JpegBegin(JpegState* state, std::span<const std::uint8_t> bytes, std::int64_t shortest) {
  if (setjmp(state->out) != 0) return false;
  jpeg_decompress_struct* info = &state->info;
  info->err = jpeg_std_error(&state->errors);
  state->errors.error_exit = JpegFailed;
  state->errors.emit_message = JpegMessage;
  info->client_data = state;
  jpeg_create_decompress(info);
  state->progress.progress_monitor = JpegProgress;
  info->progress = &state->progress;
  jpeg_mem_src(info, bytes.data(), bytes.size());
  jpeg_read_header(info, TRUE);
  info->dct_method = JDCT_ISLOW;
  info->out_color_space = info->num_components == 4 ? JCS_CMYK : JCS_RGB;
  const std::int64_t side = std::min(info->image_width, info->image_height);
  for (info->scale_denom = 8; info->scale_denom > 1; info->scale_denom /= 2)
    if (side / info->scale_denom >= shortest) break;
  jpeg_calc_output_dimensions(info);
  return true;
}

bool JpegRead(JpegState* state, std::uint8_t* pixels) {
  if (setjmp(state->out) != 0) return false;
  jpeg_decompress_struct* info = &state->info;
  jpeg_start_decompress(info);
  const std::size_t stride = static_cast<std::size_t>(info->output_width) *
                             static_cast<std::size_t>(info->output_components);
  while (info->output_scanline < info->output_height) {
    JSAMPROW row = pixels + info->output_scanline * stride;
    jpeg_read_scanlines(info, &row, 1);
  }
  jpeg_finish_decompress(info);
  return true;
}

RgbImage DecodeJpeg(const fs::path& file, std::span<const std::uint8_t> bytes,
                    std::int64_t shortest) {
  const auto close = [](JpegState* state) {
    jpeg_destroy_decompress(&state->info);
    delete state;
  };
  const std::unique_ptr<JpegState, decltype(close)> state(new JpegState, close);
  if (!JpegBegin(state.get(), bytes, shortest)) BadImage(file, state->message);
  const jpeg_decompress_struct& info = state->info;
  CheckExtent(file, info.image_height, info.image_width);
  RgbImage image{info.output_height, info.output_width, {}};
  const auto count = static_cast<std::size_t>(image.rows * image.columns);
  image.pixels.resize(count * static_cast<std::size_t>(info.out_color_components));
  if (!JpegRead(state.get(), image.pixels.data())) BadImage(file, state->message);
  if (info.out_color_space == JCS_CMYK) {
    // Adobe's programs, which are the only ones that write CMYK, store 255 minus the ink.
    const std::uint8_t* from = image.pixels.data();
    std::uint8_t* to = image.pixels.data();
    for (std::size_t i = 0; i < count; ++i, from += 4)
      for (int c = 0; c < 3; ++c) *to++ = static_cast<std::uint8_t>(from[c] * from[3] / 255);
    image.pixels.resize(count * 3);
  }
  return image;
}

RgbImage DecodePng(const fs::path& file, std::span<const std::uint8_t> bytes) {
  png_image info{};
  info.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, decltype(&png_image_free)> close(&info, png_image_free);
  if (png_image_begin_read_from_memory(&info, bytes.data(), bytes.size()) == 0)
    BadImage(file, info.message);
  CheckExtent(file, info.height, info.width);
  info.format = PNG_FORMAT_RGB;
  RgbImage image{info.height, info.width, std::vector<std::uint8_t>(PNG_IMAGE_SIZE(info))};
  const png_color black{0, 0, 0};
  if (png_image_finish_read(&info, &black, image.pixels.data(), 0, nullptr) == 0)
    BadImage(file, info.message);
  return image;
}

// How an output pixel is made of COUNT input pixels from FIRST on.
struct Taps {
  std::int64_t first = 0;
  std::vector<float> weights;
};

// A triangle around each output pixel's middle, as wide as what it stands for.
std::vector<Taps> MakeTaps(std::int64_t extent, double begin, double length, std::int64_t size) {
  const double scale = length / static_cast<double>(size), radius = std::max(1.0, scale);
  std::vector<Taps> all(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    const double middle = begin + (static_cast<double>(i) + 0.5) * scale;
    Taps& taps = all[static_cast<std::size_t>(i)];
    taps.first = std::clamp(static_cast<std::int64_t>(std::floor(middle - radius + 0.5)),
                            std::int64_t{0}, extent - 1);
    const std::int64_t end = std::clamp(
        static_cast<std::int64_t>(std::floor(middle + radius + 0.5)), taps.first + 1, extent);
    double sum = 0;
    for (std::int64_t at = taps.first; at < end; ++at) {
      const double weight =
          std::max(0.0, 1 - std::abs((static_cast<double>(at) + 0.5 - middle) / radius));
      taps.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    if (sum <= 0) {
      taps.weights[0] = 1;
      sum = 1;
    }
    for (float& weight : taps.weights) weight = static_cast<float>(weight / sum);
  }
  return all;
}

}  // namespace

RgbImage DecodeImage(const fs::path& file, std::span<const std::uint8_t> bytes,
                     std::int64_t shortest) {
  constexpr std::array<std::uint8_t, 3> kJpeg = {0xff, 0xd8, 0xff};
  constexpr std::array<std::uint8_t, 4> kPng = {0x89, 'P', 'N', 'G'};
  const auto begins = [&](const auto& magic) {
    return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
  };
  if (begins(kJpeg)) return DecodeJpeg(file, bytes, shortest);
  if (begins(kPng)) return DecodePng(file, bytes);
  DamagedData(file, "is neither a JPEG nor a PNG");
}

void Resample(const RgbImage& image, const Box& box, std::int64_t size, bool mirrored, float* out) {
  const std::vector<Taps> across = MakeTaps(image.columns, box.left, box.columns, size);
  const std::vector<Taps> down = MakeTaps(image.rows, box.top, box.rows, size);
  const std::int64_t first = down.front().first;
  const std::int64_t last =
      down.back().first + static_cast<std::int64_t>(down.back().weights.size());
  const auto line = static_cast<std::size_t>(3 * size);
  std::vector<float> rows(static_cast<std::size_t>(last - first) * line);
  for (std::int64_t y = first; y < last; ++y) {
    float* to = rows.data() + static_cast<std::size_t>(y - first) * line;
    for (std::int64_t x = 0; x < size; ++x) {
      const Taps& taps = across[static_cast<std::size_t>(mirrored ? size - 1 - x : x)];
      const std::uint8_t* from = image.pixels.data() + (y * image.columns + taps.first) * 3;
      std::array<float, 3> sum{};
      for (const float weight : taps.weights)
        for (float& each : sum) each += weight * static_cast<float>(*from++);
      to = std::copy(sum.begin(), sum.end(), to);
    }
  }
  for (std::int64_t y = 0; y < size; ++y, out += line) {
    const Taps& taps = down[static_cast<std::size_t>(y)];
    std::fill(out, out + line, 0.0F);
    const float* from = rows.data() + static_cast<std::size_t>(taps.first - first) * line;
    for (const float weight : taps.weights)
      for (std::size_t i = 0; i < line; ++i) out[i] += weight * *from++;
  }
}

}  // namespace envkit
