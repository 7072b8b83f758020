#!/usr/bin/env bash
# Installs what the browser tests run: Chromium, openssl, and LiteRT.js in the user's cache (npm fetches it). Run again:
# nothing happens.
#
#     scripts/install_browser.sh [PYTHON]     # as root, or with sudo on PATH; PYTHON default .venv/bin/python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${1:-.venv/bin/python}

missing=()
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v openssl >/dev/null || missing+=(openssl)
"$python" -c 'from apps.profiling.browser.litertjs import load_runtime; load_runtime()' 2>/dev/null && fetched=1 || fetched=0
[ "$fetched" = 1 ] || command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { echo "expected Debian's apt-get, got none: install ${missing[*]} by hand" >&2; exit 1; }
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "expected root or sudo to install ${missing[*]}, got neither" >&2; exit 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
[ "$fetched" = 1 ] || "$python" -m apps.profiling.browser.litertjs
