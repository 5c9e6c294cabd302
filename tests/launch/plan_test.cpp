#include "launch/plan.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/scratch.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

// 2026-07-01T12:30:05Z
constexpr std::chrono::system_clock::time_point kNow{std::chrono::seconds(1'782'909'005)};

HostFacts Cpu(int cpus, int numa_nodes = 1) {
  HostFacts facts;
  facts.cpus = cpus;
  facts.numa_nodes = numa_nodes;
  return facts;
}

HostFacts Gpus(int count) {
  HostFacts facts = Cpu(32);
  for (int i = 0; i < count; ++i) {
    facts.pci_gpus.push_back({"0000:0" + std::to_string(i) + ":00.0", 0});
    facts.device_nodes.push_back(i);
  }
  facts.kernel_module = "580.95.05";
  facts.control_node = facts.uvm_node = true;
  return facts;
}

void Set(LaunchOptions& options, const std::string& name, std::string value) {
  options.flags[name] = {std::move(value), "--" + name};
}

LaunchOptions Program(std::vector<std::string> program) {
  LaunchOptions options;
  Set(options, "log_dir", "/logs");
  options.program = std::move(program);
  return options;
}

Result<LaunchPlan> Plan(const LaunchOptions& options, const HostFacts& facts = Cpu(8),
                        Environment env = {}) {
  env.emplace("PATH", "/usr/bin:/bin");
  return PlanLaunch(options, facts, env, kNow);
}

std::string ErrorText(const LaunchOptions& options, const HostFacts& facts = Cpu(8),
                      const Environment& env = {}) {
  const auto plan = Plan(options, facts, env);
  return plan ? "no error" : plan.error().Text();
}

std::size_t Count(const HostFacts& facts, const Environment& env = {}) {
  return Plan(Program({"sh"}), facts, env).value().ranks.size();
}

std::string Note(const HostFacts& facts, const Environment& env = {}) {
  const auto notes = Plan(Program({"sh"}), facts, env).value().notes;
  return notes.empty() ? "" : notes.front();
}

// Relative names are looked for from here.
class Directory {
 public:
  explicit Directory(const fs::path& path) : before_(fs::current_path()) { fs::current_path(path); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { fs::current_path(before_); }

 private:
  fs::path before_;
};

}  // namespace

TEST_CASE("what the ranks find in their environment") {
  LaunchOptions options = Program({"sh", "-c", "true"});
  Set(options, "nproc_per_node", "2");
  Set(options, "master_addr", "node-a");
  const LaunchPlan plan = Plan(options).value();
  CHECK(plan.program == "/usr/bin/sh");
  CHECK(plan.argv == std::vector<std::string>{"sh", "-c", "true"});
  REQUIRE(plan.ranks.size() == 2);
  Placement place;
  place.world_size = 2;
  place.master_addr = plan.master_addr;
  place.master_port = 29777;
  CHECK(RankVariables(plan, place, 1) ==
        Variables{{"RANK", "1"},
                  {"LOCAL_RANK", "1"},
                  {"WORLD_SIZE", "2"},
                  {"LOCAL_WORLD_SIZE", "2"},
                  {"GROUP_RANK", "0"},
                  {"GROUP_WORLD_SIZE", "1"},
                  {"ROLE_NAME", "default"},
                  {"ROLE_RANK", "1"},
                  {"ROLE_WORLD_SIZE", "2"},
                  {"MASTER_ADDR", "node-a"},
                  {"MASTER_PORT", "29777"},
                  {"TORCHELASTIC_RESTART_COUNT", "0"},
                  {"TORCHELASTIC_MAX_RESTARTS", "0"},
                  {"TORCHELASTIC_RUN_ID", "envkit-" + std::to_string(getpid())},
                  {"TORCHELASTIC_USE_AGENT_STORE", "False"},
                  {"TORCHELASTIC_ERROR_FILE", "/logs/attempt_0/1/error.json"},
                  {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"},
                  {"OMP_NUM_THREADS", "4"}});
  CHECK(plan.notes.empty());  // the number was the user's own choice
}

TEST_CASE("a rank of the second node, in the second attempt") {
  LaunchOptions options = Program({"sh"});
  Set(options, "nproc_per_node", "2");
  Set(options, "nnodes", "2");
  Set(options, "node_rank", "1");
  Set(options, "rdzv_endpoint", "node-a:4000");
  Set(options, "rdzv_id", "job7");
  Set(options, "max_restarts", "3");
  const LaunchPlan plan = Plan(options).value();
  CHECK(plan.nodes.nodes == 2);
  CHECK(plan.nodes.rank == 1);
  CHECK(plan.nodes.host == "node-a");
  CHECK(plan.nodes.port == 4000);
  CHECK(plan.master_port == 0);  // node 0 says it
  const Placement place{1, 1, 4, 6, "node-a", 5000};
  const Variables all = RankVariables(plan, place, 1);
  const std::map<std::string, std::string> variables(all.begin(), all.end());
  CHECK(variables.at("RANK") == "5");
  CHECK(variables.at("LOCAL_RANK") == "1");
  CHECK(variables.at("WORLD_SIZE") == "6");
  CHECK(variables.at("GROUP_RANK") == "1");
  CHECK(variables.at("GROUP_WORLD_SIZE") == "2");
  CHECK(variables.at("MASTER_PORT") == "5000");
  CHECK(variables.at("TORCHELASTIC_RESTART_COUNT") == "1");
  CHECK(variables.at("TORCHELASTIC_MAX_RESTARTS") == "3");
  CHECK(variables.at("TORCHELASTIC_RUN_ID") == "job7");
  CHECK(RankLogs(plan, place, 1) == "/logs/attempt_1/5");
}

TEST_CASE("nodes that cannot be: what is missing, and what is too much") {
  const auto text = [](const std::map<std::string, std::string>& flags) {
    LaunchOptions options = Program({"sh"});
    for (const auto& [name, value] : flags) Set(options, name, value);
    return ErrorText(options);
  };
  CHECK(text({{"nnodes", "2"}}) ==
        "error: 2 nodes, and which of them this one is was not said\n"
        "  Say --node-rank 0, 1, … on each, or --rdzv-backend c10d to have them given out.\n");
  CHECK(text({{"nnodes", "2"}, {"node_rank", "0"}}) ==
        "error: 2 nodes, and where node 0 is was not said\n"
        "  Say --rdzv-endpoint HOST:PORT, the same on each node.\n");
  CHECK(text({{"nnodes", "2"}, {"node_rank", "2"}}) ==
        "error: node rank 2, but there are only 2 nodes\n"
        "  Node ranks go from 0 to the number of nodes less 1.\n");
  CHECK(text({{"nnodes", "1:4"}}) ==
        "error: flag --nnodes: 1:4 nodes: a job that grows and shrinks is not supported\n"
        "  Say how many there are: --nnodes 4\n");
  CHECK(text({{"nnodes", "two"}}) ==
        "error: flag --nnodes: 'two' is not a number of nodes\n"
        "  For example: --nnodes 2\n");
  CHECK(text({{"rdzv_backend", "etcd"}}) ==
        "error: rendezvous backend etcd is not supported\n"
        "  etcd is not needed: the launchers meet at node 0. Use c10d or static.\n");
  CHECK(text({{"nnodes", "2"},
              {"node_rank", "0"},
              {"rdzv_endpoint", "a:1"},
              {"num_processes", "3"}}) ==
        "error: 3 ranks cannot be shared out evenly to 2 nodes (flag --num_processes)\n"
        "  Or say for each node how many it starts: --nproc-per-node N\n");
  CHECK(text({{"nproc_per_node", "some"}}) ==
        "error: flag --nproc_per_node: 'some' is neither a number of ranks nor auto\n"
        "  For example: --processes 4\n");
  CHECK(text({{"nproc_per_node", "gpu"}}) ==
        "error: flag --nproc_per_node: there is no GPU to be used\n");
  CHECK(text({{"master_port", "70000"}}) ==
        "error: flag --master_port: there is no port 70000\n"
        "  Ports go up to 65535.\n");
  CHECK(text({{"redirects", "4"}}) ==
        "error: flag --redirects: '4' names no streams\n"
        "  0 none, 1 stdout, 2 stderr, 3 both, or by local rank: 0:1,1:3\n");
  CHECK(text({{"local_ranks_filter", "a"}}) ==
        "error: flag --local_ranks_filter: 'a' names no ranks\n"
        "  For example: --local-ranks-filter 0,1\n");
  CHECK(text({{"event_log_handler", "mine"}}) ==
        "error: event log handler mine is not supported\n"
        "  It would be a Python plugin, and this launcher has no Python in it.\n");
  CHECK(text({{"module", "True"}, {"no_python", "True"}}) ==
        "error: --module and --no-python exclude each other\n"
        "  Name one of them.\n");
  CHECK(text({{"rdzv_conf", "fast"}}) ==
        "error: --rdzv-conf: 'fast' is not KEY=VALUE\n"
        "  For example: --rdzv-conf join_timeout=300\n");
  CHECK(text({{"grace", "-1"}}) ==
        "error: flag --grace: '-1' is not a number of seconds from 0 to 86400\n");
  CHECK(text({{"max_restarts", "x"}}) ==
        "error: flag --max_restarts: 'x' is not a number of 0 or more\n");
}

TEST_CASE("which streams reach the console") {
  LaunchOptions options = Program({"sh"});
  Set(options, "nproc_per_node", "3");
  Set(options, "redirects", "0:3,1:1");
  Set(options, "tee", "0:2");
  Set(options, "local_ranks_filter", "0,1");
  const LaunchPlan plan = Plan(options).value();
  CHECK_FALSE(plan.ranks[0].shown[0]);
  CHECK(plan.ranks[0].shown[1]);
  CHECK_FALSE(plan.ranks[1].shown[0]);
  CHECK(plan.ranks[1].shown[1]);
  CHECK_FALSE(plan.ranks[2].shown[0]);
  CHECK_FALSE(plan.ranks[2].shown[1]);
}

TEST_CASE("torchrun and accelerate have defaults of their own") {
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "python3", "#!/bin/sh\n", 0755));
  REQUIRE(WriteFileAtomic(scratch / "script", ""));
  const Environment env{{"PYTHON_EXEC", scratch / "python3"}};
  for (const Personality who : {Personality::kTorchrun, Personality::kAccelerate}) {
    LaunchOptions options = Program({scratch / "script"});
    options.personality = who;
    const LaunchPlan plan = Plan(options, Cpu(8), env).value();
    CHECK(plan.ranks.size() == 1);
    CHECK(plan.argv.front() == scratch / "python3");  // whatever the script's name ends with
    // As torchrun: LOG_DIR/<run id>_<random>/attempt_<k>/<local rank>
    const fs::path logs = RankLogs(plan, {0, 1, 4, 8, "a", 1}, 0);
    CHECK(logs.string().starts_with("/logs/envkit-"));
    CHECK(logs.string().ends_with("/attempt_0/0"));
  }
}

TEST_CASE("every rank alone with its GPU") {
  LaunchOptions options = Program({"sh"});
  Set(options, "virtual_local_rank", "True");
  Set(options, "gpu_ids", "1,0");
  const LaunchPlan plan = Plan(options, Gpus(4)).value();
  REQUIRE(plan.ranks.size() == 2);
  const Variables all = RankVariables(plan, {}, 1);
  std::map<std::string, std::string> variables;
  for (const auto& [name, value] : all) variables[name] = value;
  CHECK(variables["LOCAL_RANK"] == "0");
  CHECK(variables["CUDA_VISIBLE_DEVICES"] == "0");
}

TEST_CASE("what the user has set stays") {
  const LaunchPlan plan = Plan(Program({"sh"}), Cpu(8),
                               {{"OMP_NUM_THREADS", "3"}, {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "0"}})
                              .value();
  for (const auto& [name, value] : RankVariables(plan, {}, 0)) {
    CHECK(name != "OMP_NUM_THREADS");
    CHECK(name != "TORCH_NCCL_ASYNC_ERROR_HANDLING");
  }
}

TEST_CASE("every rank has a thread even where there are more ranks than processors") {
  LaunchOptions options = Program({"sh"});
  Set(options, "nproc_per_node", "64");
  CHECK(Plan(options, Cpu(2)).value().env.back() ==
        std::pair<std::string, std::string>("OMP_NUM_THREADS", "1"));
}

TEST_CASE("without a number: one rank for each GPU") {
  CHECK(Count(Gpus(1)) == 1);
  CHECK(Count(Gpus(8)) == 8);
  CHECK(Plan(Program({"sh"}), Gpus(8)).value().gpus.size() == 8);
  CHECK(Note(Gpus(8)).empty());
  CHECK(Count(Gpus(8), {{"CUDA_VISIBLE_DEVICES", "0,2"}}) == 2);
  CHECK(Count(Gpus(1), {{"CUDA_VISIBLE_DEVICES", "0,1,2,3"}}) == 1);
}

TEST_CASE("without a number and without a GPU: NUMA nodes, and at least 2") {
  CHECK(Count(Cpu(1)) == 1);
  CHECK(Count(Cpu(2)) == 2);
  CHECK(Count(Cpu(64)) == 2);
  CHECK(Count(Cpu(64, 4)) == 4);
  CHECK(Plan(Program({"sh"}), Cpu(64)).value().gpus.empty());
  CHECK(Note(Cpu(64, 4)) == "no GPU found: 4 ranks on CPU");
  CHECK(Note(Cpu(1)) == "no GPU found: 1 rank on CPU");
  for (const char* hidden : {"", "-1"}) {
    CAPTURE(hidden);
    CHECK(Count(Gpus(8), {{"CUDA_VISIBLE_DEVICES", hidden}}) == 2);
    CHECK(Note(Gpus(8), {{"CUDA_VISIBLE_DEVICES", hidden}}) ==
          "CUDA_VISIBLE_DEVICES hides every GPU: 2 ranks on CPU");
  }
}

TEST_CASE("the GPUs of the ranks are leased, by where they are, and a rank's own launch has them") {
  LaunchOptions options = Program({"sh", "-c", "secret"});
  Set(options, "nproc_per_node", "2");
  const LeasePlan lease =
      Plan(options, Gpus(4), {{"CUDA_VISIBLE_DEVICES", "1,3,2"}, {"ENVKIT_LOCK_DIR", "/locks"}})
          .value()
          .lease;
  CHECK(lease.directory == "/locks");
  CHECK(lease.gpus == std::vector<std::pair<std::string, std::string>>{{"0000:01:00.0", "1"},
                                                                       {"0000:03:00.0", "3"}});
  CHECK(lease.holder == "sh");
  CHECK_FALSE(lease.share);
  Set(options, "share", "True");
  CHECK(Plan(options, Gpus(4)).value().lease.share);
  CHECK(Plan(options, Gpus(4), {{"ENVKIT_LEASED", "1"}}).value().lease.gpus.empty());
  CHECK(Plan(options, Cpu(4)).value().lease.gpus.empty());
}

TEST_CASE("on WSL the driver's library speaks for a GPU") {
  HostFacts facts = Cpu(8);
  facts.wsl = facts.wsl_driver = true;
  const LaunchPlan plan = Plan(Program({"sh"}), facts).value();
  CHECK(plan.ranks.size() == 1);
  CHECK_FALSE(plan.gpus.empty());
  CHECK(plan.notes.empty());
}

TEST_CASE("a GPU that cannot be used never makes it the CPU silently") {
  HostFacts facts = Gpus(2);
  facts.uvm_node = false;
  const auto plan = Plan(Program({"sh"}), facts);
  REQUIRE(!plan);
  CHECK(plan.error().code == ExitCode::kMissing);
  CHECK(plan.error().Text() ==
        "error: the NVIDIA driver is loaded, but /dev/nvidia-uvm is missing\n"
        "  sudo nvidia-modprobe -u -c=0\n"
        "  in a container: start it with its GPUs (docker run --gpus all)\n");
  LaunchOptions options = Program({"sh"});
  Set(options, "nproc_per_node", "3");  // said by the user, so it is no silence
  CHECK(Plan(options, facts).value().ranks.size() == 3);
  CHECK(Plan(options, facts).value().gpus.empty());
}

TEST_CASE("a script runs in Python, a module too, and a program as it is") {
  const Scratch scratch;
  const std::string python = scratch / "python9";
  const std::string script = scratch / "train.py";
  REQUIRE(WriteFileAtomic(python, "#!/bin/sh\n", 0755));
  REQUIRE(WriteFileAtomic(script, "", 0644));
  const Environment env{{"PYTHON", python}};
  using Words = std::vector<std::string>;

  LaunchOptions options = Program({script, "--lr", "1"});
  LaunchPlan plan = Plan(options, Cpu(8), env).value();
  CHECK(plan.program == python);
  CHECK(plan.argv == Words{python, "-u", script, "--lr", "1"});

  options = Program({"torch.utils.bottleneck", "x.py"});
  Set(options, "module", "True");
  CHECK(Plan(options, Cpu(8), env).value().argv ==
        Words{python, "-u", "-m", "torch.utils.bottleneck", "x.py"});

  options = Program({script});
  Set(options, "no_python", "True");
  CHECK(ErrorText(options) == "error: " + script +
                                  " is not an executable file\n"
                                  "  Make it one (chmod +x " +
                                  script + "), or name a .py script.\n");
  REQUIRE(chmod(script.c_str(), 0755) == 0);
  plan = Plan(options).value();
  CHECK(plan.program == script);
  CHECK(plan.argv == Words{script});
}

TEST_CASE("errors of a launch before it starts") {
  const Scratch scratch;
  const std::string here = fs::canonical(scratch.path());
  const Directory directory(here);
  REQUIRE(WriteFileAtomic("mine", "#!/bin/sh\n", 0755));
  REQUIRE(WriteFileAtomic("train.py", "", 0644));
  CHECK(ErrorText(Program({})) ==
        "error: nothing to launch\n"
        "  Name a script or a program: envkit launch train.py\n");
  CHECK(ErrorText(Program({"envkit-no-such"})) ==
        "error: there is no program envkit-no-such on PATH\n"
        "  Check the name, or give the path to it.\n");
  CHECK(ErrorText(Program({"mine"})) ==
        "error: there is no program mine on PATH\n"
        "  For the file in this directory, say ./mine\n");
  CHECK(ErrorText(Program({"./no-such"})) ==
        "error: there is no program ./no-such\n"
        "  Check the path.\n");
  CHECK(ErrorText(Program({"/etc/passwd"})) ==
        "error: /etc/passwd is not an executable file\n"
        "  Make it one (chmod +x /etc/passwd), or name a .py script.\n");
  CHECK(ErrorText(Program({"no-such.py"})) ==
        "error: cannot read the script no-such.py: no such file\n"
        "  Looked for it from " +
            here + "\n");
  CHECK(Plan(Program({"no-such.py"})).error().code == ExitCode::kUsage);
  CHECK(ErrorText(Program({"train.py"}), Cpu(8), {{"PYTHON", "python-none"}}) ==
        "error: train.py needs Python, and python-none cannot be run\n"
        "  Install python3 or name an interpreter in PYTHON; for a program that is not Python, "
        "say --no-python.\n");
  CHECK(Plan(Program({"train.py"}), Cpu(8), {{"PYTHON", "python-none"}}).error().code ==
        ExitCode::kMissing);
}

TEST_CASE("where the logs go") {
  const Scratch scratch;
  const fs::path here = fs::canonical(scratch.path());
  const Directory directory(here);
  LaunchOptions options = Program({"sh"});
  Set(options, "log_dir", "x/../logs");
  CHECK(Plan(options).value().log_dir == here / "logs");
  CHECK(Plan(options).value().new_run_directory.empty());

  options.flags.clear();
  CHECK(Plan(options, Cpu(8), {{"ENVKIT_RUN_DIR", "/run/7"}}).value().log_dir == "/run/7/log");

  const fs::path first = here / ".envkit/runs/20260701T123005Z-launch";
  LaunchPlan plan = Plan(options).value();
  CHECK(plan.new_run_directory == first);
  CHECK(plan.log_dir == first / "log");
  CHECK(plan.env.back() == std::pair<std::string, std::string>("ENVKIT_RUN_DIR", first));
  CHECK_FALSE(fs::exists(here / ".envkit"));  // a plan changes nothing

  fs::create_directories(first);
  CHECK(Plan(options).value().new_run_directory == first.string() + "-2");

  // Nobody can make a directory there, as where `.envkit` belongs to another user.
  fs::remove_all(here / ".envkit");
  std::ofstream(here / ".envkit") << "a file";
  CHECK(Plan(options).value().new_run_directory ==
        fs::temp_directory_path() / ("envkit-" + std::to_string(getuid())) / first.filename());
}

TEST_CASE("how long ranks have to stop") {
  using namespace std::chrono_literals;
  LaunchOptions options = Program({"sh"});
  CHECK(Plan(options).value().grace == 25s);
  CHECK(Plan(options).value().failure_grace == 5s);
  Set(options, "grace", "0.25");
  CHECK(Plan(options).value().grace == 250ms);
  CHECK(Plan(options).value().failure_grace == 250ms);
}

TEST_CASE("later variables replace earlier ones") {
  CHECK(MergedEnvironment({{"A", "1"}, {"B", "2"}}, {{{"B", "3"}, {"C", "4"}}, {{"C", "5=6"}}}) ==
        std::vector<std::string>{"A=1", "B=3", "C=5=6"});
  REQUIRE(setenv("ENVKIT_TEST_OWN", "a=b", 1) == 0);
  CHECK(OwnEnvironment().at("ENVKIT_TEST_OWN") == "a=b");
  unsetenv("ENVKIT_TEST_OWN");
}

}  // namespace envkit
