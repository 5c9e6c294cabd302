#include "learner.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>

#include "envkit/failure.h"
#include "envkit/models.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Wide enough for sums, whatever forward computed in.
at::Tensor Wide(const at::Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
}

void AddUp(const at::Tensor& logits, const at::Tensor& labels, EvaluationSums* sums,
           at::Tensor* right) {
  const at::Tensor correct = logits.argmax(1).eq(labels);
  sums->loss += at::cross_entropy_loss(Wide(logits), labels, {}, at::Reduction::Sum).item<double>();
  sums->right += correct.sum().item<double>();
  sums->count += static_cast<double>(labels.numel());
  if (right != nullptr) *right = correct;
}

template <class Net>
class Classifier : public Learner {
 public:
  explicit Classifier(Net net) : net_(std::move(net)) {}
  std::vector<NamedTensor> Parameters() const override { return net_.Parameters(); }
  std::vector<NamedTensor> Buffers() const override { return BuffersOf(net_); }
  void Train(bool training) override {
    if constexpr (requires { net_.Train(training); }) net_.Train(training);
  }
  at::Tensor Loss(const Batch& batch) const override {
    return at::cross_entropy_loss(Wide(net_.Forward(batch[0])), batch[1]);
  }
  void Evaluate(const Batch& batch, EvaluationSums* sums, at::Tensor* right) const override {
    AddUp(net_.Forward(batch[0]), batch[1], sums, right);
  }

 private:
  Net net_;
};

class LanguageModel : public Learner {
 public:
  explicit LanguageModel(Gpt net) : net_(std::move(net)) {}
  std::vector<NamedTensor> Parameters() const override { return net_.Parameters(); }
  Blocks& blocks() override { return net_.blocks(); }
  void Train(bool training) override { net_.Train(training); }
  at::Tensor Loss(const Batch& batch) const override { return net_.Loss(batch[0], batch[1]); }
  void Evaluate(const Batch& batch, EvaluationSums* sums, at::Tensor* /*right*/) const override {
    const at::Tensor logits = net_.Forward(batch[0]);
    AddUp(logits.view({-1, logits.size(2)}), batch[1].view({-1}), sums, nullptr);
  }

 private:
  Gpt net_;
};

std::shared_ptr<TensorDataset> Npy(const fs::path& folder, const std::string& part) {
  const at::Tensor inputs = MapNpy(folder / (part + "_inputs.npy"));
  const at::Tensor labels = MapNpy(folder / (part + "_labels.npy"));
  if (inputs.dim() < 2 || labels.dim() != 1 || inputs.size(0) != labels.size(0))
    throw Failure(
        (folder / (part + "_labels.npy")).string() + ": inputs and labels do not belong together",
        "inputs are [n, …], labels [n]", 2);
  return std::make_shared<TensorDataset>(Batch{inputs.to(at::kFloat), labels.to(at::kLong)});
}

}  // namespace

TrainingData OpenData(const TrainConfig& config) {
  TrainingData data;
  const fs::path folder = config.data.directory;
  const auto seed = static_cast<std::uint64_t>(config.seed);
  if (config.data.kind == "mnist") {
    Mnist mnist = Mnist::Open(folder);
    data.rows = mnist.train.rows();
    data.columns = mnist.train.columns();
    data.classes = Mnist::kClasses;
    std::optional<Augmentation> augmentation;
    if (config.data.max_shift > 0 || config.data.max_rotation > 0 || config.data.max_scaling > 0)
      augmentation = Augmentation{seed, 0, config.data.max_shift, config.data.max_rotation,
                                  config.data.max_scaling};
    data.train = std::make_shared<ImageDataset>(std::move(mnist.train), augmentation);
    data.pictures = std::make_shared<ImageDataset>(std::move(mnist.test));
    data.test = data.pictures;
  } else if (config.data.kind == "cifar10") {
    data.channels = 3;
    data.rows = data.columns = 32;
    data.train = std::make_shared<CifarDataset>(folder, true, config.data.augment, seed);
    data.test = std::make_shared<CifarDataset>(folder, false, false, seed);
  } else if (config.data.kind == "images") {
    ImageFolderDataset::Options options{config.data.size, config.data.augment, seed, {}};
    const auto train = std::make_shared<ImageFolderDataset>(folder / "train", options);
    options.augment = false;
    options.classes = train->classes();
    data.train = train;
    data.test = std::make_shared<ImageFolderDataset>(folder / "val", options);
    data.channels = 3;
    data.rows = data.columns = config.data.size;
    data.classes = static_cast<std::int64_t>(options.classes.size());
  } else if (config.data.kind == "npy") {
    const auto train = Npy(folder, "train");
    data.train = train;
    data.test = Npy(folder, "test");
    const at::Tensor one = train->Get(std::vector<std::int64_t>{0}, 0)[0];
    data.channels = one.dim() == 4 ? one.size(1) : 1;
    data.rows = one.dim() > 2 ? one.size(-2) : 1;
    data.columns = one.size(-1);
    std::int64_t most = 0;
    for (const std::string part : {"train", "test"}) {
      const at::Tensor labels = MapNpy(folder / (part + "_labels.npy"));
      if (labels.min().item<std::int64_t>() < 0)
        throw Failure((folder / (part + "_labels.npy")).string() + ": a label is below 0");
      most = std::max(most, labels.max().item<std::int64_t>());
    }
    data.classes = most + 1;
    data.unit = "samples";
  } else {
    const std::int64_t context =
        config.model.size.empty() ? config.model.context : Gpt::Named(config.model.size).context;
    data.train =
        std::make_shared<TokenDataset>(folder / "train.bin", context, config.model.vocabulary);
    data.test =
        std::make_shared<TokenDataset>(folder / "val.bin", context, config.model.vocabulary);
    data.unit = "sequences";
  }
  return data;
}

std::unique_ptr<Learner> MakeLearner(const TrainConfig& config, const TrainingData& data,
                                     at::Device device) {
  const auto seed = static_cast<std::uint64_t>(config.seed);
  const std::string& kind = config.model.kind;
  std::unique_ptr<Learner> learner;
  if (kind == "cnn") {
    learner = std::make_unique<Classifier<ConvNet>>(
        ConvNet({data.channels, data.rows, data.columns, data.classes, seed}, device));
  } else if (kind == "mlp") {
    Mlp::Options options;
    options.sizes = {data.channels * data.rows * data.columns, config.model.hidden, data.classes};
    options.seed = seed;
    learner = std::make_unique<Classifier<Mlp>>(Mlp(options, device));
  } else if (kind == "gpt") {
    Gpt::Options options;
    if (config.model.size.empty()) {
      options.context = config.model.context;
      options.layers = config.model.layers;
      options.heads = config.model.heads;
      options.width = config.model.width;
    } else {
      options = Gpt::Named(config.model.size);
    }
    options.vocabulary = config.model.vocabulary;
    options.dropout = config.model.dropout;
    options.seed = seed;
    learner = std::make_unique<LanguageModel>(Gpt(options, device));
  } else {
    ResNet::Options options;
    options.depth = kind == "resnet18" ? 18 : 50;
    options.channels = data.channels;
    options.classes = data.classes;
    options.small_images = data.rows <= 64;
    options.seed = seed;
    learner = std::make_unique<Classifier<ResNet>>(ResNet(options, device));
  }
  if (!config.model.weights.empty()) {
    std::vector<NamedTensor> tensors = learner->Parameters();
    for (const NamedTensor& buffer : learner->Buffers()) tensors.push_back(buffer);
    LoadWeights(tensors, config.model.weights);
  }
  return learner;
}

}  // namespace envkit
