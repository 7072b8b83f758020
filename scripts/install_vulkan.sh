#!/usr/bin/env bash
# Installs a software Vulkan that computes in float16 as phones' GPUs do: lavapipe of mesa 25 or later, which Debian 12
# has in its backports. Without it LiteRT's GPU runs in float32 on SwiftShader, which scripts/install_browser.sh brings
# with Chromium. Run again: nothing happens.
#
#     scripts/install_vulkan.sh     # Debian, as root, or with sudo on PATH
set -euo pipefail
least=25

installed() {
  local version
  version=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null) && dpkg --compare-versions "$version" ge "$least"
}
give_up() {
  echo "expected mesa-vulkan-drivers $least or newer, got none: $1; SwiftShader (scripts/install_browser.sh) serves in float32" >&2
  exit 1
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || give_up "this is no Debian"
installed && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || give_up "neither root nor sudo"
  as_root=(sudo)
fi
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# The mirror that this system uses already; backports never replace a package that is not asked for by name.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $release" 'Component: main' | head -n 1)
[ -n "$mirror" ] || give_up "apt knows no mirror of $release"
list=/etc/apt/sources.list.d/$release-backports.list
echo "deb $mirror $release-backports main" | "${as_root[@]}" tee "$list" >/dev/null
export DEBIAN_FRONTEND=noninteractive
if ! "${as_root[@]}" apt-get update -qq ||
  ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends -t "$release-backports" mesa-vulkan-drivers libvulkan1 >/dev/null ||
  ! installed; then
  "${as_root[@]}" rm -f "$list"
  give_up "$release-backports does not give it"
fi
