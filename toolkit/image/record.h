// RECORD, the list of a wheel's files with their hashes ("Recording installed projects" of
// packaging.python.org). Pure functions of texts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

struct RecordedFile {
  std::string
      path;  // in RECORD the member's name in the wheel; for RecordText the path in the image
  std::string sha256;  // 64 hex digits; empty: without one, or one of another kind
  std::uint64_t size = 0;
};
// In RECORD's order. WHEEL is for messages.
Result<std::vector<RecordedFile>> ParseRecord(std::string_view text, const std::string& wheel);
// RECORD of FILES, with paths as seen from SITE ("usr/local/lib/python3.13/dist-packages").
std::string RecordText(const std::vector<RecordedFile>& files, std::string_view site);

// "NAME-VERSION.dist-info" of a path that is "…/RECORD" in it, at the top; empty for other paths.
std::string DistInfoOfRecord(std::string_view path);
// RECORD and its signatures, which RECORD cannot hash.
bool IsRecordItself(std::string_view path);

}  // namespace envkit
