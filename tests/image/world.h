// A small project with everything that a build reads: wheels made on the spot, a Debian layer and a
// builder that are there already, a store of its own. Nothing comes from the network.
#pragma once

#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <zip.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"
#include "image/build.h"
#include "image/layer.h"
#include "image/plan.h"
#include "image/record.h"

namespace envkit {

struct ZipFile {
  std::string name;
  std::string content;
  unsigned mode = 0644;
};

inline void MakeZip(const std::filesystem::path& file, const std::vector<ZipFile>& files) {
  REQUIRE(MakeDirectories(file.parent_path()));
  zip_t* zip = zip_open(file.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  REQUIRE(zip != nullptr);
  for (const ZipFile& one : files) {
    zip_source_t* source = zip_source_buffer(zip, one.content.data(), one.content.size(), 0);
    const zip_int64_t index = zip_file_add(zip, one.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    REQUIRE(index >= 0);
    const auto entry = static_cast<zip_uint64_t>(index);
    zip_file_set_mtime(zip, entry, 1'000'000'000, 0);
    zip_file_set_external_attributes(zip, entry, 0, ZIP_OPSYS_UNIX, (S_IFREG | one.mode) << 16);
  }
  REQUIRE(zip_close(zip) == 0);
}

inline Store MakeStore(const std::filesystem::path& directory) {
  setenv("ENVKIT_STORE", directory.c_str(), 1);
  auto store = Store::Open();
  unsetenv("ENVKIT_STORE");
  REQUIRE(store);
  return *store;
}

// Below DIRECTORY: path → content; the directory is made.
inline void WriteFiles(const std::filesystem::path& directory,
                       const std::vector<std::pair<std::string, std::string>>& files) {
  REQUIRE(MakeDirectories(directory));
  for (const auto& [name, content] : files) REQUIRE(WriteFileAtomic(directory / name, content));
}

struct World {
  Scratch scratch;
  Store store = MakeStore(scratch / "store");
  std::filesystem::path share = scratch / "share";
  Project project;
  Lock lock;
  Recipes recipes;

  World() {
    setenv("ENVKIT_SHARE", share.c_str(), 1);
    WriteFiles(share / "images/rootfs", {{"etc/hosts", "127.0.0.1 localhost\n"}});
    WriteFiles(share / "runtime", {{"CMakeLists.txt", "project(runtime)\n"}});
    WriteFiles(share / "toolkit", {{"base/result.h", "// result\n"},
                                   {"base/result.cpp", "// result\n"},
                                   {"base/text.h", "// text\n"},
                                   {"base/text.cpp", "// text\n"},
                                   {"base/toml.h", "// toml\n"},
                                   {"base/toml.cpp", "// toml\n"},
                                   {"host/facts.cpp", "// facts\n"},
                                   {"launch/main.cpp", "// main\n"},
                                   {"symptoms/explain.cpp", "// explain\n"}});
    project.name = "mnist";
    project.root = scratch / "project";
    project.file = project.root / "envkit.toml";
    REQUIRE(MakeDirectories(project.root));
    lock.torch = "2.15.0";
    lock.cuda = "13.2";
    lock.python = "3.13";
    lock.source_date_epoch = 1'700'000'000;
    lock.debs = {
        {"libc6",
         "2.41-12",
         "amd64",
         "trixie",
         "pool/libc6.deb",
         std::string(64, 'a'),
         7,
         {"builder", "train"}},
        {"g++", "14.2.0", "amd64", "trixie", "pool/g++.deb", std::string(64, 'b'), 7, {"builder"}}};
    recipes["train"] = {"train",
                        {"libstdc++6"},
                        {},
                        {{"torch", "both", {"torch/lib/libtorch_cpu.so"}},
                         {"torch", "cuda", {"torch/lib/libtorch_cuda.so"}},
                         {"nvidia-cuda-runtime", "both", {"nvidia/*/lib/libcudart.so.*"}}}};
    recipes["builder"] = {
        "builder", {"g++"}, {}, {{"torch", "both", {"torch/include/*", "torch/lib/*_cpu.so"}}}};
    AddWheel("torch", 500'000'000,
             {{"torch/lib/libtorch_cpu.so", std::string(5'000'000, 'c')},
              {"torch/lib/libtorch_cuda.so", "cuda"},
              {"torch/include/torch.h", "// torch\n"},
              {"torch/__init__.py", "pass\n"}});
    AddWheel("nvidia-cuda-runtime", 2'000'000,
             {{"nvidia/cu13/lib/libcudart.so.13", "cudart"}, {"nvidia/cu13/include/c.h", "c"}});
  }
  ~World() { unsetenv("ENVKIT_SHARE"); }

  // With a RECORD of FILES, unless they have one.
  LockedWheel AddWheel(const std::string& name, std::uint64_t size, std::vector<ZipFile> files,
                       const std::vector<std::string>& roots = {}) {
    LockedWheel wheel = {name, "1.0", name + "-1.0-py3-none-any.whl", "", size, "", roots};
    std::vector<RecordedFile> recorded;
    bool record = false;
    for (const ZipFile& file : files) {
      record = record || IsRecordItself(file.name);
      recorded.push_back({file.name, Sha256Of(file.content), file.content.size()});
    }
    if (!record) {
      files.push_back({name + "-1.0.dist-info/RECORD", RecordText(recorded, "")});
    }
    const std::filesystem::path zip = scratch / "wheels" / wheel.file;
    MakeZip(zip, files);
    wheel.sha256 = Sha256OfFile(zip).value();
    const std::filesystem::path place = store.DownloadPath(wheel.sha256, wheel.file);
    REQUIRE(MakeDirectories(place.parent_path()));
    std::filesystem::rename(zip, place);
    std::erase_if(lock.wheels, [&](const LockedWheel& other) { return other.name == name; });
    lock.wheels.push_back(wheel);
    return wheel;
  }

  ImagePlan Plan(const std::string& variant = "cpu") const {
    auto plan = PlanImage(project, lock, recipes, "train", variant);
    REQUIRE_MESSAGE(plan, plan.error().Text());
    return *plan;
  }

  // The Debian layer and the builder's system, which the plan finds in the store.
  void ProvideSystems(const ImagePlan& plan) const {
    const LayerPlan& os = *FindKind(plan, "os");
    const std::filesystem::path directory = scratch / "os";
    WriteFiles(directory / "fs", {{"usr/lib/libc.so.6", "libc"}});
    auto layer = FinishTree(directory / "fs", os.mtime, Modes::kPlain);
    REQUIRE(layer);
    REQUIRE(PublishLayer(store, os, directory, *layer));
    WriteFiles(store.data / "roots" / PlanBuilder(plan).root_key / "fs", {{"usr/bin/g++", "g++"}});
  }
};

// The text of the Error of a Result.
template <class T>
std::string TextOf(const Result<T>& result) {
  return result ? "no error" : result.error().Text();
}

}  // namespace envkit
