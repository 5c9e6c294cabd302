// A run's record as one HTML file that needs nothing else.
#pragma once

#include <filesystem>
#include <string>

namespace envkit {

// RUN: a folder with metrics.jsonl, and summary.json and train.toml where it has them. Throws
// Failure.
std::string RunReport(const std::filesystem::path& run);

}  // namespace envkit
