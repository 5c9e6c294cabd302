#include "image/oci_layout.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/parallel.h"
#include "host/facts.h"
#include "image/build.h"
#include "image/canonical_tar.h"
#include "image/layer.h"
#include "image/prune.h"
#include "image/stored.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

struct Blob {
  std::string digest;
  std::uint64_t bytes = 0;
  bool left_out = false;
};

const char* NameOf(Compression compression) {
  return compression == Compression::kZstd ? "zstd" : "gzip";
}

fs::path BlobPath(const fs::path& layout, const std::string& digest) {
  return layout / "blobs/sha256" / digest;
}

// The layer's tar comes out of its tree again, and must be what it was.
Result<Blob> WriteLayerBlob(const Layer& layer, const fs::path& layout, Compression compression,
                            Progress& progress) {
  const fs::path part = BlobPath(layout, layer.diff_id + ".part");
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  Blob blob;
  Sha256 compressed;
  Compressor compressor(compression, [&](const char* data, std::size_t size) -> Result<void> {
    compressed.Update(data, size);
    blob.bytes += size;
    if (!out.write(data, static_cast<std::streamsize>(size))) {
      return FileFailure("writing", part, errno);
    }
    return {};
  });
  ENVKIT_TRY(const std::int64_t mtime, LayerTime(layer));
  Sha256 plain;
  auto written = WriteCanonicalTar(layer.tree, mtime, [&](const char* data, std::size_t size) {
    plain.Update(data, size);
    progress.Add(size);
    return compressor.Write(data, size);
  });
  if (!written) return Wrap(std::move(written).error(), fmt::format("exporting {}", layer.what));
  if (*written != layer.bytes || plain.Hex() != layer.diff_id) {
    return Fail(fmt::format("the layer {} was changed since it was built", layer.what),
                fmt::format("Remove {}, then envkit build.", layer.tree.parent_path().string()));
  }
  ENVKIT_CHECK(compressor.Finish());
  out.close();
  if (!out) return FileFailure("writing", part, errno);
  blob.digest = compressed.Hex();
  if (rename(part.c_str(), BlobPath(layout, blob.digest).c_str()) != 0) {
    return FileFailure("writing", BlobPath(layout, blob.digest), errno);
  }
  return blob;
}

Result<Blob> WriteTextBlob(const std::string& text, const fs::path& layout) {
  Blob blob = {Sha256Of(text), text.size(), false};
  ENVKIT_CHECK(WriteFileAtomic(BlobPath(layout, blob.digest), text));
  return blob;
}

// [[wheel, number of its files], …]: the list beside the layer without its paths, which the tar
// has in the same order.
json OwnersOf(const Layer& layer) {
  const auto owned = OwnedFiles(layer);
  json runs = json::array();
  if (!owned) return runs;
  for (const OwnedFile& file : *owned) {
    if (!runs.empty() && runs.back()[0] == file.wheel) {
      runs.back()[1] = runs.back()[1].get<int>() + 1;
    } else {
      runs.push_back({file.wheel, 1});
    }
  }
  return runs;
}

json Descriptor(const std::string& type, const Blob& blob) {
  return {{"mediaType", type}, {"digest", "sha256:" + blob.digest}, {"size", blob.bytes}};
}

json LayerDescriptor(const Layer& layer, const Blob& blob, Compression compression,
                     const std::multimap<std::string, std::string>& keys) {
  json annotations = {{"dev.envkit.layer.what", layer.what}};
  std::string of_layer;
  const auto [begin, end] = keys.equal_range(layer.diff_id);
  std::set<std::string> sorted;
  for (auto key = begin; key != end; ++key) sorted.insert(key->second);
  for (const std::string& key : sorted) of_layer += (of_layer.empty() ? "" : ",") + key;
  if (!of_layer.empty()) annotations["dev.envkit.layer.keys"] = of_layer;
  const json owners = OwnersOf(layer);
  if (!owners.empty()) annotations["dev.envkit.layer.wheels"] = owners.dump();
  json descriptor = Descriptor(
      fmt::format("application/vnd.oci.image.layer.v1.tar+{}", NameOf(compression)), blob);
  descriptor["annotations"] = annotations;
  return descriptor;
}

json Annotations(const Image& image) {
  json packages = json::array();
  for (const ImagePackage& package : image.packages) {
    packages.push_back({package.name, package.version, package.sha256});
  }
  const json config = json::parse(image.config_json, nullptr, false);
  json annotations = {{"dev.envkit.packages", packages.dump()}};
  if (config.contains("/config/Labels"_json_pointer)) {
    annotations.update(config["config"]["Labels"]);
  }
  return annotations;
}

class Descriptors {
 public:
  explicit Descriptors(int fd) : fd_(fd) {}
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;
  ~Descriptors() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Result<void> AddFile(TarStream& tar, const std::string& name, const fs::path& file) {
  std::error_code error;
  const std::uint64_t size = fs::file_size(file, error);
  if (error) return FileFailure("reading", file, error.value());
  ENVKIT_CHECK(tar.BeginFile(name, 0644, size));
  std::ifstream in(file, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in.gcount() > 0) {
    ENVKIT_CHECK(tar.Data(buffer.data(), static_cast<std::size_t>(in.gcount())));
  }
  return tar.EndFile();
}

// LAYOUT and the sources as one tar, every file under its name.
Result<void> WriteArchive(const fs::path& layout, const std::vector<SourceFile>& sources,
                          const Store& store, const fs::path& target) {
  std::map<std::string, fs::path> entries;  // sorted; an empty path: a directory
  std::error_code error;
  for (const char* directory : {"blobs", "blobs/sha256"}) entries[directory];
  for (const char* file : {"index.json", "oci-layout"}) entries[file] = layout / file;
  for (const fs::directory_entry& blob : fs::directory_iterator(layout / "blobs/sha256", error)) {
    entries["blobs/sha256/" + blob.path().filename().string()] = blob.path();
  }
  if (error) return FileFailure("reading", layout, error.value());
  for (const SourceFile& source : sources) {
    entries["sources"];
    entries["sources/" + source.sha256];
    entries[fmt::format("sources/{}/{}", source.sha256,
                        fs::path(source.file).filename().string())] =
        store.DownloadPath(source.sha256, source.file);
  }
  std::ofstream out(target, std::ios::binary | std::ios::trunc);
  if (!out) return FileFailure("writing", target, errno);
  TarStream tar(
      [&](const char* data, std::size_t size) -> Result<void> {
        if (!out.write(data, static_cast<std::streamsize>(size))) {
          return FileFailure("writing", target, errno);
        }
        return {};
      },
      0);
  for (const auto& [name, file] : entries) {
    ENVKIT_CHECK(file.empty() ? tar.Directory(name, 0755) : AddFile(tar, name, file));
  }
  ENVKIT_CHECK(tar.Finish());
  out.close();
  if (!out) return FileFailure("writing", target, errno);
  return {};
}

Result<void> CopySources(const std::vector<SourceFile>& sources, const Store& store,
                         const fs::path& layout) {
  for (const SourceFile& source : sources) {
    const fs::path from = store.DownloadPath(source.sha256, source.file);
    const fs::path to = layout / "sources" / source.sha256 / from.filename();
    ENVKIT_CHECK(MakeDirectories(to.parent_path()));
    std::error_code error;
    fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
    if (error) return FileFailure("writing", to, error.value());
  }
  return {};
}

Result<void> SaveDocker(const Image& image, const fs::path& part) {
  const Descriptors fd(open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) return FileFailure("writing", part, errno);
  ENVKIT_CHECK(WriteDockerArchive(image, fd.get(), 0));
  if (fsync(fd.get()) != 0) return FileFailure("writing", part, errno);
  return {};
}

}  // namespace

Result<LayoutReport> WriteOciLayout(const Image& image, const Store& store, const fs::path& layout,
                                    Compression compression, const std::set<std::string>& known,
                                    Terminal& terminal) {
  ENVKIT_TRY(const FileLock hold, HoldStore(store));
  ENVKIT_CHECK(MakeDirectories(layout / "blobs/sha256"));
  std::vector<Blob> blobs(image.layers.size());
  std::vector<std::pair<std::uint64_t, std::size_t>> order;  // largest first
  std::uint64_t total = 0;
  for (std::size_t index = 0; index < image.layers.size(); ++index) {
    const Layer& layer = image.layers[index];
    const auto remembered = ReadCompressed(layer, NameOf(compression));
    if (remembered && known.contains(remembered->digest)) {
      blobs[index] = {remembered->digest, remembered->bytes, true};
      continue;
    }
    total += layer.bytes;
    order.emplace_back(layer.bytes, index);
  }
  std::sort(order.rbegin(), order.rend());
  ENVKIT_CHECK(RequireFreeSpace(layout, total / 2, "the compressed layers"));
  {
    auto progress = terminal.StartProgress("export", ImageTag(image), total);
    std::vector<Task> tasks;
    tasks.reserve(order.size());
    for (const auto& [bytes, index] : order) {
      tasks.emplace_back([&, index = index]() -> Result<void> {
        const Layer& layer = image.layers[index];
        ENVKIT_TRY(blobs[index], WriteLayerBlob(layer, layout, compression, *progress));
        return WriteCompressed(layer, NameOf(compression),
                               {blobs[index].digest, blobs[index].bytes, EncoderName(compression)});
      });
    }
    ENVKIT_CHECK(RunParallel(tasks, ProbeHost().cpus));
    progress->Done();
  }

  LayoutReport report;
  const auto keys = KeysOfLayers(store);
  json layers = json::array();
  for (std::size_t index = 0; index < image.layers.size(); ++index) {
    layers.push_back(LayerDescriptor(image.layers[index], blobs[index], compression, keys));
    report.compressed_bytes += blobs[index].bytes;
    report.left_out += blobs[index].left_out ? 1 : 0;
  }
  ENVKIT_TRY(const Blob config, WriteTextBlob(image.config_json, layout));
  const json manifest = {{"schemaVersion", 2},
                         {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                         {"config", Descriptor("application/vnd.oci.image.config.v1+json", config)},
                         {"layers", layers},
                         {"annotations", Annotations(image)}};
  ENVKIT_TRY(const Blob written, WriteTextBlob(manifest.dump(), layout));
  report.manifest_digest = written.digest;
  json entry = Descriptor("application/vnd.oci.image.manifest.v1+json", written);
  entry["annotations"] = {{"org.opencontainers.image.ref.name", ImageTag(image)}};
  entry["platform"] = {{"architecture", json::parse(image.config_json).at("architecture")},
                       {"os", "linux"}};
  ENVKIT_CHECK(WriteFileAtomic(layout / "oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
  // Last: before it there is no image.
  ENVKIT_CHECK(WriteFileAtomic(layout / "index.json",
                               json{{"schemaVersion", 2},
                                    {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                    {"manifests", {entry}}}
                                   .dump()));
  return report;
}

Result<LayoutReport> SaveImage(const Image& image, const Store& store, const fs::path& target,
                               ArchiveFormat format, Compression compression,
                               const std::vector<SourceFile>& sources, Terminal& terminal) {
  std::error_code error;
  const bool file = target.extension() == ".tar";
  if (format == ArchiveFormat::kDocker && !file) {
    return Usage(fmt::format("{}: a docker archive is a file", target.string()),
                 "Give it a name that ends in .tar.");
  }
  if (format == ArchiveFormat::kDocker && !sources.empty()) {
    return Usage("--with-sources goes with --format oci alone");
  }
  if (!file && fs::exists(target, error) && !fs::is_empty(target, error)) {
    return Usage(fmt::format("{} is there already, and not empty", target.string()),
                 "Remove it, or name another directory.");
  }
  ENVKIT_CHECK(MakeDirectories(fs::absolute(target, error).parent_path()));
  if (!file) {
    // The index comes last, so that a layout that was broken off is none.
    ENVKIT_CHECK(MakeDirectories(target));
    ENVKIT_CHECK(CopySources(sources, store, target));
    ENVKIT_TRY(LayoutReport report,
               WriteOciLayout(image, store, target, compression, {}, terminal));
    ENVKIT_CHECK(SyncFilesystem(target));
    return report;
  }
  const fs::path part = target.string() + ".part";
  LayoutReport report;
  if (format == ArchiveFormat::kDocker) {
    ENVKIT_CHECK(SaveDocker(image, part));
    report.compressed_bytes = image.Bytes();
  } else {
    ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
    ENVKIT_TRY(report,
               WriteOciLayout(image, store, work.path() / "layout", compression, {}, terminal));
    ENVKIT_CHECK(WriteArchive(work.path() / "layout", sources, store, part));
  }
  ENVKIT_CHECK(SyncFilesystem(part));
  if (rename(part.c_str(), target.c_str()) != 0) return FileFailure("writing", target, errno);
  return report;
}

}  // namespace envkit
