// The keys of a project's sessions: made once, kept outside of project and image.
#pragma once

#include <string>

#include "base/result.h"
#include "session/place.h"

namespace envkit {

// In sessions/ID/keys/: the host key, the project's own key to come in with, and the known_hosts
// that pins the first under the name "envkit-ID". kMissing without ssh-keygen.
Result<void> EnsureKeys(const SessionPlace& place);

// Whose holders may come in: the project's own key, the user's in ~/.ssh and in the agent.
Result<std::string> AuthorizedKeys(const SessionPlace& place);

}  // namespace envkit
