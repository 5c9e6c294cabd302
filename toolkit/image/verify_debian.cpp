#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "image/system_tree.h"
#include "image/verify_image.h"
#include "image/wheel_papers.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct Conffile {
  std::string path, md5;
};
struct InstalledDebian {
  std::string name, version, architecture;
  std::vector<Conffile> conffiles;
};

// dpkg's status file: a paragraph a package.
std::vector<InstalledDebian> ParseStatus(const std::string& text) {
  std::vector<InstalledDebian> packages;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find("\n\n", at), text.size());
    const std::string paragraph = text.substr(at, end - at);
    at = end + 2;
    if (FieldOf(paragraph, "Status") != "install ok installed") continue;
    InstalledDebian package = {FieldOf(paragraph, "Package"),
                               FieldOf(paragraph, "Version"),
                               FieldOf(paragraph, "Architecture"),
                               {}};
    const std::size_t conffiles = paragraph.find("\nConffiles:\n");
    if (conffiles != std::string::npos) {
      std::istringstream lines(paragraph.substr(conffiles + 12));
      for (std::string line; std::getline(lines, line) && line.starts_with(' ');) {
        std::istringstream words(line);
        Conffile conffile;
        std::string flag;
        // "obsolete" and "remove-on-upgrade" files need not be there.
        if (words >> conffile.path >> conffile.md5 && !(words >> flag)) {
          package.conffiles.push_back(conffile);
        }
      }
    }
    packages.push_back(std::move(package));
  }
  return packages;
}

// Where dpkg put a file instead, by "dpkg-divert".
std::map<std::string, std::string> Diversions(const fs::path& tree) {
  std::map<std::string, std::string> diversions;
  std::istringstream lines(ReadFile(tree / "var/lib/dpkg/diversions").value_or(""));
  for (std::string from, to, by;
       std::getline(lines, from) && std::getline(lines, to) && std::getline(lines, by);) {
    diversions[from.substr(1)] = to.substr(1);
  }
  return diversions;
}

class DebianTree {
 public:
  DebianTree(const fs::path& tree, const Store& store)
      : tree_(tree), store_(store), diversions_(Diversions(tree)) {}

  // The versions, then the files: WRONG gets a line for each that is not as it should be.
  void Check(const InstalledDebian& package, const LockedDeb& deb,
             std::vector<std::string>& wrong) {
    const std::string list = ListOf(package);
    const std::optional<std::string> true_list = ListInDeb(deb, wrong);
    if (true_list && *true_list != list && !true_list->empty()) {
      wrong.push_back(fmt::format("{}: dpkg's list of its files is not the one in {}", package.name,
                                  fs::path(deb.file).filename().string()));
    }
    std::istringstream lines(true_list.value_or(list));
    for (std::string line; std::getline(lines, line);) {
      if (line.size() > 34) File(package, line.substr(34), line.substr(0, 32), wrong);
    }
    for (const Conffile& conffile : package.conffiles) {
      File(package, conffile.path.substr(1), conffile.md5, wrong);
    }
  }
  std::size_t files() const { return files_; }
  std::size_t from_debs() const { return from_debs_; }

 private:
  std::string ListOf(const InstalledDebian& package) const {
    const fs::path info = tree_ / "var/lib/dpkg/info";
    if (auto list = ReadFile(info / (package.name + ".md5sums"))) return *list;
    const std::string qualified = package.name + ":" + package.architecture;
    return ReadFile(info / (qualified + ".md5sums")).value_or("");
  }

  // From the package itself, where the downloads still have it.
  std::optional<std::string> ListInDeb(const LockedDeb& deb, std::vector<std::string>& wrong) {
    const fs::path file = store_.DownloadPath(deb.sha256, deb.file);
    std::error_code error;
    if (!fs::exists(file, error)) return std::nullopt;
    if (Sha256OfFile(file).value_or("") != deb.sha256) {
      wrong.push_back(fmt::format("{} is damaged; remove it", file.string()));
      return std::nullopt;
    }
    const auto listed = RunProcess({.argv = {"dpkg-deb", "--info", file.string(), "md5sums"}});
    if (!listed || listed->exit_code != 0) return std::nullopt;  // a package without a list
    ++from_debs_;
    return listed->out;
  }

  void File(const InstalledDebian& package, std::string path, const std::string& md5,
            std::vector<std::string>& wrong) {
    const auto diverted = diversions_.find(path);
    if (diverted != diversions_.end()) path = diverted->second;
    ++files_;
    std::error_code error;
    if (!fs::exists(fs::symlink_status(tree_ / path, error))) {
      if (BelongsInSystemTree(path)) {
        wrong.push_back(fmt::format("/{} ({}): is missing", path, package.name));
      }
      return;
    }
    const auto found = Md5OfFile(tree_ / path);
    if (!found) {
      wrong.push_back(found.error().what);
    } else if (*found != md5) {
      wrong.push_back(
          fmt::format("/{} ({}): md5 {} instead of {}", path, package.name, *found, md5));
    }
  }

  const fs::path& tree_;
  const Store& store_;
  std::map<std::string, std::string> diversions_;
  std::size_t files_ = 0, from_debs_ = 0;
};

}  // namespace

Check CheckDebs(const Layer& layer, const std::vector<LockedDeb>& debs, const Store& store,
                bool quick) {
  envkit::Check check = {
      "lock.debs", "Debian's packages and their files are the locked ones", Verdict::kPass, {}};
  const auto status = ReadFile(layer.tree / "var/lib/dpkg/status");
  if (!status) {
    check.verdict = Verdict::kFail;
    check.evidence = {status.error().what};
    check.next = MakeAnew({&layer});
    return check;
  }
  std::vector<std::string> wrong;
  std::set<std::string> known;
  DebianTree tree(layer.tree, store);
  const std::vector<InstalledDebian> installed = ParseStatus(*status);
  for (const LockedDeb& deb : debs) {
    known.insert(deb.name);
    const auto there =
        std::find_if(installed.begin(), installed.end(),
                     [&](const InstalledDebian& package) { return package.name == deb.name; });
    if (there == installed.end()) {
      wrong.push_back(fmt::format("{} {} is not installed", deb.name, deb.version));
    } else if (there->version != deb.version || there->architecture != deb.architecture) {
      wrong.push_back(fmt::format("{} {} {} is installed instead of {} {}", deb.name,
                                  there->version, there->architecture, deb.version,
                                  deb.architecture));
    } else if (!quick) {
      tree.Check(*there, deb, wrong);
    }
  }
  for (const InstalledDebian& package : installed) {
    if (!known.contains(package.name)) {
      wrong.push_back(
          fmt::format("{} {} is installed and not in the lock", package.name, package.version));
    }
  }
  if (!wrong.empty()) {
    check.verdict = Verdict::kFail;
    check.evidence = Shorten(std::move(wrong));
    check.next = MakeAnew({&layer});
    return check;
  }
  check.evidence = {fmt::format("{} packages", debs.size())};
  if (quick) {
    check.what = "Debian's packages are the locked ones (files not hashed: --quick)";
  } else {
    check.evidence.front() += fmt::format(", {} files by their MD5 lists", tree.files());
    check.evidence.push_back(
        fmt::format("{} lists from the .debs themselves, whose sha256 the lock has; the others "
                    "from the image's dpkg",
                    tree.from_debs()));
  }
  return check;
}

}  // namespace envkit
