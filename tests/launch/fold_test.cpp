#include "launch/fold.h"

#include <doctest/doctest.h>

namespace envkit {
namespace {

using namespace std::chrono_literals;
const Folder::Clock::time_point kStart{};

}  // namespace

TEST_CASE("lines that say the same become one") {
  Folder folder(false);
  for (const int rank : {3, 1, 2}) folder.Add(rank, "", "epoch 1", kStart);
  folder.Add(2, "", "only me", kStart);
  CHECK(folder.Take(kStart).empty());  // others may come
  CHECK(folder.Due() == kStart + 100ms);
  CHECK(folder.Take(kStart + 100ms) == "[1-3] epoch 1\n[2] only me\n");
  CHECK_FALSE(folder.Due());
}

TEST_CASE("what one rank repeats is counted") {
  Folder folder(false);
  for (int i = 0; i < 120; ++i) folder.Add(4, "", "retrying", kStart);
  CHECK(folder.TakeAll() == "[4] retrying (×120)\n");
}

TEST_CASE("the order of a rank's lines is kept") {
  Folder folder(false);
  folder.Add(1, "", "a", kStart);
  folder.Add(2, "", "b", kStart);
  folder.Add(2, "", "a", kStart);  // behind its b, so not with rank 1's
  folder.Add(1, "", "b", kStart);  // with rank 2's: behind rank 1's a
  CHECK(folder.TakeAll() == "[1] a\n[1, 2] b\n[2] a\n");
  for (const int rank : {1, 2}) {
    for (const char* line : {"x", "y", "x"}) folder.Add(rank, "", line, kStart);
  }
  CHECK(folder.TakeAll() == "[1] x\n[1] y\n[1, 2] x\n[2] y\n[2] x\n");
}

TEST_CASE("a colour for each rank, and templates as they are") {
  Folder folder(true);
  folder.Add(1, "", "hello", kStart);
  folder.Add(2, "<2> ", "hello", kStart);
  CHECK(folder.TakeAll() == "\x1b[33m[1]\x1b[0m hello\n<2> hello\n");
}

}  // namespace envkit
