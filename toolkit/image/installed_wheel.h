// What an installer makes of a wheel besides unpacking it (the "Binary distribution format" of
// packaging.python.org): commands from entry points, metadata. Pure functions of texts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

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

// "NAME-VERSION.dist-info" and METADATA of a wheel that is not in the image.
std::string LeftOutDistInfo(std::string_view wheel_file);
std::string LeftOutMetadata(const std::string& name, const std::string& version);

}  // namespace envkit
