#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <map>

#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "envkit/models.h"

namespace envkit {
namespace {

// A layer's parameters, in this order.
enum Index { kLn1W, kLn1B, kAttnW, kAttnB, kProjW, kProjB, kLn2W, kLn2B, kFcW, kFcB, kOutW, kOutB };
constexpr const char* kLayerNames[] = {
    "ln_1.weight",        "ln_1.bias",        "attn.c_attn.weight", "attn.c_attn.bias",
    "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight",        "ln_2.bias",
    "mlp.c_fc.weight",    "mlp.c_fc.bias",    "mlp.c_proj.weight",  "mlp.c_proj.bias"};

constexpr double kEpsilon = 1e-5;

// Matrices are [inputs, outputs], as GPT-2's files have them.
at::Tensor Affine(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(1);
  return at::addmm(bias, x.reshape({-1, weight.size(0)}), weight).view(shape);
}

}  // namespace

Gpt::Options Gpt::Named(const std::string& name) {
  Options options;
  const auto set = [&](std::int64_t layers, std::int64_t heads, std::int64_t width) {
    options.layers = layers;
    options.heads = heads;
    options.width = width;
  };
  if (name == "gpt2-medium")
    set(24, 16, 1024);
  else if (name == "gpt2-large")
    set(36, 20, 1280);
  else if (name == "gpt2-xl")
    set(48, 25, 1600);
  else if (name != "gpt2")
    throw Failure("there is no GPT called \"" + name + "\"",
                  "choose gpt2, gpt2-medium, gpt2-large or gpt2-xl", 2);
  return options;
}

Gpt::Gpt(const Options& options, at::Device device) : options_(options) {
  if (options.width % options.heads != 0)
    throw Failure("a width of " + std::to_string(options.width) + " cannot be divided among " +
                      std::to_string(options.heads) + " heads",
                  "choose a width that is a multiple of heads", 2);
  const c10::AutoGradMode no_grad(false);
  const at::Generator generator = at::detail::createCPUGenerator(options.seed);
  const auto leaf = [&](const at::Tensor& values) {
    return values.to(device, options.type).set_requires_grad(true);
  };
  const auto normal = [&](at::IntArrayRef shape, double deviation) {
    return leaf(at::empty(shape, at::kFloat).normal_(0, deviation, generator));
  };
  const auto ones = [&](std::int64_t size) { return leaf(at::ones({size})); };
  const auto zeros = [&](std::int64_t size) { return leaf(at::zeros({size})); };
  constexpr double kDeviation = 0.02;
  const std::int64_t width = options.width;
  // Each layer adds to the residual stream twice.
  const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(options.layers));
  parameters_.push_back({"wte.weight", wte_ = normal({options.vocabulary, width}, kDeviation)});
  parameters_.push_back({"wpe.weight", wpe_ = normal({options.context, width}, kDeviation)});
  std::vector<std::string> prefixes;
  for (std::int64_t i = 0; i < options.layers; ++i) {
    prefixes.push_back("h." + std::to_string(i) + ".");
    layers_.push_back({ones(width), zeros(width), normal({width, 3 * width}, kDeviation),
                       zeros(3 * width), normal({width, width}, residual), zeros(width),
                       ones(width), zeros(width), normal({width, 4 * width}, kDeviation),
                       zeros(4 * width), normal({4 * width, width}, residual), zeros(width)});
    for (std::size_t j = 0; j < std::size(kLayerNames); ++j)
      parameters_.push_back({prefixes.back() + kLayerNames[j], layers_.back()[j]});
  }
  parameters_.push_back({"ln_f.weight", ln_f_weight_ = ones(width)});
  parameters_.push_back({"ln_f.bias", ln_f_bias_ = zeros(width)});
  blocks_ = Blocks(std::move(prefixes));
}

at::Tensor Gpt::Layer(std::size_t layer, const at::Tensor& input) const {
  const std::vector<at::Tensor>& p = layers_[layer];
  const std::int64_t n = input.size(0), t = input.size(1), width = options_.width;
  const auto norm = [&](const at::Tensor& x, Index weight) {
    return at::layer_norm(x, {width}, p[weight], p[static_cast<std::size_t>(weight) + 1], kEpsilon);
  };
  const auto drop = [&](const at::Tensor& x) {
    return options_.dropout > 0 ? at::dropout(x, options_.dropout, training_) : x;
  };
  const auto heads = [&](const at::Tensor& x) {
    return x.view({n, t, options_.heads, width / options_.heads}).transpose(1, 2);
  };
  const std::vector<at::Tensor> qkv =
      Affine(norm(input, kLn1W), p[kAttnW], p[kAttnB]).split(width, 2);
  const at::Tensor attention = at::scaled_dot_product_attention(
      heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), {}, training_ ? options_.dropout : 0,
      /*is_causal=*/true);
  const at::Tensor x =
      input + drop(Affine(attention.transpose(1, 2).reshape({n, t, width}), p[kProjW], p[kProjB]));
  const at::Tensor hidden = at::gelu(Affine(norm(x, kLn2W), p[kFcW], p[kFcB]), "tanh");
  return x + drop(Affine(hidden, p[kOutW], p[kOutB]));
}

at::Tensor Gpt::Forward(const at::Tensor& tokens) const {
  TORCH_CHECK(tokens.dim() == 2 && tokens.size(1) <= options_.context, "Gpt: tokens of shape ",
              tokens.sizes(), "; the context is ", options_.context);
  at::Tensor x = at::embedding(wte_, tokens) + wpe_.narrow(0, 0, tokens.size(1));
  if (options_.dropout > 0) x = at::dropout(x, options_.dropout, training_);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer)
    x = blocks_.Run(layer, x, [this, layer](const at::Tensor& in) { return Layer(layer, in); });
  x = at::layer_norm(x, {options_.width}, ln_f_weight_, ln_f_bias_, kEpsilon);
  return at::linear(x, wte_);
}

at::Tensor Gpt::Loss(const at::Tensor& tokens, const at::Tensor& targets) const {
  const at::Tensor logits = Forward(tokens);
  const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return at::cross_entropy_loss(wide.view({-1, options_.vocabulary}), targets.reshape({-1}));
}

std::vector<NamedTensor> Gpt::Parameters() const { return parameters_; }

Mlp::Mlp(const Options& options, at::Device device) {
  const c10::AutoGradMode no_grad(false);
  const at::Generator generator = at::detail::createCPUGenerator(options.seed);
  for (std::size_t i = 0; i + 1 < options.sizes.size(); ++i) {
    const std::int64_t in = options.sizes[i], out = options.sizes[i + 1];
    const bool last = i + 2 == options.sizes.size();
    const double bound = std::sqrt((last ? 3.0 : 6.0) / static_cast<double>(in));
    const std::string name = std::to_string(2 * i);
    const at::Tensor weight = at::empty({out, in}, at::kFloat).uniform_(-bound, bound, generator);
    parameters_.push_back(
        {name + ".weight", weight.to(device, options.type).set_requires_grad(true)});
    parameters_.push_back(
        {name + ".bias",
         at::zeros({out}, at::TensorOptions(options.type).device(device)).set_requires_grad(true)});
  }
}

at::Tensor Mlp::Forward(const at::Tensor& inputs) const {
  at::Tensor x = inputs.flatten(1);
  for (std::size_t i = 0; i < parameters_.size(); i += 2) {
    x = at::linear(x, parameters_[i].tensor, parameters_[i + 1].tensor);
    if (i + 2 < parameters_.size()) x = x.relu_();
  }
  return x;
}

std::vector<NamedTensor> Mlp::Parameters() const { return parameters_; }

void LoadWeights(const std::vector<NamedTensor>& target, const std::filesystem::path& file) {
  const c10::AutoGradMode no_grad(false);
  std::map<std::string, at::Tensor> from;
  for (const auto& [full_name, tensor] : ReadSafetensors(file).tensors) {
    std::string name = full_name;
    for (const std::string prefix : {"module.", "transformer."})
      if (name.starts_with(prefix)) name.erase(0, prefix.size());
    if (name == "lm_head.weight" || name.ends_with(".attn.bias") ||
        name.ends_with(".attn.masked_bias"))
      continue;
    from[name] = tensor;
  }
  for (const auto& [name, tensor] : target) {
    const auto found = from.find(name);
    if (found == from.end()) throw Failure(file.string() + " has no tensor " + name);
    if (found->second.sizes() != tensor.sizes())
      throw Failure(file.string() + ": tensor " + name + " has another shape than the model's");
    tensor.copy_(found->second);
    from.erase(found);
  }
  if (!from.empty())
    throw Failure(file.string() + ": tensor " + from.begin()->first + " is none of the model's");
}

}  // namespace envkit
