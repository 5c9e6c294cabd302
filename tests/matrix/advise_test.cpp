#include "matrix/advise.h"

#include "matrix/data.h"
#include "matrix/show.h"

using namespace envkit;

namespace {

Judgement Ask(const std::string& torch, const std::string& cuda, const std::string& driver = "",
              const std::string& gpu = "", const std::string& python = "") {
  Question question{torch, cuda, python, {}};
  if (!driver.empty()) question.machine.driver = driver;
  if (!gpu.empty()) question.machine.gpu = ParseCapability(gpu);
  return Judge(Own(), question);
}

std::string Pair(const TorchBuild* build) {
  return build == nullptr ? "none" : build->torch + " " + build->cuda;
}

Machine Driver(const std::string& driver) {
  Machine machine;
  machine.driver = driver;
  return machine;
}

}  // namespace

TEST_CASE("PyTorch 2.8 for CUDA 12.1, which tutorials name") {
  const Judgement verdict = Ask("2.8", "12.1");
  CHECK(verdict.fit == Fit::kNever);
  CHECK(verdict.build == nullptr);
  CHECK(verdict.what == "PyTorch 2.8 has no build for CUDA 12.1");
  CHECK(verdict.next ==
        "It was built for CUDA 12.6, 12.8 (default index) and 12.9.\n"
        "The nearest that exists is cuda = \"12.6\"; the default index does not serve it: name one "
        "that does in [index].\n"
        "On the default index the nearest is cuda = \"12.8\".");
  CHECK(Pair(verdict.nearest) == "2.8.0 12.6");
  CHECK(Pair(verdict.nearest_served) == "2.8.0 12.8");
}

TEST_CASE("the nearest is of the same torch first, and runs on the driver") {
  CHECK(Pair(Ask("2.14", "12.8", "550.54.14").nearest) == "2.14.1 12.6");
  CHECK(Pair(Ask("2.14", "12.8").nearest) == "2.14.1 12.6");
  CHECK(Pair(Ask("2.14", "13.1").nearest_served) == "2.14.1 13.0");
  const Judgement none = Ask("2.15", "13.2", "550.54.14");
  CHECK(Pair(none.nearest) == "2.10.0 12.8");
}

TEST_CASE("a driver that is too old for the default build") {
  const Judgement verdict = Ask("2.15", "", "550.54.14");
  CHECK(verdict.fit == Fit::kDriver);
  CHECK(Pair(verdict.build) == "2.15.0 13.2");
  CHECK(verdict.what == "CUDA 13.2 needs NVIDIA driver 580 or newer, and this is 550.54.14");
  CHECK(verdict.next ==
        "Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
        "550.54.14 runs,\nor update the driver to 580 or newer.");
  // Where cuda-compat helps, and another index would.
  CHECK(
      Ask("2.14", "13.0", "550.54.14").next ==
      "Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
      "550.54.14 runs,\nor update the driver to 580 or newer.\n"
      "On data-centre GPUs NVIDIA's cuda-compat of CUDA 13.1 lets branch 550 run it too; "
      "envkit's images do not hold it.\n"
      "Of PyTorch 2.14 itself cuda = \"12.6\" fits; the default index does not serve it: name one "
      "that does in [index].");
}

TEST_CASE("a driver that runs nothing") {
  const Judgement verdict = Ask("", "", "400.10");
  CHECK(verdict.fit == Fit::kDriver);
  CHECK(verdict.next ==
        "Update the driver to 580 or newer: driver 400.10 runs no build of the default index.");
  CHECK(verdict.nearest == nullptr);
}

TEST_CASE("a GPU that a build has no code for") {
  const Judgement volta = Ask("2.14", "13.0", "", "7.0");
  CHECK(volta.fit == Fit::kGpu);
  CHECK(volta.what ==
        "PyTorch 2.14.1 for CUDA 13.0: it has no code for compute capability 7.0 (Volta): it was "
        "built for 7.5 8.0 8.6 9.0 10.0 12.0");
  CHECK(volta.next ==
        "The nearest that fits is cuda = \"12.6\"; the default index does not serve it: name one "
        "that does in [index].\n"
        "On the default index the nearest is torch = \"2.10\" with CUDA 12.8.");
  const Judgement blackwell = Ask("2.8", "12.6", "", "12.0");
  CHECK(blackwell.fit == Fit::kGpu);
  CHECK(blackwell.next == "The nearest that fits is cuda = \"12.8\".");
  CHECK(Ask("2.8", "12.8", "570.26", "12.0").fit == Fit::kFits);
  const Judgement old = Ask("2.8", "12.8", "550.54.14", "12.0");
  CHECK(old.fit == Fit::kMachine);
  CHECK(old.what == "Blackwell GPUs need driver branch 570 or newer, and this is 550.54.14");
}

TEST_CASE("Pythons") {
  const Judgement verdict = Ask("2.6", "", "", "", "3.14");
  CHECK(verdict.fit == Fit::kPython);
  CHECK(verdict.what == "PyTorch 2.6.0 has no wheel for Python 3.14");
  CHECK(verdict.next ==
        "It has wheels for Python 3.9 to 3.13.\n"
        "The nearest that fits is torch = \"2.9\" with CUDA 12.8.");
  CHECK(Ask("2.15", "", "", "", "3.10").fit == Fit::kPython);
}

TEST_CASE("what the matrix does not know it does not deny") {
  CHECK(Ask("2.16", "13.2").fit == Fit::kUnknown);
  CHECK(Ask("2.16", "13.2").what == "the matrix ends at PyTorch 2.15.0 and knows nothing of 2.16");
  CHECK(Ask("2.5", "12.1").what == "the matrix begins at PyTorch 2.6.0 and knows nothing of 2.5");
  CHECK(Ask("2.14.2", "").fit == Fit::kUnknown);  // a patch release may be new
  CHECK(Ask("2.14.2", "").what == "the matrix knows no PyTorch 2.14.2");
  const Judgement incomplete = Ask("2.15", "12.6");
  CHECK(incomplete.fit == Fit::kUnknown);
  CHECK(incomplete.what == "the matrix knows no build of PyTorch 2.15 for CUDA 12.6");
  CHECK(incomplete.next ==
        "Its list of that version is not complete: an index that is named in [index] may have "
        "one.\nIt was built for CUDA 13.2 (default index).\n"
        "The nearest that fits is cuda = \"13.2\".");
  CHECK(Ask("", "12.1").what == "no PyTorch from 2.6 to 2.15 was built for CUDA 12.1");
  CHECK(Pair(Ask("", "12.1").nearest) == "2.6.0 12.4");
}

TEST_CASE("envkit.toml is checked before anything is resolved") {
  const auto check = [](const std::string& torch, const std::string& cuda,
                        const std::string& python = "3.13", bool others = false,
                        const Machine& machine = {}) {
    return CheckEnvironment(Own(), {torch, cuda, python, others}, machine);
  };
  CHECK_FALSE(check("2.15", "auto"));
  CHECK_FALSE(check("2.15", "cpu"));
  CHECK_FALSE(check("2.15", "13.2"));
  CHECK_FALSE(check("2.16", "auto"));
  CHECK_FALSE(check("2.16", "14.0"));
  CHECK_FALSE(check("2.15", "12.6"));  // the matrix's list of 2.15 is not complete

  const auto never = check("2.8", "12.1");
  REQUIRE(never);
  CHECK(never->key == "cuda");
  CHECK(never->what == "PyTorch 2.8 has no build for CUDA 12.1");
  CHECK(never->next.ends_with("\nDetails: envkit matrix --torch 2.8"));
  // What is named instead runs on this machine's driver.
  CHECK(check("2.8", "12.1", "3.13", false, Driver("535.183.01"))->next ==
        "It was built for CUDA 12.6, 12.8 (default index) and 12.9.\n"
        "Driver 535.183.01 runs CUDA 12.x by minor-version compatibility.\n"
        "The nearest that exists is cuda = \"12.6\"; the default index does not serve it: name one "
        "that does in [index].\n"
        "On the default index the nearest is cuda = \"12.8\".\n"
        "Details: envkit matrix --torch 2.8");
  CHECK(check("2.14", "13.1", "3.13", false, Driver("550.54.14"))
            ->next.find("The nearest that exists is cuda = \"12.6\"") != std::string::npos);
  CHECK(check("2.8", "12.1", "3.13", false, Driver("400.1")));
  // An index of one's own does not make it exist.
  CHECK(check("2.8", "12.1", "3.13", true));

  const auto python = check("2.6", "auto", "3.14");
  REQUIRE(python);
  CHECK(python->key == "torch");
  CHECK(check("2.6", "cpu", "3.14"));

  const auto elsewhere = check("2.11", "12.8");
  REQUIRE(elsewhere);
  CHECK(elsewhere->key == "cuda");
  CHECK(elsewhere->what == "PyTorch 2.11 for CUDA 12.8 is not on the default index");
  CHECK(elsewhere->next ==
        "Name an index that has it in [index].\n"
        "The default index serves cuda = \"13.0\" for this version.\n"
        "Details: envkit matrix --torch 2.11");
  CHECK_FALSE(check("2.11", "12.8", "3.13", true));
}

TEST_CASE("cuda = \"auto\" is what this machine's driver runs") {
  const auto check = [](const std::string& torch, const std::string& cuda, const Machine& machine,
                        bool others = false) {
    return CheckEnvironment(Own(), {torch, cuda, "3.13", others}, machine);
  };
  CHECK_FALSE(check("2.10", "auto", Driver("550.54.14")));
  CHECK_FALSE(check("2.15", "auto", Driver("580.95.05")));
  const auto old = check("2.15", "auto", Driver("550.54.14"));
  REQUIRE(old);
  CHECK(old->key == "torch");
  CHECK(old->what ==
        "this machine cannot run PyTorch 2.15: CUDA 13.2 needs NVIDIA driver 580 or newer, and "
        "this is 550.54.14");
  CHECK(old->next ==
        "Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
        "550.54.14 runs,\nor update the driver to 580 or newer.\n"
        "To lock for other machines, write cuda = \"13.2\".");
  CHECK_FALSE(check("2.15", "13.2", Driver("550.54.14")));        // written down: meant
  CHECK_FALSE(check("2.15", "auto", Driver("550.54.14"), true));  // their builds are not known
  CHECK_FALSE(check("2.15", "cpu", Driver("550.54.14")));
}

TEST_CASE("an image on a machine") {
  CHECK_FALSE(AdviseOnDriver(Own(), "13.2", "3.13", {}));
  CHECK_FALSE(AdviseOnDriver(Own(), "13.2", "3.13", Driver("580.95.05")));
  CHECK_FALSE(AdviseOnDriver(Own(), "", "3.13", Driver("400")));
  CHECK_FALSE(AdviseOnDriver(Own(), "auto", "3.13", Driver("400")));
  const auto advice = AdviseOnDriver(Own(), "13.0", "3.13", Driver("535.183.01"));
  REQUIRE(advice);
  CHECK(advice->what == "CUDA 13.0 needs NVIDIA driver 580 or newer, and this is 535.183.01");
}

TEST_CASE("the table for people") {
  Question question;
  question.torch = "3.0";
  question.machine.driver = "550";
  question.machine.gpu = ParseCapability("9.0");
  const Matrix matrix = Small();
  CHECK(
      MatrixText(matrix, AnswerMatrix(matrix, question, "--driver")) ==
      "driver   550 (--driver)\n"
      "GPU      compute capability 9.0\n"
      "fits     PyTorch 3.0.0 for CUDA 12.8\n"
      "\n"
      "torch   CUDA  index    driver     Python     cuDNN  NCCL    torchvision  GPU code (compute "
      "capability)\n"
      "3.0.0   12.8  default  525.60.13  3.12-3.13  9.1.0  2.20.1  -            7.5 9.0\n"
      "3.0.0*  12.6  -        525.60.13  3.12-3.13  9.1.0  2.20.1  -            7.0 8.0+PTX\n"
      "* not read from a wheel: no index with it was asked; sources: --json\n");
  CHECK(MatrixText(matrix, AnswerMatrix(matrix, {"3.1", "12.1", "", {}}, "")) ==
        "driver   none on this machine: rows for every driver; --driver 550 asks for one\n"
        "no       the matrix knows no build of PyTorch 3.1 for CUDA 12.1\n"
        "         Its list of that version is not complete: an index that is named in [index] may "
        "have one.\n"
        "         It was built for CUDA 13.0 (default index).\n"
        "         The nearest that fits is cuda = \"13.0\".\n"
        "\n"
        "torch  CUDA  index    driver  Python     cuDNN  NCCL    torchvision  GPU code (compute "
        "capability)\n"
        "3.1.0  13.0  default  580     3.12-3.13  9.1.0  2.20.1  -            9.0 12.0+PTX\n");
}

TEST_CASE("known failures are told with a version") {
  const std::string text = MatrixText(Own(), AnswerMatrix(Own(), {"2.7.0", "12.6", "", {}}, ""));
  CHECK(text.find("known    torch from 2.7.0 to before 2.7.1: init_process_group(device_id=…) can "
                  "hang\n         leave device_id out, or take another torch "
                  "(pytorch/pytorch#153960)\n") != std::string::npos);
}

TEST_CASE("every row of the JSON has its source and date") {
  const auto json = MatrixToJson(Own(), AnswerMatrix(Own(), {}, ""));
  CHECK(json["rows"].size() == Own().builds.size());
  for (const auto& row : json["rows"]) {
    CHECK_FALSE(row["source"].get<std::string>().empty());
    CHECK(row["date"].get<std::string>().size() == 10);
  }
  CHECK(json["verdict"]["fits"] == true);
  CHECK(json["verdict"]["build"]["torch"] == "2.15.0");
  CHECK(json["asked"]["driver"].is_null());
}
