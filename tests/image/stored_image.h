// A small image in a store of a test's own, made without a build.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "image/layer.h"
#include "image/stored.h"
#include "image/world.h"

namespace envkit {

using LayerFiles = std::vector<std::pair<std::string, std::string>>;  // path → content

struct LayerSpec {
  std::string what;
  LayerFiles files;
  std::string owners;  // as the list beside a layer of wheels
};

inline Layer PublishSpec(const Store& store, const Scratch& scratch, const LayerSpec& spec,
                         const std::string& key) {
  const auto directory = *MakeTempDirectory(scratch.path(), "layer");
  WriteFiles(directory / "fs", spec.files);
  auto layer = FinishTree(directory / "fs", 1'700'000'000, Modes::kPlain);
  REQUIRE(layer);
  auto published = PublishTree(store, spec.what, 1'700'000'000, directory, *layer, spec.owners);
  REQUIRE(published);
  REQUIRE(WriteFileAtomic(store.data / "keys" / key, published->diff_id));
  return *published;
}

inline Image StoreSpec(const Store& store, const Scratch& scratch,
                       const std::vector<LayerSpec>& specs, const std::string& variant = "cpu") {
  Image image;
  image.name = "mnist";
  image.profile = "train";
  image.variant = variant;
  image.lock_digest = std::string(64, '1');
  nlohmann::json diff_ids = nlohmann::json::array(), history = nlohmann::json::array();
  for (const LayerSpec& spec : specs) {
    image.layers.push_back(PublishSpec(store, scratch, spec, Sha256Of("key of " + spec.what)));
    diff_ids.push_back("sha256:" + image.layers.back().diff_id);
    history.push_back({{"created_by", "envkit " + spec.what}});
  }
  image.packages = {{"libc6", "2.41-12", std::string(64, 'a')},
                    {"torch", "2.15.0", std::string(64, 'b')}};
  image.config_json = nlohmann::json{
      {"architecture", "amd64"},
      {"os", "linux"},
      {"config",
       {{"Labels",
         {{"org.opencontainers.image.title", image.name},
          {"dev.envkit.lock.digest", image.lock_digest},
          {"dev.envkit.profile", image.profile},
          {"dev.envkit.variant", image.variant}}}}},
      {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}},
      {"history",
       history}}.dump();
  image.config_digest = Sha256Of(image.config_json);
  REQUIRE(StoreImage(image, store));
  return image;
}

inline std::vector<LayerSpec> SmallImage() {
  return {{"debian", {{"usr/lib/libc.so.6", "libc"}, {"etc/hosts", "127.0.0.1 localhost\n"}}, ""},
          {"torch",
           {{"site/torch/lib/libtorch.so", std::string(50'000, 't')}, {"site/z.py", "pass\n"}},
           "50000\ttorch-2.15.0-cp313-cp313-linux_x86_64.whl\tsite/torch/lib/libtorch.so\n"
           "5\tz-1.0-py3-none-any.whl\tsite/z.py\n"}};
}

struct QuietTerminal {
  int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  Terminal terminal{[this] {
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    options.error_fd = fd;
    return options;
  }()};
  ~QuietTerminal() { close(fd); }
};

}  // namespace envkit
