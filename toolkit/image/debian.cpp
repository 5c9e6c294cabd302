#include "image/debian.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <set>
#include <sstream>
#include <system_error>
#include <tuple>

#include "base/digest.h"
#include "base/files.h"
#include "base/http.h"
#include "base/process.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr char kMirrorVariable[] = "ENVKIT_DEBIAN_MIRROR";
constexpr char kKeyring[] = "/usr/share/keyrings/debian-archive-keyring.gpg";

std::string WithoutSlash(std::string_view url) {
  while (url.ends_with('/')) url.remove_suffix(1);
  return std::string(url);
}

bool IsHttp(std::string_view url) {
  return url.starts_with("http://") || url.starts_with("https://");
}

std::vector<std::string> TextLines(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::istringstream stream(text);
  std::vector<std::string> parts;
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// Cloud images name their mirrors in a file: the first one is the nearest.
std::string Plain(const std::string& uri) {
  constexpr std::string_view kList = "mirror+file:";
  if (!uri.starts_with(kList)) return WithoutSlash(uri);
  std::string file = WithoutSlash(uri.substr(kList.size()));
  while (file.starts_with("//")) file.erase(0, 1);
  const auto text = ReadFile(file);
  if (!text) return "";
  for (const std::string& line : TextLines(*text)) {
    const std::string url = line.substr(0, line.find_first_of(" \t"));
    if (IsHttp(url)) return WithoutSlash(url);
  }
  return "";
}

// Of /etc/os-release: the codename of a Debian host, else "".
std::string HostCodename() {
  const auto text = ReadFile("/etc/os-release");
  std::string id;
  std::string codename;
  for (const std::string& line : TextLines(text ? *text : "")) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string value = line.substr(equals + 1);
    value.erase(std::remove(value.begin(), value.end(), '"'), value.end());
    if (line.starts_with("ID=")) id = value;
    if (line.starts_with("VERSION_CODENAME=")) codename = value;
  }
  return id == "debian" ? (codename.empty() ? "sid" : codename) : "";
}

Result<void> RequireTool(std::string_view name) {
  if (FindExecutable(name)) return {};
  return Missing(fmt::format("{} is not installed: it resolves the image's Debian packages", name),
                 "Lock on a Debian or Ubuntu machine: envkit.lock is made to be committed, and "
                 "builds elsewhere.");
}

// The one thing of the host's apt settings that a private apt needs: how to reach the network.
Result<std::string> HostNetworkSettings() {
  ProcessSpec spec;
  spec.argv = {"apt-config", "dump"};
  spec.env = {{"LC_ALL", "C.UTF-8"}};
  ENVKIT_TRY(const std::string dump, RunForOutput(spec));
  std::string kept;
  for (const std::string& line : TextLines(dump)) {
    for (const char* prefix : {"Acquire::http::", "Acquire::https::", "Acquire::Proxy",
                               "Acquire::Retries ", "Acquire::ForceIPv"}) {
      if (line.starts_with(prefix)) kept += line + "\n";
    }
  }
  return kept;
}

// Package names reach apt's command line: nothing there may be an option or a pattern.
bool IsPackageName(std::string_view name) {
  const std::size_t equals = name.find('=');
  const std::string_view package = name.substr(0, equals);
  const auto plain = [](std::string_view text, std::string_view more) {
    return std::all_of(text.begin(), text.end(), [&](char letter) {
      return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') ||
             more.find(letter) != std::string_view::npos;
    });
  };
  if (package.size() < 2 || !plain(package.substr(0, 1), "") || !plain(package, "+-."))
    return false;
  if (equals == std::string_view::npos) return true;
  const std::string_view version = name.substr(equals + 1);
  return !version.empty() && plain(version, "+-.:~ABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

class PrivateApt {
 public:
  static Result<PrivateApt> Make(const std::string& codename, const std::string& architecture,
                                 const DebianMirror& mirror, const Store& store);
  Result<void> Update();
  Result<std::string> PrintUris(const std::vector<std::string>& packages) const;
  // The sha256 of everything in SUITE's list.
  Result<std::set<std::string>> HashesIn(const std::string& suite) const;
  Result<std::int64_t> Released() const;

 private:
  PrivateApt(WorkDirectory work, std::string codename, const DebianMirror& mirror)
      : work_(std::move(work)), codename_(std::move(codename)), mirror_(mirror) {}
  Result<std::string> Run(std::vector<std::string> argv) const;
  WorkDirectory work_;
  std::string codename_;
  DebianMirror mirror_;
};

Result<PrivateApt> PrivateApt::Make(const std::string& codename, const std::string& architecture,
                                    const DebianMirror& mirror, const Store& store) {
  ENVKIT_CHECK(RequireTool("apt-get"));
  std::error_code error;
  if (!fs::exists(kKeyring, error)) {
    return Missing(fmt::format("{} is missing: Debian's signatures could not be checked", kKeyring),
                   "sudo apt-get install debian-archive-keyring");
  }
  ENVKIT_TRY(WorkDirectory work, WorkDirectory::Make(store));
  const fs::path root = work.path();
  for (const char* directory :
       {"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d",
        "state/lists/partial", "cache/archives/partial"}) {
    ENVKIT_CHECK(MakeDirectories(root / directory));
  }
  ENVKIT_CHECK(WriteFileAtomic(root / "state/status", ""));
  std::string sources;
  for (const char* suffix : {"", "-updates", "-security"}) {
    const std::string suite = codename + suffix;
    sources +=
        fmt::format("deb [signed-by={}] {} {} main\n", kKeyring, mirror.BaseOf(suite), suite);
  }
  // Mirrors' URLs and proxies may hold passwords.
  ENVKIT_CHECK(WriteFileAtomic(root / "etc/sources.list", sources, 0600));
  ENVKIT_TRY(std::string settings, HostNetworkSettings());
  settings += fmt::format(
      "Dir \"{0}\";\n"
      "Dir::State \"{0}/state\";\n"
      "Dir::State::status \"{0}/state/status\";\n"
      "Dir::Cache \"{0}/cache\";\n"
      "Dir::Etc \"{0}/etc\";\n"
      "Dir::Etc::netrc \"/etc/apt/auth.conf\";\n"
      "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n"
      "Dir::Log \"{0}\";\n"
      "APT::Architecture \"{1}\";\n"
      "APT::Architectures \"{1}\";\n"
      "APT::Install-Recommends \"false\";\n"
      "APT::Install-Suggests \"false\";\n"
      // Otherwise an index that could not be fetched is a warning.
      "APT::Update::Error-Mode \"any\";\n"
      // root's apt would become _apt, which cannot reach our directory.
      "APT::Sandbox::User \"\";\n"
      "Acquire::Languages \"none\";\n"
      "Acquire::GzipIndexes \"false\";\n"
      // MD5 otherwise.
      "Acquire::ForceHash \"SHA256\";\n",
      root.string(), architecture);
  ENVKIT_CHECK(WriteFileAtomic(root / "apt.conf", settings, 0600));
  return PrivateApt(std::move(work), codename, mirror);
}

Result<std::string> PrivateApt::Run(std::vector<std::string> argv) const {
  ProcessSpec spec;
  spec.argv = std::move(argv);
  spec.env = {{"APT_CONFIG", (work_.path() / "apt.conf").string()}, {"LC_ALL", "C.UTF-8"}};
  ENVKIT_TRY(ProcessResult result, RunProcess(spec));
  if (result.exit_code != 0) return Unexpected(AptError(result.err, codename_, mirror_));
  return std::move(result.out);
}

Result<void> PrivateApt::Update() {
  if (auto done = Run({"apt-get", "update", "-qq"}); !done) return Unexpected(done.error());
  return {};
}

Result<std::string> PrivateApt::PrintUris(const std::vector<std::string>& packages) const {
  std::vector<std::string> argv = {"apt-get",      "install",    "-qq",
                                   "--print-uris", "?essential", "?priority(required)"};
  argv.insert(argv.end(), packages.begin(), packages.end());
  return Run(std::move(argv));
}

Result<std::set<std::string>> PrivateApt::HashesIn(const std::string& suite) const {
  ENVKIT_TRY(const std::string listed, Run({"apt-get", "indextargets", "--format",
                                            "$(RELEASE)|$(FILENAME)", "Identifier: Packages"}));
  std::set<std::string> hashes;
  for (const std::string& line : TextLines(listed)) {
    const std::size_t bar = line.find('|');
    if (bar == std::string::npos || line.substr(0, bar) != suite) continue;
    ENVKIT_TRY(const std::string packages, ReadFile(line.substr(bar + 1)));
    constexpr std::string_view kField = "\nSHA256: ";
    for (std::size_t at = 0; (at = packages.find(kField, at)) != std::string::npos;) {
      at += kField.size();
      hashes.insert(packages.substr(at, 64));
    }
  }
  return hashes;
}

// Where an index of wheels names no dates: that of the Release file of the main suite.
Result<std::int64_t> PrivateApt::Released() const {
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(work_.path() / "state/lists", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with("_dists_" + codename_ + "_InRelease") &&
        !name.ends_with("_dists_" + codename_ + "_Release")) {
      continue;
    }
    ENVKIT_TRY(const std::string text, ReadFile(entry.path()));
    constexpr std::string_view kField = "\nDate: ";
    const std::size_t at = text.find(kField);
    if (at == std::string::npos) continue;
    std::tm time{};
    if (strptime(text.c_str() + at + kField.size(), "%a, %d %b %Y %H:%M:%S", &time) != nullptr) {
      return timegm(&time);
    }
  }
  return 0;
}

}  // namespace

const std::string& DebianMirror::BaseOf(std::string_view suite) const {
  return suite.ends_with("-security") ? security : main;
}

Result<std::string> DebianCodename(const std::string& base) {
  constexpr std::string_view kPrefix = "debian:";
  const std::string name = base.starts_with(kPrefix) ? base.substr(kPrefix.size()) : "";
  if (name.empty() || !std::all_of(name.begin(), name.end(),
                                   [](char letter) { return letter >= 'a' && letter <= 'z'; })) {
    return Usage(fmt::format("base = \"{}\": this version of envkit locks Debian bases", base),
                 "Write base = \"debian:trixie\" in [environment] of envkit.toml.");
  }
  return name;
}

Result<DebianMirror> ParseMirrorSetting(std::string_view text, std::string_view variable) {
  std::istringstream stream{std::string(text)};
  DebianMirror mirror;
  mirror.origin = variable;
  std::string main;
  std::string security;
  stream >> main >> security;
  mirror.main = WithoutSlash(main);
  mirror.security = security.empty() ? mirror.main + "-security" : WithoutSlash(security);
  if (!IsHttp(mirror.main) || !IsHttp(mirror.security)) {
    return Usage(fmt::format("{}=\"{}\" names no archive", variable, RedactUrl(text)),
                 fmt::format("It is \"MAIN [SECURITY]\", each an http or https URL; without the "
                             "second it is MAIN-security."));
  }
  return mirror;
}

DebianMirror MirrorOfTargets(std::string_view lines, std::string_view host_codename) {
  DebianMirror mirror;
  mirror.origin = "this machine's apt sources";
  for (const std::string& line : TextLines(lines)) {
    const std::vector<std::string> fields = Split(line, '|');
    if (fields.size() < 3 || fields[2] != "main") continue;
    // ORIGIN is known once apt-get update ran; other vendors reuse Debian's names for their suites.
    if (fields.size() > 3 && !fields[3].empty() && fields[3] != "Debian") continue;
    const std::string& release = fields[1];
    const std::string url = Plain(fields[0]);
    if (!IsHttp(url)) continue;
    if (release.ends_with("-security")) {
      if (mirror.security.empty()) mirror.security = url;
    } else if (release == host_codename || release == "stable" || release == "testing" ||
               release == "unstable" || release == "sid" || release == "oldstable") {
      if (mirror.main.empty()) mirror.main = url;
    }
  }
  if (mirror.security.empty() && !mirror.main.empty()) mirror.security = mirror.main + "-security";
  return mirror;
}

DebianMirror MirrorOfSources(std::string_view lines, std::string_view codename) {
  DebianMirror mirror;
  mirror.origin = "mmdebstrap's default";
  for (std::string line : TextLines(lines)) {
    if (!line.starts_with("deb ")) continue;
    line.erase(0, 4);
    if (line.starts_with('[')) line.erase(0, std::min(line.find(']'), line.size() - 1) + 1);
    std::istringstream words(line);
    std::string url;
    std::string suite;
    words >> url >> suite;
    if (!IsHttp(url)) continue;
    if (suite == codename && mirror.main.empty()) mirror.main = WithoutSlash(url);
    if (suite == std::string(codename) + "-security" && mirror.security.empty()) {
      mirror.security = WithoutSlash(url);
    }
  }
  if (mirror.security.empty() && !mirror.main.empty()) mirror.security = mirror.main + "-security";
  return mirror;
}

Result<DebianMirror> FindDebianMirror(const std::string& codename,
                                      const ProxyVariables& environment, const Store& store) {
  if (const auto given = environment.find(kMirrorVariable);
      given != environment.end() && !given->second.empty()) {
    return ParseMirrorSetting(given->second, kMirrorVariable);
  }
  if (const std::string host = HostCodename(); !host.empty() && FindExecutable("apt-get")) {
    ProcessSpec spec;
    spec.argv = {"apt-get", "indextargets", "--format",
                 "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)", "Identifier: Packages"};
    spec.env = {{"LC_ALL", "C.UTF-8"}};
    if (const auto targets = RunForOutput(spec)) {
      DebianMirror mirror = MirrorOfTargets(*targets, host);
      if (!mirror.main.empty()) return mirror;
    }
  }
  return MmdebstrapMirror(codename, store);
}

Result<DebianMirror> MmdebstrapMirror(const std::string& codename, const Store& store) {
  const std::string next = fmt::format(
      "Name a mirror: {}=\"MAIN [SECURITY]\", each an http or https URL.", kMirrorVariable);
  if (!FindExecutable("mmdebstrap")) {
    return Missing(
        "no Debian mirror is known: this machine's apt sources name none, and "
        "mmdebstrap, which has a default, is not installed",
        next);
  }
  // mmdebstrap prints its default in the first hook, and is stopped there: nothing is installed.
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const fs::path copy = work.path() / "sources.list";
  ProcessSpec spec;
  spec.argv = {"mmdebstrap",
               "--mode=chrootless",
               "--variant=custom",
               "--format=null",
               "--setup-hook=cat \"$1\"/etc/apt/sources.list > \"$ENVKIT_SOURCES\"; exit 1",
               codename,
               "/dev/null"};
  spec.env = {{"ENVKIT_SOURCES", copy.string()}, {"TMPDIR", work.path().string()}};
  ENVKIT_TRY(const ProcessResult result, RunProcess(spec));
  const auto sources = ReadFile(copy);
  DebianMirror mirror = MirrorOfSources(sources ? *sources : "", codename);
  if (mirror.main.empty()) {
    return Missing(fmt::format("mmdebstrap names no mirror for {}\n{}", codename, result.err),
                   next);
  }
  return mirror;
}

Result<LockedDeb> ParsePrintedUri(std::string_view line, const std::string& codename,
                                  const DebianMirror& mirror) {
  const auto damaged = [&] {
    return Fail(fmt::format("apt-get --print-uris gave a line that is not understood\n{}", line));
  };
  // 'URL' NAME_VERSION_ARCH.deb SIZE SHA256:HEX
  if (!line.starts_with('\'')) return damaged();
  const std::size_t quote = line.find('\'', 1);
  if (quote == std::string_view::npos) return damaged();
  const std::string url(line.substr(1, quote - 1));
  std::istringstream words{std::string(line.substr(quote + 1))};
  std::string file;
  std::string size;
  std::string hash;
  words >> file >> size >> hash;
  LockedDeb deb;
  const std::vector<std::string> parts = Split(PercentDecode(file), '_');
  if (parts.size() != 3 || !parts[2].ends_with(".deb") || !hash.starts_with("SHA256:")) {
    return damaged();
  }
  deb.name = parts[0];
  deb.version = parts[1];
  deb.architecture = parts[2].substr(0, parts[2].size() - 4);
  deb.sha256 = hash.substr(7);
  const auto [end, failed] = std::from_chars(size.data(), size.data() + size.size(), deb.size);
  if (failed != std::errc() || end != size.data() + size.size() || !IsSha256(deb.sha256)) {
    return damaged();
  }
  // The same file has another path in the archive of security updates.
  for (const std::string& suite : {codename, codename + "-security"}) {
    const std::string base = mirror.BaseOf(suite) + "/";
    if (!url.starts_with(base)) continue;
    deb.suite = suite;
    deb.file = PercentDecode(url.substr(base.size()));
    break;
  }
  if (!deb.file.starts_with("pool/") || deb.file.find("..") != std::string::npos) return damaged();
  return deb;
}

Result<DebianResolution> ResolveDebian(const std::string& codename, const std::string& architecture,
                                       const std::map<std::string, std::vector<std::string>>& roots,
                                       const DebianMirror& mirror, const Store& store,
                                       Progress* progress) {
  for (const auto& [root, packages] : roots) {
    for (const std::string& package : packages) {
      if (!IsPackageName(package)) {
        return Usage(fmt::format("\"{}\" is not a Debian package's name", package),
                     "Correct [environment] system in envkit.toml.");
      }
    }
  }
  ENVKIT_TRY(PrivateApt apt, PrivateApt::Make(codename, architecture, mirror, store));
  ENVKIT_CHECK(apt.Update());
  if (progress != nullptr) progress->Add(1);
  std::map<std::string, LockedDeb> debs;  // by sha256
  for (const auto& [root, packages] : roots) {
    ENVKIT_TRY(const std::string uris, apt.PrintUris(packages));
    for (const std::string& line : TextLines(uris)) {
      ENVKIT_TRY(LockedDeb deb, ParsePrintedUri(line, codename, mirror));
      auto [known, is_new] = debs.emplace(deb.sha256, std::move(deb));
      known->second.roots.push_back(root);
    }
    if (progress != nullptr) progress->Add(1);
  }
  // apt says which archive has a file, not which suite; this list is small.
  ENVKIT_TRY(const auto updates, apt.HashesIn(codename + "-updates"));
  DebianResolution resolution;
  ENVKIT_TRY(resolution.released, apt.Released());
  for (auto& [sha256, deb] : debs) {
    if (deb.suite == codename && updates.contains(sha256)) deb.suite = codename + "-updates";
    std::sort(deb.roots.begin(), deb.roots.end());
    resolution.debs.push_back(std::move(deb));
  }
  std::sort(resolution.debs.begin(), resolution.debs.end(),
            [](const LockedDeb& a, const LockedDeb& b) {
              return std::tie(a.name, a.version) < std::tie(b.name, b.version);
            });
  return resolution;
}

Error AptError(const std::string& words, const std::string& codename, const DebianMirror& mirror) {
  std::string said;
  for (const std::string& line : TextLines(words)) {
    if (line.starts_with("E: ") || line.starts_with("W: ")) {
      said += (said.empty() ? "" : "\n") + RedactUrl(line);
    }
  }
  if (said.empty()) said = words;
  const auto has = [&said](std::string_view text) { return said.find(text) != std::string::npos; };
  const std::string where = fmt::format("{} ({})", RedactUrl(mirror.main), mirror.origin);
  Error error;
  error.what = fmt::format("apt could not resolve the Debian packages\n{}", said);
  if (has("Unable to locate package") || has("has no installation candidate") ||
      has("was not found") || has("unmet dependencies")) {
    error.code = ExitCode::kUsage;
    error.next = fmt::format(
        "Correct [environment] system in envkit.toml: the names are those of "
        "Debian {}.",
        codename);
  } else if (has("does not have a Release file") || has("404  Not Found")) {
    error.code = ExitCode::kUsage;
    error.next =
        fmt::format("Is \"debian:{}\" a Debian release that {} still serves?", codename, where);
  } else if (has("not signed") || has("NO_PUBKEY") || has("EXPKEYSIG") || has("BADSIG")) {
    error.next = fmt::format(
        "The archive is {}. Its signature was checked with {}:\n"
        "an old keyring is renewed by sudo apt-get install "
        "debian-archive-keyring.",
        where, kKeyring);
  } else if (has("Could not resolve") || has("Could not connect") || has("onnection failed") ||
             has("Unable to connect") || has("timed out") || has("Failed to fetch")) {
    error.code = ExitCode::kMissing;
    error.next = fmt::format(
        "The mirror is {}.\nCheck the network and its proxy, or name another "
        "mirror: ENVKIT_DEBIAN_MIRROR.",
        where);
  } else {
    error.next = fmt::format("The mirror is {}.", where);
  }
  return error;
}

}  // namespace envkit
