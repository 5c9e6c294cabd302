#include "session/keys.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "base/files.h"
#include "base/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// A pair of keys that is made once. The private half never leaves the file.
Result<void> EnsureKey(const fs::path& file, const std::string& comment) {
  if (fs::exists(file) && fs::exists(file.string() + ".pub")) return {};
  std::error_code ignored;
  fs::remove(file, ignored);
  ENVKIT_TRY(const std::string words,
             RunForOutput({.argv = {"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment,
                                    "-f", file.string()}}));
  return {};
}

}  // namespace

Result<void> EnsureKeys(const SessionPlace& place) {
  if (!FindExecutable("ssh-keygen")) {
    return Missing("ssh-keygen is not installed, and a session needs keys",
                   "Install it:  sudo apt-get install openssh-client");
  }
  const fs::path keys = place.directory / "keys";
  ENVKIT_CHECK(MakePrivateDirectory(keys));
  ENVKIT_CHECK(EnsureKey(keys / "ssh_host_ed25519_key", place.id));
  ENVKIT_CHECK(EnsureKey(keys / "id_ed25519", "envkit-" + place.id));
  ENVKIT_TRY(const std::string public_key, ReadFile(keys / "ssh_host_ed25519_key.pub"));
  return WriteFileAtomic(keys / "known_hosts", "envkit-" + place.id + " " + public_key);
}

Result<std::string> AuthorizedKeys(const SessionPlace& place) {
  ENVKIT_TRY(std::string keys, ReadFile(place.directory / "keys/id_ed25519.pub"));
  std::error_code ignored;
  const char* named = std::getenv("HOME");
  const fs::path home = named == nullptr ? "/" : named;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(home / ".ssh", ignored)) {
    if (entry.path().extension() == ".pub") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::string found;
  for (const fs::path& file : files) {
    if (auto text = ReadFile(file)) found += *text + "\n";
  }
  if (std::getenv("SSH_AUTH_SOCK") != nullptr) {
    const auto agent =
        RunProcess({.argv = {"ssh-add", "-L"}, .timeout = std::chrono::milliseconds(2000)});
    if (agent && agent->exit_code == 0) found += agent->out;
  }
  std::istringstream lines(found);
  for (std::string line; std::getline(lines, line);) {
    const bool key =
        line.starts_with("ssh-") || line.starts_with("ecdsa-") || line.starts_with("sk-");
    if (key && line.find("-cert-v01@") == line.npos && keys.find(line) == keys.npos) {
      keys += line + "\n";
    }
  }
  return keys;
}

}  // namespace envkit
