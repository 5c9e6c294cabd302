// Where to start: every function that can fail for a reason outside the program returns Result<T>.
// An Error says what was being done (contexts, wrapped outward with Wrap), what happened (in the
// failing tool's own words) and what the user can do next. `main` prints it once.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

namespace envkit {

// Exit codes are a contract with scripts; see docs/architecture.md.
enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,        // the thing checked or run failed
  kUsage = 2,         // wrong usage or configuration
  kMissing = 3,       // something needed is missing: engine, tool, network
  kPreempted = 75,    // stopped early with a durable checkpoint
  kInterrupted = 130  // SIGINT
};

struct Error {
  ExitCode code = ExitCode::kFailed;
  std::string what;  // what happened, one or more lines, no final newline
  std::string next;  // what to do next; empty where there is nothing honest to say
  std::vector<std::string>
      doing;  // innermost first: "unpacking torch-2.15.0…", "building the image"
  // For errors that carry their own complete layout (diagnostics with file:line:column and a
  // caret): printed as they are, without "error: ".
  bool preformatted = false;

  // "error: building the image: unpacking torch: <what>\n  <next, indented by two>\n"
  std::string Text() const;
};

template <class T>
using Result = tl::expected<T, Error>;
using Unexpected = tl::unexpected<Error>;

inline Unexpected Fail(std::string what, std::string next = "", ExitCode code = ExitCode::kFailed) {
  return Unexpected(Error{code, std::move(what), std::move(next), {}, false});
}
inline Unexpected Usage(std::string what, std::string next = "") {
  return Fail(std::move(what), std::move(next), ExitCode::kUsage);
}
inline Unexpected Missing(std::string what, std::string next = "") {
  return Fail(std::move(what), std::move(next), ExitCode::kMissing);
}
// Passes an error on with one more "doing" around it.
inline Unexpected Wrap(Error error, std::string doing) {
  error.doing.push_back(std::move(doing));
  return Unexpected(std::move(error));
}
// "<call>: <strerror(errno)>"; reads errno at the call.
std::string ErrnoText(std::string_view call);

// ENVKIT_TRY(auto x, Call()) declares x or returns the error; ENVKIT_CHECK(Call()) for
// Result<void>.
#define ENVKIT_CONCAT_(a, b) a##b
#define ENVKIT_CONCAT(a, b) ENVKIT_CONCAT_(a, b)
#define ENVKIT_TRY_(tmp, decl, ...)                          \
  auto tmp = (__VA_ARGS__);                                  \
  if (!tmp) return ::tl::unexpected(std::move(tmp).error()); \
  decl = std::move(*tmp)
#define ENVKIT_TRY(decl, ...) ENVKIT_TRY_(ENVKIT_CONCAT(try_, __LINE__), decl, __VA_ARGS__)
#define ENVKIT_CHECK(...)                                                                         \
  do {                                                                                            \
    if (auto check_ = (__VA_ARGS__); !check_) return ::tl::unexpected(std::move(check_).error()); \
  } while (false)

}  // namespace envkit
