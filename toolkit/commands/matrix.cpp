#include "matrix/matrix.h"

#include <fmt/format.h>

#include <memory>

#include "commands/all.h"
#include "host/facts.h"
#include "image/recipe.h"
#include "matrix/show.h"
#include "session/driver.h"

namespace envkit {
namespace {

struct MatrixOptions {
  std::string torch, cuda, driver, gpu;
};

Result<std::string> VersionOf(const std::string& option, const std::string& text) {
  if (text.empty() || IsVersion(text)) return text;
  return Usage(fmt::format("{} is a version, not \"{}\"", option, text),
               "Such as: envkit matrix --torch 2.8 --cuda 12.6");
}

Result<int> RunMatrix(const MatrixOptions& options, Context& context) {
  Question question;
  std::string driver_from;
  ENVKIT_TRY(question.torch, VersionOf("--torch", options.torch));
  ENVKIT_TRY(question.cuda, VersionOf("--cuda", options.cuda));
  if (!options.driver.empty()) {
    ENVKIT_TRY(question.machine.driver, ParseDriver(options.driver));
    driver_from = "--driver";
  } else {
    const HostFacts facts = ProbeHost();
    question.machine = MachineOf(facts);
    if (facts.kernel_module && !question.machine.driver) {
      context.terminal.Warn(fmt::format(
          "this machine's driver calls itself \"{}\", which is no version", *facts.kernel_module));
    }
    if (question.machine.driver) driver_from = "this machine";
  }
  if (!options.gpu.empty()) {
    question.machine.gpu = ParseCapability(options.gpu);
    if (!question.machine.gpu) {
      return Usage(fmt::format("--gpu is a compute capability, not \"{}\"", options.gpu),
                   "Such as 9.0 for an H100; this names a machine's own:\n"
                   "nvidia-smi --query-gpu=compute_cap --format=csv,noheader");
    }
  }
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(const Matrix matrix, LoadMatrix(share / "images"));
  const MatrixAnswer answer = AnswerMatrix(matrix, question, driver_from);
  context.terminal.Answer(context.json ? MatrixToJson(matrix, answer).dump(2)
                                       : MatrixText(matrix, answer));
  return static_cast<int>(answer.verdict.fit == Fit::kFits ? ExitCode::kOk : ExitCode::kFailed);
}

}  // namespace

Command MatrixCommand() {
  return {"matrix", "Say which PyTorch and CUDA run here, or on a driver and a GPU",
          "envkit matrix --driver 550                  the newest that it runs\n"
          "envkit matrix --torch 2.8 --cuda 12.1       why not, and the nearest that exists",
          [](CLI::App& app) -> Action {
            auto options = std::make_shared<MatrixOptions>();
            app.add_option("--torch", options->torch, "A line such as 2.15, or a release")
                ->type_name("VERSION");
            app.add_option("--cuda", options->cuda, "Such as 12.8")->type_name("VERSION");
            app.add_option("--driver", options->driver,
                           "NVIDIA's driver; this machine's by default")
                ->type_name("VERSION");
            app.add_option("--gpu", options->gpu, "Its compute capability, such as 9.0")
                ->type_name("CC");
            return [options](Context& context) { return RunMatrix(*options, context); };
          }};
}

}  // namespace envkit
