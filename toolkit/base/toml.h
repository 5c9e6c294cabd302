// The one place that reads TOML (toml++ inside): values with their positions, and every problem of
// a file collected, so that all are shown at once:
//
//   envkit.toml:7:8: error: PyTorch 2.8 has no build for CUDA 12.1
//       7 | cuda = "12.1"
//         |        ^^^^^^
//     It was built for 12.6, 12.8 (default) and 12.9.
//
// How to read a file:
//   TomlDocument document(text, "envkit.toml");
//   TomlTable project = document.Root().Table("project");  // absent: an empty table
//   if (auto name = project.RequiredString("name")) { use name->value, or Report(name->at, …); }
//   project.RejectUnknownKeys();
//   ENVKIT_CHECK(document.Check());
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

// Lines and columns count from 1, columns in characters. Line 0: the file as a whole.
struct TomlSpan {
  int line = 0, column = 0, length = 0;
};

template <class T>
struct Located {
  T value;
  TomlSpan at;
};
using TomlString = Located<std::string>;

struct Diagnostic {
  std::string file;
  int line = 0, column = 0, length = 0;
  std::string message;
  std::string hint;  // what to do, one or more lines; may be empty
};

class TomlTable;

class TomlDocument {
 public:
  // A syntax error becomes the document's only diagnostic; Root() is then empty.
  TomlDocument(std::string_view text, std::string file);
  ~TomlDocument();
  TomlDocument(const TomlDocument&) = delete;
  TomlDocument& operator=(const TomlDocument&) = delete;

  TomlTable Root();
  // Ignored after a syntax error, from which everything else would only follow.
  void Report(TomlSpan at, std::string message, std::string hint = "");
  std::vector<Diagnostic> Diagnostics() const;  // by position
  // All diagnostics as one preformatted Error of code kUsage, NEXT after the last; fine without
  // any.
  Result<void> Check(std::string next = "") const;
  const std::string& file() const;
  std::string Place(TomlSpan at) const;  // "envkit.toml:18"

 private:
  friend class TomlTable;
  struct State;
  std::unique_ptr<State> state_;
};

// A table of the document, which must outlive it. Asking for a key makes it a known one. A value
// of the wrong type is reported and comes back as nullopt, as an absent one does.
class TomlTable {
 public:
  explicit operator bool() const { return node_ != nullptr; }  // is it in the file?
  const std::string& path() const { return path_; }  // "jobs.train", "wheels[3]"; root: ""
  TomlSpan at() const { return at_; }                // its header, or the key that holds it
  TomlDocument& document() const { return *document_; }

  bool Has(std::string_view key) const;  // does not make it a known one
  std::optional<TomlString> String(std::string_view key);
  std::optional<TomlString> RequiredString(std::string_view key);
  std::optional<TomlString> StringOrInteger(std::string_view key);  // an integer as its text
  // One of CHOICES, with "did you mean" where it is none of them.
  std::optional<TomlString> Choice(std::string_view key, const std::vector<std::string>& choices);
  std::optional<Located<std::int64_t>> Integer(std::string_view key, std::int64_t least = INT64_MIN,
                                               std::int64_t most = INT64_MAX);
  std::optional<Located<std::int64_t>> RequiredInteger(std::string_view key,
                                                       std::int64_t least = INT64_MIN,
                                                       std::int64_t most = INT64_MAX);
  // An integer or a float; infinities and NaN are out of every range.
  std::optional<Located<double>> Number(std::string_view key, double least, double most);
  std::optional<Located<bool>> Bool(std::string_view key);
  std::optional<Located<std::vector<TomlString>>> Strings(std::string_view key);
  TomlTable Table(std::string_view key);
  TomlTable RequiredTable(std::string_view key);
  std::vector<TomlTable> Tables(std::string_view key);  // an array of tables, inline or [[key]]
  std::vector<TomlString> Keys() const;                 // all that are there, in file order

  // Reports every key that was never asked for, after all questions.
  void RejectUnknownKeys();

 private:
  friend class TomlDocument;
  TomlTable(TomlDocument* document, const void* node, std::string path, TomlSpan at);
  const void* Find(std::string_view key);  // a toml::node, or nullptr
  std::string Where() const;               // " in [jobs.train]"
  void Expected(std::string_view type, const void* node, std::string_view key);
  void Missing(std::string_view key);

  TomlDocument* document_;
  const void* node_;
  std::string path_;
  TomlSpan at_;
  std::vector<std::string> asked_;
};

}  // namespace envkit
