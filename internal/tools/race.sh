#!/usr/bin/env bash
# race.sh
#
# Runs with the race detector the tests that are about code alone. The others measure the kernel and servers, whose
# timing the detector's slowness would spoil; their concurrency is in the packages tested here.
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "$0")/env.sh"

mapfile -t packages < <(go list ./... | grep -vE '/slid/(bpf|cmd|packaging|collector/(latency|service)|internal/arch)')
CI='' CGO_ENABLED=1 go test -race -json -count=1 -timeout 10m "${packages[@]}" | CI='' report
