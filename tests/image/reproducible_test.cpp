// Two machines: other store, time zone, umask, host name, user. One image.
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/world.h"

namespace envkit {
namespace {

struct Machine {
  const char* name;
  const char* time_zone;
  mode_t mask;
  uid_t user;
};

// In a process of its own; the image's identity goes through a pipe.
std::string IdentityOn(const Machine& machine) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    if (geteuid() == 0) {
      if (unshare(CLONE_NEWUTS) != 0 || sethostname(machine.name, strlen(machine.name)) != 0) {
        _exit(3);
      }
      if (machine.user != 0 &&
          (setgroups(0, nullptr) != 0 || setgid(machine.user) != 0 || setuid(machine.user) != 0)) {
        _exit(4);
      }
    }
    World world;  // first: a zip has the local time of its files in it
    world.ProvideSystems(world.Plan());
    umask(machine.mask);
    setenv("TZ", machine.time_zone, 1);
    tzset();
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    Terminal terminal(options);
    const RunInRoot compile = [](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
      for (const auto& bind : sandbox.binds) {
        if (bind.container == "/out") {
          WriteFiles(bind.host, {{"opt/envkit/bin/envkit-train", "train"}});
        }
      }
      return BuildSandboxResult{};
    };
    const auto image = BuildImage(world.project, world.lock, world.recipes, "train", "cpu",
                                  world.store, compile, terminal);
    std::string identity = image ? image->config_digest + "\n" : image.error().Text();
    if (image) {
      for (const Layer& layer : image->layers) identity += layer.diff_id + "\n";
    }
    const bool written =
        write(ends[1], identity.data(), identity.size()) == static_cast<ssize_t>(identity.size());
    _exit(written && image ? 0 : 1);
  }
  close(ends[1]);
  std::string identity;
  char part[4096];
  for (ssize_t got = 0; (got = read(ends[0], part, sizeof part)) > 0;) {
    identity.append(part, static_cast<std::size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE_MESSAGE(status == 0, identity);
  return identity;
}

}  // namespace

TEST_CASE("time zone, umask, user and host name leave no trace in an image") {
  const std::string one = IdentityOn({"alpha", "UTC", 022, 0});
  const std::string other = IdentityOn({"beta", "Asia/Tokyo", 077, 65534});
  CHECK(one.size() == 6 * 65);
  CHECK(one == other);
}

}  // namespace envkit
