#!/usr/bin/env bash
# Runs in a network and mount namespace of its own and keeps it alive: adbd starts and stops as its lines of input say.
# Arguments: folder with the stand-in programs, folder that stands for the phone's cores, folder for files (a small
# memory disk is mounted there).
set -u
ip link set lo up
mount --bind "$2" /sys/devices/system/cpu
mount -t tmpfs -o size=1m tmpfs "$3"
export PATH="$1:$PATH"
daemon=0
stop() { [ "$daemon" -eq 0 ] || kill -9 "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; daemon=0; }
trap 'stop' EXIT
echo ready
while read -r word; do
  case "$word" in
  start) /usr/lib/android-sdk/platform-tools/adbd >/dev/null 2>&1 & daemon=$! ;;
  stop) stop ;;
  esac
  echo "$word"
done
