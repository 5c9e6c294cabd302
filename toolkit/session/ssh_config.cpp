#include "session/ssh_config.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <optional>
#include <sstream>

#include "base/files.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// One line as ssh splits it: a keyword, then words; "=" may stand after the keyword.
struct Line {
  std::string keyword;  // lower case
  std::vector<std::string> words;
};

Line Split(std::string_view text) {
  Line line;
  std::size_t at = 0;
  const auto space = [](char letter) {
    return letter == ' ' || letter == '\t' || letter == '\r' || letter == '\f';
  };
  const auto skip = [&] {
    while (at < text.size() && space(text[at])) ++at;
  };
  skip();
  while (at < text.size() && !space(text[at]) && text[at] != '=') {
    line.keyword += static_cast<char>(std::tolower(static_cast<unsigned char>(text[at++])));
  }
  skip();
  if (at < text.size() && text[at] == '=') ++at;
  while (skip(), at < text.size()) {
    const char quote = text[at] == '"' ? text[at++] : '\0';
    std::string word;
    while (at < text.size() && (quote != '\0' ? text[at] != quote : !space(text[at]))) {
      word += text[at++];
    }
    if (quote != '\0') ++at;
    line.words.push_back(std::move(word));
  }
  return line;
}

bool Includes(std::string_view text, std::string_view wanted) {
  const Line include = Split(wanted);
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const Line line = Split(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.keyword == "host" || line.keyword == "match") return false;
    if (line.keyword == "include" && std::find(line.words.begin(), line.words.end(),
                                               include.words.front()) != line.words.end()) {
      return true;
    }
  }
  return false;
}

// What a path is in the end. kFailed for links that lead nowhere, or to themselves.
Result<fs::path> FollowLinks(const fs::path& config) {
  std::error_code error;
  if (!fs::is_symlink(fs::symlink_status(config, error))) return config;
  fs::path target = fs::canonical(config, error);
  if (error) {
    return Fail(fmt::format("{} is a link to {}, which is not there", config.string(),
                            fs::read_symlink(config, error).string()));
  }
  return target;
}

Unexpected Refuse(const fs::path& file, const std::string& why, std::string_view line,
                  const std::string& first = "") {
  return Fail(fmt::format("{} {}", file.string(), why),
              fmt::format("{}Nothing was changed. Its first line should be:\n  {}", first, line));
}

// Of envkits that were killed between writing and renaming.
void RemoveLeftovers(const fs::path& file) {
  const std::string prefix = "." + file.filename().string() + ".envkit-";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(file.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.size() == prefix.size() + 6) {
      fs::remove(entry.path(), ignored);
    }
  }
}

// Beside FILE, with its mode and owner, then in its place.
Result<void> Replace(const fs::path& file, const struct stat& old, std::string_view text) {
  std::string temporary =
      (file.parent_path() / ("." + file.filename().string())).string() + ".envkit-XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);  // 0600
  if (fd < 0) return FileFailure("writing beside", file, errno);
  int error = 0;
  for (std::size_t at = 0; error == 0 && at < text.size();) {
    const ssize_t put = write(fd, text.data() + at, text.size() - at);
    if (put > 0) at += static_cast<std::size_t>(put);
    if (put < 0 && errno != EINTR) error = errno;
  }
  struct stat made {};
  if (error == 0 && fstat(fd, &made) != 0) error = errno;
  if (error == 0 && (made.st_uid != old.st_uid || made.st_gid != old.st_gid) &&
      fchown(fd, old.st_uid, old.st_gid) != 0)
    error = errno;
  if (error == 0 && fchmod(fd, old.st_mode & 07777) != 0) error = errno;
  if (error == 0 && fsync(fd) != 0) error = errno;
  if (close(fd) != 0 && error == 0) error = errno;
  // An editor that saved meanwhile is not to lose its text.
  struct stat now {};
  if (error == 0 && (stat(file.c_str(), &now) != 0 || now.st_ino != old.st_ino ||
                     now.st_mtim.tv_sec != old.st_mtim.tv_sec ||
                     now.st_mtim.tv_nsec != old.st_mtim.tv_nsec || now.st_size != old.st_size)) {
    unlink(temporary.c_str());
    return Fail(file.string() + " was changed by another program just now", "Try again.");
  }
  if (error == 0 && rename(temporary.c_str(), file.c_str()) != 0) error = errno;
  if (error == 0) return {};
  unlink(temporary.c_str());
  return FileFailure("replacing", file, error);
}

}  // namespace

Result<std::string> IncludeLine(const fs::path& state, const fs::path& home) {
  std::string path = (state / "ssh").string();
  const fs::path below = (state / "ssh").lexically_relative(home);
  if (!below.empty() && *below.begin() != "..") path = "~/" + below.string();
  if (path.find_first_of("\"'\\*?[]#%$\n\r") != path.npos) {
    return Fail(fmt::format("ssh cannot include files from {}", path),
                "Let XDG_STATE_HOME name a directory without quotes, *, ?, [, ], #, % and $.");
  }
  path += "/*.conf";
  return path.find_first_of(" \t") == path.npos ? "Include " + path : "Include \"" + path + "\"";
}

std::string WithInclude(std::string_view text, std::string_view line) {
  if (Includes(text, line)) return std::string(text);
  const std::size_t end = text.find('\n');
  const bool dos = end != text.npos && end > 0 && text[end - 1] == '\r';
  return fmt::format("{}{}{}", line, dos ? "\r\n" : "\n", text);
}

Result<bool> AddInclude(const fs::path& config, std::string_view line) {
  struct stat status {};
  if (lstat(config.c_str(), &status) != 0) {
    if (errno != ENOENT) return FileFailure("reading", config, errno);
    if (lstat(config.parent_path().c_str(), &status) != 0) {
      ENVKIT_CHECK(MakePrivateDirectory(config.parent_path()));
    }
    ENVKIT_CHECK(WriteFileAtomic(config, WithInclude("", line), 0600));
    return true;
  }
  auto followed = FollowLinks(config);
  if (!followed)
    return Refuse(config, followed.error().what.substr(config.string().size() + 1), line);
  const fs::path file = *followed;
  if (stat(file.c_str(), &status) != 0) return FileFailure("reading", file, errno);
  if (!S_ISREG(status.st_mode)) return Refuse(file, "is not a file", line);
  if (status.st_uid != geteuid() && status.st_uid != 0)
    return Refuse(file, "belongs to another user, and ssh refuses it for that", line);
  if ((status.st_mode & 0022) != 0)
    return Refuse(file, "may be written to by others, and ssh refuses it for that", line,
                  fmt::format("Close it:  chmod go-w {}\n", file.string()));
  ENVKIT_TRY(const std::string text, ReadFile(file));
  const std::string wanted = WithInclude(text, line);
  if (wanted == text) return false;
  if (status.st_uid != geteuid()) return Refuse(file, "belongs to another user", line);
  if (status.st_nlink > 1)
    return Refuse(file, "has a second name (a hard link), which would keep the old text", line);
  RemoveLeftovers(file);
  if (auto replaced = Replace(file, status, wanted); !replaced) {
    Error error = std::move(replaced).error();
    error.next = error.next.empty()
                     ? fmt::format("Its first line should be:\n  {}", line)
                     : error.next + fmt::format("\nIts first line should be:\n  {}", line);
    return Unexpected(std::move(error));
  }
  return true;
}

std::string SshEntryText(const SshEntry& entry) {
  const auto quoted = [](const fs::path& path) { return fmt::format("\"{}\"", path.string()); };
  std::string text = fmt::format("Host {}\n", fmt::join(entry.names, " "));
  if (entry.port > 0) {
    text += fmt::format("  HostName {}\n  Port {}\n", entry.host, entry.port);
  } else {
    text += "  ProxyCommand " + entry.proxy + "\n";
  }
  if (!entry.jump.empty()) text += fmt::format("  ProxyJump {}\n", entry.jump);
  text += fmt::format("  User {}\n", entry.user);
  text += fmt::format("  HostKeyAlias {}\n", entry.names.back());
  text += fmt::format("  UserKnownHostsFile {}\n", quoted(entry.known_hosts));
  text += "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  UpdateHostKeys no\n";
  text += "  HostKeyAlgorithms ssh-ed25519\n  ForwardAgent no\n  PasswordAuthentication no\n";
  for (const fs::path& identity : entry.identities) {
    text += fmt::format("  IdentityFile {}\n", quoted(identity));
  }
  return text;
}

std::vector<std::string> SshNames(const SessionPlace& place, const std::string& project_name) {
  const std::string own = "envkit-" + project_name;
  bool taken = false;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(place.state / "ssh", ignored)) {
    if (entry.path().filename() == place.id + ".conf") continue;
    const auto text = ReadFile(entry.path());
    if (!text) continue;
    const Line first = Split(std::string_view(*text).substr(0, text->find('\n')));
    taken = taken || std::find(first.words.begin(), first.words.end(), own) != first.words.end();
  }
  std::vector<std::string> names;
  if (!taken) names.push_back(own);
  names.push_back("envkit-" + place.id);
  return names;
}

}  // namespace envkit
