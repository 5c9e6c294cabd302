#include "base/toml.h"

#include <doctest/doctest.h>

#include "base/text.h"

using envkit::ClosestMatch;
using envkit::JoinOr;
using envkit::TomlDocument;
using envkit::TomlTable;

namespace {

std::string Problems(const TomlDocument& document) {
  const auto checked = document.Check();
  return checked ? "" : checked.error().Text();
}

}  // namespace

TEST_CASE("the nearest word is suggested, and nothing where none is near") {
  const std::vector<std::string> words = {"train", "shell", "jupyter", "tensorboard"};
  CHECK(ClosestMatch("trian", words) == "train");
  CHECK(ClosestMatch("tran", words) == "train");
  CHECK(ClosestMatch("shel", words) == "shell");
  CHECK(ClosestMatch("tensorbord", words) == "tensorboard");
  CHECK_FALSE(ClosestMatch("evaluate", words));
  CHECK_FALSE(ClosestMatch("", words));
  CHECK_FALSE(ClosestMatch("b", {"a"}));
  CHECK_FALSE(ClosestMatch(std::string(1'000'000, 'x'), words));
  CHECK(JoinOr({"a"}) == "a");
  CHECK(JoinOr({"a", "b", "c"}) == "a, b or c");
}

TEST_CASE("values come with their places, counted in characters") {
  TomlDocument document("# hé\n[t]\n\"ö\" = 1\nname =  \"äb\" # c\n", "f.toml");
  TomlTable table = document.Root().Table("t");
  const auto name = table.String("name");
  REQUIRE(name);
  CHECK(name->value == "äb");
  CHECK(name->at.line == 4);
  CHECK(name->at.column == 9);
  CHECK(name->at.length == 4);
  CHECK(document.Place(name->at) == "f.toml:4");
  CHECK(table.Keys().size() == 2);
  CHECK(table.Keys()[0].value == "ö");
  CHECK(document.Check());
}

TEST_CASE("wrong types and unknown keys are shown all at once, by place") {
  TomlDocument document(
      "text = 2.15\n"
      "number = \"4\"\n"
      "small = -1\n"
      "large = 9\n"
      "flag = 1\n"
      "list = \"train.py --epochs 3\"\n"
      "mixed = [\"a\", 3,\n 4.5]\n"
      "both = []\n"
      "nubmer = 1\n"
      "table = 1979-05-27\n"
      "choice = \"pined\"\n"
      "tables = [{}, 1]\n",
      "f.toml");
  TomlTable root = document.Root();
  CHECK_FALSE(root.String("text"));
  CHECK_FALSE(root.Integer("number"));
  CHECK_FALSE(root.Integer("small", 1));
  CHECK_FALSE(root.Integer("large", 1, 5));
  CHECK_FALSE(root.Bool("flag"));
  CHECK_FALSE(root.Strings("list"));
  CHECK_FALSE(root.Strings("mixed"));
  CHECK_FALSE(root.StringOrInteger("both"));
  CHECK_FALSE(root.Table("table"));
  CHECK_FALSE(root.Choice("choice", {"pinned", "refresh"}));
  for (TomlTable& table : root.Tables("tables")) table.RequiredString("name");
  root.RejectUnknownKeys();
  CHECK(Problems(document) ==
        R"(f.toml:1:8: error: text: expected a string, got a number with a point
    1 | text = 2.15
      |        ^^^^
  write text = "2.15"
f.toml:2:10: error: number: expected an integer, got a string
    2 | number = "4"
      |          ^^^
f.toml:3:9: error: small: -1 is too small; it is at least 1
    3 | small = -1
      |         ^^
f.toml:4:9: error: large: 9 is out of range; it is from 1 to 5
    4 | large = 9
      |         ^
f.toml:5:8: error: flag: expected true or false, got an integer
    5 | flag = 1
      |        ^
f.toml:6:8: error: list: expected a list of strings, got a string
    6 | list = "train.py --epochs 3"
      |        ^^^^^^^^^^^^^^^^^^^^^
  write list = ["train.py", "--epochs", "3"]
f.toml:7:15: error: mixed: expected a list of strings, got an integer in it
    7 | mixed = ["a", 3,
      |               ^
f.toml:8:2: error: mixed: expected a list of strings, got a number with a point in it
    8 |  4.5]
      |  ^^^
f.toml:9:8: error: both: expected a string or an integer, got a list
    9 | both = []
      |        ^^
f.toml:10:1: error: unknown key "nubmer"
   10 | nubmer = 1
      | ^^^^^^
  did you mean "number"?
f.toml:11:9: error: table: expected a table, got a date
   11 | table = 1979-05-27
      |         ^^^^^^^^^^
f.toml:12:10: error: choice is pinned or refresh, not "pined"
   12 | choice = "pined"
      |          ^^^^^^^
  did you mean "pinned"?
f.toml:13:11: error: [tables[0]] has no "name"
   13 | tables = [{}, 1]
      |           ^^
f.toml:13:15: error: tables: expected a list of tables, got an integer in it
   13 | tables = [{}, 1]
      |               ^
)");
}

TEST_CASE("a syntax error is the only diagnostic") {
  const auto show = [](std::string_view text) {
    TomlDocument document(text, "f.toml");
    document.Root().RequiredTable("project").RequiredString("name");
    return Problems(document);
  };
  CHECK(show("a = 1\ntorch = auto\n") ==
        "f.toml:2:9: error: not valid TOML: in value: could not determine value type\n"
        "    2 | torch = auto\n"
        "      |         ^\n"
        "  a string needs quotes\n");
  CHECK(show("a = 1\na = 2\n") ==
        "f.toml:2:5: error: not valid TOML: in key-value pair: cannot redefine existing integer "
        "'a'\n"
        "    2 | a = 2\n"
        "      |     ^\n");
  // Nothing of a hostile file reaches the terminal raw.
  CHECK(show("a = \"\xff\x1b[2J\xc2\x9b\"\n") ==
        "f.toml:1:5: error: not valid TOML: Encountered invalid utf-8 sequence\n"
        "    1 | a = \"??[2J?\"\n"
        "      |     ^\n");
  CHECK(show("<<<<<<< HEAD\n").starts_with("f.toml:1:1: error: not valid TOML: "));
  CHECK(show(std::string(100'000, '[')).starts_with("f.toml:1:"));
  CHECK(show("a = " + std::string(100'000, '[')).starts_with("f.toml:1:"));
}

TEST_CASE("of a very long line the part around the problem is shown") {
  TomlDocument document(
      "a = [\"" + std::string(300, 'x') + "\", 1, \"" + std::string(300, 'y') + "\"]\n", "f.toml");
  document.Root().Strings("a");
  CHECK(Problems(document) ==
        "f.toml:1:310: error: a: expected a list of strings, got an integer in it\n"
        "    1 | …" +
            std::string(37, 'x') + "\", 1, \"" + std::string(56, 'y') +
            "…\n"
            "      |  " +
            std::string(40, ' ') + "^\n");
}

TEST_CASE("a file of another kind is not answered by a thousand errors") {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "key" + std::to_string(i) + " = 1\n";
  TomlDocument document(text, "f.toml");
  document.Root().RejectUnknownKeys();
  CHECK(Problems(document).ends_with("f.toml: 980 more errors\n"));
}
