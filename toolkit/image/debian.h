// Debian packages: where the archive is, and what apt's own solver takes from it. apt works in
// private directories; the host's package state is neither read nor written.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/index.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

struct DebianMirror {
  std::string main;      // "http://example.com/debian", without a final slash
  std::string security;  // of the suites NAME-security
  std::string origin;    // for people

  const std::string& BaseOf(std::string_view suite) const;
};

// "debian:trixie" → "trixie"; other kinds of base are kUsage.
Result<std::string> DebianCodename(const std::string& base);

// ENVKIT_DEBIAN_MIRROR ("MAIN [SECURITY]"), else the host's own on Debian, else mmdebstrap's
// default.
Result<DebianMirror> FindDebianMirror(const std::string& codename,
                                      const ProxyVariables& environment, const Store& store);
// mmdebstrap's default, which it tells when it is run.
Result<DebianMirror> MmdebstrapMirror(const std::string& codename, const Store& store);
// "MAIN [SECURITY]"; SECURITY is MAIN-security where it is left out.
Result<DebianMirror> ParseMirrorSetting(std::string_view text, std::string_view variable);
// Of lines "URI|RELEASE|COMPONENT|ORIGIN" about a Debian host's own sources; MAIN stays empty where
// none can be fetched from by HTTP.
DebianMirror MirrorOfTargets(std::string_view lines, std::string_view host_codename);
// Of lines "deb [options] URI SUITE COMPONENT…".
DebianMirror MirrorOfSources(std::string_view lines, std::string_view codename);

struct DebianResolution {
  std::vector<LockedDeb> debs;  // sorted
  std::int64_t released = 0;    // the date of the main suite
};

// ARCHITECTURE: "amd64". ROOTS: the packages of each root beyond the essential and required ones.
Result<DebianResolution> ResolveDebian(const std::string& codename, const std::string& architecture,
                                       const std::map<std::string, std::vector<std::string>>& roots,
                                       const DebianMirror& mirror, const Store& store,
                                       Progress* progress = nullptr);  // one step more than roots

// Of one line of `apt-get --print-uris` with Acquire::ForceHash=SHA256: all but the roots. The
// suite is CODENAME or CODENAME-security.
Result<LockedDeb> ParsePrintedUri(std::string_view line, const std::string& codename,
                                  const DebianMirror& mirror);

// apt's words as an Error with what to do next.
Error AptError(const std::string& words, const std::string& codename, const DebianMirror& mirror);

}  // namespace envkit
