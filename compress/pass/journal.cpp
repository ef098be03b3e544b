#include "compress/pass/journal.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "core/base/sha256.h"
#include "core/format/display.h"
#include "core/format/json.h"
#include "core/format/staging_folder.h"

namespace autoglm::pass {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRun = "run.json";
constexpr const char* kPart = "part.json";

Status damaged_at(const fs::path& path) {
  return bad_input(format::display_path(path) +
                   ": what the interrupted run left is damaged; leave --resume out to start over");
}

Result<nlohmann::json> read_json(const fs::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path));
  auto json = format::parse_json<nlohmann::json>(text);
  if (json.ok() && json->is_object()) return json;
  return damaged_at(path);
}

/// The members that differ, with what they were and are now where that is short.
std::vector<std::string> differences(const nlohmann::json& then, const nlohmann::json& now) {
  constexpr size_t kShort = 40;
  std::vector<std::string> out;
  for (const auto& [name, value] : now.items()) {
    const std::string before = then.value(name, nlohmann::json()).dump(), after = value.dump();
    if (before == after) continue;
    const bool is_short = before.size() <= kShort && after.size() <= kShort;
    out.push_back(is_short ? fmt::format("{} (was {}, is {})", name, before, after) : name);
  }
  return out;
}

Status check_same(const fs::path& folder, const nlohmann::json& run) {
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::json then, read_json(folder / kRun));
  const std::vector<std::string> changed = differences(then, run);
  if (changed.empty()) return ok_status();
  return invalid_argument(
      fmt::format("--resume: the interrupted run was another one, by {}; give what it was given, or "
                  "leave --resume out to start over",
                  fmt::join(changed, ", ")));
}

/// SHA-256 of every file of a part but its part.json, and of what is remembered.
Result<nlohmann::json> hashes_of(const fs::path& folder, const nlohmann::json& record, const CancelToken* cancel) {
  nlohmann::json out = nlohmann::json::object();
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == kPart) continue;
    AUTOGLM_ASSIGN_OR_RETURN(out[name], format::sha256_of_file(it->path(), cancel));
  }
  if (error) return format::system_failure(folder, "cannot list", error.value());
  out[kPart] = sha256(record.dump());
  return out;
}

}  // namespace

Result<Journal> Journal::open(const fs::path& target, const nlohmann::json& run, bool resume) {
  Journal out;
  out.folder_ = format::sibling_of(target, "resume");
  if (!resume) clear(target);
  std::error_code error;
  fs::create_directory(out.folder_, error);
  if (error) return format::system_failure(out.folder_, "cannot create the folder", error.value());
  out.lock_ = format::lock_folder(out.folder_, /*or_unlocked=*/true);
  if (!out.lock_.valid()) {
    return invalid_argument(fmt::format("{}: another run is at work on it; wait for that, or name another folder",
                                        format::display_path(target)));
  }
  out.keep_ = resume;
  if (fs::exists(out.folder_ / kRun, error)) {
    out.keep_ = true;  // whatever is wrong with it
    AUTOGLM_RETURN_IF_ERROR(check_same(out.folder_, run));
    return out;
  }
  AUTOGLM_RETURN_IF_ERROR(format::replace_file(out.folder_ / kRun, run.dump(2) + "\n"));
  return out;
}

void Journal::clear(const fs::path& target) {
  const fs::path folder = format::sibling_of(target, "resume");
  std::error_code error;
  if (const format::FileDescriptor lock = format::lock_folder(folder); lock.valid()) fs::remove_all(folder, error);
}

Journal::~Journal() {
  if (!keep_) remove();
}

void Journal::remove() {
  std::error_code error;
  if (lock_.valid()) fs::remove_all(folder_, error);
  lock_.close();
}

bool Journal::has(const std::string& part) const {
  std::error_code error;
  return fs::exists(folder_ / part / kPart, error);
}

int64_t Journal::parts() const {
  int64_t count = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    count += !name.starts_with('.') && has(name) ? 1 : 0;
  }
  return count;
}

Result<Journal::Part> Journal::read(const std::string& part, const CancelToken* cancel) const {
  const fs::path folder = folder_ / part;
  AUTOGLM_ASSIGN_OR_RETURN(nlohmann::json written, read_json(folder / kPart));
  nlohmann::json record = std::move(written["record"]);
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::json hashes, hashes_of(folder, record, cancel));
  if (written["sha256"] != hashes) return damaged_at(folder);
  AUTOGLM_ASSIGN_OR_RETURN(format::Checkpoint tensors, format::Checkpoint::open(folder));
  return Part{folder, std::move(tensors), std::move(record)};
}

Status Journal::Part::damaged() const { return damaged_at(folder); }

Result<format::CheckpointWriter> Journal::begin(const std::string& part, const CancelToken* cancel) const {
  return format::CheckpointWriter::create(folder_ / part, {.max_shard_bytes = INT64_MAX, .cancel = cancel});
}

Result<fs::path> Journal::finish(format::CheckpointWriter& writer, const nlohmann::json& record) const {
  AUTOGLM_RETURN_IF_ERROR(writer.finish());
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::json hashes, hashes_of(writer.staging(), record, nullptr));
  const nlohmann::json written = {{"sha256", hashes}, {"record", record}};
  AUTOGLM_RETURN_IF_ERROR(writer.write_file(kPart, written.dump() + "\n"));
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  return writer.target();
}

}  // namespace autoglm::pass
