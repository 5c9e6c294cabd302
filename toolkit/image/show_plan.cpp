#include "image/show_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "base/files.h"
#include "image/layer.h"

namespace envkit {
namespace {

struct DownloadBytes {
  std::uint64_t bytes = 0, in_store = 0;
};

// What layers that are not in the store are made from; headers and compilers too.
DownloadBytes DownloadOf(const ImagePlan& plan, const Store& store) {
  DownloadBytes download;
  std::set<std::string> seen;
  const auto count = [&](const auto& files) {
    for (const auto& file : files) {
      if (!seen.insert(file.sha256).second) continue;
      download.bytes += file.size;
      std::error_code error;
      if (std::filesystem::exists(store.DownloadPath(file.sha256, file.file), error)) {
        download.in_store += file.size;
      }
    }
  };
  for (const LayerPlan& layer : plan.layers) {
    if (FindLayer(store, layer.key, layer.what)) continue;
    count(layer.wheels);
    count(layer.debs);
  }
  return download;
}

// What a layer is made from, in a few words.
std::string MadeFrom(const LayerPlan& layer) {
  if (!layer.base.empty()) return layer.base;
  if (layer.kind == "os") return fmt::format("{} Debian packages", layer.debs.size());
  if (layer.kind == "recipe") return fmt::format("{} files", layer.files.size());
  if (layer.kind == "runtime") return "compiled in the builder";
  if (layer.kind == "bytecode") return "compiled from the layers below";
  if (layer.kind == "no-cuda") return fmt::format("stands for {} wheels", layer.left_out.size());
  if (layer.wheels.size() != 1) return fmt::format("{} wheels", layer.wheels.size());
  const bool part = !layer.members.empty() && !layer.members.front().empty();
  return layer.wheels.front().file + (part ? " (a part of it)" : "");
}

}  // namespace

nlohmann::ordered_json ImagePlanToJson(const ImagePlan& plan, const Store& store) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerPlan& layer : plan.layers) {
    nlohmann::ordered_json wheels = nlohmann::ordered_json::array();
    for (std::size_t index = 0; index < layer.wheels.size(); ++index) {
      const LockedWheel& wheel = layer.wheels[index];
      wheels.push_back({{"file", wheel.file},
                        {"sha256", wheel.sha256},
                        {"size", wheel.size},
                        {"members", index < layer.members.size() ? layer.members[index]
                                                                 : std::vector<std::string>()}});
    }
    nlohmann::ordered_json debs = nlohmann::ordered_json::array();
    for (const LockedDeb& deb : layer.debs) {
      debs.push_back(fmt::format("{}={}:{}", deb.name, deb.version, deb.architecture));
    }
    std::vector<std::string> files;
    for (const auto& [path, content] : layer.files) files.push_back(path);
    layers.push_back({{"what", layer.what},
                      {"kind", layer.kind},
                      {"key", layer.key},
                      {"in_store", FindLayer(store, layer.key, layer.what).has_value()},
                      {"base", layer.base},
                      {"wheels", wheels},
                      {"debs", debs},
                      {"files", files}});
  }
  const DownloadBytes download = DownloadOf(plan, store);
  return {{"schema", 1},
          {"name", plan.name},
          {"profile", plan.profile},
          {"variant", plan.variant},
          {"architecture", plan.architecture},
          {"lock_digest", plan.lock_digest},
          {"source_date_epoch", plan.source_date_epoch},
          {"env", plan.env},
          {"layers", layers},
          {"download", {{"bytes", download.bytes}, {"in_store", download.in_store}}}};
}

std::string ImagePlanText(const ImagePlan& plan, const Store& store) {
  std::string text = fmt::format("{}:{}-{} for linux/{} · lock {:.12}\n", plan.name, plan.profile,
                                 plan.variant, plan.architecture, plan.lock_digest);
  std::size_t width = 0;
  for (const LayerPlan& layer : plan.layers) width = std::max(width, layer.what.size());
  for (const LayerPlan& layer : plan.layers) {
    const auto there = FindLayer(store, layer.key, layer.what);
    text += fmt::format("  {:<{}}  {:>8}  {}\n", layer.what, width,
                        there ? HumanBytes(there->bytes) : "to build", MadeFrom(layer));
  }
  const DownloadBytes download = DownloadOf(plan, store);
  if (download.bytes > download.in_store) {
    text += fmt::format("{} to download", HumanBytes(download.bytes - download.in_store));
    if (download.in_store > 0)
      text += fmt::format(", {} are in the store", HumanBytes(download.in_store));
    return text + "\n";
  }
  return text + "nothing to download\n";
}

}  // namespace envkit
