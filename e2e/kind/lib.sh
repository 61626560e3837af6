# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share: where things are, progress lines with the elapsed time, and which docker builds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=versions.env
. "$here/versions.env"

export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
home=$(realpath -m "${MILLRACE_CACHE:-$HOME/.cache/millrace}")
cache=$home/kind
bin=$cache/bin                 # only what this machine lacked, so it may come first on PATH
cluster=millrace
node=$cluster-control-plane    # LocalStack and the operator are here
workers=("$cluster-worker" "$cluster-worker2")
localstack_port=30566          # of the node, see deploy/localstack.yaml
mkdir -p "$bin"
export PATH="$bin:$PATH:/usr/sbin:/sbin" KUBECONFIG="$cache/kubeconfig"    # a file of our own: the user's clusters are not our business
export MILLRACE_STARTED=${MILLRACE_STARTED:-$(date +%s)}   # inherited, so that a script called by another goes on counting

say() {
  local seconds=$(($(date +%s) - MILLRACE_STARTED))
  printf '[%3d:%02d] %s\n' $((seconds / 60)) $((seconds % 60)) "$*" >&2
}

die() {
  say "error: $*"
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    die "this needs root, and sudo is not installed: $*"
  fi
}

# packages PACKAGE…: installs them with apt, and says what to install by hand where there is no apt
packages() {
  has apt-get || die "install by hand what provides: $* (this is no Debian or Ubuntu)"
  say "installing $*"
  local log=$cache/apt.log
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 ||
    die "apt-get could not install $*: $(tail -n 3 "$log")"
}

# docker_build ARGUMENT…: an image into the local engine, by BuildKit. Engine 20.10's own client has it built in;
# a newer client wants the buildx plugin, and may well stand in front of an older one on PATH.
docker_build() {
  if docker buildx version >/dev/null 2>&1; then
    BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker buildx build --load --quiet "$@" >/dev/null
    return
  fi
  local client
  for client in docker /usr/bin/docker; do
    case $("$client" version --format '{{.Client.Version}}' 2>/dev/null) in
      19.03.* | 20.10.*)
        DOCKER_BUILDKIT=1 "$client" build --quiet "$@" >/dev/null
        return
        ;;
    esac
  done
  die "docker cannot build with BuildKit here: install its buildx plugin (package docker-buildx-plugin or docker-buildx)"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

cluster_answers() { kubectl --request-timeout=5s get --raw /readyz >/dev/null 2>&1; }

node_address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$node"; }

# full_name IMAGE: as containerd writes it
full_name() { case $1 in */*) echo "docker.io/$1" ;; *) echo "docker.io/library/$1" ;; esac; }

# in_node IMAGE: the digest that was noted on the image in the first node's containerd once all nodes had it, else empty
in_node() {
  docker exec "$node" ctr --namespace k8s.io images ls "name==$(full_name "$1")" 2>/dev/null |
    grep --only-matching 'dev.millrace/source=[0-9a-f]*' | cut -d= -f2 || true
}

# into_nodes IMAGE SOURCE [NODE]: loads it, into all nodes or only that one, and notes on it what it was made from
into_nodes() {
  say "loading $1 into the cluster (10 to 30 s)"
  kind load docker-image "$1" --name "$cluster" ${3:+--nodes "$3"} >"$cache/load.log" 2>&1 || die "kind load: $(tail -n 3 "$cache/load.log")"
  docker exec "$node" ctr --namespace k8s.io images label "$(full_name "$1")" "dev.millrace/source=$2" >/dev/null
}
