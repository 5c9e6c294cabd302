// Which Python index the user has, and what an index may say.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/files.h"
#include "base/scratch.h"
#include "image/index.h"
#include "resolve_server.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

const std::string kHash(64, 'b');
const std::string kOther(64, 'c');

// A home directory and system directories of a test's own.
struct UserMachine {
  Scratch scratch;
  ProxyVariables environment{{"HOME", (scratch / "home").string()}};
  void Write(const std::string& file, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch / file, text));
  }
  PythonIndexes Indexes(const std::vector<IndexSetting>& of_project = {}) const {
    return ConfiguredIndexes(of_project, environment, scratch.path());
  }
};

using Urls = std::vector<std::string>;

}  // namespace

TEST_CASE("nothing configured: no index is known") {
  const UserMachine machine;
  CHECK(machine.Indexes().main.empty());
  CHECK(machine.Indexes().All().empty());
  CHECK(machine.Indexes().Describe() == "uv's default index");
  CHECK(machine.Indexes().ForUv().empty());
}

TEST_CASE("the nearest setting wins") {
  UserMachine machine;
  const auto expect = [&](const std::string& url, const std::string& origin) {
    CHECK(machine.Indexes().main == url);
    CHECK(machine.Indexes().origin.ends_with(origin));
  };
  machine.Write("etc/pip.conf", "[global]\nindex-url = https://example.com/1\n");
  expect("https://example.com/1", "etc/pip.conf");
  machine.Write("etc/xdg/pip/pip.conf", "[global]\nindex_url: https://example.com/2\n");
  expect("https://example.com/2", "xdg/pip/pip.conf");
  machine.Write("home/.pip/pip.conf", "[global]\nindex-url=https://example.com/3\n");
  expect("https://example.com/3", ".pip/pip.conf");
  machine.Write("home/.config/pip/pip.conf",
                "# mine\n[global]\nindex-url = https://example.com/ignored\n\n"
                "[install]\n; for this command\nIndex-URL = https://example.com/4\n");
  expect("https://example.com/4", ".config/pip/pip.conf");
  machine.Write("venv/pip.conf", "[global]\nindex-url = https://example.com/5\n");
  machine.environment["VIRTUAL_ENV"] = (machine.scratch / "venv").string();
  expect("https://example.com/5", "venv/pip.conf");
  machine.Write("etc/uv/uv.toml", "index-url = \"https://example.com/6\"\n");
  expect("https://example.com/6", "etc/uv/uv.toml");
  machine.Write("home/.config/uv/uv.toml",
                "index-url = \"https://example.com/older\"\n"
                "[[index]]\nname = \"corp\"\nurl = \"https://example.com/7\"\ndefault = true\n");
  expect("https://example.com/7", ".config/uv/uv.toml");
  machine.environment["PIP_INDEX_URL"] = "https://example.com/8";
  expect("https://example.com/8", "PIP_INDEX_URL");
  machine.environment["UV_INDEX_URL"] = "https://example.com/9";
  expect("https://example.com/9", "UV_INDEX_URL");
  machine.environment["UV_DEFAULT_INDEX"] = "main=https://example.com/10";
  expect("https://example.com/10", "UV_DEFAULT_INDEX");
}

TEST_CASE("settings can be switched off and replaced") {
  UserMachine machine;
  machine.Write("home/.config/pip/pip.conf", "[global]\nindex-url = https://example.com/user\n");
  machine.Write("etc/pip.conf", "[global]\nindex-url = https://example.com/system\n");
  machine.environment["PIP_CONFIG_FILE"] = "/dev/null";
  CHECK(machine.Indexes().main.empty());
  machine.Write("given.conf", "[global]\ntimeout = 60\n");
  machine.environment["PIP_CONFIG_FILE"] = (machine.scratch / "given.conf").string();
  CHECK(machine.Indexes().main == "https://example.com/system");
  machine.Write("given.conf", "[global]\nindex-url = https://example.com/given\n");
  CHECK(machine.Indexes().main == "https://example.com/given");
  machine.Write("given.conf", "");
  machine.Write("home/.config/uv/uv.toml", "[pip]\nindex-url = \"https://example.com/uv\"\n");
  CHECK(machine.Indexes().main == "https://example.com/uv");
  machine.environment["UV_NO_CONFIG"] = "1";
  CHECK(machine.Indexes().main == "https://example.com/system");
  machine.environment["XDG_CONFIG_HOME"] = (machine.scratch / "xdg").string();
  machine.environment.erase("UV_NO_CONFIG");
  CHECK(machine.Indexes().main == "https://example.com/system");
}

TEST_CASE("damaged settings are passed over") {
  UserMachine machine;
  machine.Write("home/.config/uv/uv.toml", "index-url = [\n");
  machine.Write("home/.config/pip/pip.conf", "index-url\n]\n[global\n = \n  indented\n[]\n=x\n");
  CHECK(machine.Indexes().main.empty());
  machine.Write("home/.config/uv/uv.toml", "index-url = 3\n[[index]]\nurl = false\n[[index]]\n");
  CHECK(machine.Indexes().All().empty());
}

TEST_CASE("extra indexes come from everywhere, once each") {
  UserMachine machine;
  machine.environment["UV_INDEX"] = "corp=https://example.com/a https://example.com/b";
  machine.environment["UV_EXTRA_INDEX_URL"] = "https://example.com/b";
  machine.environment["PIP_EXTRA_INDEX_URL"] = "https://example.com/c";
  machine.Write(
      "etc/pip.conf",
      "[global]\nextra-index-url =\n    https://example.com/d\n    https://example.com/e\n");
  machine.Write("home/.config/uv/uv.toml",
                "[[index]]\nurl = \"https://example.com/f\"\n"
                "[[index]]\nname = \"only\"\nurl = \"https://example.com/no\"\nexplicit = true\n");
  const PythonIndexes indexes = machine.Indexes({{"mine", "https://example.com/m"}});
  CHECK(indexes.main.empty());
  CHECK(indexes.extra == Urls{"https://example.com/m", "https://example.com/a",
                              "https://example.com/b", "https://example.com/c",
                              "https://example.com/f", "https://example.com/d",
                              "https://example.com/e"});
  const ProxyVariables for_uv = indexes.ForUv();
  CHECK(for_uv.count("UV_DEFAULT_INDEX") == 0);
  CHECK(for_uv.at("UV_INDEX").starts_with("https://example.com/m https://example.com/a "));
}

TEST_CASE("credentials reach the index and nobody else") {
  UserMachine machine;
  machine.environment["UV_DEFAULT_INDEX"] = "https://ana:p%40ss@example.com/simple";
  machine.environment["UV_INDEX"] = "my-corp=https://example.com/corp";
  machine.environment["UV_INDEX_MY_CORP_USERNAME"] = "bob";
  machine.environment["UV_INDEX_MY_CORP_PASSWORD"] = "a:b@c/d";
  const PythonIndexes indexes = machine.Indexes();
  CHECK(indexes.extra == Urls{"https://bob:a%3Ab%40c%2Fd@example.com/corp"});
  CHECK(indexes.Describe() ==
        "https://example.com/simple (UV_DEFAULT_INDEX), https://example.com/corp");
  CHECK(indexes.Scrub("https://ana:p%40ss@example.com/simple/x, bob:a%3Ab%40c%2Fd@y") ==
        "https://example.com/simple/x, y");
  CHECK(indexes.ForUv().at("UV_DEFAULT_INDEX") == indexes.main);
}

TEST_CASE("links resolve as a browser would") {
  const std::string page = "https://example.com:81/simple/torch/";
  const auto to = [&](const std::string& link) { return ResolveUrl(page, link).value_or("none"); };
  CHECK(to("a.whl") == "https://example.com:81/simple/torch/a.whl");
  CHECK(to("../../packages/a.whl?x=1") == "https://example.com:81/packages/a.whl?x=1");
  CHECK(to("../../../../a.whl") == "https://example.com:81/a.whl");
  CHECK(to("/files/./a.whl") == "https://example.com:81/files/a.whl");
  CHECK(to("//example.org/a.whl") == "https://example.org/a.whl");
  CHECK(to("http://example.org/a.whl") == "http://example.org/a.whl");
  for (const char* link : {"file:///etc/passwd", "ftp://example.com/a", "javascript:x", "http:///a",
                           "a\r\nHost: x", "a b"}) {
    CAPTURE(link);
    CHECK(to(link) == "none");
  }
  CHECK(ResolveUrl("file:///srv/simple/a/", "a.whl") == "file:///srv/simple/a/a.whl");
}

TEST_CASE("a page of the JSON API") {
  const auto files = ParseSimplePage(
      R"( {"meta":{"api-version":"1.3"},"name":"a","files":[
        {"filename":"a-1-py3-none-any.whl","url":"../../f/a-1-py3-none-any.whl","size":12,
         "hashes":{"sha256":")" +
          kHash + R"("},"yanked":false},
        {"filename":"a-2-py3-none-any.whl","url":"http://example.org/x","hashes":{"md5":"1"}}]})",
      "http://example.com/simple/a/");
  REQUIRE(files);
  REQUIRE(files->size() == 2);
  CHECK((*files)[0].url == "http://example.com/f/a-1-py3-none-any.whl");
  CHECK((*files)[0].sha256 == kHash);
  CHECK((*files)[0].size == 12);
  CHECK((*files)[1].name == "a-2-py3-none-any.whl");
  CHECK((*files)[1].sha256.empty());
}

TEST_CASE("a page in HTML") {
  const auto files = ParseSimplePage(
      "<!DOCTYPE html><html><head><base href='/mirror/a/'></head><body>\n"
      "<!-- <a href=\"hidden-1-py3-none-any.whl\">x</a> -->\n"
      "<A data-requires-python=\"&gt;=3.8\" HREF=\"../p/a-1%2Bcu1-py3-none-any.whl#sha256=" +
          kHash +
          "\">a</A><a href=a-2-py3-none-any.whl>b</a><a\nhref = "
          "'x/a-3-py3-none-any.whl?q=1&amp;r=2#md5=1'/>",
      "http://example.com/simple/a/");
  REQUIRE(files);
  REQUIRE(files->size() == 3);
  CHECK((*files)[0].name == "a-1+cu1-py3-none-any.whl");
  CHECK((*files)[0].url == "http://example.com/mirror/p/a-1%2Bcu1-py3-none-any.whl");
  CHECK((*files)[0].sha256 == kHash);
  CHECK((*files)[1].url == "http://example.com/mirror/a/a-2-py3-none-any.whl");
  CHECK((*files)[2].url == "http://example.com/mirror/a/x/a-3-py3-none-any.whl?q=1&r=2");
  CHECK((*files)[2].sha256.empty());
}

TEST_CASE("a hostile page lists nothing, and breaks nothing") {
  const std::string page = "http://example.com/simple/a/";
  const auto words = [&](const std::string& body) {
    const auto files = ParseSimplePage(body, page);
    return files ? std::to_string(files->size()) : files.error().what;
  };
  CHECK(words("") == "it is neither JSON nor HTML");
  CHECK(words("login first") == "it is neither JSON nor HTML");
  CHECK(words("{\"files\":[") == "its JSON is damaged");
  CHECK(words("{}") == "its JSON names no files");
  CHECK(words("{\"files\":{}}") == "its JSON names no files");
  CHECK(words(R"({"files":[1,null,{},{"filename":3,"url":"a"},{"filename":"a"},
    {"filename":"../a","url":"a"},{"filename":"..","url":"a"},{"filename":"a","url":"file:///etc/passwd"},
    {"filename":"b\u0000","url":"a"}]})") == "0");
  CHECK(words(R"({"files":[{"filename":"a","url":"a","size":-1,"hashes":{"sha256":"short"}},
    {"filename":"b","url":"b","size":"1","hashes":[]}]})") == "2");
  CHECK(words("<a") == "0");
  CHECK(words("<a href=\"unclosed>text") == "1");
  CHECK(words("<a href=x%2F..%2F..><a href='..'><a href='a/'><a = = href><!-- <a href=x>") == "0");
  std::string deep = "{\"files\":";
  for (int i = 0; i < 20000; ++i) deep += '[';
  CHECK(words(deep) == "its JSON is damaged");
}

TEST_CASE("a locked file is found by name and hash, on the first index that has it") {
  const std::string file = "Tiny_data-1.0-py3-none-any.whl";
  LocalServer first({});
  LocalServer second(
      {{"/simple/tiny-data/", "<a href='/f/" + file + "#sha256=" + kHash + "'>" + file + "</a>"}});
  PythonIndexes indexes;
  indexes.main = "http://ana:pw@" + first.Host() + "/simple";
  indexes.extra = {"http://bob:pw@" + second.Host() + "/simple/"};
  const auto found = FindOnIndexes(indexes, file, kHash);
  REQUIRE(found);
  // On the index's own host the index's own user asks.
  CHECK(found->url == "http://bob:pw@" + second.Host() + "/f/" + file);
  REQUIRE(first.Requests().size() == 1);
  CHECK(first.Requests()[0].starts_with("GET /simple/tiny-data/ HTTP/1.1\r\n"));
  CHECK(first.Requests()[0].find("Authorization: Basic YW5hOnB3") != std::string::npos);
  CHECK(first.Requests()[0].find("application/vnd.pypi.simple.v1+json") != std::string::npos);

  // Another host is not told who asks.
  second.Set("/simple/tiny-data/", "<a href='http://example.com/" + file + "'>x</a>");
  CHECK(FindOnIndexes(indexes, file, kHash)->url == "http://example.com/" + file);
  second.Set("/simple/tiny-data/", "<a href='/f/" + file + "#sha256=" + kHash + "'>x</a>");

  const auto other = FindOnIndexes(indexes, file, kOther);
  REQUIRE_FALSE(other);
  CHECK(other.error().code == ExitCode::kMissing);
  CHECK(other.error().Text() ==
        "error: " + file + " (sha256 " + kOther +
            ") is not on the Python index\n"
            "http://" +
            first.Host() +
            "/simple: no project tiny-data\n"
            "http://" +
            second.Host() + "/simple/: the file has another sha256: " + kHash +
            "\n"
            "  Choose an index that has it (UV_DEFAULT_INDEX, or [index] in "
            "envkit.toml), or lock what this one has: envkit lock --upgrade\n");
  second.Set("/simple/tiny-data/", "<html></html>");
  CHECK(FindOnIndexes(indexes, file, kHash)
            .error()
            .what.find(second.Host() + "/simple/: the project has no such file") !=
        std::string::npos);
  second.Set("/simple/tiny-data/", "Please log in.");
  CHECK(FindOnIndexes(indexes, file, kHash).error().Text() ==
        "error: reading the page of tiny-data on http://" + second.Host() +
            "/simple/: it is neither JSON nor HTML\n");
}

TEST_CASE("an index that does not answer is a missing network") {
  PythonIndexes indexes;
  indexes.main = "http://ana:secret@127.0.0.1:9/simple";
  const auto found = FindOnIndexes(indexes, "a-1-py3-none-any.whl", kHash);
  REQUIRE_FALSE(found);
  CHECK(found.error().code == ExitCode::kMissing);
  CHECK(found.error().Text().starts_with(
      "error: looking for a-1-py3-none-any.whl on the Python index: 127.0.0.1:9: "));
  CHECK(found.error().Text().find("secret") == std::string::npos);
}

TEST_CASE(
    "the first index that knows a project lists its files; further ones come before the main") {
  LocalServer main({});
  main.Set("/simple/tiny/", "<a href='/f/tiny-1.tar.gz#sha256=aa'>x</a>");
  LocalServer more({});
  more.Set("/simple/tiny/", "<a href='/f/tiny-2.tar.gz'>x</a>");
  setenv("NO_PROXY", "127.0.0.1", 1);
  PythonIndexes indexes;
  indexes.main = main.Url() + "/simple";
  auto files = ListProject(indexes, "tiny");
  REQUIRE_MESSAGE(files, files.error().Text());
  REQUIRE(files->size() == 1);
  CHECK(files->front().name == "tiny-1.tar.gz");
  CHECK(files->front().url == main.Url() + "/f/tiny-1.tar.gz");
  indexes.extra = {more.Url() + "/simple"};
  files = ListProject(indexes, "tiny");
  REQUIRE(files);
  CHECK(files->front().name == "tiny-2.tar.gz");
  files = ListProject(indexes, "none");
  REQUIRE_FALSE(files);
  CHECK(files.error().code == ExitCode::kMissing);
  CHECK(files.error().what == "there is no project none on the Python index " + indexes.Describe());
}

TEST_CASE("requirement files add their indexes") {
  Project project;
  RequirementFile file;
  file.indexes = {"http://ana:secret@example.com/a", "http://example.com/main", "nonsense"};
  project.requirement_files = {file};
  const PythonIndexes indexes = IndexesOf(project, {{"UV_DEFAULT_INDEX", "http://example.com/main"},
                                                    {"UV_NO_CONFIG", "1"},
                                                    {"PIP_CONFIG_FILE", "/dev/null"}});
  CHECK(indexes.All() ==
        std::vector<std::string>{"http://example.com/main", "http://ana:secret@example.com/a"});
  CHECK(indexes.Describe().find("secret") == std::string::npos);
}
