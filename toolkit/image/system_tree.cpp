#include "image/system_tree.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <string>
#include <system_error>

#include "base/archive.h"
#include "base/files.h"
#include "base/process.h"
#include "host/facts.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// An ordinary user works as root of a user namespace of their own, in which their files are root's:
// mmdebstrap's own --mode=unshare could not read them.
const std::vector<std::string> kAsNamespaceRoot = {"unshare", "--user", "--mount", "--map-auto",
                                                   "--map-root-user"};

constexpr std::uint64_t kEnoughMemory = 4'000'000'000;  // for the builder's system, twice

bool Succeeds(const std::vector<std::string>& argv) {
  ProcessSpec spec;
  spec.argv = argv;
  const auto result = RunProcess(spec);
  return result && result->exit_code == 0;
}

std::string UserName() {
  const passwd* entry = getpwuid(getuid());
  return entry == nullptr ? fmt::format("{}", getuid()) : entry->pw_name;
}

// The lines that matter of what mmdebstrap and the programs below it said.
std::string LastWords(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (!line.empty() && !line.starts_with("I: ")) lines.push_back(line);
    at = end + 1;
  }
  std::string words;
  for (std::size_t at = lines.size() > 8 ? lines.size() - 8 : 0; at < lines.size(); ++at) {
    words += "\n  " + lines[at];
  }
  return words;
}

std::string FileName(const LockedDeb& deb) {
  return fmt::format("{}_{}.deb", deb.name, deb.architecture);
}

// A flat repository of the locked packages. Without Codename apt finds no essential set.
Result<void> WriteRepository(const std::vector<LockedDeb>& debs, const Store& store,
                             const fs::path& repository) {
  ENVKIT_CHECK(MakeDirectories(repository));
  std::string packages, architecture = "amd64";
  for (const LockedDeb& deb : debs) {
    if (deb.architecture != "all") architecture = deb.architecture;
    const fs::path file = store.DownloadPath(deb.sha256, deb.file);
    ProcessSpec spec;
    spec.argv = {"dpkg-deb", "--field", file.string()};
    auto fields = RunForOutput(spec);
    if (!fields) return Wrap(std::move(fields).error(), "reading " + file.filename().string());
    packages += fmt::format("{}Filename: ./{}\nSize: {}\nSHA256: {}\n\n", *fields, FileName(deb),
                            deb.size, deb.sha256);
    std::error_code error;
    fs::create_symlink(file, repository / FileName(deb), error);
    if (error) return FileFailure("writing", repository / FileName(deb), error.value());
  }
  ENVKIT_CHECK(WriteFileAtomic(repository / "Packages", packages));
  return WriteFileAtomic(repository / "Release",
                         fmt::format("Origin: envkit\nSuite: trixie\nCodename: trixie\n"
                                     "Architectures: {}\nComponents: main\n"
                                     "Date: Thu, 01 Jan 1970 00:00:00 UTC\n",
                                     architecture));
}

}  // namespace

bool BelongsInSystemTree(std::string_view path) {
  static constexpr std::array kFiles = {"etc/.pwd.lock",
                                        "etc/hostname",
                                        "etc/machine-id",
                                        "etc/resolv.conf",
                                        "etc/apt/sources.list",
                                        "etc/apt/apt.conf.d/99mmdebstrap",
                                        "etc/passwd-",
                                        "etc/group-",
                                        "etc/shadow-",
                                        "etc/gshadow-",
                                        "etc/subuid-",
                                        "etc/subgid-",
                                        "var/lib/dpkg/lock",
                                        "var/lib/dpkg/lock-frontend",
                                        "var/lib/dbus/machine-id",
                                        "var/lib/dpkg/triggers/Lock"};
  static constexpr std::array kContentOf = {"dev/",       "proc/",
                                            "sys/",       "run/",
                                            "tmp/",       "etc/apt/sources.list.d/",
                                            "var/cache/", "var/lib/apt/lists/",
                                            "var/log/",   "var/tmp/"};
  for (const std::string_view file : kFiles) {
    if (path == file) return false;
  }
  for (const std::string_view directory : kContentOf) {
    if (path.size() > directory.size() && path.starts_with(directory)) return false;
  }
  if (path.starts_with("var/lib/dpkg/") && path.ends_with("-old")) return false;
  return !path.starts_with("etc/ssh/ssh_host_");
}

Result<void> CheckSystemTools() {
  std::string packages;
  for (const auto& [program, package] :
       {std::pair{"mmdebstrap", "mmdebstrap"}, std::pair{"dpkg-deb", "dpkg"},
        std::pair{"apt-get", "apt"}}) {
    if (!FindExecutable(program)) packages += fmt::format(" {}", package);
  }
  if (geteuid() != 0 && !FindExecutable("newuidmap")) packages += " uidmap";
  if (!packages.empty()) {
    return Missing(fmt::format("making the Debian layer needs{}", packages),
                   "sudo apt-get install" + packages);
  }
  if (geteuid() == 0) return {};

  ProcessSpec spec;
  spec.argv = kAsNamespaceRoot;
  spec.argv.push_back("true");
  ENVKIT_TRY(const ProcessResult result, RunProcess(spec));
  if (result.exit_code == 0) return {};
  return Missing(
      fmt::format("the user {} may not make a user namespace with several users{}", UserName(),
                  LastWords(result.err)),
      fmt::format("It needs a range in /etc/subuid and /etc/subgid:\n"
                  "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}\n"
                  "and a kernel that allows it (sysctl kernel.unprivileged_userns_clone=1, on "
                  "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0). Or build as root.",
                  UserName()));
}

Result<void> MakeSystemTree(const std::vector<LockedDeb>& debs, const Store& store,
                            std::int64_t source_date_epoch, const fs::path& work,
                            const fs::path& tree,
                            const std::function<void(std::string_view)>& status) {
  ENVKIT_CHECK(CheckSystemTools());
  const fs::path repository = work / "repository";
  const fs::path archive = work / "root.tar";
  ENVKIT_CHECK(WriteRepository(debs, store, repository));
  ENVKIT_CHECK(MakeDirectories(work / "chroot"));
  std::string names;
  for (const LockedDeb& deb : debs) names += (names.empty() ? "" : ",") + deb.name;

  // env is inside unshare, whose place is on the user's PATH. In memory it takes a third of the
  // time, and a killed one leaves nothing behind.
  ProcessSpec spec;
  if (geteuid() != 0) {
    spec.argv = kAsNamespaceRoot;
  } else if (Succeeds({"unshare", "--mount", "true"})) {
    spec.argv = {"unshare", "--mount"};
  }
  const bool in_memory =
      !spec.argv.empty() && ProbeHost().memory_bytes.value_or(0) >= kEnoughMemory;
  const std::string mount =
      in_memory ? "mount -t tmpfs -o mode=0755 envkit \"$TMPDIR\" 2>/dev/null; " : "";
  for (const std::string& word : std::vector<std::string>{
           "env",
           "--ignore-environment",
           fmt::format("PATH={}", kPath),
           fmt::format("SOURCE_DATE_EPOCH={}", source_date_epoch),
           fmt::format("TMPDIR={}", (work / "chroot").string()),
           "HOME=/",
           "LC_ALL=C.UTF-8",
           "TZ=UTC",
           "sh",
           "-c",
           "umask 022; " + mount + "exec \"$@\"",
           "sh",
           "mmdebstrap",
           "--mode=root",
           "--variant=custom",
           "--format=tar",
           "--include=" + names,
           "--aptopt=APT::Sandbox::User \"root\"",
           "trixie",
           archive.string(),
           fmt::format("deb [trusted=yes] copy://{} ./", repository.string())}) {
    spec.argv.push_back(word);
  }
  spec.cwd = work;
  spec.on_line = [&](std::string_view line) {
    if (line.starts_with("I: ")) status(line.substr(3));
  };
  ENVKIT_TRY(const ProcessResult result, RunProcess(spec));
  if (result.exit_code != 0) {
    return Fail(fmt::format("mmdebstrap ended with exit code {}{}", result.exit_code,
                            LastWords(result.err)));
  }
  status("unpacking");
  ENVKIT_CHECK(MakeDirectories(tree));
  TarOptions options;
  options.keep = BelongsInSystemTree;
  ENVKIT_CHECK(ExtractTar(archive, tree, source_date_epoch, options));
  return RemoveTree(archive);
}

}  // namespace envkit
