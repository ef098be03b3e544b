#include "core/format/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/base/log.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 100'000'000;

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

/// A shard lies in the folder itself: anything that could lead elsewhere is refused.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos && name.size() < 256;
}

Result<WeightMap> read_index(const fs::path& path) {
  const std::string shown = display_path(path);
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxIndexBytes));
  Result<nlohmann::json> json = parse_json<nlohmann::json>(text);
  if (!json.ok()) return json.status().with_context(shown);
  const auto map = json->is_object() ? json->find("weight_map") : json->end();
  if (!json->is_object() || map == json->end() || !map->is_object())
    return bad_input(shown + ": has no object weight_map");
  WeightMap weight_map;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      return bad_input(fmt::format("{}: the file of tensor {} is no string", shown, display(name)));
    const auto& shard = file.get_ref<const std::string&>();
    if (!is_plain_file_name(shard)) {
      return bad_input(
          fmt::format("{}: tensor {} is said to be in {}, which is not the name of a file in the same folder", shown,
                      display(name), display(shard)));
    }
    weight_map.emplace_hint(weight_map.end(), name, shard);
  }
  if (weight_map.empty()) return bad_input(shown + ": weight_map names no tensor");
  return weight_map;
}

Status no_weights(const fs::path& folder) {
  const std::string shown = display_path(folder);
  std::error_code error;
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!fs::exists(folder / name, error)) continue;
    return bad_input(
        fmt::format("{}: the weights are in {}, but only safetensors is read; convert them once with: python -c "
                    "\"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}', "
                    "dtype='auto').save_pretrained('NEW_FOLDER')\"",
                    shown, name, shown));
  }
  return bad_input(fmt::format("{}: not a model folder: it has neither {} nor {}", shown, kSingleFile, kIndexFile));
}

}  // namespace

struct Checkpoint::Impl {
  struct Entry {
    const SafetensorsFile* file;  // nullptr: described
    const TensorInfo* info;
  };
  fs::path folder;
  std::vector<TensorInfo> described;
  std::vector<SafetensorsFile> shards;  // sorted by name
  std::vector<std::string> names;
  std::unordered_map<std::string_view, Entry> index;
  int64_t total_bytes = 0;

  const Entry* entry(std::string_view name) const {
    const auto found = index.find(name);
    return found == index.end() ? nullptr : &found->second;
  }

  Status add_tensors_of_shards() {
    for (const SafetensorsFile& shard : shards) {
      for (const TensorInfo& info : shard.tensors()) {
        const auto [place, inserted] = index.emplace(info.name, Entry{&shard, &info});
        if (!inserted) {
          return bad_input(fmt::format("{}: tensor {} is in {} too", display_path(shard.path()), display(info.name),
                                       display(place->second.file->path().filename().string())));
        }
        names.push_back(info.name);
        total_bytes += info.nbytes;  // bounded by the sizes of real files
      }
    }
    return ok_status();
  }

  Status check_index(const WeightMap& weight_map) const {
    for (const auto& [name, shard] : weight_map) {
      const Entry* found = entry(name);
      if (found != nullptr && found->file->path().filename() == shard) continue;
      return bad_input(fmt::format(
          "{}: tensor {} is not in {} as {} says{}", display_path(folder), display(name), display(shard), kIndexFile,
          found == nullptr ? "" : ", but in " + display(found->file->path().filename().string())));
    }
    if (names.size() > weight_map.size()) {
      const auto extra =
          std::find_if(names.begin(), names.end(), [&](const auto& name) { return !weight_map.contains(name); });
      warn(fmt::format("{}: {} tensors are not named by {}, the first is {}; they are kept", display_path(folder),
                       names.size() - weight_map.size(), kIndexFile, display(*extra)));
    }
    return ok_status();
  }
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Result<Checkpoint> Checkpoint::open(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return bad_input(display_path(folder) + ": no such folder");
  if (!fs::is_directory(status))
    return bad_input(display_path(folder) + ": is not a folder; name the folder of the model");

  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  WeightMap weight_map;
  std::set<std::string> shards;
  if (fs::exists(folder / kSingleFile, error)) {  // transformers, too, prefers it to an index
    shards.insert(kSingleFile);
  } else if (fs::exists(folder / kIndexFile, error)) {
    AUTOGLM_ASSIGN_OR_RETURN(weight_map, read_index(folder / kIndexFile));
    for (const auto& [name, shard] : weight_map) shards.insert(shard);
  } else {
    return no_weights(folder);
  }

  impl->shards.reserve(shards.size());
  for (const std::string& shard : shards) {
    if (!fs::exists(folder / shard, error)) {
      return bad_input(fmt::format("{}: shard {} is missing, which {} names; download it again", display_path(folder),
                                   display(shard), kIndexFile));
    }
    AUTOGLM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(folder / shard));
    impl->shards.push_back(std::move(file));
  }
  AUTOGLM_RETURN_IF_ERROR(impl->add_tensors_of_shards());
  if (!weight_map.empty()) AUTOGLM_RETURN_IF_ERROR(impl->check_index(weight_map));
  if (impl->names.empty()) return bad_input(display_path(folder) + ": the weight files hold no tensor");
  return Checkpoint(std::move(impl));
}

Checkpoint Checkpoint::describe(const fs::path& folder, std::vector<TensorInfo> tensors) {
  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  impl->described = std::move(tensors);
  for (TensorInfo& info : impl->described) {
    info.nbytes = element_count(info.shape).value_or(0) * size_of(info.dtype);
    impl->index.emplace(info.name, Impl::Entry{nullptr, &info});
    impl->names.push_back(info.name);
    impl->total_bytes += info.nbytes;
  }
  return Checkpoint(std::move(impl));
}

bool Checkpoint::is_in(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") return true;
  }
  return false;
}

const fs::path& Checkpoint::folder() const { return impl_->folder; }
const std::vector<std::string>& Checkpoint::names() const { return impl_->names; }
int64_t Checkpoint::total_bytes() const { return impl_->total_bytes; }

std::vector<fs::path> Checkpoint::files() const {
  std::vector<fs::path> paths;
  for (const SafetensorsFile& shard : impl_->shards) paths.push_back(shard.path());
  return paths;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const Impl::Entry* entry = impl_->entry(name);
  return entry == nullptr ? nullptr : entry->info;
}

Result<std::span<const std::byte>> Checkpoint::bytes(std::string_view name) const {
  const Impl::Entry* entry = impl_->entry(name);
  if (entry == nullptr)
    return bad_input(fmt::format("{}: has no tensor {}", display_path(impl_->folder), display(name)));
  if (entry->file == nullptr) return bad_input(display_path(impl_->folder) + ": has no weights, config.json alone");
  return entry->file->bytes(*entry->info);
}

void Checkpoint::release(std::string_view name) const {
  const Impl::Entry* entry = impl_->entry(name);
  if (entry != nullptr && entry->file != nullptr) entry->file->release(*entry->info);
}

void Checkpoint::read_ahead(std::string_view name, int64_t first, int64_t count) const {
  const Impl::Entry* entry = impl_->entry(name);
  if (entry != nullptr && entry->file != nullptr) entry->file->read_ahead(*entry->info, first, count);
}

void Checkpoint::keep() const {
  for (const SafetensorsFile& shard : impl_->shards) shard.keep();
}

fs::path Checkpoint::file_of(std::string_view name) const {
  const Impl::Entry* entry = impl_->entry(name);
  return entry == nullptr || entry->file == nullptr ? impl_->folder : entry->file->path();
}

}  // namespace autoglm::format
