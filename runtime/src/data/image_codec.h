// Images in files as pixels. Without LibTorch, so that it can be fuzzed alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace envkit {

struct RgbImage {
  std::int64_t rows = 0, columns = 0;
  std::vector<std::uint8_t> pixels;  // red, green, blue, row-major
};

// BYTES, a JPEG or a PNG (whatever the file's name ends in), as 8-bit RGB: grey is spread, CMYK
// converted, what is transparent lies on black; Exif's orientation is not looked at. A JPEG may
// come out smaller by a half, a quarter or an eighth, as long as its shorter side keeps SHORTEST
// pixels. Throws Failure that names FILE when anything is wrong with it, also when it ends early or
// is larger than kMostPixels.
constexpr std::int64_t kMostPixels = 1 << 27;
RgbImage DecodeImage(const std::filesystem::path& file, std::span<const std::uint8_t> bytes,
                     std::int64_t shortest);

// A part of an image, in pixels.
struct Box {
  double top = 0, left = 0, rows = 0, columns = 0;
};

// BOX of IMAGE as SIZE x SIZE pixels, row-major floats from 0 to 255 for red, green and blue:
// bilinear, and over as many pixels as become one where it shrinks. MIRRORED: left and right
// exchanged.
void Resample(const RgbImage& image, const Box& box, std::int64_t size, bool mirrored, float* out);

}  // namespace envkit
