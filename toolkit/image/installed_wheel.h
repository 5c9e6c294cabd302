// What an installer makes of a wheel besides unpacking it (the "Binary distribution format" and
// "Recording installed projects" of packaging.python.org): commands from entry points, RECORD,
// INSTALLER. Pure functions of texts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

struct RecordEntry {
  std::string sha256;  // 64 hex digits; empty where RECORD has no hash, or one of another kind
};
using Record = std::map<std::string, RecordEntry>;  // by path in the wheel
// WHEEL is for messages.
Result<Record> ParseRecord(std::string_view text, const std::string& wheel);

// "NAME-VERSION.dist-info" of a path in it that is "…/RECORD" at the top; empty for other paths.
std::string DistInfoOfRecord(std::string_view path);
// RECORD and its signatures, which RECORD cannot hash.
bool IsRecordItself(std::string_view path);

struct ConsoleScript {
  std::string name, module, attribute;
};
// Of entry_points.txt: [console_scripts] and [gui_scripts]. Names that are no file's name are an
// error, as are modules and attributes that are not Python's.
Result<std::vector<ConsoleScript>> ParseEntryPoints(std::string_view text,
                                                    const std::string& wheel);
std::string ScriptText(const ConsoleScript& script);
// A file of NAME.data/scripts: "#!python" becomes the image's Python.
std::string WithInterpreter(std::string_view script);

struct InstalledFile {
  std::string path;    // in the image
  std::string sha256;  // 64 hex digits; empty: without one
  std::uint64_t size = 0;
};
// RECORD of FILES, with paths as seen from SITE ("usr/local/lib/python3.13/dist-packages").
std::string RecordText(const std::vector<InstalledFile>& files, std::string_view site);

// METADATA of a wheel that is not in the image.
std::string LeftOutMetadata(const std::string& name, const std::string& version);

}  // namespace envkit
