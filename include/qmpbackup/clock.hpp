#pragma once

#include <ctime>
#include <optional>
#include <string>

#include "qmpbackup/ids.hpp"

namespace qmpbackup {

/// RFC 3339 in UTC, to the second: "2026-11-22T02:00:00Z". What is before 1970 or after 9999 becomes its limit.
std::string format_utc(std::time_t time);
std::string now_utc();

/// A point in time in UTC as people here read it: "2026-11-22 03:00:00 CET". Text that is no RFC 3339 stays as it is.
std::string format_local(const std::string& utc);

/// What a person types, as RFC 3339 in UTC: "2026-11-20 03:00" and "2026-11-20" are local, "2026-11-20T02:00:00Z" is
/// UTC; seconds may be left out, an offset ("+01:00") or what format_local prints may be given. Nothing for anything
/// else.
std::optional<std::string> parse_time(const std::string& text);

/// A random (version 4) UUID.
ChainId random_chain_id();

/// A random number in [1, 2^30].
int random_number();

}  // namespace qmpbackup
