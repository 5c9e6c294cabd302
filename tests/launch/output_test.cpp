#include "launch/output.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/scratch.h"

namespace envkit {
namespace {

std::string Cut(const std::vector<std::string>& pieces) {
  LineCutter cutter("[1] ");
  std::string lines;
  for (const auto& piece : pieces) cutter.Add(piece, lines);
  cutter.Finish(lines);
  return lines;
}

// A console on two files.
struct Files {
  Scratch scratch;
  Fd out = Open("out");
  Fd err = Open("err");
  Console console{out.get(), err.get()};

  Fd Open(const char* name) const {
    return Fd(open((scratch / name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  }
  std::string Read(const char* name) const { return ReadFile(scratch / name).value(); }
};

constexpr auto kLater = Console::Clock::time_point::max();

}  // namespace

TEST_CASE("lines get their prefix however the bytes arrive") {
  CHECK(Cut({"one\ntwo\n"}) == "[1] one\n[1] two\n");
  CHECK(Cut({"o", "n", "e", "\nt", "wo\n"}) == "[1] one\n[1] two\n");
  CHECK(Cut({"one\n", "\n", "two\n"}) == "[1] one\n[1] \n[1] two\n");
  CHECK(Cut({"no end"}) == "[1] no end\n");
  CHECK(Cut({}).empty());
}

TEST_CASE("a part of a line waits for its end") {
  LineCutter cutter("[2] ");
  std::string lines;
  cutter.Add("done\nhal", lines);
  CHECK(lines == "[2] done\n");
  cutter.Add("f\n", lines);
  CHECK(lines == "[2] done\n[2] half\n");
  cutter.Finish(lines);
  CHECK(lines == "[2] done\n[2] half\n");
}

TEST_CASE("of a progress bar the last state is shown") {
  CHECK(Cut({"10%\r50%\r100%\n"}) == "[1] 100%\n");
  CHECK(Cut({"10%\r", "50%\r", "100%\r\n"}) == "[1] 100%\n");
  CHECK(Cut({"dos\r\n"}) == "[1] dos\n");
  CHECK(Cut({"10%\r90%\r"}) == "[1] 90%\n");
}

TEST_CASE("a line without end does not fill the memory") {
  LineCutter cutter("[1] ");
  std::string lines;
  std::size_t added = 0;
  for (int i = 0; i < 100; ++i, added += 1000) cutter.Add(std::string(1000, 'x'), lines);
  CHECK(lines.size() > 64'000);  // it was let out before its end
  cutter.Finish(lines);
  CHECK(static_cast<std::size_t>(std::count(lines.begin(), lines.end(), 'x')) == added);

  LineCutter bar("[1] ");
  lines.clear();
  for (int i = 0; i < 30'000; ++i) bar.Add("step " + std::to_string(i) + "\r", lines);
  CHECK(lines.empty());
  bar.Add("end\n", lines);
  CHECK(lines == "[1] end\n");
}

TEST_CASE("lines of other ranks do not cut a line of rank 0") {
  Files files;
  files.console.Raw(kOut, "loss ");
  files.console.Lines(kOut, "[1] hello\n");
  files.console.Lines(kErr, "[1] oops\n");
  CHECK(files.Read("out") == "loss ");
  CHECK(files.Read("err") == "[1] oops\n");
  CHECK(files.console.Waiting());
  files.console.Raw(kOut, "0.5\nnext\n");
  CHECK(files.Read("out") == "loss 0.5\n[1] hello\nnext\n");
  CHECK_FALSE(files.console.Waiting());
}

TEST_CASE("lines of other ranks do not wait for ever") {
  Files files;
  files.console.Raw(kOut, "prompt> ");
  files.console.Lines(kOut, "[1] hello\n");
  files.console.Tick(Console::Clock::now());
  CHECK(files.Read("out") == "prompt> ");
  files.console.Tick(kLater);
  CHECK(files.Read("out") == "prompt> \n[1] hello\n");
}

TEST_CASE("a message starts at a line's start") {
  Files files;
  files.console.Raw(kErr, "half");
  files.console.Message("launch   stopping\n");
  CHECK(files.Read("err") == "half\nlaunch   stopping\n");
}

}  // namespace envkit
