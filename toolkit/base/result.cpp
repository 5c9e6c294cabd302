#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace envkit {

std::string Error::Text() const {
  std::string text;
  if (!preformatted) {
    text = "error: ";
    for (auto it = doing.rbegin(); it != doing.rend(); ++it) text += *it + ": ";
  }
  text += what;
  if (!text.empty() && text.back() != '\n') text += '\n';
  std::size_t at = 0;
  while (at < next.size()) {
    const std::size_t end = std::min(next.find('\n', at), next.size());
    text += "  " + next.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return text;
}

std::string ErrnoText(std::string_view call) {
  const int error = errno;
  return std::string(call) + ": " + std::strerror(error);
}

}  // namespace envkit
