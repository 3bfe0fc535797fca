#pragma once

#include <ctime>
#include <string>

#include "qmpbackup/ids.hpp"

namespace qmpbackup {

/// RFC 3339 in UTC, to the second: "2026-11-22T02:00:00Z".
std::string format_utc(std::time_t time);
std::string now_utc();

/// A random (version 4) UUID.
ChainId random_chain_id();

/// A random number in [1, 2^30].
int random_number();

}  // namespace qmpbackup
