// Images to and from registries, through skopeo: it knows their protocols, and its auth file (made
// by `skopeo login`) holds the credentials, so that they are on no command line.
#pragma once

#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "image/oci_layout.h"

namespace envkit {

// "registry.example:5000/team/mnist:train-cpu" or "…@sha256:…", with or without "docker://".
struct RegistryReference {
  std::string host, repository, tag, digest;  // one of the last two, or none
  std::string Text() const;                   // without "docker://"
  bool loopback = false;                      // plain HTTP is tried there
};
Result<RegistryReference> ParseReference(std::string_view text);

struct PushReport {
  std::string reference;  // by digest
  std::size_t layers = 0, skipped = 0;
  std::uint64_t bytes = 0;  // of the layers that were sent
};
Result<PushReport> PushImage(const Image& image, const RegistryReference& to, const Store& store,
                             Compression compression, Terminal& terminal);

// Layers that the store has are not fetched. With a digest in FROM nothing else is accepted.
Result<LoadReport> PullImage(const RegistryReference& from, const Store& store,
                             const LoadOptions& options, Terminal& terminal);

// The artefact at FROM, all of it, as a layout in DIRECTORY; its digest is checked.
Result<void> FetchLayout(const RegistryReference& from, const std::filesystem::path& directory,
                         Terminal& terminal);

}  // namespace envkit
