#include "qmpbackup/nbd_export.hpp"

#include <fmt/format.h>

#include <chrono>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/process.hpp"

namespace qmpbackup {

void serve_over_nbd(EventLoop& loop, const std::string& image, const std::string& socket,
                    const std::function<void()>& on_served) {
  if (exists(socket)) {
    throw ChainError(fmt::format("{} exists already", socket), "give another --export path");
  }
  bool served = false;
  Process server(loop, {"qemu-nbd", "--read-only", "--persistent", "--shared=0", "--socket", socket, image}, -1,
                 [](std::string_view) {});
  try {
    while (!exists(socket)) {
      if (server.ended()) {
        throw Error(fmt::format("qemu-nbd does not serve {}: {}", socket, server.wait(after(kLongestWork)).reason()));
      }
      loop.sleep(std::chrono::milliseconds(20));
    }
    on_served();
    served = true;
    throw Error("qemu-nbd ended by itself: " + server.wait(after(kLongestWork)).reason());
  } catch (const Interrupted&) {
    remove_durably(socket);
    if (!served) {
      throw;
    }
  } catch (const Error&) {
    remove_durably(socket);
    throw;
  }
}

std::string nbd_uri(const std::string& socket) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
  std::string uri = "nbd+unix:///?socket=";
  for (const char c : socket) {
    uri += kPlain.find(c) != std::string_view::npos ? std::string(1, c)
                                                    : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return uri;
}

}  // namespace qmpbackup
