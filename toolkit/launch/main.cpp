#include "launch/launch.h"
#include "launch/options.h"
#include "launch/output.h"

namespace {

int Run(int argc, char** argv) {
  CLI::App app{"Run a program once for every GPU, and end all of it when one fails.",
               "envkit-launch"};
  envkit::LaunchOptions options;
  envkit::AddLaunchOptions(app, options);
  app.set_version_flag("--version", "envkit-launch " ENVKIT_VERSION, "say which version this is");
  app.footer("Example:\n  envkit-launch --processes 2 -- ./train --config train.toml");
  envkit::Sink output(1);
  envkit::Sink errors(2);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    output.Write(app.help());
    return 0;
  } catch (const CLI::CallForVersion&) {
    output.Write("envkit-launch " ENVKIT_VERSION "\n");
    return 0;
  } catch (const CLI::ParseError& error) {
    errors.Write(std::string("error: ") + error.what() + "\n  See envkit-launch --help.\n");
    return 2;
  }
  auto result = envkit::TakeProgram(app, options).and_then([&] { return envkit::Launch(options); });
  if (result) return *result;
  errors.Write(result.error().Text());
  return static_cast<int>(result.error().code);
}

}  // namespace

int main(int argc, char** argv) { return Run(argc, argv); }
