#include "launch/launch.h"

#include <filesystem>
#include <memory>

#include "commands/all.h"
#include "launch/options.h"

namespace envkit {

Command LaunchCommand() {
  return {"launch", "Run a script or a program once for every GPU", kLaunchExample,
          [](CLI::App& app) -> Action {
            auto options = std::make_shared<LaunchOptions>();
            AddLaunchOptions(app, *options);
            return [&app, options](Context& context) -> Result<int> {
              ENVKIT_CHECK(TakeProgram(app, *options));
              std::error_code error;
              std::filesystem::current_path(context.directory, error);
              if (error) {
                return Usage("-C " + context.directory.string() + ": " + error.message());
              }
              return Launch(*options);
            };
          }};
}

}  // namespace envkit
