#!/usr/bin/env bash
# fuzz.sh [SECONDS]
#
# Fuzzes every target of the repo, for SECONDS in all (60 if not given), at least one and at most ten for each.
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "$0")/env.sh"

# go test -list prints the names of a package's targets and then "ok  package  time".
targets=$(go test -list '^Fuzz' ./... | awk '
	/^Fuzz/ { names[++n] = $1 }
	$1 == "ok" { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }')
[[ -n $targets ]] || { echo "no fuzz targets" && exit 0; }

# ended_by_time OUTPUT: says whether the end of the time alone made a run fail. go test may report that as an error when
# it comes while a worker is busy; a finding always has an input or a stack.
ended_by_time() {
	grep -q 'context deadline exceeded' <<<"$1" && ! grep -qE 'Failing input|panic:|_test\.go:[0-9]+:' <<<"$1"
}

each=$((${1:-60} / $(wc -l <<<"$targets")))
each=$((each < 1 ? 1 : each > 10 ? 10 : each))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
built=
while read -r package target; do
	if [[ $package != "$built" ]]; then # all targets of a package stand together
		go test -c -fuzz . -o "$work/fuzz.test" "$package"
		folder=$(go list -f '{{.Dir}}' "$package")
		built=$package
	fi
	echo "$target (${package#*/*/*/}) for ${each}s"
	output=$(cd "$folder" && "$work/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "${each}s" \
		-test.fuzzcachedir "$(go env GOCACHE)/fuzz/$package" 2>&1 </dev/null) || ended_by_time "$output" || {
		printf '%s\n' "$output"
		exit 1
	}
done <<<"$targets"
