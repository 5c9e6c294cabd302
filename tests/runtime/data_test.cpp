// The sampler, idx files and batches.
#include <zlib.h>

#include <numeric>
#include <set>

#include "envkit/data.h"
#include "helpers.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Batch = std::vector<std::int64_t>;

ShardedSampler::Options Options(std::int64_t samples, std::int64_t batch, std::uint64_t seed,
                                int rank = 0, int world = 1) {
  return {samples, batch, seed, rank, world};
}

// The next STEPS global batches that WORLD ranks have together, from POSITION on.
std::vector<Batch> GlobalBatches(std::int64_t samples, std::int64_t batch, std::uint64_t seed,
                                 int world, int steps, ShardedSampler::Position position = {}) {
  std::vector<ShardedSampler> ranks;
  for (int rank = 0; rank < world; ++rank) {
    ranks.emplace_back(Options(samples, batch, seed, rank, world));
    ranks.back().Seek(position);
  }
  std::vector<Batch> batches(static_cast<std::size_t>(steps));
  for (Batch& all : batches) {
    for (ShardedSampler& rank : ranks) {
      const auto share = rank.Next();
      REQUIRE(share.size() == static_cast<std::size_t>(batch / world));
      all.insert(all.end(), share.begin(), share.end());
    }
  }
  return batches;
}

TEST_CASE("sampler: any number of ranks has the same global batches") {
  const auto one = GlobalBatches(100, 12, 7, 1, 20);  // 8 steps an epoch, 4 samples left over
  for (const int world : {2, 3, 4, 6, 12}) CHECK(GlobalBatches(100, 12, 7, world, 20) == one);
  CHECK(GlobalBatches(100, 12, 7, 1, 20) == one);
  CHECK(GlobalBatches(100, 12, 8, 1, 20) != one);
}

TEST_CASE("sampler: a shuffle of known order, on any machine") {
  CHECK(HashBits(1, 2, 3) == 15020427595393229491U);
  CHECK(GlobalBatches(10, 5, 1, 1, 4) ==
        std::vector<Batch>{{9, 2, 7, 3, 6}, {4, 5, 0, 1, 8}, {2, 8, 7, 9, 5}, {4, 0, 3, 1, 6}});
}

TEST_CASE("sampler: every sample once an epoch, in another order each time") {
  std::vector<Batch> epochs;
  const auto batches = GlobalBatches(96, 12, 3, 4, 3 * 8);
  for (std::size_t epoch = 0; epoch < 3; ++epoch) {
    Batch all;
    for (std::size_t step = 0; step < 8; ++step)
      all.insert(all.end(), batches[epoch * 8 + step].begin(), batches[epoch * 8 + step].end());
    epochs.push_back(all);
    std::sort(all.begin(), all.end());
    Batch expected(96);
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(all == expected);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  CHECK(epochs[0] != epochs[2]);
  // With a remainder: none twice.
  const auto some = GlobalBatches(100, 12, 3, 1, 8);
  std::set<std::int64_t> seen;
  for (const Batch& batch : some) seen.insert(batch.begin(), batch.end());
  CHECK(seen.size() == 96);
  CHECK(*seen.begin() >= 0);
  CHECK(*seen.rbegin() < 100);
}

TEST_CASE("sampler: goes on where it stood, whatever the number of ranks") {
  const auto whole = GlobalBatches(100, 12, 7, 1, 24);
  ShardedSampler sampler(Options(100, 12, 7));
  for (int done = 0; done < 20; ++done) {
    const auto position = sampler.position();
    for (const int world : {1, 2, 3, 4}) {
      const auto rest = GlobalBatches(100, 12, 7, world, 4, position);
      CHECK(std::equal(rest.begin(), rest.end(), whole.begin() + done));
    }
    sampler.Next();
  }
  CHECK(sampler.position().epoch == 2);
  CHECK(sampler.position().offset == 48);
}

TEST_CASE("sampler: what cannot be") {
  ShardedSampler sampler(Options(100, 12, 7));
  for (const ShardedSampler::Position bad :
       {ShardedSampler::Position{0, 5}, {0, -12}, {-1, 0}, {0, 108}, {0, INT64_MAX / 12 * 12}})
    CHECK(FailureCode([&] { sampler.Seek(bad); }) == 1);
  CHECK(FailureText([&] {
          sampler.Seek({3, 5});
        }) == "no global batch of 12 starts at sample 5 of epoch 3");
  CHECK_NOTHROW(sampler.Seek({0, 96}));  // an epoch's end
  const auto text = [](std::int64_t samples, std::int64_t batch, int world) {
    CHECK(FailureCode([&] { ShardedSampler(Options(samples, batch, 0, 0, world)); }) == 2);
    return FailureText([&] { ShardedSampler(Options(samples, batch, 0, 0, world)); });
  };
  CHECK(text(100, 0, 1) == "a global batch of 0 cannot be taken from 100 samples");
  CHECK(text(100, 101, 1) == "a global batch of 101 cannot be taken from 100 samples");
  CHECK(text(0, 1, 1) == "a global batch of 1 cannot be taken from 0 samples");
  CHECK(text(100, 10, 3) == "a global batch of 10 cannot be dealt equally to 3 ranks");
}

// An idx file's bytes, its values counting up modulo MODULO.
std::string Idx(const std::vector<std::uint32_t>& dimensions, int modulo) {
  std::string bytes = {'\0', '\0', '\x08', static_cast<char>(dimensions.size())};
  std::uint32_t size = 1;
  for (const std::uint32_t extent : dimensions) {
    for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(extent >> shift & 255);
    size *= extent;
  }
  for (std::uint32_t i = 0; i < size; ++i)
    bytes += static_cast<char>(i % static_cast<std::uint32_t>(modulo));
  return bytes;
}

void WriteGzip(const fs::path& file, const std::string& bytes) {
  const gzFile out = gzopen(file.c_str(), "wb");
  REQUIRE(out != nullptr);
  CHECK(gzwrite(out, bytes.data(), static_cast<unsigned>(bytes.size())) ==
        static_cast<int>(bytes.size()));
  CHECK(gzclose(out) == Z_OK);
}

// Every prefix of IMAGES' bytes is a Failure that names it.
void CheckTruncations(const fs::path& images, const fs::path& labels) {
  const std::string bytes = ReadFile(images);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    WriteFile(images, bytes.substr(0, size));
    const std::string text = FailureText([&] { ImageSet::OpenIdx(images, labels, 10); });
    INFO(size << ": " << text);
    CHECK(text.starts_with(images.string() + ": "));
  }
  WriteFile(images, bytes);
}

TEST_CASE("idx: what was written is read, compressed or not") {
  const Scratch scratch;
  const fs::path images = scratch / "images", labels = scratch / "labels";
  WriteFile(images, Idx({4, 3, 2}, 256));
  WriteFile(labels, Idx({4}, 10));
  WriteGzip(scratch / "images.gz", ReadFile(images));
  WriteGzip(scratch / "labels.gz", ReadFile(labels));
  for (const char* ending : {"", ".gz"}) {
    const ImageSet set = ImageSet::OpenIdx(images.string() + ending, labels.string() + ending, 10);
    CHECK(set.count() == 4);
    CHECK(set.rows() == 3);
    CHECK(set.columns() == 2);
    CHECK(set.image(3).size() == 6);
    CHECK(set.image(3)[0] == 18);
    CHECK(set.image(3)[5] == 23);
    CHECK(set.label(3) == 3);
  }
}

TEST_CASE("idx: damaged files are named, and what is wrong with them") {
  const Scratch scratch;
  const fs::path images = scratch / "images", labels = scratch / "labels";
  const std::string good = Idx({4, 3, 2}, 256);
  WriteFile(images, good);
  WriteFile(labels, Idx({4}, 10));
  CheckTruncations(images, labels);
  const auto text = [&](const std::string& bytes) {
    WriteFile(images, bytes);
    std::string what = FailureText([&] { ImageSet::OpenIdx(images, labels, 10); });
    WriteFile(images, good);
    REQUIRE(what.starts_with(images.string() + ": "));
    return what.substr(images.string().size() + 2);
  };
  CHECK(text("") == "ends within its header (0 bytes)");
  CHECK(text(good.substr(0, 15)) == "ends within its header (15 bytes)");
  CHECK(text(good.substr(0, 39)) == "declares 24 bytes of values and has 23");
  CHECK(text(good + "x") == "declares 24 bytes of values and has 25");
  CHECK(text(Idx({4}, 10) + good) == "is no idx3-ubyte file");
  CHECK(text("\x1f\x8b" + good.substr(2)) == "is no idx3-ubyte file");
  CHECK(text(good.substr(0, 2) + "\x0d" + good.substr(3)) == "is no idx3-ubyte file");  // floats
  CHECK(text(Idx({0, 3, 2}, 256)) == "is empty");
  CHECK(text(good.substr(0, 4) + std::string(12, '\xff')) == "declares an impossible size");
  CHECK(text(Idx({4, 1, 5000}, 256)) == "has images of 1 x 5000 pixels");

  WriteFile(labels, Idx({5}, 10));
  CHECK(FailureText([&] { ImageSet::OpenIdx(images, labels, 10); }) ==
        labels.string() + ": has 5 labels for the 4 images of images");
  WriteFile(labels, Idx({4}, 10));
  CHECK(FailureText([&] { ImageSet::OpenIdx(images, labels, 3); }) ==
        labels.string() + ": label 3 is 3; there are 3 classes, from 0");
  CHECK(FailureText([&] { ImageSet::OpenIdx(scratch / "none", labels, 10); }) ==
        (scratch / "none").string() + ": No such file or directory");
  CHECK(FailureCode([&] { ImageSet::OpenIdx(scratch / "none", labels, 10); }) == 3);
  CHECK(FailureText([&] { ImageSet::OpenIdx(scratch.path(), labels, 10); }) ==
        scratch.path().string() + ": not a regular file");
}

TEST_CASE("idx: damaged gzip files") {
  const Scratch scratch;
  const fs::path images = scratch / "images.gz", labels = scratch / "labels";
  WriteFile(labels, Idx({4}, 10));
  WriteGzip(images, Idx({4, 3, 2}, 256));
  CheckTruncations(images, labels);
  std::string bytes = ReadFile(images);
  bytes[bytes.size() - 6] ^= 1;  // its checksum
  WriteFile(images, bytes);
  CHECK(FailureText([&] {
          ImageSet::OpenIdx(images, labels, 10);
        }).starts_with(images.string() + ": cannot be decompressed: "));
  WriteFile(images, Idx({4, 3, 2}, 256));
  CHECK(FailureText([&] { ImageSet::OpenIdx(images, labels, 10); }) ==
        images.string() + ": is no gzip file");
}

TEST_CASE("idx: random damage is an error or another good file, never a crash") {
  const Scratch scratch;
  std::mt19937 random(1);
  const fs::path labels = scratch / "labels";
  WriteFile(labels, Idx({4}, 10));
  WriteGzip(scratch / "whole.gz", Idx({4, 3, 2}, 256));
  WriteFile(scratch / "whole", Idx({4, 3, 2}, 256));
  int refused = 0;
  for (const char* ending : {"", ".gz"}) {
    const std::string whole = ReadFile((scratch / "whole").string() + ending);
    const fs::path images = (scratch / "images").string() + ending;
    for (int round = 0; round < 2000; ++round) {
      WriteFile(images, Mutated(whole, random));
      try {
        const ImageSet set = ImageSet::OpenIdx(images, labels, 10);
        std::vector<float> pixels(static_cast<std::size_t>(4 * set.rows() * set.columns()));
        Batch numbers(4);
        FillBatch(set, std::vector<std::int64_t>{0, 1, 2, 3}, std::nullopt, pixels.data(),
                  numbers.data());
      } catch (const Failure&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 2000);
}

TEST_CASE("MNIST: found in all its spellings, and what is missing is named") {
  const Scratch scratch;
  CHECK(FailureCode([&] { Mnist::Open(scratch / "none"); }) == 3);
  CHECK(FailureText([&] { Mnist::Open(scratch / "none"); }) ==
        "there is no data folder " + (scratch / "none").string());
  CHECK(FailureText([&] {
          Mnist::Open(scratch.path());
        }).starts_with("there is no complete MNIST below " + scratch.path().string()));
  const fs::path folder = scratch.path() / "a" / "b" / "raw";
  WriteFile(folder / "train-images-idx3-ubyte", Idx({4, 3, 2}, 256));
  WriteFile(folder / "train-labels.idx1-ubyte", Idx({4}, 10));
  WriteFile(folder / "t10k-images.idx3-ubyte", Idx({3, 3, 2}, 256));
  CHECK(FailureCode([&] { Mnist::Open(scratch.path()); }) == 3);
  CHECK(Contains(FailureText([&] { Mnist::Open(scratch.path()); }),
                 folder.string() + " lacks t10k-labels-idx1-ubyte"));
  WriteGzip(folder / "t10k-labels-idx1-ubyte.gz", Idx({3}, 10));
  const Mnist mnist = Mnist::Open(scratch.path());
  CHECK(mnist.train.count() == 4);
  CHECK(mnist.test.count() == 3);
  WriteFile(folder / "t10k-images.idx3-ubyte", Idx({3, 2, 3}, 256));
  CHECK(Contains(FailureText([&] { Mnist::Open(scratch.path()); }),
                 "has images of another size than the training set"));
  fs::copy(folder, scratch / "again");
  CHECK(FailureCode([&] { Mnist::Open(scratch.path()); }) == 2);
}

TEST_CASE("batches: scaled, and augmented by sample, not by place") {
  const Scratch scratch;
  WriteFile(scratch / "images", Idx({4, 8, 8}, 251));
  WriteFile(scratch / "labels", Idx({4}, 10));
  const ImageSet set = ImageSet::OpenIdx(scratch / "images", scratch / "labels", 10);
  const auto fill = [&](const Batch& indices, const std::optional<Augmentation>& augmentation) {
    std::vector<float> pixels(indices.size() * 64);
    Batch labels(indices.size());
    FillBatch(set, indices, augmentation, pixels.data(), labels.data());
    CHECK(labels == indices);  // of these files
    return pixels;
  };
  const auto plain = fill({2, 0}, std::nullopt);
  for (const std::size_t i : {0U, 9U, 63U}) {
    CHECK(plain[i] == doctest::Approx(((128 + i) % 251 / 255.0 - 0.1307) / 0.3081).epsilon(1e-5));
    CHECK(plain[64 + i] == doctest::Approx((i / 255.0 - 0.1307) / 0.3081).epsilon(1e-5));
  }
  const auto unmoved = fill({2, 0}, Augmentation{1, 0, 0, 0, 0});
  for (std::size_t i = 0; i < plain.size(); ++i)
    CHECK(unmoved[i] == doctest::Approx(plain[i]).epsilon(1e-4));
  const Augmentation moving{1, 0, 2, 10, 0.1};
  const auto moved = fill({2, 0}, moving), other_way = fill({0, 1, 2}, moving);
  CHECK(moved != plain);
  CHECK(std::equal(moved.begin(), moved.begin() + 64, other_way.begin() + 128));
  CHECK(std::equal(moved.begin() + 64, moved.end(), other_way.begin()));
  CHECK(fill({2, 0}, Augmentation{1, 1, 2, 10, 0.1}) != moved);
  CHECK(fill({2, 0}, Augmentation{2, 0, 2, 10, 0.1}) != moved);
}

}  // namespace
}  // namespace envkit
