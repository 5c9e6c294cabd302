// What `envkit lock` says of a result: changes, bytes, and what is wrong with packages that
// resolve.
#include <doctest/doctest.h>

#include <string>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"
#include "image/lock_changes.h"
#include "image/lock_findings.h"
#include "image/world.h"

using namespace envkit;

namespace {

std::string Hash(char digit) { return std::string(64, digit); }

Lock WithWheels(const std::vector<std::string>& names) {
  Lock lock;
  lock.torch = "2.15.0";
  lock.cuda = "13.2";
  for (const std::string& name : names) {
    lock.wheels.push_back({name, "1.0", name + "-1.0-py3-none-any.whl", Sha256Of(name), 5});
  }
  return lock;
}

}  // namespace

TEST_CASE("a diff names what differs, a line each") {
  Lock before;
  before.wheels = {{"a", "1", "a-1.whl", Hash('1'), 0}, {"b", "1", "b-1.whl", Hash('2'), 0}};
  Lock after = before;
  CHECK(LockDiff(before, after).empty());
  after.wheels[0].version = "2";
  after.wheels[0].sha256 = Hash('5');
  after.wheels[1].sha256 = Hash('3');
  after.wheels[1].size = 2'000'000;
  after.debs = {{"libc6", "2", "amd64", "trixie", "pool/x", Hash('4'), 1000, {"train"}}};
  CHECK(LockDiff(before, after) == "~ a 1 → 2\n~ b 1, another file (2 MB)\n+ libc6 2 (1 kB)");
  CHECK(LockDiff(after, before) == "~ a 2 → 1\n~ b 1, another file\n- libc6 2");
  const auto changes = ChangesBetween(before, after);
  REQUIRE(changes.size() == 3);
  CHECK(changes[1].kind == LockChange::Kind::kOtherFile);
  CHECK(changes[2].debian);
  CHECK(changes[2].before.empty());
}

TEST_CASE("bytes count where the lock before had another file; some are in the store") {
  Scratch scratch;
  const Store store{scratch.path(), scratch.path()};
  Lock before, after;
  before.wheels = {{"a", "1", "a-1.whl", Hash('1'), 7}};
  after.wheels = {{"a", "1", "a-1.whl", Hash('1'), 7},
                  {"b", "1", "b-1.whl", Hash('2'), 3'000'000},
                  {"c", "1", "c-1.whl", Hash('3'), 1'000'000}};
  NewFiles files = FilesToFetch(before, after, store);
  CHECK(files.bytes == 4'000'000);
  CHECK(DescribeFetch(files) == "4 MB to download");
  REQUIRE(WriteFileAtomic(store.DownloadPath(Hash('2'), "b-1.whl"), "x"));
  files = FilesToFetch(before, after, store);
  CHECK(DescribeFetch(files) == "4 MB to download, of which 3 MB are in the store");
  REQUIRE(WriteFileAtomic(store.DownloadPath(Hash('3'), "c-1.whl"), "x"));
  CHECK(DescribeFetch(FilesToFetch(before, after, store)) ==
        "nothing to download: 4 MB are in the store");
  CHECK(DescribeFetch(FilesToFetch(after, after, store)).empty());
}

TEST_CASE("names that are not what they seem are refused before anything is resolved") {
  Project project;
  project.environment.packages = {"Apex", "numpy", "apex @ https://example.com/apex-1.whl",
                                  "./w/apex-0.1-py3-none-any.whl"};
  RequirementFile file;
  file.path = "requirements.txt";
  file.asks = {{"sklearn", "sklearn>=0"}, {"scikit-learn", "scikit-learn"}};
  project.requirement_files = {file};
  const auto findings = JudgeRequirements(project);
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].cause ==
        "apex on the public Python index is not NVIDIA's Apex, but an unrelated package");
  CHECK(findings[1].cause ==
        "requirements.txt: the package sklearn is a placeholder that fails to install");
  const auto both = RejectErrors(project, findings);
  REQUIRE_FALSE(both);
  CHECK(both.error().Text() ==
        "error: these packages do not fit together\n"
        "apex on the public Python index is not NVIDIA's Apex, but an unrelated package\n"
        "requirements.txt: the package sklearn is a placeholder that fails to install\n"
        "  NVIDIA's is compiled from its repository: make a wheel of it and name that, packages = "
        "[\"./wheels/apex-….whl\"].\n"
        "  Mixed precision and fused optimisers are in torch itself: torch.amp, and fused=True.\n"
        "  Its real name is scikit-learn.\n");

  Scratch scratch;
  project.file = scratch / "envkit.toml";
  REQUIRE(WriteFileAtomic(project.file, "[environment]\npackages = [\"numpy\", \"Apex\"]\n"));
  const auto one = RejectErrors(project, {findings[0]});
  REQUIRE_FALSE(one);
  CHECK(one.error().Text().starts_with(
      "envkit.toml:2:22: error: apex on the public Python index is not NVIDIA's Apex, but an "
      "unrelated package\n"
      "    2 | packages = [\"numpy\", \"Apex\"]\n"
      "      |                      ^^^^^^\n"));
  CHECK(RejectErrors(project, {}));
}

TEST_CASE("another generation of CUDA beside torch's") {
  const auto judge = [](const std::vector<std::string>& names, const RequiredBy& by = {}) {
    return JudgeWheels(WithWheels(names), by);
  };
  CHECK(judge({"torch", "nvidia-nccl-cu13", "nvidia-cublas", "cupy-cuda13x", "focus"}).empty());

  auto findings = judge({"nvidia-nccl-cu13", "nvidia-nccl-cu12"},
                        ParseAnnotations("nvidia-nccl-cu12==1.0    # via tensorflow, "
                                         "-r /tmp/x/envkit.toml.in\n"));
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].severity == LockFinding::Severity::kError);
  CHECK(findings[0].cause ==
        "nvidia-nccl-cu12 (tensorflow and envkit.toml ask for it) and torch's nvidia-nccl-cu13 are "
        "one library for two generations of CUDA, of which a process can have one");
  CHECK(findings[0].remedy ==
        "Take a build of it for CUDA 13, or leave it out; or an index whose torch is for CUDA 12.");

  findings = judge({"cupy-cuda12x"});
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].severity == LockFinding::Severity::kWarning);
  CHECK(findings[0].cause == "cupy-cuda12x is for CUDA 12, and torch 2.15.0 for CUDA 13.2");
  CHECK(findings[0].remedy == "Ask for cupy-cuda13x instead.");

  findings = judge({"mine-cu128", "onnxruntime-gpu"});
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].cause == "mine-cu128 is for CUDA 12, and torch 2.15.0 for CUDA 13.2");
  CHECK(findings[1].cause ==
        "onnxruntime-gpu 1.0 does not say which CUDA it was built for, and torch 2.15.0 has CUDA "
        "13.2");

  std::vector<LockFinding> many(6, findings[0]);
  for (LockFinding& finding : many) finding.severity = LockFinding::Severity::kError;
  const auto rejected = RejectErrors({}, many);
  REQUIRE_FALSE(rejected);
  CHECK(rejected.error().what.ends_with("\nand 2 more"));

  Lock cpu = WithWheels({"nvidia-nccl-cu12"});
  cpu.cuda = "";
  CHECK(JudgeWheels(cpu, {}).empty());
}

TEST_CASE("who requires what, of uv's comments") {
  const RequiredBy by = ParseAnnotations(
      "--index-url https://example.com/simple\n"
      "nvidia-cublas==13.1          # via cuda-toolkit, torch\n"
      "six==1.17                    # via -r requirements.txt\n\n# a comment\n");
  CHECK(by.size() == 2);
  CHECK(by.at("nvidia-cublas") == std::vector<std::string>{"cuda-toolkit", "torch"});
  CHECK(by.at("six") == std::vector<std::string>{"requirements.txt"});
}

TEST_CASE("two wheels with one path are seen when they are locked, where both are in the store") {
  World world;
  CHECK(JudgePaths(world.lock, world.store).empty());
  world.AddWheel("other", 1000, {{"torch/__init__.py", "raise\n"}, {"other.py", ""}});
  const auto findings = JudgePaths(world.lock, world.store);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].id == "one-path");
  CHECK(findings[0].cause ==
        "two wheels have different files at site-packages/torch/__init__.py\n"
        "  torch-1.0-py3-none-any.whl\n  other-1.0-py3-none-any.whl");
  world.lock.wheels.back().sha256 = std::string(64, '9');  // not in the store
  CHECK(JudgePaths(world.lock, world.store).empty());
}
