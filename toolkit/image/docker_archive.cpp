#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/digest.h"
#include "base/files.h"
#include "image/build.h"
#include "image/canonical_tar.h"
#include "image/layer.h"

namespace envkit {
namespace {

Result<void> WriteAll(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t done = write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return Fail(ErrnoText("writing the docker archive"));
    data += done;
    size -= static_cast<std::size_t>(done);
  }
  return {};
}

Result<void> WriteText(TarStream& archive, const std::string& name, std::string_view text) {
  ENVKIT_CHECK(archive.BeginFile(name, 0644, text.size()));
  ENVKIT_CHECK(archive.Data(text.data(), text.size()));
  return archive.EndFile();
}

// The layer's tar comes out of its tree again, and must be what it was.
Result<void> WriteLayer(TarStream& archive, const Layer& layer) {
  ENVKIT_CHECK(archive.BeginFile(layer.diff_id + "/layer.tar", 0644, layer.bytes));
  ENVKIT_TRY(const std::int64_t mtime, LayerTime(layer));
  Sha256 hash;
  auto written = WriteCanonicalTar(layer.tree, mtime, [&](const char* data, std::size_t size) {
    hash.Update(data, size);
    return archive.Data(data, size);
  });
  if (!written) return Wrap(std::move(written).error(), fmt::format("exporting {}", layer.what));
  if (*written != layer.bytes || hash.Hex() != layer.diff_id) {
    return Fail(fmt::format("the layer {} was changed since it was built", layer.what),
                fmt::format("Remove {}, then envkit build.", layer.tree.parent_path().string()));
  }
  return archive.EndFile();
}

}  // namespace

Result<void> WriteDockerArchive(const Image& image, int fd, std::size_t known_layers) {
  using nlohmann::json;
  json names = json::array();
  for (const Layer& layer : image.layers) names.push_back(layer.diff_id + "/layer.tar");
  const std::string config = image.config_digest + ".json";
  const json manifest = json::array(
      {{{"Config", config}, {"RepoTags", json::array({ImageTag(image)})}, {"Layers", names}}});

  TarStream archive([fd](const char* data, std::size_t size) { return WriteAll(fd, data, size); },
                    0);
  // TarStream wants its entries sorted: two layers can be one and the same, which docker wants
  // once.
  std::map<std::string, const Layer*> entries = {{config, nullptr}, {"manifest.json", nullptr}};
  for (std::size_t index = known_layers; index < image.layers.size(); ++index) {
    entries.emplace(image.layers[index].diff_id + "/layer.tar", &image.layers[index]);
  }
  for (const auto& [name, layer] : entries) {
    if (layer != nullptr) {
      ENVKIT_CHECK(WriteLayer(archive, *layer));
    } else {
      ENVKIT_CHECK(WriteText(archive, name, name == config ? image.config_json : manifest.dump()));
    }
  }
  return archive.Finish();
}

}  // namespace envkit
