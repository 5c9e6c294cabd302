// How a layer comes to be: its files are written to the extracted tree and into the hash of its
// canonical tar in one pass, or a finished tree is normalised and hashed; then it is published.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/archive.h"
#include "base/digest.h"
#include "base/result.h"
#include "image/build.h"
#include "image/canonical_tar.h"
#include "image/image.h"
#include "image/store.h"

namespace envkit {

// Hears of every byte that is written, from the thread that writes.
using ByteCount = std::function<void(std::uint64_t)>;

// Entries must come sorted (see TarStream). SHA256: of the content, where it is known; else it is
// hashed. Owner and times on disk are as an extraction of the tar
// would leave them.
class LayerWriter {
 public:
  using Content = std::function<Result<void>(const ByteSink&)>;

  LayerWriter(std::filesystem::path tree, std::int64_t mtime, ByteCount written = {});
  ~LayerWriter();
  Result<void> Directory(std::string_view path, unsigned mode);
  Result<void> Symlink(std::string_view path, std::string_view target);
  Result<void> File(std::string_view path, unsigned mode, std::uint64_t size,
                    const Content& content, const std::string& sha256 = "");
  const std::string& sha256() const { return sha256_; }  // of the last file's content
  Result<Layer> Finish();                                // diff_id and bytes

 private:
  class Output;
  std::filesystem::path tree_;
  std::int64_t mtime_;
  ByteCount written_;
  Sha256 hash_;
  TarStream tar_;
  std::vector<std::filesystem::path> directories_;
  std::unique_ptr<Output> output_;
  std::string manifest_, sha256_;
};

enum class Modes {
  kKeep,   // a Debian system: permission bits mean something
  kPlain,  // 0755 for directories, programs and shared libraries, 0644 for the rest; directories
           // with a sticky bit are everybody's
};
// Sets modes and times of TREE, then hashes it: diff_id and bytes. As LayerWriter::Finish, it
// leaves the list of what is in the tree beside it (image/manifest.h).
Result<Layer> FinishTree(const std::filesystem::path& tree, std::int64_t mtime, Modes modes);

// What a layer of wheels will hold, read from the wheels' directories. Paths are those in the
// image.
struct WheelContent {
  struct File {
    std::string path;
    std::size_t wheel = 0;            // index into the plan's wheels
    ZipReader::Entry entry;           // its size is the file's, where TEXT is its content too
    std::string sha256;               // what RECORD says; empty: nothing to compare with
    std::optional<std::string> text;  // made here rather than read from the wheel
  };
  std::vector<ZipReader> zips;  // one per wheel of the plan
  std::vector<bool> checked;    // as many: what RECORD says holds (see wheel_record.h)
  std::vector<File> files;      // sorted by path, each once
  std::uint64_t bytes = 0;
};
// Where the wheel's member MEMBER lies in the image: beside the others in SITE, unless it is in
// NAME-VERSION.data/SCHEME/.
Result<std::string> PlaceInImage(const std::string& site, const LockedWheel& wheel,
                                 const std::string& member);
// Files that match EXCEPT (per wheel, patterns as in LayerPlan) are left out. A wheel of which
// RECORD is chosen is installed: with its commands, and a RECORD of what is there. Errors: a
// damaged wheel, a pattern without a file, two wheels with different files at one path, a RECORD
// that does not list a file; that it lists it with another hash shows in WriteWheels.
Result<WheelContent> OpenWheels(const LayerPlan& plan, const Store& store,
                                const std::vector<std::vector<std::string>>& except = {});
Result<Layer> WriteWheels(const LayerPlan& plan, const WheelContent& content,
                          const std::filesystem::path& tree, const ByteCount& written);

// A file of a layer that comes from a wheel, and how to read it for a comparison.
struct OwnedFile {
  std::string path;
  std::string wheel;  // the wheel's file name
  std::uint64_t size = 0;
  std::function<Result<std::string>()> read;
};
std::vector<OwnedFile> OwnedFiles(const LayerPlan& plan, const WheelContent& content);
// Of a layer that is in the store.
Result<std::vector<OwnedFile>> OwnedFiles(const Layer& layer);
// Two wheels with different files at one path: an error that names both and the path.
Result<void> RejectCollisions(const std::vector<OwnedFile>& files);

// The layer that KEY stands for, where the store has it.
std::optional<Layer> FindLayer(const Store& store, const std::string& key, const std::string& what);
// DIRECTORY holds the layer's tree as fs/, and becomes the layer. OWNED goes beside it.
Result<Layer> PublishLayer(const Store& store, const LayerPlan& plan,
                           const std::filesystem::path& directory, Layer layer,
                           const std::vector<OwnedFile>& owned = {});
// The same for a layer that comes from elsewhere. FILES: who owns what, as the list beside a layer
// of wheels has it; empty for other layers.
Result<Layer> PublishTree(const Store& store, const std::string& what, std::int64_t mtime,
                          const std::filesystem::path& directory, Layer layer,
                          const std::string& files);
// Of a published layer.
Result<std::int64_t> LayerTime(const Layer& layer);
Result<std::uint64_t> LayerBytes(const Store& store, std::string_view diff_id);

}  // namespace envkit
