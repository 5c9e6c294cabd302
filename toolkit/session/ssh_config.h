// ~/.ssh/config gets one `Include` line at its top, and nothing else of it is ever touched. What
// our sessions need stands in files of our own, which that line shows to ssh.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "session/place.h"

namespace envkit {

// "Include ~/.local/state/envkit/ssh/*.conf", without a line break. kFailed where ssh could not
// read the directory's name.
Result<std::string> IncludeLine(const std::filesystem::path& state,
                                const std::filesystem::path& home);

// TEXT with LINE in front, unless a line that says the same is there already, before any Host or
// Match. Pure; the line ends as TEXT's first one does.
std::string WithInclude(std::string_view text, std::string_view line);

// WithInclude for a file: links are followed to what they lead to, mode and owner are kept, readers
// see the old or the new text, at any moment. What ssh would refuse, or what could not be replaced
// as it is, is an error, and the file is as it was. True: it was changed.
Result<bool> AddInclude(const std::filesystem::path& config, std::string_view line);

// What ssh needs to know of one session.
struct SshEntry {
  std::vector<std::string> names;  // "envkit-mnist", "envkit-mnist-1a2b3c4d"
  std::string user;
  int port = 0;  // 0: PROXY carries the connection
  std::string proxy = {};
  std::filesystem::path known_hosts;
  std::vector<std::filesystem::path> identities;
  std::string host = "127.0.0.1";
  std::string jump = {};  // another machine, whose loopback HOST is
};
// Pure.
std::string SshEntryText(const SshEntry& entry);

// The names that no other project's file below STATE has.
std::vector<std::string> SshNames(const SessionPlace& place, const std::string& project_name);

}  // namespace envkit
