#pragma once
/// Which modules get their format together, and what each format would take. Private to the room.
#include <string>
#include <vector>

#include "compress/pass/resolve.h"
#include "compress/search/sensitivity.h"
#include "core/base/status.h"

namespace autoglm::search {

/// A group with the decisions of its modules; every candidate has its bytes, and no loss yet.
struct GroupedDecisions {
  Group group;
  std::vector<const pass::Decision*> decisions;
  std::vector<pass::Scheme> schemes;  ///< of each candidate but the last, which keeps the group as it is
};

/// Groups of what `resolved` would quantize and `recipe` leaves open. `schemes` that fit no module of a group are not
/// among its candidates. Pointers go into `resolved`.
Result<std::vector<GroupedDecisions>> group_decisions(const pass::Recipe& recipe, const pass::Resolved& resolved,
                                                      const std::vector<pass::Scheme>& schemes,
                                                      const format::Checkpoint& checkpoint);

}  // namespace autoglm::search
