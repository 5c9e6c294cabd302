#include "session/containers.h"

#include <doctest/doctest.h>

using namespace envkit;

namespace {

RunningContainer One(const std::string& name, const std::string& job, const std::string& project) {
  RunningContainer one;
  one.engine = "oci";
  one.name = name;
  one.job = job;
  one.project = project;
  one.pids = {7, 8};
  return one;
}

}  // namespace

TEST_CASE("a container is meant by its name, or by its job in this project") {
  const std::vector<RunningContainer> all{One("dev-1", "dev", "/a"), One("dev-2", "dev", "/b"),
                                          One("train-3", "train", "/b")};
  CHECK(ChooseContainer(all, "dev-1", "/b")->name == "dev-1");
  CHECK(ChooseContainer(all, "dev", "/b")->name == "dev-2");
  CHECK(ChooseContainer(all, "", "/a")->name == "dev-1");
  CHECK(ChooseContainer(all, "train", "")->name == "train-3");  // outside of any project
  CHECK(ChooseContainer(all, "dev", "").error().Text() ==
        "error: several run; say which one:\n  dev-1\n  dev-2\n");
  CHECK(ChooseContainer(all, "", "/b").error().Text() ==
        "error: several run; say which one:\n  dev-2\n  train-3\n");
  CHECK(ChooseContainer(all, "train", "/a").error().Text() ==
        "error: nothing of this project that runs is called train\n"
        "  Other projects have, to be named so:\n    train-3\n");
  CHECK(ChooseContainer(all, "", "/c").error().what == "nothing of this project runs");
  CHECK(ChooseContainer(all, "x", "/a").error().Text() ==
        "error: nothing that runs is called x\n  What runs:  envkit ps\n");
  CHECK(ChooseContainer({}, "", "/a").error().what == "nothing of envkit runs");
}

TEST_CASE("what runs, for people and for programs") {
  CHECK(ContainersText({}) == "nothing of envkit runs");
  CHECK(ContainersText({One("dev-1", "dev", "/a"), One("run-22", "", "")}) ==
        "name    engine  job          processes  project\n"
        "dev-1   oci     dev                  2  /a\n"
        "run-22  oci     -                    2  -\n");
  CHECK(ContainersToJson({One("dev-1", "dev", "/a")}).dump() ==
        R"({"containers":[{"engine":"oci","job":"dev","name":"dev-1","pids":[7,8],)"
        R"("project":"/a","session":""}],"schema":1})");
}
