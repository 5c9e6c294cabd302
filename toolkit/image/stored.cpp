#include "image/stored.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/text.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

// Throws json::exception where STORED is not what StoreImage wrote.
Image FromJson(const json& stored, const Store& store) {
  Image image;
  image.name = stored.at("name");
  image.profile = stored.at("profile");
  image.variant = stored.at("variant");
  image.lock_digest = stored.at("lock_digest");
  image.config_digest = stored.at("config_digest");
  image.config_json = stored.at("config");
  for (const json& layer : stored.at("layers")) {
    const std::string diff_id = layer.at("diff_id");
    Layer& added = image.layers.emplace_back(
        Layer{diff_id, layer.at("what"), layer.at("bytes"), store.LayerTree(diff_id), {}});
    auto compressed = ReadCompressed(added, "zstd");
    if (!compressed) compressed = ReadCompressed(added, "gzip");
    if (compressed) added.compressed_bytes = compressed->bytes;
  }
  for (const json& package : stored.at("packages")) {
    image.packages.push_back({package.at("name"), package.at("version"), package.at("sha256")});
  }
  return image;
}

fs::path ImageFile(const Store& store, const std::string& config_digest) {
  return store.data / "images" / (config_digest + ".json");
}

std::int64_t ModifiedAt(const fs::path& file) {
  struct stat status {};
  return stat(file.c_str(), &status) == 0 ? status.st_mtime : 0;
}

std::string Age(std::int64_t seconds) {
  const auto count = [](std::int64_t number, const char* unit) {
    return fmt::format("{} {}{}", number, unit, number == 1 ? "" : "s");
  };
  if (seconds < 120) return "now";
  if (seconds < 7200) return fmt::format("{} min", seconds / 60);
  if (seconds < 172'800) return fmt::format("{} h", seconds / 3600);
  return count(seconds / 86'400, "day");
}

fs::path ProjectFile(const Store& store, const fs::path& root) {
  return store.data / "projects" / (Sha256Of(root.string()) + ".json");
}

std::optional<KnownProject> ReadProject(const fs::path& file) {
  const auto text = ReadFile(file);
  if (!text) return std::nullopt;
  try {
    const json stored = json::parse(*text);
    KnownProject project;
    project.root = stored.at("root").get<std::string>();
    project.name = stored.at("name");
    for (const auto& [profile, digest] : stored.at("images").items()) {
      project.images.emplace(profile, digest);
    }
    return project;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

}  // namespace

Result<void> StoreImage(const Image& image, const Store& store) {
  json stored = ImageToJson(image);
  stored["config"] = image.config_json;
  return WriteFileAtomic(ImageFile(store, image.config_digest), stored.dump(1) + "\n");
}

Result<Image> LoadImageRecord(const Store& store, const std::string& config_digest) {
  const fs::path file = ImageFile(store, config_digest);
  std::error_code error;
  if (!fs::exists(file, error)) {
    return Missing(fmt::format("the store has no image {}", config_digest), "envkit build");
  }
  ENVKIT_TRY(const std::string text, ReadFile(file));
  auto damaged = [&](const std::string& why) {
    return Fail(fmt::format("{} is damaged: {}", file.string(), why),
                "A build writes it anew:  envkit build");
  };
  Image image;
  json diff_ids = json::array();
  try {
    image = FromJson(json::parse(text), store);
    for (const Layer& layer : image.layers) diff_ids.push_back("sha256:" + layer.diff_id);
    if (json::parse(image.config_json).at("rootfs").at("diff_ids") != diff_ids) {
      return damaged("its layers are not those of its config");
    }
  } catch (const json::exception& exception) {
    return damaged(exception.what());
  }
  if (image.config_digest != config_digest || Sha256Of(image.config_json) != config_digest) {
    return damaged("its config is not the one that its name is the sha256 of");
  }
  return image;
}

std::optional<Image> ReadStoredImage(const std::string& config_digest, const Store& store) {
  if (!IsSha256(config_digest)) return std::nullopt;
  auto image = LoadImageRecord(store, config_digest);
  if (!image) return std::nullopt;  // written anew by the next build
  for (const Layer& layer : image->layers) {
    std::error_code error;
    if (!fs::exists(layer.tree.parent_path() / "info.json", error)) return std::nullopt;
  }
  return std::move(*image);
}

Result<std::vector<StoredImage>> ListImages(const Store& store) {
  std::vector<StoredImage> images;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.data / "images", error)) {
    if (entry.path().extension() != ".json") continue;
    auto image = ReadStoredImage(entry.path().stem().string(), store);
    if (!image) continue;
    StoredImage& stored = images.emplace_back();
    stored.image = std::move(*image);
    stored.created = ModifiedAt(entry.path());
  }
  if (error) return FileFailure("reading", store.data / "images", error.value());
  std::map<std::string, int> users;  // of a layer
  for (const StoredImage& stored : images) {
    std::set<std::string> layers;
    for (const Layer& layer : stored.image.layers) layers.insert(layer.diff_id);
    for (const std::string& layer : layers) ++users[layer];
  }
  const std::vector<KnownProject> projects = KnownProjects(store);
  for (StoredImage& stored : images) {
    for (const Layer& layer : stored.image.layers) {
      if (users[layer.diff_id] == 1) stored.own_bytes += layer.bytes;
    }
    for (const KnownProject& project : projects) {
      for (const auto& [profile, digest] : project.images) {
        if (digest == stored.image.config_digest) stored.projects.push_back(project.root.string());
      }
    }
    std::sort(stored.projects.begin(), stored.projects.end());
  }
  std::sort(images.begin(), images.end(), [](const StoredImage& a, const StoredImage& b) {
    return std::tie(b.created, a.image.config_digest) < std::tie(a.created, b.image.config_digest);
  });
  return images;
}

Result<Image> FindStoredImage(std::string_view reference, const Store& store) {
  ENVKIT_TRY(const std::vector<StoredImage> images, ListImages(store));
  std::vector<std::string> tags;
  for (const StoredImage& stored : images) {
    tags.push_back(ImageTag(stored.image));
    if (tags.back() == reference) return stored.image;
  }
  std::string_view digest = reference;
  if (digest.starts_with("sha256:")) digest.remove_prefix(7);
  std::vector<const Image*> begin_so;
  constexpr std::size_t kShortest = 4;
  for (const StoredImage& stored : images) {
    if (digest.size() >= kShortest && stored.image.config_digest.starts_with(digest)) {
      begin_so.push_back(&stored.image);
    }
  }
  if (begin_so.size() == 1) return *begin_so.front();
  if (begin_so.size() > 1) {
    std::string names;
    for (const Image* image : begin_so) names += fmt::format("\n  {}", image->config_digest);
    return Usage(fmt::format("{} images begin with {}{}", begin_so.size(), digest, names),
                 "Give more of its digits.");
  }
  const auto near = ClosestMatch(reference, tags);
  return Usage(
      fmt::format("there is no image \"{}\"", reference),
      (near ? "did you mean " + *near + "?\n" : "") + "All that are here: envkit image ls");
}

json ListToJson(const std::vector<StoredImage>& images) {
  json list = json::array();
  for (const StoredImage& stored : images) {
    const json image = ImageToJson(stored.image);
    list.push_back({{"tag", ImageTag(stored.image)},
                    {"name", stored.image.name},
                    {"profile", stored.image.profile},
                    {"variant", stored.image.variant},
                    {"config_digest", stored.image.config_digest},
                    {"lock_digest", stored.image.lock_digest},
                    {"created", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                                            fmt::gmtime(static_cast<std::time_t>(stored.created)))},
                    {"layers", stored.image.layers.size()},
                    {"bytes", stored.image.Bytes()},
                    {"own_bytes", stored.own_bytes},
                    {"compressed_bytes", image.at("compressed_bytes")},
                    {"projects", stored.projects}});
  }
  return {{"schema", 1}, {"images", list}};
}

std::string ListText(const std::vector<StoredImage>& images, std::int64_t now) {
  if (images.empty()) return "No images yet: envkit build";
  std::size_t width = 5;
  for (const StoredImage& stored : images) width = std::max(width, ImageTag(stored.image).size());
  std::string text = fmt::format("{:{}}  {:<12}  {:>8}  {:>8}  {:>6}  {:>8}  {}", "image", width,
                                 "digest", "size", "its own", "layers", "age", "used by");
  for (const StoredImage& stored : images) {
    std::string users;
    for (const std::string& project : stored.projects)
      users += (users.empty() ? "" : ", ") + project;
    text += fmt::format(
        "\n{:{}}  {:<12.12}  {:>8}  {:>8}  {:>6}  {:>8}  {}", ImageTag(stored.image), width,
        stored.image.config_digest, HumanBytes(stored.image.Bytes()), HumanBytes(stored.own_bytes),
        stored.image.layers.size(), Age(now - stored.created), users.empty() ? "-" : users);
  }
  return text;
}

std::multimap<std::string, std::string> KeysOfLayers(const Store& store) {
  std::multimap<std::string, std::string> keys;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.data / "keys", error)) {
    const auto diff_id = ReadFile(entry.path());
    const std::string key = entry.path().filename().string();
    if (diff_id && IsSha256(*diff_id) && IsSha256(key)) keys.emplace(*diff_id, key);
  }
  return keys;
}

std::optional<CompressedLayer> ReadCompressed(const Layer& layer, std::string_view kind) {
  const auto text = ReadFile(layer.tree.parent_path() / fmt::format("{}.json", kind));
  if (!text) return std::nullopt;
  try {
    const json stored = json::parse(*text);
    CompressedLayer compressed = {stored.at("digest"), stored.at("bytes"), stored.at("encoder")};
    if (!IsSha256(compressed.digest)) return std::nullopt;
    return compressed;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

Result<void> WriteCompressed(const Layer& layer, std::string_view kind,
                             const CompressedLayer& compressed) {
  const json stored = {
      {"digest", compressed.digest}, {"bytes", compressed.bytes}, {"encoder", compressed.encoder}};
  return WriteFileAtomic(layer.tree.parent_path() / fmt::format("{}.json", kind),
                         stored.dump(1) + "\n");
}

void RecordUse(const fs::path& project_root, const Image& image, const Store& store) {
  const fs::path file = ProjectFile(store, project_root);
  KnownProject project = ReadProject(file).value_or(KnownProject{project_root, image.name, {}});
  std::string& current = project.images[fmt::format("{}-{}", image.profile, image.variant)];
  if (current == image.config_digest) return;
  current = image.config_digest;
  const json stored = {
      {"root", project_root.string()}, {"name", image.name}, {"images", project.images}};
  (void)WriteFileAtomic(file, stored.dump(1) + "\n");
}

std::vector<KnownProject> KnownProjects(const Store& store) {
  std::vector<KnownProject> projects;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.data / "projects", error)) {
    auto project = ReadProject(entry.path());
    std::error_code ignored;
    if (project && fs::exists(project->root / "envkit.lock", ignored)) {
      projects.push_back(std::move(*project));
    }
  }
  return projects;
}

}  // namespace envkit
