// Data sets and their loader: what files hold, and that no damaged file does harm.
#include "envkit/datasets.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
// jpeglib.h wants stdio.h before it.
#include <jpeglib.h>
#include <png.h>

#include "data/image_codec.h"
#include "envkit/seed.h"
#include "helpers.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::string Tokens(const std::vector<std::uint16_t>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2};
}

std::string LlmcHeader(std::int32_t version, std::int32_t count) {
  std::vector<std::int32_t> header(256);
  header[0] = 20240520;
  header[1] = version;
  header[2] = count;
  return {reinterpret_cast<const char*>(header.data()), 1024};
}

std::vector<std::int64_t> Values(const at::Tensor& tensor) {
  std::vector<std::int64_t> values;
  const at::Tensor flat = tensor.contiguous().view({-1});
  for (std::int64_t i = 0; i < flat.numel(); ++i) values.push_back(flat[i].item<std::int64_t>());
  return values;
}

TEST_CASE("tokens: with llm.c's header and without") {
  const Scratch scratch;
  std::vector<std::uint16_t> tokens(10);
  std::iota(tokens.begin(), tokens.end(), std::uint16_t{40});
  WriteFile(scratch / "plain.bin", Tokens(tokens));
  WriteFile(scratch / "headed.bin", LlmcHeader(1, 10) + Tokens(tokens));
  for (const char* name : {"plain.bin", "headed.bin"}) {
    const TokenDataset set(scratch / name, 4, 50);
    CHECK(set.size() == 2);
    const Batch batch = set.Get(std::vector<std::int64_t>{1, 0}, 0);
    CHECK(Values(batch[0]) == std::vector<std::int64_t>{44, 45, 46, 47, 40, 41, 42, 43});
    CHECK(Values(batch[1]) == std::vector<std::int64_t>{45, 46, 47, 48, 41, 42, 43, 44});
  }
  const auto text = [&](const std::string& bytes, std::int64_t context, std::int64_t vocabulary) {
    const fs::path file = scratch / "bad.bin";
    WriteFile(file, bytes);
    std::string what = FailureText([&] { TokenDataset(file, context, vocabulary); });
    return what.starts_with(file.string() + ": ") ? what.substr(file.string().size() + 2) : what;
  };
  CHECK(text(Tokens(tokens), 4, 49) == "token 9 is 49; the vocabulary has 49");
  CHECK(text(Tokens(tokens), 10, 50) == "has 10 tokens, too few for a context of 10");
  CHECK(text(Tokens(tokens) + "x", 4, 50) == "has half a token");
  CHECK(text(LlmcHeader(2, 10) + Tokens(tokens), 4, 50) == "is of version 2, not 1");
  CHECK(text(LlmcHeader(1, 11) + Tokens(tokens), 4, 50) == "declares 11 tokens and has 10");
  CHECK(text(LlmcHeader(1, -1) + Tokens(tokens), 4, 50) == "declares -1 tokens and has 10");
}

std::string Npy(const std::string& header, const std::string& values) {
  std::string text = header;
  text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 11, ' ');
  text += '\n';
  const auto length = static_cast<std::uint16_t>(text.size());
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes.append(reinterpret_cast<const char*>(&length), 2);
  return bytes + text + values;
}

TEST_CASE("npy: what numpy writes, and nothing else") {
  const Scratch scratch;
  const float numbers[] = {1, 2, 3, 4, 5, 6};
  const std::string values(reinterpret_cast<const char*>(numbers), sizeof numbers);
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  const fs::path file = scratch / "x.npy";
  WriteFile(file, Npy(header, values));
  const at::Tensor tensor = MapNpy(file);
  CHECK(tensor.sizes() == at::IntArrayRef{2, 3});
  CHECK(tensor[1][2].item<float>() == 6);
  const auto text = [&](const std::string& other, const std::string& contents) {
    WriteFile(file, Npy(other, contents));
    std::string what = FailureText([&] { MapNpy(file); });
    return what.starts_with(file.string() + ": ") ? what.substr(file.string().size() + 2) : what;
  };
  CHECK(text("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", values) ==
        "is in Fortran order");
  CHECK(text("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", values) ==
        "has values of type '>f4', which are none of ours");
  CHECK(text("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", values) ==
        "has 24 bytes of values, which is not what its shape says");
  CHECK(text("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }", "") == "is empty");
  CHECK(text("{'descr': '<f4', 'fortran_order': False, }", values) ==
        "has no 'shape' in its header");
  CHECK(text("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 3), }",
             values) == "has an impossible shape");
  CHECK(text("{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", "\x01\x02") ==
        "has a boolean that is neither 0 nor 1");
  std::mt19937 random(1);
  const std::string good = Npy(header, values);
  for (int round = 0; round < 3000; ++round) {
    WriteFile(file, Mutated(good, random));
    try {
      const at::Tensor mutated = MapNpy(file);
      CHECK(mutated.nbytes() <= fs::file_size(file));
      CHECK(mutated.sum().numel() == 1);  // every value is there
    } catch (const Failure& failure) {
      CHECK(Contains(failure.what(), "x.npy: "));
    }
  }
}

TEST_CASE("CIFAR-10: its binary files") {
  const Scratch scratch;
  std::mt19937 random(1);
  const auto write = [&](const std::string& name, int images, unsigned label) {
    std::string bytes;
    for (int i = 0; i < images; ++i) {
      bytes += static_cast<char>(label);
      for (int j = 0; j < 3072; ++j) bytes += static_cast<char>(random());
    }
    WriteFile(scratch.path() / "cifar-10-batches-bin" / name, bytes);
    return bytes;
  };
  std::string third;
  for (unsigned i = 1; i <= 5; ++i) {
    const std::string bytes = write("data_batch_" + std::to_string(i) + ".bin", 4, i);
    if (i == 3) third = bytes;
  }
  write("test_batch.bin", 3, 9);
  const CifarDataset train(scratch.path(), true, false, 1);
  CHECK(train.size() == 20);
  CHECK(CifarDataset(scratch.path(), false, false, 1).size() == 3);
  const Batch batch = train.Get(std::vector<std::int64_t>{9}, 0);
  CHECK(batch[1][0].item<int>() == 3);
  const auto pixel = static_cast<unsigned char>(third[3073 + 1 + 1024 + 5 * 32 + 7]);
  CHECK(batch[0][0][1][5][7].item<double>() ==
        doctest::Approx((pixel / 255.0 - 0.4822) / 0.2435).epsilon(1e-5));
  // Augmentation: the same for the same epoch and sample, another in another.
  const CifarDataset changed(scratch.path(), true, true, 1);
  const auto get = [&](std::int64_t epoch) {
    return changed.Get(std::vector<std::int64_t>{9, 2, 11}, epoch)[0];
  };
  CHECK(get(1).equal(get(1)));
  CHECK(!get(1).equal(get(2)));
  const fs::path bad = scratch.path() / "cifar-10-batches-bin/test_batch.bin";
  WriteFile(bad, third.substr(1));
  CHECK(FailureText([&] { CifarDataset(scratch.path(), false, false, 1); }) ==
        bad.string() + ": is no CIFAR-10 batch: its size is no multiple of 3073");
  third[3073] = 10;
  WriteFile(bad, third);
  CHECK(FailureText([&] { CifarDataset(scratch.path(), false, false, 1); }) ==
        bad.string() + ": label 1 is not below 10");
}

std::string Jpeg(std::int64_t rows, std::int64_t columns, int channels, bool progressive,
                 const std::function<std::uint8_t(std::int64_t, std::int64_t, int)>& pixel) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = static_cast<JDIMENSION>(columns);
  info.image_height = static_cast<JDIMENSION>(rows);
  info.input_components = channels;
  info.in_color_space = channels == 4 ? JCS_CMYK : channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  if (progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  std::vector<std::uint8_t> line(static_cast<std::size_t>(columns * channels));
  for (std::int64_t y = 0; y < rows; ++y) {
    for (std::int64_t x = 0; x < columns; ++x)
      for (int c = 0; c < channels; ++c)
        line[static_cast<std::size_t>(x * channels + c)] = pixel(y, x, c);
    JSAMPROW row = line.data();
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::string text(reinterpret_cast<const char*>(bytes), size);
  jpeg_destroy_compress(&info);
  std::free(bytes);
  return text;
}

std::string Png(std::int64_t rows, std::int64_t columns, png_uint_32 format,
                const std::vector<std::uint8_t>& pixels) {
  png_image info{};
  info.version = PNG_IMAGE_VERSION;
  info.width = static_cast<png_uint_32>(columns);
  info.height = static_cast<png_uint_32>(rows);
  info.format = format;
  png_alloc_size_t size = 0;
  REQUIRE(png_image_write_to_memory(&info, nullptr, &size, 0, pixels.data(), 0, nullptr) != 0);
  std::string text(size, '\0');
  REQUIRE(png_image_write_to_memory(&info, text.data(), &size, 0, pixels.data(), 0, nullptr) != 0);
  text.resize(size);
  return text;
}

RgbImage Decoded(const std::string& bytes, std::int64_t shortest = INT64_MAX) {
  return DecodeImage("x.jpg", {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()},
                     shortest);
}

TEST_CASE("images: what JPEG and PNG files hold") {
  const auto slope = [](std::int64_t y, std::int64_t x, int c) {
    return static_cast<std::uint8_t>(2 * x + y + 40 * c);
  };
  for (const bool progressive : {false, true}) {
    const RgbImage image = Decoded(Jpeg(40, 60, 3, progressive, slope));
    REQUIRE(image.rows == 40);
    REQUIRE(image.columns == 60);
    const std::uint8_t* at = image.pixels.data() + (30 * 60 + 20) * 3;
    for (int c = 0; c < 3; ++c) CHECK(std::abs(at[c] - slope(30, 20, c)) <= 6);
  }
  const RgbImage grey = Decoded(Jpeg(8, 8, 1, false, [](auto, auto, int) { return 77; }));
  CHECK(std::all_of(grey.pixels.begin(), grey.pixels.end(), [](int v) { return v == 77; }));
  CHECK(grey.pixels.size() == 8 * 8 * 3);
  // Little ink, and a black that halves the rest.
  const RgbImage ink = Decoded(
      Jpeg(8, 8, 4, false, [](auto, auto, int c) { return std::uint8_t(c == 3 ? 128 : 200); }));
  CHECK(std::abs(ink.pixels[0] - 100) <= 2);
  CHECK(ink.pixels.size() == 8 * 8 * 3);
  // Shrunk while it is decoded, and not below what is wanted.
  CHECK(Decoded(Jpeg(80, 160, 3, false, slope), 20).rows == 20);
  CHECK(Decoded(Jpeg(80, 160, 3, false, slope), 21).rows == 40);

  const RgbImage rgb = Decoded(Png(1, 2, PNG_FORMAT_RGB, {1, 2, 3, 250, 251, 252}));
  CHECK(rgb.pixels == std::vector<std::uint8_t>{1, 2, 3, 250, 251, 252});
  CHECK(Decoded(Png(1, 2, PNG_FORMAT_GRAY, {9, 8})).pixels ==
        std::vector<std::uint8_t>{9, 9, 9, 8, 8, 8});
  // What is transparent is black.
  CHECK(Decoded(Png(1, 2, PNG_FORMAT_RGBA, {9, 8, 7, 255, 9, 8, 7, 0})).pixels ==
        std::vector<std::uint8_t>{9, 8, 7, 0, 0, 0});
}

TEST_CASE("images: files that are none, and hostile ones") {
  const std::string jpeg =
      Jpeg(16, 16, 3, true, [](auto y, auto x, int) { return std::uint8_t(x * y); });
  const std::string png = Png(2, 2, PNG_FORMAT_RGB, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const auto text = [](const std::string& bytes) { return FailureText([&] { Decoded(bytes); }); };
  CHECK(text("") == "x.jpg: is neither a JPEG nor a PNG");
  CHECK(text("GIF89a") == "x.jpg: is neither a JPEG nor a PNG");
  CHECK(text(jpeg.substr(0, jpeg.size() / 2)) ==
        "x.jpg: is no whole image: Premature end of JPEG file");
  CHECK(text(png.substr(0, png.size() - 20)).starts_with("x.jpg: is no whole image: "));
  std::string huge = png;
  huge.replace(16, 8, std::string("\x00\x0f\x42\x40\x00\x0f\x42\x40", 8));
  CHECK(text(huge).starts_with("x.jpg: "));
  std::mt19937 random(1);
  for (const std::string& good : {jpeg, png}) {
    int whole = 0;
    for (int round = 0; round < 1000; ++round) {
      try {
        const RgbImage image = Decoded(Mutated(good, random));
        CHECK(image.pixels.size() == static_cast<std::size_t>(image.rows * image.columns * 3));
        ++whole;
      } catch (const Failure& failure) {
        CHECK(Contains(failure.what(), "x.jpg: "));
      }
    }
    CHECK(whole < 1000);
  }
}

TEST_CASE("images: a part of one is resampled") {
  RgbImage image{4, 8, std::vector<std::uint8_t>(4 * 8 * 3)};
  for (std::size_t i = 0; i < 32; ++i)
    for (std::size_t c = 0; c < 3; ++c)
      image.pixels[i * 3 + c] = static_cast<std::uint8_t>(10 * (i % 8) + c);
  std::vector<float> out(4 * 4 * 3);
  Resample(image, {0, 2, 4, 4}, 4, false, out.data());  // pixels as they are
  CHECK(out[0] == doctest::Approx(20));
  CHECK(out[4] == doctest::Approx(31));
  CHECK(out[11] == doctest::Approx(52));
  Resample(image, {0, 2, 4, 4}, 4, true, out.data());
  CHECK(out[0] == doctest::Approx(50));
  Resample(image, {0, 2, 4, 4}, 2, false, out.data());  // shrunk: a triangle over four
  CHECK(out[0] == doctest::Approx((20 * 0.75 + 30 * 0.75 + 10 * 0.25 + 40 * 0.25) / 2));
}

TEST_CASE("image folders: classes, parts and augmentation") {
  const Scratch scratch;
  const auto flat = [](int value) {
    return [value](auto, auto, int) { return static_cast<std::uint8_t>(value); };
  };
  for (int i = 0; i < 3; ++i)
    WriteFile(scratch.path() / "train/cat" / (std::to_string(i) + ".JPG"),
              Jpeg(40 + i, 50, 3, false, flat(30 * i)));
  WriteFile(scratch.path() / "train/ant/deep/x.png",
            Png(1, 2, PNG_FORMAT_RGB, {255, 255, 255, 255, 255, 255}));
  WriteFile(scratch.path() / "train/ant/notes.txt", "no image");
  WriteFile(scratch.path() / "train/.hidden/x.png", "no image");
  ImageFolderDataset::Options options;
  options.size = 16;
  const ImageFolderDataset train(scratch / "train", options);
  CHECK(train.classes() == std::vector<std::string>{"ant", "cat"});
  CHECK(train.size() == 4);
  const Batch batch = train.Get(std::vector<std::int64_t>{3, 0}, 0);
  CHECK(batch[0].sizes() == at::IntArrayRef{2, 3, 16, 16});
  CHECK(Values(batch[1]) == std::vector<std::int64_t>{1, 0});
  CHECK(batch[0][0][1][8][8].item<double>() ==
        doctest::Approx((60 / 255.0 - 0.456) / 0.224).epsilon(1e-3));
  CHECK(batch[0][1][2][15][0].item<double>() == doctest::Approx((1 - 0.406) / 0.225).epsilon(1e-3));

  WriteFile(scratch.path() / "train/cat/3.jpg", Jpeg(64, 64, 3, false, [](auto y, auto x, int) {
              return static_cast<std::uint8_t>(x * 3 + y);
            }));
  options.augment = true;
  const ImageFolderDataset changed(scratch / "train", options);
  const auto get = [&](std::int64_t epoch) {
    return changed.Get(std::vector<std::int64_t>{4}, epoch)[0];
  };
  CHECK(get(1).equal(get(1)));
  CHECK(!get(1).equal(get(2)));
  // Threads change nothing.
  const auto all = [&](int threads) {
    DataLoader loader(std::make_shared<ImageFolderDataset>(scratch / "train", options),
                      {.shuffle = true, .read_ahead = 4, .threads = threads});
    std::vector<at::Tensor> seen;
    for (int epoch = 0; epoch < 3; ++epoch)
      for (const Batch& each : loader) seen.push_back(each[0]);
    return at::cat(seen);
  };
  CHECK(all(1).equal(all(3)));

  const auto text = [&](const fs::path& folder, const ImageFolderDataset::Options& wanted) {
    return FailureText(
        [&] { ImageFolderDataset(folder, wanted).Get(std::vector<std::int64_t>{0}, 0); });
  };
  WriteFile(scratch.path() / "val/dog/x.jpg", "no image");
  options.classes = train.classes();
  CHECK(text(scratch / "val", options) ==
        (scratch / "val").string() + "/dog: no class of the training set has this name");
  CHECK(text(scratch / "val", {}) ==
        (scratch / "val").string() + "/dog/x.jpg: is neither a JPEG nor a PNG");
  fs::create_directories(scratch.path() / "empty/dog");
  CHECK(text(scratch / "empty", {}) ==
        (scratch / "empty").string() + " has no image CLASS/NAME.jpg, .jpeg or .png");
  CHECK(text(scratch / "none", {}) ==
        "cannot read " + (scratch / "none").string() + ": No such file or directory");
}

TEST_CASE("loader: any number of ranks has the same global batches, from any position") {
  const auto data = std::make_shared<TensorDataset>(Batch{at::arange(50, at::kLong)});
  const auto batches = [&](int world, DataLoader::Position from, int read_ahead) {
    std::vector<std::unique_ptr<DataLoader>> ranks;
    for (int rank = 0; rank < world; ++rank) {
      ranks.push_back(
          std::make_unique<DataLoader>(data, DataLoaderOptions{.batch_size = 12 / world,
                                                               .shuffle = true,
                                                               .seed = 3,
                                                               .drop_last = true,
                                                               .read_ahead = read_ahead}));
      ranks.back()->Shard(rank, world, at::kCPU);
      ranks.back()->Seek(from);
    }
    std::vector<std::vector<std::int64_t>> all;
    while (true) {
      std::vector<std::int64_t> global;
      Batch batch;
      for (const auto& rank : ranks) {
        if (!rank->Next(&batch)) continue;
        for (const std::int64_t value : Values(batch[0])) global.push_back(value);
      }
      if (global.empty()) return all;
      all.push_back(global);
    }
  };
  const auto one = batches(1, {}, 0);
  CHECK(one.size() == 4);
  for (const int world : {1, 2, 3, 4})
    for (const int read_ahead : {0, 1, 3}) CHECK(batches(world, {}, read_ahead) == one);
  CHECK(batches(2, {0, 2}, 2) == std::vector(one.begin() + 2, one.end()));
  CHECK(batches(1, {1, 0}, 2) != one);
  std::set<std::int64_t> seen;
  for (const auto& batch : one) seen.insert(batch.begin(), batch.end());
  CHECK(seen.size() == 48);
}

class Failing : public Dataset {
 public:
  std::int64_t size() const override { return 10; }
  Batch Get(std::span<const std::int64_t> indices, std::int64_t /*epoch*/) const override {
    if (indices[0] == 4) throw Failure("sample 4 is damaged");
    return {at::arange(2, at::kLong)};
  }
};

TEST_CASE("loader: what goes wrong in the background is thrown in front, in its turn") {
  DataLoader loader(std::make_shared<Failing>(), {.batch_size = 2});
  Batch batch;
  CHECK(loader.Next(&batch));
  CHECK(loader.Next(&batch));
  CHECK(FailureText([&] { loader.Next(&batch); }) == "sample 4 is damaged");
  CHECK(FailureText([&] { loader.Seek({0, 6}); }) == "there is no batch 6 in epoch 0: it has 5");
  CHECK(FailureText([] { DataLoader(std::make_shared<Failing>(), {.batch_size = 0}); }) ==
        "batches of 0 for 1 ranks cannot be taken from 10 samples");
}

TEST_CASE("set_seed: the same numbers again, others for another rank") {
  const auto draw = [](std::uint64_t seed, int rank) {
    set_seed(seed, rank);
    return at::rand({8});
  };
  CHECK(draw(5, 0).equal(draw(5, 0)));
  CHECK(draw(5, 1).equal(draw(5, 1)));
  CHECK(!draw(5, 0).equal(draw(5, 1)));
  CHECK(!draw(5, 0).equal(draw(6, 0)));
}

}  // namespace
}  // namespace envkit
