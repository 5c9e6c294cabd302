#include "base/terminal.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>
#include <vector>

namespace envkit {
namespace {

using namespace std::chrono_literals;

// The reading end of what a Terminal writes.
class Screen {
 public:
  explicit Screen(Terminal::Options options = {}) {
    REQUIRE(pipe2(err_.data(), O_NONBLOCK | O_CLOEXEC) == 0);
    REQUIRE(pipe2(out_.data(), O_NONBLOCK | O_CLOEXEC) == 0);
    options.error_fd = err_[1];
    options.output_fd = out_[1];
    terminal.emplace(options);
  }
  ~Screen() {
    for (const int fd : {err_[0], err_[1], out_[0], out_[1]}) close(fd);
  }
  std::string Errors() { return Drain(err_[0]); }
  std::string Output() { return Drain(out_[0]); }
  std::optional<Terminal> terminal;

 private:
  static std::string Drain(int fd) {
    std::string text;
    std::array<char, 4096> buffer{};
    ssize_t got = 0;
    while ((got = read(fd, buffer.data(), buffer.size())) > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return text;
  }
  std::array<int, 2> err_{};
  std::array<int, 2> out_{};
};

Terminal::Options Tty(int columns = 100, bool colour = false) {
  Terminal::Options options;
  options.tty = true;
  options.colour = colour;
  options.columns = columns;
  return options;
}

std::string LastDrawn(const std::string& text) { return text.substr(text.rfind('\r') + 1); }

}  // namespace

TEST_CASE("people read on stderr, the answer goes to stdout alone") {
  Screen screen;
  screen.terminal->Step("build", "4 layers");
  screen.terminal->Note("a continuation");
  screen.terminal->Detail("not wanted");
  screen.terminal->Warn("careful");
  screen.terminal->Error("error: it broke\n  do this\n");
  screen.terminal->Answer("{\"a\": 1}");
  screen.terminal->Answer("line\n");
  CHECK(
      screen.Errors() ==
      "build    4 layers\n         a continuation\nwarning: careful\nerror: it broke\n  do this\n");
  CHECK(screen.Output() == "{\"a\": 1}\nline\n");
}

TEST_CASE("quiet keeps warnings, errors and answers") {
  Terminal::Options options;
  options.verbosity = Verbosity::kQuiet;
  Screen screen(options);
  screen.terminal->Step("build", "4 layers");
  screen.terminal->Note("note");
  {
    const auto progress = screen.terminal->StartProgress("fetch", "file", 100);
    progress->Add(50);
    progress->Done("done");
  }
  CHECK(screen.Errors().empty());
  screen.terminal->Warn("careful");
  screen.terminal->Error("error: it broke");
  screen.terminal->Answer("42");
  CHECK(screen.Errors() == "warning: careful\nerror: it broke\n");
  CHECK(screen.Output() == "42\n");
}

TEST_CASE("verbose shows details") {
  Terminal::Options options;
  options.verbosity = Verbosity::kVerbose;
  Screen screen(options);
  screen.terminal->Detail("uv pip compile");
  CHECK(screen.Errors() == "uv pip compile\n");
}

TEST_CASE("a long verb keeps a space, and foreign text cannot steer the terminal") {
  Screen screen;
  screen.terminal->Step("tensorboard", "http\x1b[2J\x07\ttab");
  CHECK(screen.Errors() == "tensorboard http?[2J?\ttab\n");
}

TEST_CASE("colour only where it is wanted") {
  Screen screen(Tty(80, true));
  screen.terminal->Warn("careful");
  screen.terminal->Error("error: it broke");
  CHECK(screen.Errors() == "\033[33mwarning: \033[0mcareful\n\033[31merror: \033[0mit broke\n");
}

TEST_CASE("on a pipe progress is a line at the start and one at the end") {
  Screen screen;
  const auto progress = screen.terminal->StartProgress("fetch", "torch.whl", 539'000'000);
  for (int i = 0; i < 1000; ++i) progress->Add(539'000);
  progress->Done("torch.whl  539 MB  8 s");
  CHECK(screen.Errors() == "fetch    torch.whl  539 MB\nfetch    torch.whl  539 MB  8 s\n");
}

TEST_CASE("on a pipe items are counted") {
  Screen screen;
  const auto progress = screen.terminal->StartProgress("unpack", "wheels", 12, "files");
  progress->Done();
  const auto unknown = screen.terminal->StartProgress("unpack", "more", 0, "files");
  unknown->Done();
  CHECK(screen.Errors() == "unpack   wheels  12 files\nunpack   more\n");
}

TEST_CASE("a bar has size, share, rate and the time that is left") {
  Screen screen(Tty());
  const auto progress = screen.terminal->StartProgress(
      "fetch", "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl", 539'000'000);
  progress->Add(0);
  std::this_thread::sleep_for(500ms);
  progress->Add(382'690'000);
  const std::string line = LastDrawn(screen.Errors());
  CAPTURE(line);
  CHECK(line.starts_with("\033[Kfetch    torch-2.15.0-"));
  CHECK(line.find("….whl  539 MB  ━━━━━━━━━━━━━━         71%  7") != std::string::npos);
  CHECK(line.find(" MB/s  1 s") != std::string::npos);
}

TEST_CASE("a resumed amount is not counted as speed") {
  Screen screen(Tty());
  const auto progress = screen.terminal->StartProgress("fetch", "file", 1'000'000'000);
  progress->Set(900'000'000);
  std::this_thread::sleep_for(300ms);
  progress->Add(300'000);
  const std::string line = LastDrawn(screen.Errors());
  CAPTURE(line);
  const bool about_a_megabyte =
      line.find("  1 MB/s") != std::string::npos || line.find(" kB/s") != std::string::npos;
  CHECK(about_a_megabyte);
}

TEST_CASE("a line never wraps") {
  for (int columns = 20; columns < 140; ++columns) {
    Screen screen(Tty(columns));
    const auto progress = screen.terminal->StartProgress(
        "fetch", "ein-überlanger-name-ohne-ende-der-in-keine-zeile-passt.whl", 539'000'000);
    progress->Add(5'000'000);
    std::this_thread::sleep_for(1ms);
    const std::string line = LastDrawn(screen.Errors()).substr(3);
    const auto width = std::count_if(line.begin(), line.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    });
    CHECK(width < columns);
  }
}

TEST_CASE("a step erases the bar, and the bar comes back below it") {
  Screen screen(Tty(60));
  const auto progress = screen.terminal->StartProgress("build", "layers", 4, "layers");
  CHECK(LastDrawn(screen.Errors()).find("0/4 layers") != std::string::npos);
  screen.terminal->Step("note", "text");
  const std::string text = screen.Errors();
  CHECK(text.starts_with("\r\033[Knote     text\n\r\033[Kbuild    layers"));
  screen.terminal->Answer("42");
  CHECK(screen.Errors().starts_with("\r\033[K"));
  progress->Done("4 layers");
  CHECK(screen.Errors() == "\r\033[Kbuild    4 layers\n");
}

TEST_CASE("a progress within a progress covers it until it ends, in any order") {
  Screen screen(Tty(80));
  auto outer = screen.terminal->StartProgress("build", "outer", 2, "layers");
  auto inner = screen.terminal->StartProgress("fetch", "inner", 2, "files");
  CHECK(LastDrawn(screen.Errors()).find("inner") != std::string::npos);
  outer.reset();
  screen.Errors();
  std::this_thread::sleep_for(110ms);
  inner->Add(1);
  CHECK(LastDrawn(screen.Errors()).find("inner") != std::string::npos);
  inner.reset();
  CHECK(screen.Errors() == "\r\033[K");
  screen.terminal->Step("done", "all");
  CHECK(screen.Errors() == "done     all\n");
}

TEST_CASE("many threads may report") {
  Screen screen(Tty());
  const auto progress = screen.terminal->StartProgress("fetch", "files", 8000, "files");
  std::vector<std::jthread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 1000; ++k) progress->Add(1);
      progress->SetLabel("other");
      progress->SetTotal(8000);
    });
  }
  threads.clear();
  std::this_thread::sleep_for(110ms);
  progress->Add(0);
  CHECK(LastDrawn(screen.Errors()).find("8000/8000 files") != std::string::npos);
}

TEST_CASE("the line follows the window's size") {
  const int controller = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(controller >= 0);
  REQUIRE(grantpt(controller) == 0);
  REQUIRE(unlockpt(controller) == 0);
  const int tty = open(ptsname(controller), O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(tty >= 0);
  winsize size{};
  size.ws_col = 40;
  REQUIRE(ioctl(controller, TIOCSWINSZ, &size) == 0);
  Terminal::Options options = Tty(200);
  options.error_fd = tty;
  Terminal terminal(options);
  terminal.StartProgress("fetch", std::string(150, 'x'), 100)->Done();
  CHECK(terminal.options().columns == 40);
  close(tty);
  close(controller);
}

TEST_CASE("what is not a terminal is not treated as one") {
  const int saved = dup(2);
  const int null = open("/dev/null", O_WRONLY);
  dup2(null, 2);
  const Terminal::Options options = Terminal::Detect();
  dup2(saved, 2);
  close(saved);
  close(null);
  CHECK(!options.tty);
  CHECK(!options.colour);
}

}  // namespace envkit
