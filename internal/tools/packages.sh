#!/usr/bin/env bash
# packages.sh [--required] PACKAGE...
#
# Installs those of the Debian packages that are missing, as root, and says so. None of the services in them is
# started or enabled. Without root or apt-get it says what is missing; that is an error only with --required.
set -euo pipefail

required=false
if [[ ${1:-} == --required ]]; then
	required=true
	shift
fi

give_up() {
	echo "packages.sh: $*" >&2
	if $required; then exit 1; else exit 0; fi
}

missing=()
for package in "$@"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

[[ $(id -u) -eq 0 ]] || give_up "not installed: ${missing[*]} (as root: apt-get install ${missing[*]})"
command -v apt-get >/dev/null || give_up "not installed, and this is no Debian: ${missing[*]}"

# This is Debian's way to keep packages from starting their services while they are installed.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi

echo "packages.sh: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get -o DPkg::Lock::Timeout=300 update -q &&
	apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	rm -f "$log"
	give_up "apt-get failed for: ${missing[*]}"
fi
rm -f "$log"
for service in nginx redis-server prometheus-node-exporter; do
	[[ " ${missing[*]} " != *" $service"* ]] || systemctl --quiet disable "$service" 2>/dev/null || true
done
