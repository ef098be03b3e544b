#include "compress/search/profile.h"

#include <string>
#include <vector>

#include "core/base/suggest.h"

namespace autoglm::search {

std::string_view to_string(Profile profile) {
  switch (profile) {
    case Profile::kAny: return "any";
    case Profile::kTransformers: return "transformers";
    case Profile::kVllm: return "vllm";
  }
  return "";
}

Result<Profile> profile_of(std::string_view word) {
  std::vector<std::string> known;
  for (const Profile profile : {Profile::kAny, Profile::kTransformers, Profile::kVllm}) {
    if (word == to_string(profile)) return profile;
    known.emplace_back(to_string(profile));
  }
  return invalid_argument(unknown_word("profile", word, known));
}

}  // namespace autoglm::search
