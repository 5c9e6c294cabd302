// Does a wheel hold what its RECORD says? Looked at once, when the wheel arrives.
//
// Note [When a RECORD is checked]
// Hashing every file against RECORD costs a build as much as hashing the layer does. A wheel's
// bytes are fixed by the lock's sha256, so the answer never changes: a download that arrives is
// checked while others are still on their way, and gets a mark beside it. A build hashes against
// RECORD only what has no mark (a wheel of the user's own, one that was loaded with an image, one
// whose check was interrupted or failed: there the build says what is wrong, if the image takes
// that file at all). What became damaged on the disk since shows in the zip's CRC, and in `verify`.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "base/archive.h"
#include "base/result.h"
#include "image/store.h"

namespace envkit {

struct WheelRecord {
  std::string dist_info;                      // "NAME-VERSION.dist-info"
  std::map<std::string, std::string> hashes;  // sha256 by member; empty: RECORD has none
};
// WHEEL, the file's name, is for messages. Errors: no RECORD, two of them, one that is damaged.
Result<WheelRecord> ReadWheelRecord(const ZipReader& zip, const std::string& wheel);

Unexpected LyingRecord(const std::string& wheel, std::string_view what);
std::string WrongHash(const std::string& member);
// An archive that would unpack to hundreds of times its size is an error.
Result<void> RejectBomb(const ZipReader& zip, const std::filesystem::path& file);

// Inflates and hashes all of a stored wheel; where it holds what it says, marks it. Any thread.
void CheckRecord(const Store& store, const std::string& sha256, const std::string& wheel);
bool RecordChecked(const Store& store, const std::string& sha256, const std::string& wheel);

}  // namespace envkit
