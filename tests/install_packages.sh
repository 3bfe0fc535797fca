#!/usr/bin/env bash
# Installs the Debian packages that are missing: install_packages.sh SET...
#   build  compiles qmpbackup        run   what it works on: QEMU and qemu-img
#   test   what the tests need more   demo, bench  what tests/demo.sh, tests/bench need more
#   fuzz   sanitizers and libFuzzer
# Where nothing is missing, nothing is run: no network, no root needed.
set -euo pipefail

packages_of() {
  case $1 in
    build) echo g++ cmake ninja-build nlohmann-json3-dev libasio-dev libcli11-dev libfmt-dev libssl-dev ;;
    run) echo qemu-system-x86 qemu-utils ;;
    # libgmock-dev: Debian's CMake files for GoogleTest name its libraries too.
    test) echo libgtest-dev libgmock-dev clang-format nbdkit e2fsprogs fuse2fs util-linux ;;
    fuzz) echo clang libclang-rt-dev ;;
    demo) echo e2fsprogs util-linux socat ;;
    bench) echo bc socat time ;;
    *)
      echo "install_packages.sh: no package set is called '$1'" >&2
      return 2
      ;;
  esac
}

# `dpkg -s` alone succeeds for a removed package whose configuration is still there.
is_installed() {
  [[ $(dpkg -s "$1" 2>/dev/null) == *$'\nStatus: install ok installed\n'* ]]
}

missing=()
for set in "$@"; do
  packages=$(packages_of "$set")
  for package in $packages; do
    is_installed "$package" || missing+=("$package")
  done
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

echo "Installing: ${missing[*]}" >&2
if ! command -v apt-get >/dev/null; then
  echo "install_packages.sh: no apt-get here; install what corresponds to: ${missing[*]}" >&2
  exit 1
fi
as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
