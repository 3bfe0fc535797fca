#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests: run.sh [--preset NAME] [ctest options]
#   bash tests/run.sh                            every test
#   bash tests/run.sh -L unit                    those with a label: unit, cli, integration, crash
#   bash tests/run.sh -R Incremental             those whose name matches
#   bash tests/run.sh --preset asan              unit tests with sanitizers, and the program; then the other tests with that:
#   QMPBACKUP_TEST_TOOL=$PWD/build/asan/bin/qmpbackup bash tests/run.sh -L integration
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=dev
if [[ ${1-} == --preset ]]; then
  preset=${2:?--preset needs a name}
  shift 2
elif [[ ${1-} == --preset=* ]]; then
  preset=${1#--preset=}
  shift
fi

# In CI a test that cannot find QEMU has failed; elsewhere it is skipped.
if [[ -n ${CI-} ]]; then
  export QMPBACKUP_REQUIRE_QEMU=1
fi

packages=(build run test)
[[ $preset == asan ]] && packages+=(fuzz)
bash tests/install_packages.sh "${packages[@]}"
cores=$(nproc)
cmake --preset "$preset"
cmake --build --preset "$preset" --parallel "$cores"

# Twice the cores: tests with QEMU mostly wait.
exec ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$((2 * cores))" "$@"
