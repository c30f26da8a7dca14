#!/usr/bin/env bash
# Builds weir-collector from builder-config.yaml and prints the path of the binary. Safe to run again, and side by
# side: when nothing that goes into it has changed, what is there already is left alone.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/_build
binary=$out/weir-collector
ocb=$("$root/tools/install.sh" ocb)/ocb

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
cd "$root"

# What goes into it: the configuration, the modules and the rooms that our components are made of.
stamp=$({
  cat builder-config.yaml go.mod go.sum
  go version
  find policy sampling processors collector archive internal -name '*.go' ! -name '*_test.go' | LC_ALL=C sort | xargs sha256sum
} | sha256sum)
if [ ! -x "$binary" ] || [ "$(cat "$out/.stamp" 2>/dev/null)" != "$stamp" ]; then
  echo "tools: building weir-collector" >&2
  rm -f "$out/.stamp"
  log=$("$ocb" --config builder-config.yaml 2>&1) || { echo "$log" >&2; exit 1; }
  echo "$stamp" >"$out/.stamp"
fi
echo "$binary"
