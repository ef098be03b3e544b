#include "compress/hub/hub.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "compress/hub/http.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/format/checkpoint.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"
#include "core/format/small_files.h"
#include "core/format/staging_folder.h"

namespace autoglm::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTransfers = 4;
constexpr int64_t kMostListing = 64 << 20, kMostSmallFile = 256 << 20;
constexpr int64_t kMostFile = int64_t{1} << 44;  // so that sums of sizes do not overflow
constexpr int64_t kListingSeconds = 60;
constexpr const char* kIndex = "model.safetensors.index.json";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

fs::path home_folder() {
  if (const std::string home = variable("HF_HOME"); !home.empty()) return home;
  if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return fs::path(xdg) / "huggingface";
  return fs::path(variable("HOME")) / ".cache" / "huggingface";
}

fs::path repository_of(const HubOptions& options, const ModelId& id) {
  const size_t slash = id.name.find('/');
  return options.cache / ("models--" + id.name.substr(0, slash) + "--" + id.name.substr(slash + 1));
}

bool is_hex(const std::string& text, size_t least, size_t most) {
  return text.size() >= least && text.size() <= most && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// A file of the hub's listing.
struct RemoteFile {
  std::string name;
  std::string etag;    ///< of its contents: names the blob
  std::string sha256;  ///< "": not said
  int64_t size = 0;
};

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

/// Whether a name of the listing is one that is used here, and stays inside the folder.
bool is_wanted(const std::string& name) {
  static constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+";
  std::string base = name;
  if (const std::string folder = "additional_chat_templates/"; name.starts_with(folder))
    base = name.substr(folder.size());
  if (base.empty() || base[0] == '.' || base.find_first_not_of(kLetters) != std::string::npos) return false;
  return base.ends_with(".safetensors") || (format::is_small_file(base) && !base.ends_with(".md"));
}

bool is_weights(const RemoteFile& file) { return file.name.ends_with(".safetensors"); }

struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;
  bool has_other_weights = false;  // .bin, .pt
};

template <typename T>
T member_or(const nlohmann::json& object, const char* name, T fallback) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  if (found == object.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->template get<std::string>() : fallback;
  } else {
    return found->is_number_unsigned() && found->template get<uint64_t>() <= uint64_t{INT64_MAX}
               ? found->template get<int64_t>()
               : fallback;
  }
}

Result<Listing> parse_listing(const std::string& text, const std::string& url) {
  const auto parsed = format::parse_json<nlohmann::json>(text);
  if (!parsed.ok()) return parsed.status().with_context(url);
  const nlohmann::json& json = *parsed;
  Listing out;
  out.commit = member_or(json, "sha", std::string());
  if (!is_hex(out.commit, 40, 64)) return bad_input(url + ": names no commit; is HF_ENDPOINT a Hugging Face hub?");
  const auto files = json.find("siblings");
  if (files == json.end() || !files->is_array()) return bad_input(url + ": lists no files");
  for (const auto& entry : *files) {
    RemoteFile file{.name = member_or(entry, "rfilename", std::string()),
                    .etag = member_or(entry, "blobId", std::string()),
                    .size = member_or(entry, "size", int64_t{-1})};
    out.has_other_weights = out.has_other_weights || ends_with_any(file.name, {".bin", ".pt", ".pth"});
    if (!is_wanted(file.name)) continue;
    if (const auto lfs = entry.find("lfs"); lfs != entry.end() && lfs->is_object()) {
      file.sha256 = member_or(*lfs, "sha256", std::string());
      file.size = member_or(*lfs, "size", file.size);
      if (!is_hex(file.sha256, 64, 64)) return bad_input(fmt::format("{}: {} has no SHA-256", url, file.name));
      file.etag = file.sha256;
    }
    if (!is_hex(file.etag, 40, 64) || file.size < 0 || file.size > kMostFile) {
      return bad_input(fmt::format("{}: {} has no size or no hash", url, file.name));
    }
    const auto is_twin = [&](const RemoteFile& other) { return other.name == file.name; };
    if (std::any_of(out.files.begin(), out.files.end(), is_twin)) {
      return bad_input(fmt::format("{}: lists {} twice", url, file.name));
    }
    if (!is_weights(file) && file.size > kMostSmallFile) continue;
    out.files.push_back(std::move(file));
  }
  return out;
}

/// The shards that an index names.
Result<std::set<std::string>> shards_of(const fs::path& index) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(index));
  const auto parsed = format::parse_json<nlohmann::json>(text);
  if (!parsed.ok()) return parsed.status().with_context(kIndex);
  const nlohmann::json& json = *parsed;
  std::set<std::string> out;
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object()) return bad_input(std::string(kIndex) + ": has no weight_map");
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) return bad_input(std::string(kIndex) + ": names a shard that is no text");
    out.insert(shard.get<std::string>());
  }
  return out;
}

class Download {
 public:
  Download(const HubOptions& options, const ModelId& id, const CancelToken& cancel)
      : options_(options), id_(id), cancel_(cancel), repository_(repository_of(options, id)) {}

  Result<fs::path> run(Fetch what) {
    const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                                        escape_path(id_.name), escape_path(id_.revision, ""));
    HttpRequest listing = request(url);
    listing.most_seconds = kListingSeconds;
    AUTOGLM_ASSIGN_OR_RETURN(const std::string text, http_get(listing, kMostListing));
    AUTOGLM_ASSIGN_OR_RETURN(listing_, parse_listing(text, url));
    AUTOGLM_RETURN_IF_ERROR(make_folders());
    std::vector<RemoteFile> small, weights;
    for (const RemoteFile& file : listing_.files) (is_weights(file) ? weights : small).push_back(file);
    AUTOGLM_RETURN_IF_ERROR(get(small));
    if (what == Fetch::kWeights) {
      AUTOGLM_RETURN_IF_ERROR(choose(weights));
      AUTOGLM_RETURN_IF_ERROR(get(weights));
    }
    if (id_.revision == listing_.commit) return snapshot();
    AUTOGLM_RETURN_IF_ERROR(make_folder(repository_ / "refs" / fs::path(id_.revision).parent_path()));
    AUTOGLM_RETURN_IF_ERROR(format::replace_file(repository_ / "refs" / id_.revision, listing_.commit));
    return snapshot();
  }

 private:
  fs::path snapshot() const { return repository_ / "snapshots" / listing_.commit; }
  fs::path blob(const RemoteFile& file) const { return repository_ / "blobs" / file.etag; }
  fs::path part_of(const RemoteFile& file) const { return blob(file).string() + ".autoglm-part"; }

  HttpRequest request(const std::string& url) {
    return {.url = url, .token = options_.token, .cancelled = [this] { return stopped_ || cancel_.is_cancelled(); }};
  }

  static Status make_folder(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    return error ? format::system_failure(folder, "cannot create the folder", error.value()) : ok_status();
  }

  Status make_folders() {
    AUTOGLM_RETURN_IF_ERROR(make_folder(repository_ / "blobs"));
    AUTOGLM_RETURN_IF_ERROR(make_folder(snapshot()));
    std::error_code error;
    lock_ = format::lock_folder(fs::canonical(repository_, error), /*or_unlocked=*/true);
    if (lock_.valid()) return ok_status();
    return resource_exhausted(fmt::format("{}: another process is downloading this model; wait for it", id_.name));
  }

  /// Of the weight files, those that the index names; without one, the usual one.
  Status choose(std::vector<RemoteFile>& weights) const {
    std::error_code error;
    std::set<std::string> names;
    if (fs::exists(snapshot() / kIndex, error)) {
      AUTOGLM_ASSIGN_OR_RETURN(names, shards_of(snapshot() / kIndex));
    } else if (std::any_of(weights.begin(), weights.end(),
                           [](const auto& f) { return f.name == "model.safetensors"; })) {
      names = {"model.safetensors"};
    }
    std::erase_if(weights, [&](const RemoteFile& file) { return !names.contains(file.name); });
    if (weights.size() == names.size() && !weights.empty()) return ok_status();
    if (!weights.empty()) return bad_input(fmt::format("{}: the hub lacks a shard that {} names", id_.name, kIndex));
    return bad_input(fmt::format("{}: has neither model.safetensors nor {}{}", id_.name, kIndex,
                                 listing_.has_other_weights ? "; PyTorch's weights are not read" : ""));
  }

  Status get(const std::vector<RemoteFile>& files) {
    std::vector<RemoteFile> contents;  // each once, whatever names it has
    int64_t total = 0, missing = 0;
    for (const RemoteFile& file : files) {
      const auto is_same = [&](const RemoteFile& other) { return other.etag == file.etag; };
      if (std::any_of(contents.begin(), contents.end(), is_same)) continue;
      contents.push_back(file);
      total += file.size;
      missing += file.size - bytes_here(file);
    }
    AUTOGLM_RETURN_IF_ERROR(format::check_space(repository_, missing, repository_));
    AUTOGLM_RETURN_IF_ERROR(get_all(contents, total));
    for (const RemoteFile& file : files) AUTOGLM_RETURN_IF_ERROR(link(file));
    return ok_status();
  }

  Status get_all(const std::vector<RemoteFile>& files, int64_t total) {
    received_ = std::vector<std::atomic<int64_t>>(files.size());
    next_ = 0;
    std::vector<std::thread> threads;
    std::atomic<size_t> running = 0;
    for (size_t i = 0; i < std::min(kTransfers, files.size()); ++i) {
      ++running;
      try {
        threads.emplace_back([&] {
          work(files);
          --running;
        });
      } catch (const std::system_error&) {  // the system gives no more threads
        --running;
        break;
      }
    }
    if (threads.empty() && !files.empty()) return resource_exhausted("cannot start a thread to download with");
    Progress progress("downloading", total);
    while (running > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      int64_t done = 0;
      for (const auto& each : received_) done += each;
      // The whole is reached when all is checked too.
      progress.update(std::min(done, total - 1), fmt::format("{} of {}", format_bytes(done), format_bytes(total)));
    }
    for (std::thread& thread : threads) thread.join();
    AUTOGLM_RETURN_IF_ERROR(cancel_.check());
    return failure_;
  }

  /// Of a file's contents, what an earlier download left.
  int64_t bytes_here(const RemoteFile& file) const {
    std::error_code error;
    if (fs::exists(blob(file), error)) return file.size;
    const auto part = fs::file_size(part_of(file), error);
    return error ? 0 : std::min(static_cast<int64_t>(part), file.size);
  }

  void work(const std::vector<RemoteFile>& files) {
    while (!stopped_) {
      const size_t index = next_++;
      if (index >= files.size()) return;
      const Status status = get_file(files[index], received_[index]);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex_);
      if (!stopped_) failure_ = status;  // the others are told to stop, which is no failure of theirs
      stopped_ = true;
    }
  }

  /// Downloads and checks.
  Status get_file(const RemoteFile& file, std::atomic<int64_t>& received) {
    std::error_code error;
    for (int attempt = 0; !fs::exists(blob(file), error); ++attempt) {
      const fs::path part = part_of(file);
      AUTOGLM_RETURN_IF_ERROR(complete(file, part, received));
      if (!file.sha256.empty()) {
        AUTOGLM_ASSIGN_OR_RETURN(const std::string found, format::sha256_of_file(part, &cancel_));
        if (found != file.sha256) {
          fs::remove(part, error);
          if (attempt == 0) continue;
          return bad_input(
              fmt::format("{}: comes damaged: SHA-256 {} where the hub says {}", file.name, found, file.sha256));
        }
      }
      fs::rename(part, blob(file), error);
      if (error) return format::system_failure(blob(file), "cannot rename", error.value());
    }
    received = file.size;
    return ok_status();
  }

  Status complete(const RemoteFile& file, const fs::path& part, std::atomic<int64_t>& received) {
    format::FileDescriptor fd(::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    struct stat info = {};
    if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return format::system_failure(part, "cannot create", errno);
    int64_t have = info.st_size;
    if (have > file.size || file.sha256.empty()) have = 0;  // what cannot be checked is not put together
    if (::ftruncate(fd.get(), have) != 0) return format::system_failure(part, "cannot write", errno);
    received = have;
    if (have < file.size) {
      const std::string url = fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, escape_path(id_.name),
                                          listing_.commit, escape_path(file.name));
      AUTOGLM_RETURN_IF_ERROR(http_download(request(url), fd, part, have, file.size, received));
    }
    if (::fsync(fd.get()) != 0) return format::system_failure(part, "cannot fsync", errno);
    return fd.close() ? ok_status() : format::system_failure(part, "cannot write", errno);
  }

  Status link(const RemoteFile& file) const {
    const fs::path path = snapshot() / file.name;
    AUTOGLM_RETURN_IF_ERROR(make_folder(path.parent_path()));
    std::error_code error;
    const fs::path target = fs::relative(blob(file), path.parent_path(), error);
    if (fs::is_symlink(path, error) && fs::read_symlink(path, error) == target) return ok_status();
    fs::remove(path, error);
    fs::create_symlink(target, path, error);
    return error ? format::system_failure(path, "cannot create the link", error.value()) : ok_status();
  }

  const HubOptions& options_;
  const ModelId& id_;
  const CancelToken& cancel_;
  fs::path repository_;
  format::FileDescriptor lock_;
  Listing listing_;
  std::vector<std::atomic<int64_t>> received_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  Status failure_;
};

}  // namespace

HubOptions HubOptions::from_environment() {
  HubOptions out;
  out.cache = variable("HF_HUB_CACHE");
  if (out.cache.empty()) out.cache = home_folder() / "hub";
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) out.endpoint = endpoint;
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  out.token = variable("HF_TOKEN");
  fs::path token_file = variable("HF_TOKEN_PATH");
  if (token_file.empty()) token_file = home_folder() / "token";
  if (std::ifstream file(token_file); out.token.empty() && file) std::getline(file, out.token);
  std::erase_if(out.token, [](char c) { return c == '\r' || c == '\n' || c == ' '; });
  std::string offline = variable("HF_HUB_OFFLINE");
  std::transform(offline.begin(), offline.end(), offline.begin(), [](unsigned char c) { return std::toupper(c); });
  out.offline = offline == "1" || offline == "TRUE" || offline == "ON" || offline == "YES";
  return out;
}

fs::path find_cached(const HubOptions& options, const ModelId& id, Fetch what) {
  const fs::path repository = repository_of(options, id);
  std::string commit = id.revision;  // a revision that is no ref is itself a commit
  if (std::ifstream ref(repository / "refs" / id.revision); ref) std::getline(ref, commit);
  fs::path snapshot = repository / "snapshots" / commit;
  std::error_code error;
  if (commit.empty() || !fs::exists(snapshot / "config.json", error)) return {};
  if (what == Fetch::kConfig || options.offline) return snapshot;
  const bool has_tokenizer =
      fs::exists(snapshot / "tokenizer.json", error) || fs::exists(snapshot / "tokenizer.model", error);
  return has_tokenizer && format::Checkpoint::open(snapshot).ok() ? snapshot : fs::path();
}

Result<fs::path> fetch_model(const HubOptions& options, const ModelId& id, Fetch what, const CancelToken& cancel) {
  if (fs::path found = find_cached(options, id, what); !found.empty()) return found;
  if (options.offline) {
    return bad_input(
        fmt::format("{}: revision '{}' is not in the Hugging Face cache ({}), or not whole, and "
                    "HF_HUB_OFFLINE forbids asking the hub",
                    id.name, id.revision, repository_of(options, id).string()));
  }
  if (!options.endpoint.starts_with("https://") && !options.endpoint.starts_with("http://")) {
    return invalid_argument(fmt::format("HF_ENDPOINT is {}; it must begin with https:// or http://", options.endpoint));
  }
  return Download(options, id, cancel).run(what);
}

}  // namespace autoglm::hub
