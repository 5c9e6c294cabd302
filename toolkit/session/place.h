// Where a project's sessions keep what is theirs: outside the project and the images, for the user
// alone. Below $XDG_STATE_HOME/envkit, else ~/.local/state/envkit:
//
//   ssh/ID.conf            what `Include` in ~/.ssh/config shows to ssh
//   sessions/ID/           one project: keys/, home/, session.json, session.log
//   sessions/ID/inside/    what a session's container sees at /envkit/session
//   sessions/ID/job-…/     the same for a built-in job, which vanishes with it
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/result.h"

namespace envkit {

struct SessionPlace {
  std::string id;  // "mnist-1a2b3c4d": the project's name, and a digest of where it lies
  std::filesystem::path state;      // …/envkit
  std::filesystem::path directory;  // …/envkit/sessions/ID
};

// kMissing where there is no home directory.
Result<SessionPlace> FindSessionPlace(const std::filesystem::path& project_root,
                                      const std::string& project_name);

// A directory of mode 0700 that is ours; kFailed where it is another user's.
Result<void> MakePrivateDirectory(const std::filesystem::path& directory);

// A directory for one built-in job; those that a killed envkit left are removed.
struct JobPlace {
  std::filesystem::path directory;
  FileLock lock;  // held while the job runs
};
Result<JobPlace> MakeJobPlace(const SessionPlace& place);

// 48 hex digits from the kernel.
Result<std::string> RandomToken();

// The first of the project's own sequence of ports for that service that nobody has on 127.0.0.1:
// the same one every time, as long as it is free. IS_FREE is for tests.
Result<int> StablePort(const SessionPlace& place, const std::string& service,
                       const std::function<bool(int)>& is_free);
bool IsFreePort(int port);   // on 127.0.0.1
bool PortAnswers(int port);  // somebody listens there

// The image's own accounts of LAYER_TREES (lowest first) and the user: sshd and bash want a name.
// Below ordinary users no group but the own one can be given to a terminal: FOREIGN_GROUPS false
// leaves "tty" out, for which sshd would ask.
struct Accounts {
  std::string passwd, group;
};
Accounts AccountsOf(const std::vector<std::filesystem::path>& layer_trees, unsigned uid,
                    unsigned gid, const std::string& user, bool foreign_groups);

}  // namespace envkit
