// Models as plain tensors and a forward function. Names and layouts are those that Hugging Face's
// safetensors files have, so that Python can go on with the weights, and we with Python's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "envkit/module.h"
#include "envkit/named_tensor.h"

namespace envkit {

// A small convolutional classifier. Two blocks of two 3×3 convolutions, each block halving the
// image, then one hidden layer. No dropout and no batch norm: a sample's loss depends on nothing
// but the sample, so that any number of ranks has the same loss curve.
class ConvNet {
 public:
  struct Options {
    std::int64_t channels = 1, rows = 28, columns = 28, classes = 10;
    std::uint64_t seed = 0;  // of the initial weights: the same on every rank and machine
  };
  ConvNet(const Options& options, at::Device device);

  // IMAGES: float [n, channels, rows, columns], any strides; channels-last is fastest. Returns
  // logits [n, classes].
  at::Tensor Forward(const at::Tensor& images) const;
  std::vector<NamedTensor> Parameters() const;  // leaves that require grad

 private:
  std::vector<NamedTensor> parameters_;
};

// Linear layers with ReLU between them: "0.weight", "0.bias", "2.weight" …, as torch.nn.Sequential
// of Linear and ReLU names them.
class Mlp {
 public:
  struct Options {
    std::vector<std::int64_t> sizes = {784, 512, 10};  // inputs, hidden features, outputs
    std::uint64_t seed = 0;
    at::ScalarType type = at::kFloat;
  };
  Mlp(const Options& options, at::Device device);

  at::Tensor Forward(const at::Tensor& inputs) const;  // [n, …] → [n, outputs]
  std::vector<NamedTensor> Parameters() const;

 private:
  std::vector<NamedTensor> parameters_;
};

// GPT-2: names "wte.weight", "h.0.attn.c_attn.weight" …, matrices of layers as [inputs, outputs],
// the output layer tied to wte.
class Gpt {
 public:
  struct Options {
    std::int64_t vocabulary = 50257, context = 1024, layers = 12, heads = 12, width = 768;
    double dropout = 0;  // after embeddings, attention and projections, while training
    std::uint64_t seed = 0;
    at::ScalarType type = at::kFloat;
  };
  // "gpt2" (124M), "gpt2-medium" (355M), "gpt2-large" (774M), "gpt2-xl" (1.5B). Throws Failure.
  static Options Named(const std::string& name);

  Gpt(const Options& options, at::Device device);

  // TOKENS: int64 [n, t], t at most the context. Returns logits [n, t, vocabulary].
  at::Tensor Forward(const at::Tensor& tokens) const;
  // The mean cross-entropy of TARGETS, int64 [n, t]; -100 where there is none.
  at::Tensor Loss(const at::Tensor& tokens, const at::Tensor& targets) const;
  std::vector<NamedTensor> Parameters() const;
  Blocks& blocks() { return blocks_; }
  void Train(bool training) { training_ = training; }
  const Options& options() const { return options_; }

 private:
  at::Tensor Layer(std::size_t layer, const at::Tensor& x) const;
  Options options_;
  bool training_ = true;
  at::Tensor wte_, wpe_, ln_f_weight_, ln_f_bias_;
  std::vector<std::vector<at::Tensor>> layers_;  // as kNames in gpt.cpp
  std::vector<NamedTensor> parameters_;
  Blocks blocks_;
};

// ResNet-18 and -50 (v1.5: strides in the 3×3 convolutions), with torchvision's and timm's names.
class ResNet {
 public:
  struct Options {
    int depth = 18;  // or 50
    std::int64_t channels = 3, classes = 1000;
    bool small_images = false;  // CIFAR's: a 3×3 first convolution without stride, and no pooling
    std::uint64_t seed = 0;
  };
  ResNet(const Options& options, at::Device device);  // throws Failure for another depth

  at::Tensor Forward(
      const at::Tensor& images) const;  // [n, channels, rows, columns] → [n, classes]
  std::vector<NamedTensor> Parameters() const;
  std::vector<NamedTensor> Buffers() const;  // running means and variances
  void Train(bool training) { training_ = training; }

 private:
  struct Convolution {
    at::Tensor weight, scale, shift, mean, variance, batches;
    std::int64_t stride = 1, padding = 0;
  };
  struct Block {
    std::vector<Convolution> path, shortcut;  // shortcut: none or one
  };
  class Builder;
  at::Tensor Apply(const Convolution& convolution, const at::Tensor& x) const;
  Options options_;
  bool training_ = true;
  Convolution stem_;
  std::vector<Block> blocks_;
  at::Tensor fc_weight_, fc_bias_;
  std::vector<NamedTensor> parameters_, buffers_;
};

// Copies a safetensors file's tensors into TARGET. Names may begin with "transformer." or
// "module.", other types are converted; what Hugging Face adds to GPT-2's weights (attention masks,
// the tied lm_head) is passed over. Throws Failure when a tensor is missing, left over, or of
// another shape.
void LoadWeights(const std::vector<NamedTensor>& target, const std::filesystem::path& file);

}  // namespace envkit
