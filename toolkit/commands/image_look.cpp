#include <fmt/format.h>

#include <chrono>
#include <set>

#include "commands/image.h"
#include "image/contents.h"
#include "image/stored.h"

namespace envkit {
namespace {

void Answer(Context& context, const nlohmann::json& json, const std::string& text) {
  context.terminal.Answer(context.json ? json.dump(2) : text);
}

Result<int> List(Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const auto images, ListImages(store));
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  Answer(context, ListToJson(images), ListText(images, now));
  return 0;
}

Result<int> Inspect(const ImageChoice& choice, bool tree, Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const Image image, SelectImage(context.directory, choice, store));
  std::vector<ContentLayer> layers;
  if (tree) {
    ENVKIT_TRY(layers, ReadContents(image));
  }
  nlohmann::json json = ImageToJson(image);
  if (tree) json["tree"] = TreeToJson(layers);
  Answer(context, json, InspectText(image, layers));
  return 0;
}

Result<int> History(const ImageChoice& choice, Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const Image image, SelectImage(context.directory, choice, store));
  ENVKIT_TRY(const auto images, ListImages(store));
  std::vector<LayerUse> uses;
  for (const Layer& layer : image.layers) {
    LayerUse& use = uses.emplace_back(LayerUse{layer, 0});
    for (const StoredImage& other : images) {
      for (const Layer& its : other.image.layers) {
        if (its.diff_id == layer.diff_id) ++use.images;
      }
    }
  }
  Answer(context, HistoryToJson(image, uses), HistoryText(uses));
  return 0;
}

Result<int> Diff(const std::string& before, const std::string& after, Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const Image a, FindStoredImage(before, store));
  ENVKIT_TRY(const Image b, FindStoredImage(after, store));
  ENVKIT_TRY(const ImageDiff diff, DiffImages(a, b));
  Answer(context, DiffToJson(a, b, diff), DiffText(a, b, diff));
  return 0;
}

}  // namespace

void AddLooking(CLI::App& image, const ChosenAction& chosen) {
  AddSubcommand(image, chosen, "ls", "The images that are here", "envkit image ls --json", List);

  struct InspectOptions {
    ImageChoice choice;
    bool tree = false;
  };
  auto inspect = std::make_shared<InspectOptions>();
  CLI::App* app = AddSubcommand(
      image, chosen, "inspect", "What an image is and holds",
      "envkit image inspect --tree mnist:train-cuda",
      [inspect](Context& context) { return Inspect(inspect->choice, inspect->tree, context); });
  AddImageChoice(*app, inspect->choice);
  app->add_flag("--tree", inspect->tree,
                "What takes the room, by layer, package and file, and why");

  auto history = std::make_shared<ImageChoice>();
  app = AddSubcommand(image, chosen, "history", "An image's layers in order",
                      "envkit image history mnist:train-cpu",
                      [history](Context& context) { return History(*history, context); });
  AddImageChoice(*app, *history);

  auto sides = std::make_shared<std::pair<std::string, std::string>>();
  app = AddSubcommand(
      image, chosen, "diff", "What changed between two images, by package and in MB",
      "envkit image diff 3f9a02bc mnist:train-cpu",
      [sides](Context& context) { return Diff(sides->first, sides->second, context); });
  app->add_option("before", sides->first, "A tag or a digest's beginning")->required();
  app->add_option("after", sides->second, "The one to compare it with")->required();
}

}  // namespace envkit
