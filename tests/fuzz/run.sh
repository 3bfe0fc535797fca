#!/usr/bin/env bash
# Installs what is missing, builds the libFuzzer targets and runs each for so many seconds: run.sh [SECONDS]
# What it finds stays in build/asan/findings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1-60}

bash tests/install_packages.sh build test fuzz
cmake --preset asan
cmake --build --preset asan --parallel "$(nproc)" --target qmp_message_fuzz manifest_fuzz
mkdir -p build/asan/findings
for target in qmp_message manifest; do
  corpus=build/asan/corpus/$target
  mkdir -p "$corpus"
  echo "$target: $seconds seconds"
  "build/asan/bin/${target}_fuzz" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -print_funcs=0 -verbosity=0 -artifact_prefix=build/asan/findings/ "$corpus" "tests/fuzz/seeds/$target"
done
