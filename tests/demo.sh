#!/usr/bin/env bash
# Shows qmpbackup at work, on a fresh Debian machine: installs what is missing, builds, starts a throwaway VM
# (no guest system, never run: -S) whose disk holds real files, takes a full and two incrementals with changes in
# between, restores every level with plain qemu-img, and compares each with a copy of the disk made at that time.
# Ends with 0 when all are equal. Everything but build/release is gone afterwards.
set -euo pipefail
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$source_dir"

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}
show() {
  local word
  printf '$'
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,+-]+$ ]]; then printf ' %s' "$word"; else printf ' %s' "${word@Q}"; fi
  done
  printf '\n'
}
# Shows a command, then runs it.
run() {
  show "$@"
  "$@"
}

say "Install what is missing, and build"
run bash tests/install_packages.sh build run demo
run cmake --preset release
run cmake --build --preset release --parallel "$(nproc)"

# debugfs and mke2fs are in sbin, which is not in every user's PATH.
PATH=$source_dir/build/release/bin:$PATH:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/qmpbackup-demo.XXXXXXXX")
qemu_pid=
qmp_pid=
cleanup() {
  local status=$?
  trap - EXIT
  if [[ -n $qmp_pid ]]; then kill "$qmp_pid" 2>/dev/null || true; fi
  if [[ -n $qemu_pid ]]; then
    kill "$qemu_pid" 2>/dev/null || true
    wait "$qemu_pid" 2>/dev/null || true
  fi
  cd /
  rm -rf "$work"
  [[ $status -eq 0 ]] || printf '\ndemo: FAILED (exit %s)\n' "$status" >&2
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
cd "$work"
mkdir backup copies restored

# The disk's files: this project's own, some texts, and a ledger that changes from day to day. The ledger fills one
# block, so that a day's version can be written over the last one without the help of a guest's file system.
ledger() { printf '%-4095s\n' "$1"; }

say "A disk of real files: an ext4 file system made from a folder"
mkdir files
cp -r "$source_dir/src" "$source_dir/include" "$source_dir/tests" "$source_dir/LICENSE" files/
cp -rL /usr/share/common-licenses files/texts
ledger "Monday: 100 coins" >files/ledger.txt
run mke2fs -q -F -t ext4 -b 4096 -E root_owner -d files disk.raw 256M
run qemu-img convert -O qcow2 disk.raw disk.qcow2
ledger_block=$(debugfs -R 'blocks /ledger.txt' disk.raw 2>/dev/null | tr -d '[:space:]')
[[ $ledger_block =~ ^[0-9]+$ ]] || fail "cannot find the ledger on the disk"
rm disk.raw

say "A throwaway VM with that disk, and two QMP sockets: one for qmpbackup, one to play the guest"
accel=(-accel tcg)
if [[ -w /dev/kvm ]]; then accel=(-accel kvm "${accel[@]}"); fi
# shellcheck disable=SC2054  # the commas are QEMU's
vm=(qemu-system-x86_64 -S -nodefaults -display none -m 64 "${accel[@]}"
  -drive file=disk.qcow2,format=qcow2,if=none,id=drive0 -device virtio-blk-pci,drive=drive0
  -qmp unix:qmp.sock,server=on,wait=off -qmp unix:guest.sock,server=on,wait=off)
show "${vm[@]}"
# It dies with this script, however that ends.
setpriv --pdeathsig KILL "${vm[@]}" >>qemu.log 2>&1 </dev/null &
qemu_pid=$!
for ((tries = 0; tries < 100; ++tries)); do
  [[ -S qmp.sock && -S guest.sock ]] && break
  kill -0 "$qemu_pid" 2>/dev/null || break
  sleep 0.1
done
[[ -S qmp.sock && -S guest.sock ]] || fail "QEMU did not start: $(<qemu.log)"

# One connection for the whole run; commands go out and replies come back line by line.
coproc link { exec socat - UNIX-CONNECT:guest.sock; }
qmp_pid=$!
qmp_in=${link[1]}
qmp_out=${link[0]}

# Sends one QMP command and waits for its reply; events in between are passed over.
qmp() {
  local reply
  printf '%s\n' "$1" >&"$qmp_in"
  while IFS= read -r -t 60 reply <&"$qmp_out"; do
    case $reply in
      '{"return"'*) return 0 ;;
      '{"error"'*) fail "QEMU refuses $1: $reply" ;;
    esac
  done
  fail "no reply from QEMU to $1"
}
# Writes, discards or flushes as a guest would. What came of it QEMU prints on its own stdout.
guest() {
  printf '  guest: %s\n' "$1"
  : >qemu.log
  qmp '{"execute":"human-monitor-command","arguments":{"command-line":"qemu-io drive0 \"'"$1"'\""}}'
  [[ $1 == flush ]] || grep -Eq '^(wrote|discard) ' qemu.log || fail "this failed in the guest: $1: $(<qemu.log)"
}
write_ledger() {
  ledger "$1" >ledger.new
  guest "write -s ledger.new $((ledger_block * 4096)) 4096"
  cp ledger.new files/ledger.txt
}
# Keeps what the disk and its files are now, to compare restored levels with.
remember() {
  guest "flush"
  run qemu-img convert -U -O raw disk.qcow2 "copies/$1.raw"
  cp -r files "copies/$1.files"
}
qmp '{"execute":"qmp_capabilities"}'

say "Monday: a full backup"
remember full
run qmpbackup -socket qmp.sock -backupFile backup/drive0 -deviceToBackup drive0

say "Tuesday: the ledger changes, 3 MiB are written; incremental level 0"
write_ledger "Tuesday: 250 coins"
guest "write -P 0x5a 200M 3M"
remember inc0
run qmpbackup -socket qmp.sock -backupFile backup/drive0 -deviceToBackup drive0 -inc 0

say "Wednesday: it changes again, some is discarded; the next level, whichever that is"
write_ledger "Wednesday: 17 coins"
guest "write -P 0xc3 202M 2M"
guest "discard 200M 1M"
guest "write -z 210M 1M"
remember inc1
run qmpbackup -socket qmp.sock -backupFile backup/drive0 -deviceToBackup drive0 -inc auto

say "Thursday: a change that no backup has; the chain as it is"
write_ledger "Thursday: all gone"
run ls -l backup

say "Restore every level with plain qemu-img, and compare with the copy made at that time"
for level in full inc0 inc1; do
  run qemu-img convert -O raw "backup/drive0.$level.qcow2" "restored/$level.raw"
  run qemu-img compare -f raw -F raw "copies/$level.raw" "restored/$level.raw" ||
    fail "level $level differs from the disk at that time"
done

say "The files on each restored disk, read with debugfs"
for level in full inc0 inc1; do
  mkdir "restored/$level.files"
  debugfs -R "rdump / restored/$level.files" "restored/$level.raw" >debugfs.log 2>&1 ||
    fail "cannot read the file system of level $level: $(<debugfs.log)"
  rm -rf "restored/$level.files/lost+found"
  diff -r "copies/$level.files" "restored/$level.files" || fail "files of level $level differ"
  printf '%-5s %s files, all equal; ledger.txt says: %s\n' "$level:" \
    "$(find "restored/$level.files" -type f | wc -l)" "$(sed 's/ *$//' "restored/$level.files/ledger.txt")"
done
run debugfs -R 'ls -l /' restored/inc1.raw

say "Every level came back bit for bit"
