#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "launch/launch.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/process.h"

namespace {

using envkit::Personality;

// The shims are links to this program: /opt/envkit/bin/torchrun and accelerate stand before the
// wheels' own on PATH, and are those launchers without their start-up time.
Personality PersonalityOf(const std::string& name) {
  if (name == "torchrun") return Personality::kTorchrun;
  if (name == "accelerate" || name == "accelerate-launch") return Personality::kAccelerate;
  return Personality::kEnvkit;
}

// Becomes the next program on PATH with our name: `accelerate config` and the like are the wheel's.
int BecomeTheOther(const std::string& name, char** argv) {
  const auto env = envkit::OwnEnvironment();
  const auto path = env.find("PATH");
  std::string rest = path == env.end() ? "" : path->second;
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self);
  const std::string own(self, static_cast<std::size_t>(length < 0 ? 0 : length));
  envkit::Sink errors(STDERR_FILENO);
  while (!rest.empty()) {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    const std::string directory = rest.substr(0, colon);
    rest.erase(0, std::min(colon + 1, rest.size()));
    const auto found = envkit::FindProgram(name, directory);
    char target[4096];
    const char* real = found.error == 0 ? realpath(found.path.c_str(), target) : nullptr;
    if (real == nullptr || own == real) continue;
    execv(found.path.c_str(), argv);
    errors.Write("error: cannot run " + found.path + ": " + std::strerror(errno) + "\n");
    return 126;
  }
  errors.Write("error: there is no " + name + " on PATH behind envkit's\n" +
               "  It comes with the Python package: add it to envkit.toml. `" + name +
               " launch` needs none.\n");
  return 127;
}

int Run(Personality personality, const std::string& name, std::vector<std::string> arguments) {
  CLI::App app{"Run a program once for every GPU, and end all of it when one fails.", name};
  envkit::LaunchOptions options;
  options.personality = personality;
  envkit::AddLaunchOptions(app, options);
  app.set_version_flag("--version", "envkit-launch " ENVKIT_VERSION, "say which version this is");
  app.footer("Example:\n  " + name + " --processes 2 -- ./train --config train.toml");
  envkit::Sink output(1);
  envkit::Sink errors(2);
  try {
    std::reverse(arguments.begin(), arguments.end());
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    output.Write(app.help());
    return 0;
  } catch (const CLI::CallForVersion&) {
    output.Write("envkit-launch " ENVKIT_VERSION "\n");
    return 0;
  } catch (const CLI::ParseError& error) {
    errors.Write(std::string("error: ") + error.what() + "\n  See " + name + " --help.\n");
    return 2;
  }
  auto result = envkit::TakeProgram(app, options).and_then([&] { return envkit::Launch(options); });
  if (result) return *result;
  errors.Write(result.error().Text());
  return static_cast<int>(result.error().code);
}

}  // namespace

int main(int argc, char** argv) {
  std::string name = argc > 0 ? argv[0] : "envkit-launch";
  name.erase(0, name.rfind('/') + 1);
  const Personality personality = PersonalityOf(name);
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (name == "accelerate") {
    if (arguments.empty() || arguments.front() != "launch") return BecomeTheOther(name, argv);
    arguments.erase(arguments.begin());
    name = "accelerate launch";
  }
  if (personality == Personality::kEnvkit) name = "envkit-launch";
  return Run(personality, name, std::move(arguments));
}
