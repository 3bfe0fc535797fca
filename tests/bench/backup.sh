#!/usr/bin/env bash
# Measures backups on this machine: bash tests/bench/backup.sh [MIB of data, default 4600]
#
# One VM with an 8 GiB disk that holds copies of this machine's own files. Fulls: as the Go tool takes them (zlib, 64 KiB clusters, page
# cache), with the defaults, and uncompressed; then incrementals on a disk of 8 GiB and on one of 8 TiB. Figures are ratios within one run, since
# machines differ and are noisy: run it on an idle one. Needs about four times the data on the disk of $TMPDIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mib=${1:-4600}

bash tests/install_packages.sh build run bench
cmake --preset release >/dev/null
cmake --build --preset release >/dev/null
tool=$PWD/build/release/bin/qmpbackup

work=$(mktemp -d "${TMPDIR:-/tmp}/qmpbackup-bench.XXXXXX")
vm=
clean() {
  if [[ -n $vm ]]; then
    kill "$vm" 2>/dev/null || true
    wait "$vm" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean EXIT
cd "$work"

echo "Making a disk with $mib MiB of files ..."
# Repeated until it is enough; -h would follow links, --one-file-system stays out of /proc. Head ends the pipe early.
{ while tar --one-file-system -cf - /usr /opt 2>/dev/null; do :; done || true; } | head -c "${mib}M" >disk.raw || true
truncate -s 8G disk.raw
qemu-img convert -O qcow2 disk.raw disk.qcow2
rm disk.raw
qemu-img create -q -f qcow2 large.qcow2 8T

qemu-system-x86_64 -S -nodefaults -display none -m 64 -accel kvm -accel tcg -machine q35 \
  -drive file=disk.qcow2,format=qcow2,if=none,id=drive0,cache=none -device virtio-blk-pci,drive=drive0,id=disk0 \
  -drive file=large.qcow2,format=qcow2,if=none,id=drive1,cache=none -device virtio-blk-pci,drive=drive1,id=disk1 \
  -qmp unix:qmp.sock,server=on,wait=off -qmp unix:guest.sock,server=on,wait=off >qemu.log 2>&1 &
vm=$!
until [[ -S qmp.sock && -S guest.sock ]]; do sleep 0.1; done

guest() {  # guest DISK QEMU-IO-COMMAND
  printf '%s\n' '{"execute":"qmp_capabilities"}' \
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"qemu-io -d /machine/peripheral/$1/virtio-backend \\\"$2\\\"\"}}" |
    socat -t 5 - UNIX-CONNECT:guest.sock >/dev/null
}

measure() {  # measure NAME DEVICE BASE OPTIONS...: sets seconds
  local name=$1 device=$2 base=$3
  shift 3
  local peak size
  /usr/bin/time -o time.txt -f '%e %M' "$tool" -socket qmp.sock -backupFile "$base" -deviceToBackup "$device" --quiet "$@"
  read -r seconds peak <time.txt
  size=$(du -b --total "$base".*.qcow2 | tail -n 1 | cut -f 1)
  printf '%-44s %7.2f s  %8.1f MB in all  peak memory, qemu-img included: %.1f MB\n' "$name" "$seconds" "$(bc <<<"scale=1; $size/1000000")" \
    "$(bc <<<"scale=1; $peak/1024")"
}

measure "full, zlib, 64K clusters, page cache" drive0 seed --compress zlib --cluster-size 64K --buffered --no-checksum
seed=$seconds
rm -f seed.*
measure "full, defaults without checksum" drive0 plain --no-checksum
plain=$seconds
rm -f plain.*
measure "full, defaults" drive0 default
default=$seconds
measure "full, uncompressed" drive0 none --compress none --no-checksum
none=$seconds
rm -f none.*
printf 'The defaults are %.1f times as fast as zlib in 64K clusters; uncompressed %.1f times; the checksum costs %.0f%%.\n' \
  "$(bc <<<"scale=3; $seed/$default")" "$(bc <<<"scale=3; $seed/$none")" "$(bc <<<"scale=3; 100*($default-$plain)/$plain")"

guest disk0 "write -P 3 100M 3M"
measure "incremental of 3 MiB, disk of 8 GiB" drive0 default -inc 0
small=$seconds
measure "full of an empty disk of 8 TiB" drive1 large
guest disk1 "write -P 3 5T 3M"
measure "incremental of 3 MiB, disk of 8 TiB" drive1 large -inc 0
printf 'A disk a thousand times larger: the same incremental takes %.2f times as long.\n' "$(bc <<<"scale=3; $seconds/$small")"

# Every copy takes its turn once a round: what else the machine does hits all alike. Its chain is in the page cache or not.
declare -A fastest
copy() {  # copy NAME COMMAND...: keeps the fastest time in fastest[NAME]
  local name="$cache, $1"
  shift
  for level in default.*.qcow2; do
    if [[ $cache == cold ]]; then dd if="$level" iflag=nocache count=0 status=none; else cat "$level" >/dev/null; fi
  done
  /usr/bin/time -o time.txt -f '%e' "$@" >/dev/null
  read -r seconds <time.txt
  printf '%-52s %7.2f s\n' "$name" "$seconds"
  if [[ -z ${fastest[$name]:-} || $(bc <<<"$seconds < ${fastest[$name]}") == 1 ]]; then fastest[$name]=$seconds; fi
  rm -f restored.*
}
converts=("" "-W -m 8 -t none" "-W -m 16 -t none" "-W -m 16 -t none -T none" "-W -m 16")
for _ in 1 2; do
  for cache in cold cached; do
    for format in qcow2 raw; do
      for settings in "${converts[@]}"; do
        # shellcheck disable=SC2086
        copy "$format: qemu-img convert $settings" qemu-img convert $settings -O "$format" default.inc0.qcow2 "restored.$format"
      done
      # What it takes to know as much by hand.
      copy "$format: sha256sum -c, then qemu-img convert" bash -c \
        "sha256sum --quiet -c default.sha256 && qemu-img convert -W -m 16 -t none -T none -O $format default.inc0.qcow2 restored.$format"
      restore=("$tool" restore -backupFile default --format "$format" --output "restored.$format")
      copy "$format: qmpbackup restore" "${restore[@]}"
      copy "$format: qmpbackup restore --no-checksum" "${restore[@]}" --no-checksum
    done
  done
  cache=cold
  copy "verify, qmpbackup" "$tool" verify -backupFile default
  copy "cat of all files" cat default.full.qcow2 default.inc0.qcow2
done
for cache in cold cached; do
  for format in qcow2 raw; do
    best=
    for settings in "${converts[@]}"; do
      this=${fastest["$cache, $format: qemu-img convert $settings"]}
      if [[ -z $best || $(bc <<<"$this < $best") == 1 ]]; then best=$this; fi
    done
    printf '%s: restore to %s takes %.2f times as long as sha256sum and convert, %.2f times as long as the best convert alone, ' "$cache" "$format" \
      "$(bc <<<"scale=3; ${fastest["$cache, $format: qmpbackup restore"]}/${fastest["$cache, $format: sha256sum -c, then qemu-img convert"]}")" \
      "$(bc <<<"scale=3; ${fastest["$cache, $format: qmpbackup restore"]}/$best")"
    printf '%.2f times with --no-checksum.\n' \
      "$(bc <<<"scale=3; ${fastest["$cache, $format: qmpbackup restore --no-checksum"]}/$best")"
  done
done
printf 'verify takes %.2f times as long as to read the files.\n' \
  "$(bc <<<"scale=3; ${fastest["cold, verify, qmpbackup"]}/${fastest["cold, cat of all files"]}")"
