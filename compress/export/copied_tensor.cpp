#include "compress/export/copied_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "core/format/display.h"

namespace autoglm::exports {

Status differs(const std::string& name) {
  return internal_error(fmt::format("tensor {} is not read back as it was written", format::display(name)));
}

Status compare_copy(const format::Checkpoint& written, const std::string& name, const CopySource& source,
                    CancelToken& cancel) {
  constexpr size_t kPieceBytes = 8 << 20;
  AUTOGLM_ASSIGN_OR_RETURN(const auto copy, written.bytes(name));
  AUTOGLM_ASSIGN_OR_RETURN(auto original, source.checkpoint.bytes(source.name));
  const format::Shape &shape = written.find(name)->shape, &whole = source.checkpoint.find(source.name)->shape;
  if (shape.empty() || whole.empty())
    return shape == whole && std::ranges::equal(copy, original) ? ok_status() : differs(name);
  const auto row = whole[0] > 0 ? original.size() / static_cast<size_t>(whole[0]) : 0;
  original = original.subspan(std::min(original.size(), row * static_cast<size_t>(source.first_row)));
  if (original.size() < copy.size()) return differs(name);
  for (size_t done = 0; done < copy.size(); done += kPieceBytes) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const size_t size = std::min(kPieceBytes, copy.size() - done);
    if (std::memcmp(copy.data() + done, original.data() + done, size) != 0) return differs(name);
    written.release(name);
    source.checkpoint.release(source.name);
  }
  return ok_status();
}

}  // namespace autoglm::exports
