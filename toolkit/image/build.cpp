#include "image/build.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>

#include "base/digest.h"
#include "base/files.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/plan.h"
#include "image/prune.h"
#include "image/resolve.h"
#include "image/sdist.h"
#include "image/stored.h"

namespace envkit {
namespace {

using nlohmann::json;

std::string CreatedAt(const ImagePlan& plan) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(static_cast<std::time_t>(plan.source_date_epoch)));
}

// The OCI image config; the sorted keys of its JSON make it canonical.
std::string ConfigJson(const ImagePlan& plan, const Image& image) {
  json diff_ids = json::array();
  json history = json::array();
  for (const Layer& layer : image.layers) {
    diff_ids.push_back("sha256:" + layer.diff_id);
    history.push_back({{"created", CreatedAt(plan)}, {"created_by", "envkit " + layer.what}});
  }
  const json config = {{"architecture", plan.architecture},
                       {"os", "linux"},
                       {"created", CreatedAt(plan)},
                       {"config", ImageSettings(plan)},
                       {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}},
                       {"history", history}};
  return config.dump();
}

Result<Image> PublishImage(const ImagePlan& plan, std::vector<Layer> layers, const Store& store) {
  Image image;
  image.name = plan.name;
  image.profile = plan.profile;
  image.variant = plan.variant;
  image.lock_digest = plan.lock_digest;
  image.layers = std::move(layers);
  image.packages = PackagesOf(plan);
  image.config_json = ConfigJson(plan, image);
  image.config_digest = Sha256Of(image.config_json);
  ENVKIT_CHECK(StoreImage(image, store));
  ENVKIT_CHECK(WriteFileAtomic(store.data / "plans" / PlanKey(plan), image.config_digest));
  return image;
}

// "5 layers: debian 124 MB · torch 454 MB · …"
std::string Summary(const Image& image) {
  constexpr std::size_t kNamed = 6;
  std::vector<std::uint64_t> sizes;
  for (const Layer& layer : image.layers) sizes.push_back(layer.bytes);
  std::sort(sizes.rbegin(), sizes.rend());
  const std::uint64_t least = sizes.size() > kNamed ? sizes[kNamed - 1] : 0;
  std::string text = fmt::format("{} layers:", image.layers.size());
  std::size_t others = 0;
  std::uint64_t other_bytes = 0;
  const char* separator = " ";
  for (const Layer& layer : image.layers) {
    if (layer.bytes < least) {
      ++others;
      other_bytes += layer.bytes;
      continue;
    }
    text += fmt::format("{}{} {}", separator, layer.what, HumanBytes(layer.bytes));
    separator = " · ";
  }
  if (others > 0) text += fmt::format(" · {} more {}", others, HumanBytes(other_bytes));
  return text;
}

// The Debian part of LOCK anew, written to envkit.lock.
Result<Lock> Refresh(const Project& project, const Lock& lock, const Recipes& recipes,
                     const Store& store, Terminal& terminal, std::size_t gone) {
  terminal.Step("lock", fmt::format("{} Debian packages are gone from the mirrors; locking what "
                                    "they have now (system_policy = \"refresh\")",
                                    gone));
  ResolveOptions options;
  options.system_only = true;
  options.previous = &lock;
  auto fresh = ResolveLock(project, recipes, store, terminal, options);
  if (!fresh) return Wrap(std::move(fresh).error(), "refreshing the Debian part of envkit.lock");
  const std::string difference = LockDiff(lock, *fresh);
  for (std::size_t at = 0; at < difference.size();) {
    const std::size_t end = std::min(difference.find('\n', at), difference.size());
    terminal.Note(difference.substr(at, end - at));
    at = end + 1;
  }
  ENVKIT_CHECK(WriteFileAtomic(LockFile(project), LockToToml(*fresh)));
  return fresh;
}

Result<Image> BuildOnce(const Project& project, const Lock& lock, const ImagePlan& plan,
                        const Store& store, const RunInRoot& run, Terminal& terminal,
                        std::vector<LockedDeb>& gone_debs) {
  const BuilderPlan builder = PlanBuilder(plan);
  const MissingParts missing = FindMissing(plan, builder, store, Wanted::kImage);
  if (missing.AnyLocked()) {
    ENVKIT_CHECK(EnsureSdists(project, lock, plan, store, run, terminal));
    ENVKIT_TRY(FetchOutcome outcome, FetchParts(project, plan, builder, missing, store, terminal));
    gone_debs = std::move(outcome.gone_debs);
    if (!gone_debs.empty()) return Unexpected(GoneError(project, gone_debs));
  }
  ENVKIT_CHECK(MakeParts(project, plan, builder, missing, store, run, terminal));
  std::vector<Layer> layers;
  for (const LayerPlan& layer : plan.layers) {
    ENVKIT_TRY(layers.emplace_back(), MadeLayer(layer, store));
  }
  return PublishImage(plan, std::move(layers), store);
}

}  // namespace

std::vector<ImagePackage> PackagesOf(const ImagePlan& plan) {
  std::vector<ImagePackage> packages;
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind != "os" && layer.kind != "wheel") continue;
    for (const LockedDeb& deb : layer.debs) {
      packages.push_back({deb.name, deb.version, deb.sha256});
    }
    for (const LockedWheel& wheel : layer.wheels) {
      packages.push_back({wheel.name, wheel.version, wheel.sha256});
    }
  }
  std::sort(packages.begin(), packages.end(), [](const auto& a, const auto& b) {
    return std::tie(a.name, a.version) < std::tie(b.name, b.version);
  });
  return packages;
}

json ImageSettings(const ImagePlan& plan) {
  json env = json::array(
      {"PATH=/opt/envkit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
       "LANG=C.UTF-8"});
  for (const auto& [name, value] : plan.env) env.push_back(fmt::format("{}={}", name, value));
  return {{"Entrypoint", {"/opt/envkit/bin/envkit-launch", "--init", "--"}},
          {"Env", env},
          {"WorkingDir", "/workspace"},
          {"Labels",
           {{"org.opencontainers.image.title", plan.name},
            {"org.opencontainers.image.created", CreatedAt(plan)},
            {"org.opencontainers.image.ref.name",
             fmt::format("{}:{}-{}", plan.name, plan.profile, plan.variant)},
            {"dev.envkit.lock.digest", plan.lock_digest},
            {"dev.envkit.profile", plan.profile},
            {"dev.envkit.variant", plan.variant}}}};
}

Result<std::optional<Image>> FindImage(const ImagePlan& plan, const Store& store) {
  const auto digest = ReadFile(store.data / "plans" / PlanKey(plan));
  if (!digest || !IsSha256(*digest)) return std::nullopt;
  return ReadStoredImage(*digest, store);
}

Result<Image> BuildImage(const Project& project, const Lock& lock, const Recipes& recipes,
                         const std::string& profile, const std::string& variant, const Store& store,
                         const RunInRoot& run, Terminal& terminal, BuildReport* report) {
  const auto start = std::chrono::steady_clock::now();
  auto plan = PlanImage(project, lock, recipes, profile, variant);
  if (!plan) return Unexpected(std::move(plan).error());
  ENVKIT_TRY(const FileLock hold, HoldStore(store));
  std::set<std::string> there;  // diff_ids
  auto note_layers = [&] {
    for (const LayerPlan& layer : plan->layers) {
      if (const auto made = FindLayer(store, layer.key, layer.what)) there.insert(made->diff_id);
    }
  };
  note_layers();

  ENVKIT_TRY(std::optional<Image> found, FindImage(*plan, store));
  if (!found) {
    std::vector<LockedDeb> gone;
    auto built = BuildOnce(project, lock, *plan, store, run, terminal, gone);
    if (!built && !gone.empty() && project.environment.system_policy == "refresh") {
      ENVKIT_TRY(const Lock fresh, Refresh(project, lock, recipes, store, terminal, gone.size()));
      plan = PlanImage(project, fresh, recipes, profile, variant);
      if (!plan) return Unexpected(std::move(plan).error());
      note_layers();
      built = BuildOnce(project, fresh, *plan, store, run, terminal, gone);
    }
    if (!built) {
      return Wrap(std::move(built).error(), fmt::format("building the {} image", variant));
    }
    found = std::move(*built);
  }
  RecordUse(project.root, *found, store);
  terminal.Step("build", Summary(*found));
  if (report != nullptr) {
    report->seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (const Layer& layer : found->layers) {
      (there.contains(layer.diff_id) ? report->reused : report->built).push_back(layer.diff_id);
    }
  }
  return std::move(*found);
}

}  // namespace envkit
