#include "session/compose.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "session/services.h"

using namespace envkit;

namespace {

RunPlan PlanFor(const std::string& profile) {
  RunPlan plan;
  plan.image.name = "mnist:" + profile + "-cuda";
  plan.argv = {"/opt/envkit/bin/envkit-launch", "--", "echo", "$HOME"};
  plan.env = {{"OURS", "a $5 \"word\""}};
  plan.mounts = {{"/home/ana/mnist", "/workspace", false},
                 {"/data/store/mnist", "/data/mnist", true},
                 {"/state/compose", kSessionInside, false}};
  plan.scratch = {"/home/envkit"};
  plan.uid = plan.gid = 1000;
  plan.shm_bytes = 8ull << 30;
  return plan;
}

}  // namespace

TEST_CASE(
    "a compose file: bounded services, secrets as files, nothing that YAML or compose reads") {
  ComposeSetting setting{"mnist", "/home/ana/mnist", "/state/compose", {"train", "dev"}, "cuda"};
  RunPlan train = PlanFor("train"), jupyter = PlanFor("dev");
  train.gpus = true;
  train.memory_bytes = 1ull << 30;
  train.unlimited_memlock = false;
  CHECK(ComposeText(setting, {{"train", train, "train", 0, {}},
                              {"jupyter", jupyter, "dev", 20001, {"jupyter.token"}}}) ==
        R"yaml(# mnist for docker compose. Written, with the files that its secrets name, by
#   envkit render compose --variant cuda -o compose.yaml
# Docker gets the images, which are nowhere else, from:
#   envkit run --engine docker --profile train --variant cuda -- true
#   envkit run --engine docker --profile dev --variant cuda -- true
# Servers listen on 127.0.0.1 of this machine alone, and let in by token or key.
services:
  train:
    image: "mnist:train-cuda"
    pull_policy: "never"
    profiles: ["train"]
    entrypoint: ["/opt/envkit/bin/envkit-launch", "--", "echo", "$$HOME"]
    command: []
    working_dir: "/workspace"
    user: "1000:1000"
    network_mode: "host"
    ipc: "private"
    shm_size: "8589934592"
    security_opt: ["no-new-privileges:true"]
    mem_limit: "1073741824"
    cap_drop: ["ALL"]
    deploy:
      resources:
        reservations:
          devices:
            - {driver: "nvidia", count: "all", capabilities: ["gpu"]}
    environment: ["OURS=a $$5 \"word\""]
    volumes:
      - {type: "bind", source: ".", target: "/workspace"}
      - {type: "bind", source: "/data/store/mnist", target: "/data/mnist", read_only: true}
    tmpfs: ["/home/envkit:exec,mode=0777"]
    stop_grace_period: "60s"
  jupyter:
    image: "mnist:dev-cuda"
    pull_policy: "never"
    profiles: ["dev"]
    entrypoint: ["/opt/envkit/bin/envkit-launch", "--", "echo", "$$HOME"]
    command: []
    working_dir: "/workspace"
    user: "1000:1000"
    network_mode: "host"
    ipc: "private"
    shm_size: "8589934592"
    security_opt: ["no-new-privileges:true"]
    ulimits:
      memlock: -1
    cap_drop: ["ALL"]
    environment: ["OURS=a $$5 \"word\""]
    volumes:
      - {type: "bind", source: ".", target: "/workspace"}
      - {type: "bind", source: "/data/store/mnist", target: "/data/mnist", read_only: true}
      - {type: "volume", source: "home", target: "/home/envkit"}
    secrets:
      - {source: "jupyter_token", target: "/envkit/session/jupyter.token"}
    healthcheck:
      test:
        - "CMD"
        - "python3"
        - "-c"
        - "import socket; socket.create_connection(('127.0.0.1', 20001), 2)"
      interval: "10s"
      timeout: "5s"
      start_period: "30s"
      retries: 3
    restart: "unless-stopped"
    stop_grace_period: "15s"
volumes:
  home: {}
secrets:
  jupyter_token:
    file: "/state/compose/jupyter.token"
)yaml");
  train.gpu_devices = {"0", "2"};
  CHECK(ComposeText(setting, {{"train", train, "train", 0, {}}})
            .find(R"(- {driver: "nvidia", device_ids: ["0", "2"], capabilities: ["gpu"]})") !=
        std::string::npos);
  train.gpu_devices = {"nvidia.com/gpu=0"};
  CHECK(
      ComposeText(setting, {{"train", train, "train", 0, {}}})
          .find(R"(- {driver: "cdi", device_ids: ["nvidia.com/gpu=0"], capabilities: ["gpu"]})") !=
      std::string::npos);
}

TEST_CASE(
    "a development container names no path of this machine, and no GPU where none is wanted") {
  DevContainer container{"mnist", "cuda", "/home/ana/mnist", "/home/ana", PlanFor("dev"), {"OURS"}};
  container.plan.mounts.push_back({"/home/ana/mnist/more", "/more", false});
  container.plan.mounts.push_back({"/home/ana/.local/share/x", "/x", true});
  container.plan.mounts.push_back({"/envkit/passwd", "/etc/passwd", true});
  const auto document = nlohmann::json::parse(DevContainerText(container));
  CHECK(document["mounts"].dump() ==
        R"(["type=bind,source=/data/store/mnist,target=/data/mnist,readonly",)"
        R"("type=bind,source=${localWorkspaceFolder}/more,target=/more",)"
        R"("type=bind,source=${localEnv:HOME}/.local/share/x,target=/x,readonly"])");
  CHECK(document["hostRequirements"]["gpu"] == "optional");
  CHECK(document["containerEnv"].dump() == R"({"OURS":"a $5 \"word\""})");
  CHECK(document["workspaceMount"] == "type=bind,source=${localWorkspaceFolder},target=/workspace");
  CHECK(document["remoteUser"] == "envkit");
  container.variant = "cpu";
  CHECK_FALSE(nlohmann::json::parse(DevContainerText(container)).contains("hostRequirements"));
  CHECK(DevContainerDockerfile(container).find("FROM mnist:dev-cuda\nRUN useradd --uid 1000 ") !=
        std::string::npos);
}
