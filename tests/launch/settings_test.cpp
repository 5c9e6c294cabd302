#include "launch/settings.h"

#include <doctest/doctest.h>

#include "base/scratch.h"
#include "launch/yaml.h"

namespace envkit {
namespace {

using Environment = std::map<std::string, std::string>;

struct Case {
  Scratch scratch;
  FlagValues flags;
  Environment env;
  std::string project, user;  // the files' texts

  Result<Settings> Read(std::vector<std::string>* notes = nullptr) const {
    ConfigPlaces places;
    if (!project.empty()) {
      places.project = scratch / "project.yaml";
      REQUIRE(WriteFileAtomic(places.project, project));
    }
    if (!user.empty()) {
      places.user = scratch / "user.yaml";
      REQUIRE(WriteFileAtomic(places.user, user));
    }
    std::vector<std::string> ignored;
    return ReadSettings(flags, env, places, notes == nullptr ? ignored : *notes);
  }
  std::string Error() const {
    const auto settings = Read();
    if (settings) return "no error";
    std::string text = settings.error().Text();
    const std::string prefix = scratch.path().string() + "/";
    for (std::size_t at = 0; (at = text.find(prefix)) != std::string::npos;) {
      text.erase(at, prefix.size());
    }
    return text;
  }
};

std::map<std::string, std::string> AccelerateMap(const Settings& settings, const Environment& env,
                                                 bool alone, bool always) {
  const Variables variables = AccelerateVariables(settings, env, alone, always).value();
  return {variables.begin(), variables.end()};
}

std::string YamlError(const std::string& text) {
  const auto entries = ParseFlatYaml(text, "c.yaml");
  return entries ? "no error" : entries.error().what;
}

// As `accelerate config` writes them.
constexpr const char* kConfig = R"(compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
enable_cpu_affinity: false
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_offload_params: false
  fsdp_reshard_after_forward: true
  fsdp_version: 2
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 4
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
)";

}  // namespace

TEST_CASE("a flag goes over the environment, over the project, over the user's file") {
  Case all;
  all.user = "distributed_type: 'NO'\nnum_processes: 2\nmixed_precision: fp16\nmachine_rank: 3\n";
  all.project = "# ours\nnum_processes: 3\nmixed_precision: bf16\n";
  all.env = {{"PET_NPROC_PER_NODE", "4"}, {"PET_ROLE", "trainer"}};
  all.flags["role"] = {"mine", "--role"};
  const Settings settings = all.Read().value();
  CHECK(settings.Find("num_processes") == nullptr);  // PET_NPROC_PER_NODE says it otherwise
  CHECK(settings.Get("nproc_per_node") == "4");
  CHECK(settings.Find("nproc_per_node")->source == "environment PET_NPROC_PER_NODE");
  CHECK(settings.Get("role") == "mine");
  CHECK(settings.Find("role")->source == "flag --role");
  CHECK(settings.Get("mixed_precision") == "bf16");
  CHECK(settings.Find("mixed_precision")->source == (all.scratch / "project.yaml").string() + ":3");
  CHECK(settings.Get("node_rank") == "3");
  CHECK(settings.Find("node_rank")->source == (all.scratch / "user.yaml").string() + ":4");
}

TEST_CASE("what accelerate config writes") {
  Case config;
  config.user = kConfig;
  const Settings settings = config.Read().value();
  CHECK(settings.On("use_fsdp"));
  CHECK(settings.Get("fsdp_version") == "2");
  CHECK(settings.Get("num_processes") == "4");
  auto variables = AccelerateMap(settings, {}, false, true);
  CHECK(variables["ACCELERATE_USE_FSDP"] == "true");
  CHECK(variables["FSDP_VERSION"] == "2");
  CHECK(variables["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP");
  CHECK(variables["FSDP_RESHARD_AFTER_FORWARD"] == "true");
  CHECK(variables["FSDP_OFFLOAD_PARAMS"] == "false");
  CHECK(variables["ACCELERATE_MIXED_PRECISION"] == "bf16");
  CHECK_FALSE(variables.contains("ACCELERATE_USE_CPU"));

  // --cpu is stronger than what the file says of devices.
  config.flags["cpu"] = {"True", "--cpu"};
  config.flags["config_file"] = {config.scratch / "user.yaml", "--config-file"};
  variables = AccelerateMap(config.Read().value(), {}, false, true);
  CHECK(variables["ACCELERATE_USE_CPU"] == "True");
  CHECK_FALSE(variables.contains("ACCELERATE_USE_FSDP"));
  CHECK_FALSE(variables.contains("KMP_AFFINITY"));  // several ranks would pile up
}

TEST_CASE("without anything of accelerate's nothing of it is set, and what is exported stays") {
  Case nothing;
  CHECK(AccelerateMap(nothing.Read().value(), {}, true, false).empty());
  nothing.flags["dynamo_mode"] = {"max-autotune", "--dynamo-mode"};
  const auto variables =
      AccelerateMap(nothing.Read().value(), {{"ACCELERATE_MIXED_PRECISION", "bf16"}}, true, false);
  CHECK_FALSE(variables.contains("ACCELERATE_MIXED_PRECISION"));
  CHECK(variables.at("ACCELERATE_DYNAMO_MODE") == "max-autotune");
}

TEST_CASE("errors in a config file") {
  Case bad;
  bad.project = "num_procesess: 2\n";
  CHECK(bad.Error() ==
        "error: project.yaml:1: there is no key `num_procesess`\n"
        "  Did you mean `num_processes`?\n");
  bad.project = "fsdp_config:\n  fsdp_versoin: 2\n";
  CHECK(bad.Error() ==
        "error: project.yaml:2: there is no key `fsdp_versoin` in fsdp_config\n"
        "  Did you mean `fsdp_version`?\n");
  bad.project = "fsdp_confg:\n  fsdp_version: 2\n";
  CHECK(bad.Error() ==
        "error: project.yaml:2: there is no key `fsdp_confg` with keys of its own\n"
        "  Did you mean `fsdp_config`?\n");
  bad.project = "distributed_type: MULTI_GPUS\n";
  CHECK(bad.Error() ==
        "error: project.yaml:1: there is no distributed_type \"MULTI_GPUS\"\n"
        "  Did you mean MULTI_GPU?\n");
  bad.project = "distributed_type: XLA\n";
  CHECK(bad.Error() ==
        "error: project.yaml:1: distributed_type XLA is for devices that envkit does not support\n"
        "  It starts ranks on NVIDIA GPUs and on CPUs.\n");
  bad.project = "compute_environment: AMAZON_SAGEMAKER\n";
  CHECK(bad.Error() ==
        "error: project.yaml:1: compute_environment AMAZON_SAGEMAKER is not supported\n"
        "  It starts ranks on this machine: LOCAL_MACHINE.\n");
  bad.project = "tpu_use_sudo: true\n";
  CHECK(bad.Error() == "error: project.yaml:1: tpu_use_sudo: TPUs are not supported\n");
  bad.project = "mixed_precision: fp64\n";
  CHECK(bad.Error() ==
        "error: project.yaml:1: there is no mixed-precision \"fp64\"\n"
        "  It is no, fp16, bf16 or fp8.\n");
  bad.project.clear();
  bad.flags["config_file"] = {"/no/such.yaml", "--config-file"};
  CHECK(bad.Error() ==
        "error: there is no config file /no/such.yaml\n"
        "  Write one with accelerate config, or leave out --config-file.\n");
  bad.flags = {{"cpu", {"True", "--cpu"}}, {"multi_gpu", {"True", "--multi-gpu"}}};
  CHECK(bad.Error() == "error: --cpu and --multi-gpu exclude each other\n  Name one of them.\n");
  bad.flags.clear();
  bad.env = {{"PET_STANDALONE", "yes"}};
  CHECK(bad.Error() == "error: PET_STANDALONE=yes: it is neither 0 nor 1\n");
}

TEST_CASE("the part of YAML that is read") {
  const auto entries = ParseFlatYaml(
      "---\na: 1 # one\nb: 'it''s'\nc: \"x\\ty # z\"\nd:\n  e: Yes\n  f: ~\ng: [1, 'b', c]\n"
      "h: http://a:80/x#y\ni:\n- p\n- q\nj:\n",
      "c.yaml");
  REQUIRE(entries);
  std::map<std::string, std::string> got;
  for (const auto& entry : *entries) {
    got[entry.section + "/" + entry.key] = entry.null ? "(null)" : entry.value;
  }
  CHECK(got == std::map<std::string, std::string>{{"/a", "1"},
                                                  {"/b", "it's"},
                                                  {"/c", "x\ty # z"},
                                                  {"d/e", "True"},
                                                  {"d/f", "(null)"},
                                                  {"/g", "1,b,c"},
                                                  {"/h", "http://a:80/x#y"},
                                                  {"/i", "p,q"},
                                                  {"/j", "(null)"}});
  CHECK(YamlError("a: &x 1\n") == "c.yaml:1: cannot read the value of `a`");
  CHECK(YamlError("a: |\n  text\n") == "c.yaml:1: cannot read the value of `a`");
  CHECK(YamlError("a: 1\n\tb: 2\n") == "c.yaml:2: a tab indents this line; YAML wants spaces");
  CHECK(YamlError("a: 1\n  b: 2\n") == "c.yaml:2: unexpected indent before `b`");
  CHECK(YamlError("a:\n  b: 2\n    c: 3\n") == "c.yaml:3: unexpected indent before `c`");
  CHECK(YamlError("a: 1\na: 2\n") == "c.yaml:2: `a` is set twice (first on line 1)");
  CHECK(YamlError("just text\n") == "c.yaml:1: `just text` is not `key: value`");
  CHECK(YamlError("- a\n") == "c.yaml:1: a list without a key");
  CHECK(YamlError("a: 'x\n") == "c.yaml:1: cannot read the value of `a`");
}

TEST_CASE("the older JSON of accelerate") {
  const auto entries =
      ParseFlatJson(R"({"num_processes": 2, "fp16": true, "fsdp_config": {}})", "c.json");
  REQUIRE(entries);
  CHECK(entries->size() == 2);
  CHECK(entries->at(1).value == "True");
  CHECK(ParseFlatJson("[", "c.json").error().what == "c.json:1: this is not a JSON object");
}

TEST_CASE("Slurm, Kubernetes and MPI say where we are") {
  Case slurm;
  slurm.env = {{"SLURM_STEP_NUM_NODES", "2"},
               {"SLURM_JOB_NUM_NODES", "2"},
               {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"},
               {"SLURM_NODEID", "1"},
               {"SLURM_STEP_NODELIST", "gpu-[07-08]"},
               {"SLURM_JOB_ID", "31415"},
               {"SLURM_STEP_ID", "0"},
               {"PMI_SIZE", "2"},
               {"PMI_RANK", "1"}};
  Settings settings = slurm.Read().value();
  CHECK(settings.Get("nnodes") == "2");
  CHECK(settings.Get("node_rank") == "1");
  CHECK(settings.Get("master_addr") == "gpu-07");
  CHECK(settings.Get("master_port") == "16415");
  CHECK(settings.Get("rdzv_id") == "slurm-31415-0");
  slurm.flags["standalone"] = {"True", "--standalone"};
  CHECK(slurm.Read().value().Find("nnodes") == nullptr);
  slurm.flags.clear();
  slurm.env["SLURM_STEP_TASKS_PER_NODE"] = "4(x2)";
  CHECK(slurm.Error() ==
        "error: srun started 4 launchers on this node\n"
        "  envkit launch starts the ranks itself: start it once a node, with "
        "--ntasks-per-node=1.\n");

  Case batch;  // sbatch's script itself, without srun
  batch.env = {{"SLURM_JOB_NUM_NODES", "2"}, {"SLURM_NODEID", "0"}};
  std::vector<std::string> notes;
  CHECK(batch.Read(&notes).value().Find("nnodes") == nullptr);
  REQUIRE(notes.size() == 1);
  CHECK(notes[0] ==
        "this Slurm job has 2 nodes, and only this one is used: start it with srun "
        "--ntasks-per-node=1 to use all");

  Case pod;
  pod.env = {{"JOB_COMPLETION_INDEX", "3"}, {"HOSTNAME", "train-3"}, {"PET_NNODES", "4"}};
  settings = pod.Read().value();
  CHECK(settings.Get("node_rank") == "3");
  CHECK(settings.Get("master_addr") == "train-0");
  CHECK(settings.Get("nnodes") == "4");

  Case mpi;
  mpi.env = {{"OMPI_COMM_WORLD_SIZE", "3"},
             {"OMPI_COMM_WORLD_RANK", "2"},
             {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}};
  settings = mpi.Read().value();
  CHECK(settings.Get("nnodes") == "3");
  CHECK(settings.Get("node_rank") == "2");
  mpi.env["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  CHECK(mpi.Error() ==
        "error: mpirun started 2 launchers on this node\n"
        "  envkit launch starts the ranks itself: start it once a node, with -npernode 1.\n");

  CHECK(FirstSlurmHost("a") == "a");
  CHECK(FirstSlurmHost("a,b") == "a");
  CHECK(FirstSlurmHost("n[3,5-9]-ib.x,m1") == "n3-ib.x");
  CHECK(FirstSlurmHost("r[1-2]n[4-5]") == "r1n4");
  CHECK(FirstSlurmHost("n[3").empty());
}

}  // namespace envkit
