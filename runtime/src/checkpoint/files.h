// Files and folders that are on the disk, not only in its cache.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace envkit {

// A new file's descriptor with the file's name for messages. Everything throws Failure.
class DurableFile {
 public:
  explicit DurableFile(const std::filesystem::path& file);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  void Write(const void* data, std::size_t size);
  void Finish();  // fsync and close

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

void WriteDurably(const std::filesystem::path& file, std::string_view text);
void SyncFolder(const std::filesystem::path& folder);
// At most LIMIT bytes.
std::string ReadText(const std::filesystem::path& file, std::size_t limit);
std::uint32_t FileCrc32c(const std::filesystem::path& file);
// Puts FROM in TO's place; what was there before is deleted afterwards, and never before.
void ReplaceFolder(const std::filesystem::path& from, const std::filesystem::path& to);
// Under a name that no reader looks at first, so that a kill leaves no half a folder.
void DeleteFolder(const std::filesystem::path& folder);

}  // namespace envkit
