#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/event_loop.hpp"

namespace qmpbackup {

/// Notices when another run moves, replaces or removes a chain's files, as a merge does and a full that moves the old
/// chain into its archive. Files that come new are no change: a backup may add a level while others are read.
class ChainWatch {
 public:
  /// Watches from now on: make one before the chain is read. Throws FileError.
  explicit ChainWatch(const ChainFiles& files);
  [[nodiscard]] bool changed() const;
  /// Throws Error when it has changed; for_steady_chain then begins again.
  void throw_if_changed() const;

 private:
  using Inodes = std::map<std::string, std::uint64_t>;
  static Inodes look(const ChainFiles& files);

  const ChainFiles& files_;
  Inodes before_;
};

/// Does `work`, which reads a chain without locking it, and does it again when it throws an Error while the chain
/// changed: no error and no damage may be reported that only a moving chain has. `attempt` counts from 0. Throws what
/// the work throws while the chain is at rest, and ChainBusy when the chain does not come to rest.
void for_steady_chain(EventLoop& loop, const ChainFiles& files,
                      const std::function<void(const ChainWatch&, int attempt)>& work);

/// Whether a run holds the chain's lock now, as far as this process can see. Takes no lock itself: that could make a
/// run fail that begins at this moment.
bool is_held_by_a_run(const ChainFiles& files);

}  // namespace qmpbackup
