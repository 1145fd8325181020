#!/usr/bin/env bash
# Provides etcd, kube-apiserver, kube-controller-manager, kubectl and helm in one directory.
#
#   hack/control-plane.sh                builds what is missing
#   hack/control-plane.sh --print-dir    the same, and prints the directory
#   hack/control-plane.sh --print-dir --no-build    fails instead of building
#
# What KUBEBUILDER_ASSETS contains is used as it is; the rest is built from the Go modules pinned in
# hack/tools. The directory lies outside the checkout, so that a second clone builds nothing.
set -euo pipefail

parts=(etcd kube-apiserver kube-controller-manager kubectl helm)
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/tools" && pwd)

package_of() {
  case $1 in
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    helm) echo helm.sh/helm/v4/cmd/helm ;;
    *) echo "k8s.io/kubernetes/cmd/$1" ;;
  esac
}

module_of() {
  case $1 in
    helm) echo "$tools/helm" ;;
    *) echo "$tools/kubernetes" ;;
  esac
}

say() { echo "control-plane: $*" >&2; }
fail() { say "$*"; exit 1; }

# The version of a module that a go.mod requires.
required_version() { awk -v module="$2" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$1/go.mod"; }

digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c 1-16; }

newest() { printf '%s\n' "$@" | sort -V | tail -n 1; }

if [[ -n ${KUBEBUILDER_ASSETS:-} ]]; then
  KUBEBUILDER_ASSETS=$(cd "$KUBEBUILDER_ASSETS" && pwd) || fail "KUBEBUILDER_ASSETS is not a directory"
fi
from_assets() { [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$1 ]]; }

print_directory=no
build=yes
for argument in "$@"; do
  case $argument in
    --print-dir) print_directory=yes ;;
    --no-build) build=no ;;
    *) fail "unknown argument $argument; see the top of ${BASH_SOURCE[0]}" ;;
  esac
done

# Without its version the server calls itself v0.0.0-master, and a chart's kubeVersion refuses it.
kubernetes_version=$(required_version "$tools/kubernetes" k8s.io/kubernetes)
helm_version=$(required_version "$tools/helm" helm.sh/helm/v4)
IFS=. read -r major minor _ <<<"${kubernetes_version#v}"
linker_flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  linker_flags+=" -X $package.gitVersion=$kubernetes_version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done
linker_flags+=" -X helm.sh/helm/v4/internal/version.version=$helm_version"

# The environment may choose where modules come from, but not what they are.
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
unset GOOS GOARCH

go_needed=$(newest "$(awk '$1 == "go" { print $2 }' "$tools/kubernetes/go.mod")" "$(awk '$1 == "go" { print $2 }' "$tools/helm/go.mod")")
command -v go >/dev/null || fail "Go $go_needed or newer is missing: install it with the system's packages or from https://go.dev/dl"
go_found=$(GOTOOLCHAIN=local go env GOVERSION)
if [[ $(newest "$go_needed" "${go_found#go}") == "${go_found#go}" ]]; then
  export GOTOOLCHAIN=local
elif [[ $(go env GOTOOLCHAIN) == local ]]; then
  fail "Go $go_needed or newer is missing (found ${go_found#go}): install it from https://go.dev/dl, or let Go fetch it with GOTOOLCHAIN=auto"
fi

key=$({
  cat "$tools"/*/go.mod "$tools"/*/go.sum
  cd "$tools/kubernetes" && go env GOVERSION GOOS GOARCH
  echo "$linker_flags"
  for part in "${parts[@]}"; do
    if from_assets "$part"; then echo "$KUBEBUILDER_ASSETS/$part"; fi
  done
} | digest)
cache=${CLOUD_IDENTITY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloud-identity-operator}/control-plane/$key
binaries=$cache/bin

missing_parts() {
  local part
  for part in "${parts[@]}"; do
    [[ -x $binaries/$part ]] || echo "$part"
  done
}

finish() {
  if [[ $print_directory == yes ]]; then echo "$binaries"; else say "ready in $binaries"; fi
  exit 0
}

[[ -n $(missing_parts) ]] || finish
[[ $build == yes ]] || fail "$(missing_parts | paste -sd ' ' -) missing: run 'make control-plane'"

mkdir -p "$binaries"
# The lock only saves work; what makes concurrent builds safe is that each binary appears by a rename.
if command -v flock >/dev/null; then
  exec 9>"$cache/lock"
  flock --nonblock 9 || { say "another build is under way, waiting for it"; flock 9; }
  rm -f "$binaries"/.building.*
fi

started=$SECONDS
temporary=
compiler=
clean_up() {
  if [[ -n $compiler ]]; then kill "$compiler" 2>/dev/null || true; fi
  if [[ -n $temporary ]]; then rm -f "$temporary" "$temporary.log"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# On a terminal one line that counts, elsewhere a line now and then.
report_progress() {
  local elapsed=$((SECONDS - started))
  if [[ -t 2 ]]; then
    printf '\rcontrol-plane: [%d/%d] building %s, %d s ' "$number" "${#missing[@]}" "$part" "$elapsed" >&2
  elif ((elapsed >= next_report)); then
    say "[$number/${#missing[@]}] building $part, $elapsed s"
    next_report=$((elapsed + 30))
  fi
}

build_part() {
  temporary=$binaries/.building.$part.$$
  (cd "$(module_of "$part")" && exec go build -trimpath -ldflags "$linker_flags" -o "$temporary" "$(package_of "$part")") 2>"$temporary.log" &
  compiler=$!
  next_report=0
  while kill -0 "$compiler" 2>/dev/null; do
    report_progress
    sleep 0.5
  done
  [[ ! -t 2 ]] || echo >&2
  if ! wait "$compiler"; then
    compiler=
    tail -n 20 "$temporary.log" >&2
    fail "building $part failed"
  fi
  compiler=
  rm -f "$temporary.log"
  mv -f "$temporary" "$binaries/$part"
}

missing=()
while read -r part; do [[ -z $part ]] || missing+=("$part"); done < <(missing_parts)
((${#missing[@]} == 0)) || say "building ${#missing[@]} programs; about 8 minutes on two cores when nothing is cached"
number=0
for part in ${missing[@]+"${missing[@]}"}; do
  number=$((number + 1))
  if from_assets "$part"; then
    ln -sfn "$KUBEBUILDER_ASSETS/$part" "$binaries/$part"
  else
    build_part
  fi
done
finish
