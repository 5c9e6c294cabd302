// A small real program for the tests of processes: child MODE [ARGUMENT].
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>

#include "base/process.h"

int main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  const std::string argument = argc > 2 ? argv[2] : "";
  if (mode == "descriptors") {  // those that are open here
    DIR* directory = opendir("/proc/self/fd");
    while (const dirent* entry = readdir(directory)) {
      const int fd = std::atoi(entry->d_name);
      if (entry->d_name[0] != '.' && fd != dirfd(directory)) std::printf("%d ", fd);
    }
    closedir(directory);
  } else if (mode == "flood") {  // more than any pipe holds, to both, before reading
    const std::string text(static_cast<std::size_t>(std::stoul(argument)), 'x');
    std::cout << text << std::flush;
    std::cerr << text << std::flush;
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    std::cout << input.size();
  } else if (mode == "ignore-term") {
    std::signal(SIGTERM, SIG_IGN);
    std::cout << "ready\n" << std::flush;
    sleep(60);
  } else if (mode == "buffered-then-run") {  // unflushed output, then a program that cannot start
    std::atexit([] { static_cast<void>(!write(1, " exit", 5)); });
    std::printf("once ");
    std::cout << "twice? ";
    const auto result = envkit::RunProcess({.argv = {argument}, .out = envkit::Stream::kInherit});
    std::printf("%s", result ? "started" : "failed");
  } else if (mode == "no-standard-run") {  // with 0, 1 and 2 closed
    close(0);
    close(1);
    close(2);
    const auto result =
        envkit::RunProcess({.argv = {"sh", "-c", "cat; echo out; echo err >&2"}, .input = "in "});
    return result && result->out == "in out\n" && result->err == "err\n" ? 0 : 1;
  } else if (mode == "buffered-then-echo") {
    std::printf("before ");
    static_cast<void>(
        envkit::RunProcess({.argv = {"echo", "after"}, .out = envkit::Stream::kInherit}));
  } else if (mode == "group") {
    std::printf("%d %d", getpid(), getpgrp());
  } else if (mode == "run-and-wait") {  // a parent that will be killed
    static_cast<void>(envkit::RunProcess({.argv = {"sh", "-c", argument}}));
  }
  return 0;
}
