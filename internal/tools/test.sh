#!/usr/bin/env bash
# test.sh [PACKAGE...]
#
# Runs the tests of the given packages, or all. First it provides what they use: as root on Debian it installs the
# missing packages, and it builds the OpenTelemetry Collector and Prometheus. What cannot be had makes tests
# skip, each with its reason; with CI=true a skip that .ci/allowed-skips does not list is a failure.
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "$0")/env.sh"

internal/tools/packages.sh nginx-light wrk apache2-utils redis-server haproxy python3 iptables openssl iproute2 util-linux systemd \
	libcap2-bin buildah runc prometheus-node-exporter
if [[ -z ${SLID_OTELCOL:-} ]] && otelcol=$(internal/tools/tool.sh otelcol); then
	export SLID_OTELCOL=$otelcol
fi
if [[ -z ${SLID_PROMETHEUS:-} ]] && prometheus=$(internal/tools/tool.sh prometheus); then
	export SLID_PROMETHEUS=$prometheus
fi

# Uncached: most of the tests are about the machine, which go's cache does not see.
[[ $# -gt 0 ]] || set -- ./...
go test -json -count=1 -timeout 20m "$@" | report
