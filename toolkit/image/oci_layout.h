// Images on their way out and in as OCI image layouts and docker archives. What is written is the
// same, byte for byte, for the same image and the same encoder; what is read is not trusted: every
// digest is checked, and the tree that comes out must have the tar that its diff_id names.
//
// The manifest's annotations carry what OCI has no place for, so that the store that an image is
// loaded into knows as much as the one that it was built in:
//   dev.envkit.packages        [[name, version, sha256], …]
//   dev.envkit.layer.what      of a layer: "debian", "torch", …
//   dev.envkit.layer.keys      the recipes that lead to it, for builds to reuse it
//   dev.envkit.layer.wheels    [[wheel file, number of files], …] in the order of the tar
#pragma once

#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/compress.h"
#include "base/result.h"
#include "base/terminal.h"
#include "image/build.h"
#include "image/image.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

struct LayoutReport {
  std::string manifest_digest;
  std::uint64_t compressed_bytes = 0;
  std::size_t left_out = 0;  // layers
};
// To DIRECTORY, which is made and must not have an index.json. Layers whose remembered compressed
// digest is in KNOWN are named without their files.
Result<LayoutReport> WriteOciLayout(const Image& image, const Store& store,
                                    const std::filesystem::path& directory, Compression compression,
                                    const std::set<std::string>& known, Terminal& terminal);

// A file of the lock that travels with an image, so that it can be built without a network.
struct SourceFile {
  std::string sha256, file;
  std::uint64_t size = 0;
};
// All that PLAN's image is built from, the builder's part and the project's data included; what is
// missing is fetched.
Result<std::vector<SourceFile>> FetchSources(const Project& project, const ImagePlan& plan,
                                             const Store& store, Terminal& terminal);
enum class ArchiveFormat { kOci, kDocker };
// To TARGET: a directory where its name has no extension of a tar, else one file. SOURCES: what
// else goes into it (format oci alone). Killed, it leaves at most TARGET.part.
Result<LayoutReport> SaveImage(const Image& image, const Store& store,
                               const std::filesystem::path& target, ArchiveFormat format,
                               Compression compression, const std::vector<SourceFile>& sources,
                               Terminal& terminal);

struct LoadOptions {
  bool reuse = true;  // later builds take its layers where their recipes are the same
};
struct LoadReport {
  Image image;
  std::size_t new_layers = 0;
  std::size_t sources = 0;  // files that came with it
};
// A layout's directory, or a tar of one (oci-archive), or a docker archive. kFailed: damaged, or
// not what its digests say; kUsage: no image of envkit's.
Result<LoadReport> LoadImage(const std::filesystem::path& source, const Store& store,
                             const LoadOptions& options, Terminal& terminal);

}  // namespace envkit
