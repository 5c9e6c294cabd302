// The lines of JSON that launchers of several nodes exchange; see nodes.h.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "launch/nodes.h"

namespace envkit {

inline constexpr int kNodeProtocol = 2;  // 2: beats say when ranks last spoke

inline long long WallNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

inline std::string Line(const nlohmann::json& message) {
  return message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

template <class T>
T Field(const nlohmann::json& message, const char* name, T fallback) {
  const auto it = message.find(name);
  if (it == message.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return it->is_string() ? it->template get<T>() : fallback;
  } else if constexpr (std::is_same_v<T, bool>) {
    return it->is_boolean() ? it->template get<T>() : fallback;
  } else {
    return it->is_number_integer() ? it->template get<T>() : fallback;
  }
}

inline nlohmann::json ReportMessage(const char* what, const NodeReport& report) {
  return {{"what", what},        {"code", report.exit_code}, {"failed", report.failed},
          {"text", report.text}, {"cause", report.cause},    {"at", report.failed_at_ns}};
}

inline NodeReport ReadReport(const nlohmann::json& message) {
  NodeReport report;
  report.exit_code = Field(message, "code", 1);
  report.failed = Field(message, "failed", false);
  report.text = Field<std::string>(message, "text", "");
  report.cause = Field<std::string>(message, "cause", "");
  report.failed_at_ns = Field(message, "at", 0LL);
  return report;
}

}  // namespace envkit
