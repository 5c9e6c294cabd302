// Data sets and their loader: what files hold, and that no damaged file does harm.
#include "envkit/datasets.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>

#include <cstring>
#include <numeric>
#include <set>

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

}  // namespace
}  // namespace envkit
