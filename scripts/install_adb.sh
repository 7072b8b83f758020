#!/usr/bin/env bash
# Installs what the Android tests run against on Debian: adb, and adbd, the daemon that a phone runs. Run again: nothing
# happens. adbd is in the release's backports; their source is made from this machine's own Debian source, for this one
# call, and no file of apt's configuration is changed.
#
#     scripts/install_adb.sh          # as root, or with sudo on PATH
set -euo pipefail

tools=/usr/lib/android-sdk/platform-tools
if command -v adb >/dev/null && [ -x "$tools/adbd" ] && command -v unshare >/dev/null && command -v ip >/dev/null; then
  exit 0
fi
command -v apt-get >/dev/null || { echo "expected Debian's apt-get, got none: install adb and adbd by hand" >&2; exit 1; }
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "expected root or sudo to install adb and adbd, got neither" >&2; exit 1; }
  as_root=(sudo)
fi

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:?expected a Debian release with a code name}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"

# Every source of the plain release, once more with the backports' suite: deb822 (*.sources) and one-line (*.list).
found=0
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -f "$source" ] || continue
  cp "$source" "$scratch/$(basename "$source")"
  case "$source" in
    *.sources)
      awk -v suite="$codename" -v RS= '
        $0 ~ "(^|\n)Suites:([^\n]* )?" suite "( |\n|$)" {
          sub(/Suites:[^\n]*/, "Suites: " suite "-backports"); print; print "" }
      ' "$source" >"$scratch/backports-$(basename "$source")"
      ;;
    *)
      awk -v suite="$codename" '
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i == suite) { $i = suite "-backports"; print; next } }
      ' "$source" >"$scratch/backports-$(basename "$source")"
      ;;
  esac
  [ ! -s "$scratch/backports-$(basename "$source")" ] || found=1
done
[ "$found" -eq 1 ] || { echo "expected a Debian source of $codename in /etc/apt, got none: add one" >&2; exit 1; }

# The package would start adbd with the machine, open to its whole network without any authentication: never.
"${as_root[@]}" mkdir -p /etc/systemd/system
"${as_root[@]}" ln -sfn /dev/null /etc/systemd/system/adbd.service

apt=(apt-get -qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$scratch" -o APT::Get::List-Cleanup=0)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" "${apt[@]}" update
"${as_root[@]}" "${apt[@]}" install -y --no-install-recommends -t "$codename-backports" adb adbd
missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v unshare >/dev/null || missing+=(util-linux)
if [ "${#missing[@]}" -gt 0 ]; then "${as_root[@]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; fi
echo "installed $(adb version | sed -n 's/^Version /adb /p') and adbd"
