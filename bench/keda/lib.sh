# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share, on top of the cluster's own.
# shellcheck source-path=SCRIPTDIR source=../../e2e/kind/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../e2e/kind/lib.sh"
folder=$root/bench/keda
# shellcheck source=versions.env
. "$folder/versions.env"
keda=$home/bench/keda-$KEDA
