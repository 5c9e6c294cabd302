// Against the lists of torchrun and accelerate themselves: tests/fixtures/launch/*-flags.txt, which
// tests/integration/launch_flags.py compares with the installed ones.
#include "launch/flags.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "launch/options.h"

namespace envkit {
namespace {

struct Listed {
  std::vector<std::string> names;
  bool switched = false;
  std::string choice;  // one that it allows
};

std::vector<Listed> ReadList(const std::string& name) {
  std::ifstream in(std::string(std::getenv("ENVKIT_SOURCE_DIR")) + "/tests/fixtures/launch/" +
                   name);
  std::vector<Listed> list;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string names, kind, choices;
    words >> names >> kind >> choices;
    Listed one;
    one.switched = kind == "switch";
    one.choice = choices.substr(0, choices.find('|'));
    std::istringstream each(names);
    for (std::string word; std::getline(each, word, ',');) one.names.push_back(word);
    list.push_back(std::move(one));
  }
  return list;
}

// "accepted", or why not.
std::string Try(const std::vector<std::string>& words) {
  CLI::App app;
  LaunchOptions options;
  AddLaunchOptions(app, options);
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    return "accepted";
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  const auto taken = TakeProgram(app, options);
  if (!taken) return taken.error().what;
  return options.program == std::vector<std::string>{"train.py"} ? "accepted" : "lost the program";
}

}  // namespace

TEST_CASE("every flag of torchrun and of accelerate launch is accepted, or refused with a reason") {
  for (const char* file : {"torchrun-flags.txt", "accelerate-flags.txt"}) {
    const auto list = ReadList(file);
    CHECK(list.size() > 30);
    for (const Listed& flag : list) {
      for (const std::string& name : flag.names) {
        CAPTURE(name);
        std::vector<std::string> words{name};
        if (!flag.switched) words.push_back(flag.choice.empty() ? "1" : flag.choice);
        words.emplace_back("train.py");
        const std::string answer = Try(words);
        const FlagRow* row =
            name.starts_with("--") ? FindFlag(std::string_view(name).substr(2)) : nullptr;
        if (row != nullptr && row->refused != nullptr) {
          CHECK(answer == "--" + std::string(row->name) + " is not supported: " + row->refused);
        } else {
          CHECK(answer == "accepted");
        }
      }
    }
  }
}

TEST_CASE("a flag that does not exist") {
  CHECK(Try({"--nproc-per-nod", "2", "train.py"}) == "unknown option --nproc-per-nod");
  CLI::App app;
  LaunchOptions options;
  AddLaunchOptions(app, options);
  app.parse(std::vector<std::string>{"train.py", "--max_restart=2"});
  CHECK(TakeProgram(app, options).error().Text() ==
        "error: unknown option --max_restart=2\n"
        "  Did you mean --max-restarts? Options of your program go behind it.\n");
}

TEST_CASE("no two rows have one name") {
  for (const FlagRow& row : FlagRows()) CHECK(FindFlag(row.name) == &row);
}

}  // namespace envkit
