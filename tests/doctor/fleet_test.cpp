#include "doctor/fleet.h"

#include <doctest/doctest.h>

#include "base/scratch.h"
#include "doctor/probes/probes.h"
#include "doctor/tree.h"

using namespace envkit;
using namespace envkit::doctor;

namespace {

using Names = std::vector<std::string>;

Names Nodes(const std::string& text) {
  const auto nodes = ParseNodes(text);
  return nodes ? *nodes : Names{nodes.error().Text()};
}

Node Answered(const std::string& name, const std::string& machine) {
  const Scratch tree;
  MakeTree(machine, tree.path());
  Node node;
  node.name = name;
  node.facts = ProbeMachine(tree.path());
  node.diagnosis = Diagnose(*node.facts, OwnMatrix());
  return node;
}

Node Silent(const std::string& name, const std::string& because, const std::string& next) {
  Node node;
  node.name = name;
  node.because = because;
  node.next = next;
  return node;
}

std::vector<Node> Fleet() {
  return {Answered("gpu01", "server"), Answered("gpu02", "H03-updated"),
          Answered("gpu03", "server"), Silent("gpu04", "Connection refused", "start sshd"),
          Silent("gpu05", "Connection refused", "start sshd")};
}

}  // namespace

TEST_CASE("hosts as people and as Slurm write them") {
  CHECK(Nodes("a,b,a") == Names{"a", "b"});
  CHECK(Nodes("ana@gpu-1.cluster") == Names{"ana@gpu-1.cluster"});
  CHECK(Nodes("gpu[01-03,07],login1") == Names{"gpu01", "gpu02", "gpu03", "gpu07", "login1"});
  CHECK(Nodes("r[1-2]n[9-10]-ib") == Names{"r1n9-ib", "r1n10-ib", "r2n9-ib", "r2n10-ib"});
  CHECK(Nodes("n[098-101]") == Names{"n098", "n099", "n100", "n101"});
  const std::string how = "\n  Hosts are written as a,b,c or, as Slurm does, gpu[01-03,07].\n";
  CHECK(Nodes("gpu[01-03") ==
        Names{"error: --hosts: \"gpu[01-03\" has a bracket without its pair" + how});
  CHECK(Nodes("gpu1]") == Names{"error: --hosts: \"gpu1]\" has a bracket without its pair" + how});
  CHECK(Nodes("gpu[3-1]") ==
        Names{"error: --hosts: \"gpu[3-1]\" has a range that ends before it begins" + how});
  CHECK(Nodes("gpu[]") ==
        Names{"error: --hosts: \"gpu[]\" has no numbers between its brackets" + how});
  CHECK(Nodes("a[1-99999]") == Names{"error: --hosts: \"a4097\" names more than 4096 hosts" + how});
  // None of these reaches ssh as an option or a shell as words.
  CHECK(Nodes("-oProxyCommand=x") ==
        Names{"error: --hosts: \"-oProxyCommand=x\" is no host's name" + how});
  CHECK(Nodes("a b") == Names{"error: --hosts: \"a b\" is no host's name" + how});
  CHECK(Nodes(" ,") == Names{"error: --hosts: \" \" is no host's name" + how});
  CHECK(Nodes(",") == Names{"error: --hosts names no host\n  envkit doctor --hosts gpu01,gpu02\n"});
}

TEST_CASE("many hosts in few words") {
  CHECK(FoldNodes({"gpu01", "gpu02", "gpu03", "gpu07", "login1"}) == "gpu[01-03,07], login1");
  CHECK(FoldNodes({"b", "a"}) == "b, a");
  CHECK(FoldNodes({"gpu1"}) == "gpu1");
  CHECK(FoldNodes({"gpu9", "gpu10", "gpu11"}) == "gpu9, gpu[10-11]");
  CHECK(FoldNodes({}) == "");
  CHECK(Nodes("gpu[01-03,07]") == Names{"gpu01", "gpu02", "gpu03", "gpu07"});
}

TEST_CASE("what differs: nothing between twins, and each value with its nodes") {
  CHECK(Differences({Answered("a", "server"), Answered("b", "server")}).empty());
  CHECK(Differences({Answered("a", "server"), Silent("b", "x", "")}).empty());
  const auto differences = Differences(Fleet());
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].fact == "driver");
  REQUIRE(differences[0].values.size() == 2);
  CHECK(differences[0].values[0].value == "595.45.04");
  CHECK(differences[0].values[0].nodes == Names{"gpu01", "gpu03"});
  CHECK(differences[0].values[1].nodes == Names{"gpu02"});
}

TEST_CASE("a fleet's report") {
  CHECK(FleetText(Fleet(), {}) ==
        "nodes      5: 3 answered, 2 did not\n"
        "\n"
        "FAIL  no answer from gpu[04-05]\n"
        "           Connection refused\n"
        "      fix  start sshd\n"
        "FAIL  H03  The NVIDIA kernel module and the driver library are of different versions\n"
        "           on gpu02\n"
        "\n"
        "differs    driver   595.45.04   gpu[01,03]\n"
        "                    570.86.15   gpu02\n"
        "\n"
        "2 of 5 can run jobs (each node's own report: -v)\n");
  ReportStyle style;
  CHECK(FleetText({Answered("a", "server"), Answered("b", "server")}, style) ==
        "nodes      2: 2 answered\n"
        "\n"
        "differs    nothing that matters\n"
        "\n"
        "2 of 2 can run jobs (each node's own report: -v)\n");
}

TEST_CASE("without the version matrix a rule that needs it is unknown, or does not apply") {
  const Scratch tree;
  MakeTree("H09-branch-ended", tree.path());
  const Result<Matrix> none = Missing("images/matrix/torch.json: gone");
  const Diagnosis diagnosis = Diagnose(ProbeMachine(tree.path()), none);
  std::string unknown;
  for (const Unasked& one : diagnosis.unknown) unknown += one.rule->id + " " + one.because + "\n";
  CHECK(unknown.find("H09 the version matrix could not be read: images/matrix/torch.json: gone") !=
        std::string::npos);
  const Scratch laptop;
  MakeTree("laptop", laptop.path());
  for (const Unasked& one : Diagnose(ProbeMachine(laptop.path()), none).unknown)
    CHECK(one.because.find("matrix") == std::string::npos);
}

TEST_CASE("a fleet's report for programs") {
  const auto json = FleetJson(Fleet());
  CHECK(json["verdict"] == "fail");
  CHECK(FleetVerdict({Answered("a", "server")}) == "ok");
  CHECK(json["nodes"].size() == 5);
  CHECK(json["nodes"][0]["report"]["verdict"] == "ok");
  CHECK(json["nodes"][1]["report"]["findings"][0]["id"] == "H03");
  CHECK(json["nodes"][3]["because"] == "Connection refused");
  CHECK(json["nodes"][3]["report"].is_null());
  CHECK(json["differences"][0]["fact"] == "driver");
}
