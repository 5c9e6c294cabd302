// Small helpers for texts that people read.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace envkit {

// The candidate that WORD was most likely meant to be: at most a third of its letters are wrong,
// missing, swapped or too many. nullopt where nothing is near: a wild guess is worse than none.
std::optional<std::string> ClosestMatch(std::string_view word,
                                        const std::vector<std::string>& candidates);

// ASCII's letters alone change.
std::string Lower(std::string_view text);

// In characters of UTF-8, each counted as one column.
std::size_t TextWidth(std::string_view text);

// "train, python or dev"
std::string JoinOr(const std::vector<std::string>& words, std::string_view last = "or");

}  // namespace envkit
