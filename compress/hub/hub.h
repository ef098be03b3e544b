#pragma once
/// Models of a Hugging Face hub, downloaded into the cache that huggingface_hub keeps, in its layout:
///
///   models--ORG--NAME/refs/REVISION            the commit that a revision stands for
///   models--ORG--NAME/snapshots/COMMIT/FILE    a link to ../../blobs/ETAG
///   models--ORG--NAME/blobs/ETAG               the contents; ETAG.autoglm-part while they come
#include <filesystem>
#include <string>

#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::hub {

struct HubOptions {
  std::filesystem::path cache;
  std::string endpoint = "https://huggingface.co";
  std::string token;     ///< "": none
  bool offline = false;  ///< never asks

  /// HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME; HF_ENDPOINT; HF_TOKEN, or the file
  /// HF_TOKEN_PATH or `token` of HF_HOME; HF_HUB_OFFLINE.
  static HubOptions from_environment();
};

/// A model of the hub.
struct ModelId {
  std::string name;  ///< "org/name"
  std::string revision = "main";
};

enum class Fetch {
  kConfig,   ///< what can be planned from: the small files
  kWeights,  ///< the safetensors files too
};

/// The snapshot of a model in the cache; empty when it is not there, or not whole.
std::filesystem::path find_cached(const HubOptions& options, const ModelId& id, Fetch what);

/// The same, downloaded when it is not there: in parallel, resumed where an earlier download broke off, sizes and (of
/// files that the hub has them for) SHA-256 checked. The snapshot gets weights when all are whole. kBadInput:
/// no such model or revision, access denied, the hub cannot be reached or may not be asked, no safetensors, a file that
/// comes damaged twice. kInvalidArgument: an endpoint that is no URL. kResourceExhausted: disk, or another process is
/// downloading the model. kCancelled: what has come is kept.
Result<std::filesystem::path> fetch_model(const HubOptions& options, const ModelId& id, Fetch what,
                                          const CancelToken& cancel);

}  // namespace autoglm::hub
