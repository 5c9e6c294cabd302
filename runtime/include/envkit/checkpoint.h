// Files that outlive a kill -9: tensors as safetensors, and checkpoints as directories that appear
// whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "envkit/named_tensor.h"
#include "envkit/training_state.h"

namespace envkit {

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;  // in the order of their data; on the CPU, contiguous
  std::map<std::string, std::string> metadata;
};

// Tensors of any device and strides are written row-major. Names must be unique and tensors dense.
// The bytes depend on names, contents and metadata alone. Durable (fsync) when it returns, but not
// atomic: write into a directory that is renamed afterwards. Throws Failure.
void WriteSafetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});
// Trusts nothing: throws Failure that names the file unless header, dtypes, shapes, offsets and
// file size agree exactly.
SafetensorsFile ReadSafetensors(const std::filesystem::path& file);

// Copies what SOURCE holds into the tensors of TARGET with the same names. Throws Failure unless
// names, shapes and dtypes match one to one; WHAT names the source in it.
void CopyInto(const std::vector<NamedTensor>& target, const std::vector<NamedTensor>& source,
              const std::string& what);

// How ranks share the work of saving: each writes its own file of slices, and any number of ranks
// can read them. A slice that is a whole tensor is kept under its plain name and shape, so that the
// file of a single rank is what any safetensors reader expects; others are "name[begin:end]", and
// the metadata "shape:name" has the whole one's shape.
std::string ShardName(const std::string& stem, int rank, int world_size);  // "model-00002-of-00004"
void WriteSlices(const std::filesystem::path& file, const std::vector<Slice>& slices,
                 const std::map<std::string, std::string>& metadata = {});
// Fills TARGETS from all of FOLDER/STEM.safetensors or STEM-*-of-*.safetensors. Throws Failure when
// a value is missing or of another type or shape, or a file is.
void ReadSlices(const std::filesystem::path& folder, const std::string& stem,
                const std::vector<Slice>& targets);
// TENSORS that every rank has, as slices: all of them to read into, or this rank's share to write.
std::vector<Slice> WholeSlices(const std::vector<NamedTensor>& tensors);
std::vector<Slice> ShareOf(const std::vector<NamedTensor>& tensors, int rank, int world_size);
// All of STEM's tensors in FOLDER, put together, sorted by name.
std::vector<NamedTensor> MergeSlices(const std::filesystem::path& folder, const std::string& stem);

// A folder that appears whole or not at all: Begin makes a hidden one beside it, and Commit writes
// a manifest with size and CRC-32C of each file in it, fsyncs, and renames it. One process calls
// both; others may write files in between. Throws Failure.
std::filesystem::path BeginFolder(const std::filesystem::path& folder);
void CommitFolder(const std::filesystem::path& hidden, const std::filesystem::path& folder);
// Throws Failure that names the file which is not as the manifest says.
void CheckFolder(const std::filesystem::path& folder);
void WriteText(const std::filesystem::path& file, const std::string& text);  // and fsync
std::string ReadTextFile(const std::filesystem::path& file);                 // at most 64 MB

struct Checkpoint {
  std::filesystem::path directory;
  TrainingState state;
  std::vector<NamedTensor> model, optimizer;
  at::Tensor random_state;  // of torch's CPU generator: bytes, or a row of them for each rank
};

// DIRECTORY/step-000470/{model,optimizer}.safetensors (in several files where parameters are
// sharded), state.json and manifest.json, which holds size and CRC-32C of the others;
// DIRECTORY/latest points at the newest. One process deletes and renames: rank 0.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path directory);

  // Writes into a temporary directory, fsyncs, renames, moves `latest`, and only then deletes all
  // but the KEEP newest (at least 1). Returns the checkpoint's directory. Throws Failure.
  std::filesystem::path Save(const TrainingState& state, const std::vector<NamedTensor>& model,
                             const std::vector<NamedTensor>& optimizer, int keep);
  // The parts of Save, for ranks that write together: one begins, all write slices "model" and
  // "optimizer" (with "random_state", [ranks, bytes]) into the folder, and the one commits. BEST:
  // `best` points at it from now on, and it is kept until another one is.
  std::filesystem::path Begin(std::int64_t step);
  std::filesystem::path Commit(const std::filesystem::path& hidden, const TrainingState& state,
                               int keep, bool best = false);
  // DIRECTORY/final/model.safetensors, replaced atomically.
  std::filesystem::path SaveFinal(const std::vector<NamedTensor>& model,
                                  const std::map<std::string, std::string>& metadata);

  // Directories of checkpoints, newest first, whole or damaged.
  std::vector<std::filesystem::path> List() const;
  // The newest one that is whole. REPORT is called with a sentence for each damaged one passed
  // over.
  template <class Report>
  std::optional<std::filesystem::path> NewestWhole(Report report) const {
    for (const auto& directory : List()) {
      const std::string damage = Damage(directory);
      if (damage.empty()) return directory;
      report(damage);
    }
    return std::nullopt;
  }

  // What is wrong with a checkpoint, read in full; empty when nothing is.
  static std::string Damage(const std::filesystem::path& checkpoint);
  static Checkpoint Load(const std::filesystem::path& checkpoint);  // throws Failure
  static TrainingState LoadState(const std::filesystem::path& checkpoint);

 private:
  std::filesystem::path directory_;
};

// Earlier runs of JOB, newest first: RUN itself and its siblings named <UTC time>-<job>[-<number>].
// Names of another job that merely ends in a number are told apart by the checkpoints' own job.
std::vector<std::filesystem::path> EarlierRuns(const std::filesystem::path& run,
                                               const std::string& job);

}  // namespace envkit
