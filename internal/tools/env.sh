# shellcheck shell=bash
# env.sh is read by the other scripts: strict mode, the root of the repo as the working directory, and a PATH on which
# Go and Debian's servers are found also where a plain shell of root has neither.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
command -v go >/dev/null || { echo "no go in PATH: see https://go.dev/doc/install" >&2 && exit 1; }

# report shows the events of `go test -json` that matter; with CI=true an unexpected skip is a failure.
report() {
	local allow=()
	[[ ${CI:-} != true ]] || allow=(-allow .ci/allowed-skips)
	go run ./internal/tools/testreport "${allow[@]}"
}
