// safetensors files and the store of checkpoints: round trips, damage, killed writers.
#include "envkit/checkpoint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "helpers.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

bool SameTensors(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const NamedTensor& left, const NamedTensor& right) {
                      return left.name == right.name &&
                             left.tensor.scalar_type() == right.tensor.scalar_type() &&
                             left.tensor.sizes() == right.tensor.sizes() &&
                             left.tensor.equal(right.tensor);
                    });
}

std::vector<NamedTensor> Some() {
  return {{"weight", at::arange(6, at::kFloat).view({2, 3})},
          {"bias \"ü\"", at::full({3}, -1.5, at::kDouble)},
          {"step", at::full({}, 7, at::kLong)},
          {"none", at::empty({0, 4}, at::kHalf)},
          {"flags", at::arange(2, at::kByte).to(at::kBool)},
          {"bytes", at::arange(5, at::kByte)}};
}

std::string Safetensors(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

TEST_CASE("safetensors: what was written is read") {
  const Scratch scratch;
  const fs::path file = scratch / "x.safetensors";
  WriteSafetensors(file, Some(), {{"format", "pt"}, {"key", "value"}});
  const SafetensorsFile read = ReadSafetensors(file);
  CHECK(read.metadata.size() == 2);
  CHECK(read.metadata.at("key") == "value");
  std::vector<NamedTensor> expected = Some();
  CHECK(read.tensors.size() == expected.size());
  for (const NamedTensor& tensor : read.tensors) {
    const auto same = std::find_if(expected.begin(), expected.end(),
                                   [&](const NamedTensor& t) { return t.name == tensor.name; });
    REQUIRE(same != expected.end());
    CHECK(SameTensors({tensor}, {*same}));
  }
  const std::string bytes = ReadFile(file);
  WriteSafetensors(file, Some(), {{"key", "value"}, {"format", "pt"}});
  CHECK(ReadFile(file) == bytes);
}

TEST_CASE("safetensors: the format's bytes") {
  const Scratch scratch;
  const fs::path file = scratch / "x.safetensors";
  WriteSafetensors(file, {{"a", at::arange(2, at::kByte)}});
  const std::string header = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  CHECK(ReadFile(file) ==
        Safetensors(header + std::string((8 - header.size() % 8) % 8, ' '), {'\0', '\1'}));
  // Strides are no part of the file.
  WriteSafetensors(file, {{"a", at::arange(6, at::kFloat).view({2, 3}).t()}});
  CHECK(ReadSafetensors(file).tensors[0].tensor.equal(at::arange(6, at::kFloat).view({2, 3}).t()));
  CHECK(ReadSafetensors(file).tensors[0].tensor.is_contiguous());
  // Another writer's order of names is not the order of the data.
  WriteFile(file, Safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
                              R"("b":{"dtype":"I8","shape":[],"data_offsets":[0,1]}})",
                              "\x05\x06"));
  const auto tensors = ReadSafetensors(file).tensors;
  CHECK(SameTensors(tensors,
                    {{"b", at::full({}, 5, at::kChar)}, {"a", at::full({1}, 6, at::kByte)}}));
}

TEST_CASE("safetensors: damaged files are refused by name") {
  const Scratch scratch;
  const fs::path file = scratch / "x.safetensors";
  const auto text = [&](const std::string& bytes) {
    WriteFile(file, bytes);
    const std::string what = FailureText([&] { ReadSafetensors(file); });
    const std::string start = file.string() + ": no valid safetensors file: ";
    INFO(what);
    REQUIRE(what.starts_with(start));
    return what.substr(start.size());
  };
  WriteSafetensors(file, Some(), {{"format", "pt"}});
  const std::string good = ReadFile(file);
  for (std::size_t size = 0; size < good.size(); ++size) text(good.substr(0, size));
  CHECK(text("1234567") == "it is too short");
  CHECK(text(std::string(8, '\xff') + "{}") == "its header is longer than the file");
  CHECK(text(std::string("\x03\0\0\0\0\0\0\0{}", 10)) == "its header is longer than the file");
  CHECK(text(good + "x") == "header and file size disagree");
  CHECK(text(Safetensors("", "")) == "the header is no JSON object");
  CHECK(text(Safetensors("[]", "")) == "the header is no JSON object");
  CHECK(text(Safetensors("{} x", "")) == "the header is no JSON object");
  CHECK(text(Safetensors(std::string(100'000, '['), "")) == "the header is no JSON object");
  CHECK(text(Safetensors(R"({"__metadata__":1})", "")) == "__metadata__ is no object");
  CHECK(text(Safetensors(R"({"__metadata__":{"a":1}})", "")) ==
        "__metadata__ has a value that is no string");

  const auto entry = [&](const std::string& dtype, const std::string& shape,
                         const std::string& offsets, const std::string& data) {
    return text(Safetensors("{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape +
                                ",\"data_offsets\":" + offsets + "}}",
                            data));
  };
  CHECK(entry("\"F31\"", "[1]", "[0,4]", "1234") == "tensor \"a\": unknown dtype");
  CHECK(entry("32", "[1]", "[0,4]", "1234") == "tensor \"a\": unknown dtype");
  for (const char* shape :
       {"1", "[-1]", "[1.0]", "[\"1\"]", "[18446744073709551615]", "[4611686018427387904,4]",
        "[0,4611686018427387904,4611686018427387904]",
        "[4611686018427387904,4611686018427387904,0]"})
    CHECK(entry("\"F32\"", shape, "[0,0]", "") == "tensor \"a\": impossible shape");
  for (const char* offsets : {"0", "[0]", "[0,4,8]", "[-4,0]", "[0.0,4.0]", "[\"0\",\"4\"]"})
    CHECK(entry("\"F32\"", "[1]", offsets, "1234") == "tensor \"a\": impossible data_offsets");
  CHECK(entry("\"F32\"", "[1]", "[0,3]", "123") == "tensor \"a\": data_offsets and shape disagree");
  CHECK(entry("\"F32\"", "[1]", "[4,0]", "1234") ==
        "tensor \"a\": data_offsets and shape disagree");
  CHECK(entry("\"F32\"", "[1]", "[4,8]", "12345678") == "there is a gap or an overlap before a");
  CHECK(entry("\"F32\"", "[1]", "[0,4]", "123") == "header and file size disagree");
  CHECK(entry("\"BOOL\"", "[1]", "[0,1]", "\x02") ==
        "tensor \"a\": a BOOL that is neither 0 nor 1");
  CHECK(text(Safetensors(R"({"a":{"dtype":"U8"}})", "")) ==
        "tensor \"a\": wants dtype, shape and data_offsets");
  const auto two = [&](const std::string& second, const std::string& offsets) {
    return text(Safetensors(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},")" + second +
                                R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + offsets + "}}",
                            "12345678"));
  };
  CHECK(two("b", "[0,4]") == "there is a gap or an overlap before b");
  CHECK(two("b", "[3,7]") == "there is a gap or an overlap before b");
  CHECK(two("b", "[5,9]") == "there is a gap or an overlap before b");
  CHECK(two("a", "[4,8]") == "a name appears twice");

  CHECK(Contains(FailureText([&] { ReadSafetensors(scratch / "none"); }),
                 "cannot read " + (scratch / "none").string()));
  CHECK(Contains(FailureText([&] { ReadSafetensors(scratch.path()); }), scratch.path().string()));
}

TEST_CASE("safetensors: random damage is an error or another good file, never a crash") {
  const Scratch scratch;
  const fs::path file = scratch / "x.safetensors", again = scratch / "again";
  WriteSafetensors(file, Some(), {{"format", "pt"}});
  const std::string whole = ReadFile(file);
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    // In every other round the header's length fits, so that its text is looked at.
    std::string bytes = Mutated(round % 2 ? whole : whole.substr(8), random);
    if (round % 2 == 0) {
      const std::size_t header = std::min<std::size_t>(
          bytes.size(), whole.size() - 8 > bytes.size() ? bytes.find('}', bytes.size() / 2) + 2
                                                        : bytes.rfind('}') + 1);
      bytes = Safetensors(bytes.substr(0, header), bytes.substr(header));
    }
    WriteFile(file, bytes);
    try {
      const auto read = ReadSafetensors(file);
      for (const NamedTensor& each : read.tensors) static_cast<void>(each.tensor.clone());
    } catch (const Failure& failure) {
      CHECK(Contains(failure.what(), file.string()));
      ++refused;
    }
  }
  CHECK(refused > 2000);
  CHECK(refused < 4000);  // changes in the data alone are good files
}

TEST_CASE("CopyInto: names, shapes and types must match one to one") {
  const auto target = [] {
    return std::vector<NamedTensor>{{"a", at::full({2}, 0, at::kFloat)},
                                    {"b", at::full({1}, 0, at::kFloat)}};
  };
  const NamedTensor a{"a", at::full({2}, 5, at::kFloat)}, b{"b", at::full({1}, 6, at::kFloat)};
  auto to = target();
  CopyInto(to, {b, a}, "x");
  CHECK(SameTensors(to, {a, b}));
  const auto text = [&](const std::vector<NamedTensor>& source) {
    to = target();
    const std::string what = FailureText([&] { CopyInto(to, source, "x"); });
    CHECK(SameTensors(to, target()));  // nothing was copied
    return what;
  };
  CHECK(text({a}) == "x has no tensor b");
  CHECK(text({a, b, {"c", a.tensor}}) == "x has 3 tensors, the model 2");
  CHECK(text({a, {"b", at::full({2}, 6, at::kFloat)}}) ==
        "x: tensor b has another shape or type than the model's");
  CHECK(text({a, {"b", at::full({1}, 6, at::kDouble)}}) ==
        "x: tensor b has another shape or type than the model's");
}

TrainingState StateAt(std::int64_t step) {
  return {"train", step, 1, 24, UINT64_MAX, 12, 100, "cnn", 2};
}

fs::path SaveStep(CheckpointStore& store, std::int64_t step, int keep) {
  return store.Save(StateAt(step), {{"w", at::full({4}, step, at::kFloat)}},
                    {{"step", at::full({}, step, at::kFloat)}}, keep);
}

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_CASE("checkpoints: what was saved is loaded, and the newest are kept") {
  const Scratch scratch;
  const fs::path folder = scratch / "checkpoints";
  CheckpointStore store(folder);
  CHECK(store.List().empty());
  CHECK(SaveStep(store, 5, 2) == folder / "step-000005");
  SaveStep(store, 10, 2);
  SaveStep(store, 1'000'000, 2);
  CHECK(Names(folder) == std::vector<std::string>{"latest", "step-000010", "step-1000000"});
  CHECK(store.List() == std::vector<fs::path>{folder / "step-1000000", folder / "step-000010"});
  CHECK(fs::read_symlink(folder / "latest") == "step-1000000");

  const Checkpoint loaded = CheckpointStore::Load(folder / "latest");
  CHECK(loaded.state.job == "train");
  CHECK(loaded.state.step == 1'000'000);
  CHECK(loaded.state.epoch == 1);
  CHECK(loaded.state.sample_offset == 24);
  CHECK(loaded.state.seed == UINT64_MAX);
  CHECK(loaded.state.global_batch == 12);
  CHECK(loaded.state.dataset_samples == 100);
  CHECK(loaded.state.model == "cnn");
  CHECK(loaded.state.world_size == 2);
  CHECK(SameTensors(loaded.model, {{"w", at::full({4}, 1'000'000, at::kFloat)}}));
  CHECK(SameTensors(loaded.optimizer, {{"step", at::full({}, 1'000'000, at::kFloat)}}));
  CHECK(loaded.random_state.numel() > 8);

  SaveStep(store, 1'000'000, 1);  // over itself
  CHECK(Names(folder) == std::vector<std::string>{"latest", "step-1000000"});
  SaveStep(store, 20, 0);  // after a resume at an earlier one: what is later is another curve's
  CHECK(Names(folder) == std::vector<std::string>{"latest", "step-000020"});

  const fs::path final = store.SaveFinal({{"w", at::full({4}, 3, at::kFloat)}}, {{"a", "b"}});
  CHECK(final == folder / "final" / "model.safetensors");
  store.SaveFinal({{"w", at::full({4}, 4, at::kFloat)}}, {{"a", "b"}});
  CHECK(ReadSafetensors(final).metadata.at("a") == "b");
  CHECK(SameTensors(ReadSafetensors(final).tensors, {{"w", at::full({4}, 4, at::kFloat)}}));
  CHECK(Names(folder) == std::vector<std::string>{"final", "latest", "step-000020"});
}

TEST_CASE("checkpoints: any damage is found, and an older whole one used") {
  const Scratch scratch;
  const fs::path folder = scratch / "checkpoints";
  CheckpointStore store(folder);
  SaveStep(store, 5, 2);
  const fs::path newest = SaveStep(store, 10, 2);
  CHECK(CheckpointStore::Damage(newest).empty());
  const auto reports = [&] {
    std::vector<std::string> damages;
    const auto found = store.NewestWhole([&](const std::string& what) { damages.push_back(what); });
    CHECK(found == (damages.empty() ? newest : folder / "step-000005"));
    return damages;
  };
  CHECK(reports().empty());
  std::mt19937 random(1);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    const fs::path file = newest / name;
    const std::string good = ReadFile(file);
    std::string bad = good;
    bad[good.size() / 2] ^= 1;
    WriteFile(file, bad);
    CHECK(reports() == std::vector<std::string>{file.string() + ": not the bytes that were written "
                                                                "(CRC-32C differs)"});
    WriteFile(file, good.substr(0, good.size() - 1));
    CHECK(reports() ==
          std::vector<std::string>{file.string() + ": " + std::to_string(good.size() - 1) +
                                   " bytes, not as many as written"});
    fs::remove(file);
    CHECK(reports() == std::vector<std::string>{file.string() + ": No such file or directory"});
    WriteFile(file, good);
    CHECK(reports().empty());
  }
  const fs::path manifest = newest / "manifest.json";
  const std::string good = ReadFile(manifest);
  for (int round = 0; round < 500; ++round) {
    WriteFile(manifest, Mutated(good, random));
    CHECK_NOTHROW(CheckpointStore::Damage(newest));  // some changes are of spaces only
  }
  WriteFile(manifest, "{}");
  CHECK(reports() == std::vector<std::string>{manifest.string() + ": of an unknown kind"});
  WriteFile(manifest, R"({"schema":1,"files":{"../x":{"bytes":1,"crc32c":"0"}}})");
  CHECK(reports() == std::vector<std::string>{manifest.string() +
                                              ": \"../x\" wants a file's name, bytes and crc32c"});
  WriteFile(manifest, R"({"schema":1,"files":{}})");
  CHECK(reports() == std::vector<std::string>{manifest.string() + ": lacks model.safetensors"});
  WriteFile(manifest, "");
  CHECK(reports() == std::vector<std::string>{manifest.string() + ": no JSON object"});
  // A state that a manifest vouches for and that is none all the same.
  const std::string state = ReadFile(newest / "state.json");
  for (int round = 0; round < 500; ++round) {
    WriteFile(newest / "state.json", Mutated(state, random));
    try {
      CheckpointStore::LoadState(newest);
    } catch (const Failure& failure) {
      CHECK(Contains(failure.what(), "state.json: "));
    }
  }
  fs::remove_all(folder / "step-000005");
  CHECK_FALSE(store.NewestWhole([](const std::string&) {}).has_value());
}

TEST_CASE("checkpoints: folders of killed writers are ignored, and removed by the next") {
  const Scratch scratch;
  const fs::path folder = scratch / "checkpoints";
  CheckpointStore store(folder);
  const fs::path first = SaveStep(store, 5, 2);
  fs::copy(first, folder / ".new-step-000010-4711", fs::copy_options::recursive);
  fs::copy(first, folder / ".old-step-000001-4711", fs::copy_options::recursive);
  WriteFile(folder / "step-10.txt", "");
  WriteFile(folder / "step-", "");
  WriteFile(folder / "step-99999999999999999999", "");
  CHECK(store.List() == std::vector<fs::path>{first});
  SaveStep(store, 6, 2);
  CHECK(Names(folder) == std::vector<std::string>{"latest", "step-", "step-000005", "step-000006",
                                                  "step-10.txt", "step-99999999999999999999"});
}

// What the next test starts and kills.
TEST_CASE("child: saves until it is killed" * doctest::skip()) {
  CheckpointStore store(std::getenv("ENVKIT_TEST_CHECKPOINTS"));
  for (std::int64_t step = 1;; ++step) SaveStep(store, step, 2);
}

TEST_CASE("checkpoints: kill -9 at any moment leaves the newest whole") {
  const Scratch scratch;
  const fs::path folder = scratch / "checkpoints";
  setenv("ENVKIT_TEST_CHECKPOINTS", folder.c_str(), 1);
  CheckpointStore store(folder);
  std::mt19937 random(std::random_device{}());
  for (int round = 0; round < 5; ++round) {
    fs::remove_all(folder);
    std::string program = "/proc/self/exe", only = "--test-case=child: saves until it is killed",
                skipped = "--no-skip", quiet = "--out=/dev/null";
    char* arguments[] = {program.data(), only.data(), skipped.data(), quiet.data(), nullptr};
    pid_t child = 0;
    REQUIRE(posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ) == 0);
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!fs::exists(folder / "latest") && std::chrono::steady_clock::now() < give_up)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 50'000));
    kill(child, SIGKILL);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(!store.List().empty());
    for (const fs::path& each : store.List()) CHECK(CheckpointStore::Damage(each) == "");
    const auto newest = store.NewestWhole([](const std::string&) {});
    REQUIRE(newest);
    CHECK(CheckpointStore::Damage(folder / "latest") == "");
    const std::int64_t step = CheckpointStore::LoadState(*newest).step;
    SaveStep(store, step + 1, 1);
    CHECK(Names(folder).size() == 2);
  }
}

TEST_CASE("earlier runs of a job, newest first") {
  const Scratch scratch;
  const auto run = [&](const std::string& name, const std::string& job) {
    TrainingState state = StateAt(1);
    state.job = job;
    CheckpointStore(scratch.path() / name / "checkpoints").Save(state, {}, {}, 1);
    return scratch / name;
  };
  const fs::path first = run("20261124T050501Z-train", "train");
  const fs::path second = run("20261124T050501Z-train-2", "train");
  const fs::path tenth = run("20261124T050501Z-train-10", "train");
  run("20261124T050502Z-train-2", "train-2");  // the first run of another job
  run("20261124T050503Z-trainer", "trainer");
  run("notes-train", "train");
  fs::create_directories(scratch / "20261124T050504Z-train");  // without a checkpoint
  const fs::path own = scratch / "20261124T050505Z-train";
  CHECK(EarlierRuns(own, "train") == std::vector<fs::path>{own, tenth, second, first});
  CHECK(EarlierRuns(own.string() + "/", "none") == std::vector<fs::path>{own});
}

}  // namespace
}  // namespace envkit
