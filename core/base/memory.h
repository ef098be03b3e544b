#pragma once
/// Memory meter: what this process occupies, as the kernel counts it (mapped file pages included).
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm {

/// Resident bytes now (VmRSS) and at their highest since the process started (VmHWM); 0 where /proc is absent.
int64_t current_rss_bytes();
int64_t peak_rss_bytes();

/// Gives memory that was freed back to the system. An allocator keeps it for later, more and more of it where large
/// buffers of many sizes come and go, so that a bound on what is in use is no bound on what is resident. Costs a few
/// milliseconds, and the page faults of what is needed again.
void return_freed_memory();

/// "1.2 GB", "512 MB", "96 B": decimal units, three significant digits, as disks and model cards count.
std::string format_bytes(int64_t bytes);

/// Reads "4G", "512MB", "1.5GiB", "4096" into bytes: K/M/G/T are decimal, Ki/Mi/Gi/Ti binary.
Result<int64_t> parse_bytes(std::string_view text);

}  // namespace autoglm
