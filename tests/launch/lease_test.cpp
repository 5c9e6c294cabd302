#include "launch/lease.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <regex>

#include "base/scratch.h"

namespace envkit {
namespace {

LeasePlan Plan(const Scratch& scratch, std::vector<std::string> keys, bool share = false) {
  LeasePlan plan;
  plan.directory = scratch.path();
  plan.share = share;
  plan.holder = "python3 train.py";
  for (const std::string& key : keys) plan.gpus.emplace_back(key, key.substr(key.size() - 1));
  return plan;
}

// Takes PLAN's leases in a process of its own, until that is killed.
class Holder {
 public:
  explicit Holder(const LeasePlan& plan) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      const auto leases = TakeLeases(plan);
      [[maybe_unused]] const auto told = write(ends[1], leases ? "y" : "n", 1);
      while (true) pause();
    }
    char answer = 0;
    REQUIRE(read(ends[0], &answer, 1) == 1);
    CHECK(answer == 'y');
    close(ends[0]);
    close(ends[1]);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { End(); }
  void End() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  int pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

std::string ErrorText(const LeasePlan& plan, int pid) {
  const auto leases = TakeLeases(plan);
  if (leases) return "no error";
  CHECK(leases.error().code == ExitCode::kMissing);
  std::string text = leases.error().Text();
  const std::string number = "pid " + std::to_string(pid);
  const std::size_t at = text.find(number);
  if (at != std::string::npos) text.replace(at, number.size(), "pid N");
  return std::regex_replace(text, std::regex(R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"), "TIME");
}

}  // namespace

TEST_CASE("a GPU that trains is refused with who has it, until that ends, however it ends") {
  const Scratch scratch;
  Holder holder(Plan(scratch, {"pci-0", "pci-1"}));
  CHECK(ErrorText(Plan(scratch, {"pci-1", "pci-2"}), holder.pid()) ==
        "error: GPU 1 trains already: python3 train.py (launcher pid N, since TIME)\n"
        "  Wait for it or end it, choose other GPUs (--gpu-ids), or let both have it: --share\n");
  CHECK(TakeLeases(Plan(scratch, {"pci-2", "pci-3"})));  // others are free
  holder.End();
  CHECK(TakeLeases(Plan(scratch, {"pci-1"})));
}

TEST_CASE("--share goes on beside another, and lets others in") {
  const Scratch scratch;
  Holder alone(Plan(scratch, {"pci-0"}));
  CHECK(TakeLeases(Plan(scratch, {"pci-0"}, true))->held.empty());
  Holder shared(Plan(scratch, {"pci-1"}, true));
  CHECK(TakeLeases(Plan(scratch, {"pci-1"}, true))->held.size() == 1);
  CHECK(ErrorText(Plan(scratch, {"pci-1"}), shared.pid()).find("TIME, with --share)") !=
        std::string::npos);
}

TEST_CASE("no GPUs, no place for leases, no files") {
  const Scratch scratch;
  CHECK(TakeLeases(Plan(scratch, {}))->held.empty());
  CHECK(std::filesystem::is_empty(scratch.path()));
  LeasePlan nowhere = Plan(scratch, {"pci-0"});
  nowhere.directory.clear();
  CHECK(TakeLeases(nowhere)->held.empty());
  nowhere.directory = "/no/such";
  CHECK(TakeLeases(nowhere)->notes ==
        std::vector<std::string>{"GPU 0 is used without a lease: /no/such/envkit-gpu-pci-0: No "
                                 "such file or directory"});
}

TEST_CASE("what others wrote into a lease cannot draw on our terminal") {
  const Scratch scratch;
  LeasePlan plan = Plan(scratch, {"pci-0"});
  plan.holder = "evil\x1b[2J" + std::string(500, 'x');
  Holder holder(plan);
  const std::string text = ErrorText(Plan(scratch, {"pci-0"}), holder.pid());
  CHECK(text.find('\x1b') == std::string::npos);
  CHECK(text.size() < 400);
}

}  // namespace envkit
