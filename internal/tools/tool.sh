#!/usr/bin/env bash
# tool.sh otelcol|lint|prometheus
#
# Builds a tool from its module in internal/tools into ${XDG_CACHE_HOME:-~/.cache}/slid, unless it is there already,
# and prints its path. Beside prometheus lies promtool, which shares most of its code. The modules pin the versions and the checksums of all that goes into them.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/${1:?usage: tool.sh otelcol|lint|prometheus}"

tags=
case $1 in
otelcol) packages=(.) module=go.opentelemetry.io/collector/otelcol ;;
lint) packages=(github.com/golangci/golangci-lint/v2/cmd/golangci-lint) module=github.com/golangci/golangci-lint/v2 ;;
prometheus)
	module=github.com/prometheus/prometheus
	packages=("$module/cmd/prometheus" "$module/cmd/promtool")
	tags=remove_all_sd,enable_file_sd # the clients of service discovery are most of it; the web pages are left out too
	;;
*) echo "tool.sh: no such tool: $1" >&2 && exit 2 ;;
esac
version=$(awk -v module="$module" '$1 == module { print substr($2, 2); exit }' go.mod)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/slid/$1-$version
binary=$folder/$1

mkdir -p "$folder"
exec 9>"$binary.lock"
flock 9 # two targets at once build it once
made_from=$(cat ./*.go go.mod go.sum | sha256sum)
if [[ ! -x $binary || $(cat "$binary.from" 2>/dev/null) != "$made_from" ]]; then
	echo "tool.sh: building $1 $version (a few minutes, once)" >&2
	GOFLAGS="-buildvcs=false -mod=readonly" CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -tags "$tags" -o "$folder/" "${packages[@]}"
	[[ $1 != lint ]] || mv "$folder/golangci-lint" "$binary"
	echo "$made_from" >"$binary.from"
fi
echo "$binary"
