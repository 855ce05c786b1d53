#!/bin/sh
# Builds the container image from bin/slid (make build) without a container engine:
#
#   packaging/container/build.sh [IMAGE]
#
# BUILDAH     the command to build with (default: buildah; docker works too)
# SLID        the static binary (default: bin/slid)
# CA_BUNDLE   the certificates to trust (default: those of this machine)
# VERSION, REVISION   what the labels say
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$here/../..
image=${1:-slid:dev}
slid=${SLID:-$repo/bin/slid}
bundle=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}

test -x "$slid" || { echo "no $slid: make build" >&2; exit 1; }
test -r "$bundle" || { echo "no $bundle: apt-get install ca-certificates, or set CA_BUNDLE" >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 0755 "$slid" "$context/slid"
install -m 0644 "$bundle" "$context/ca-certificates.crt"

# BUILDAH may carry options. The build runs no command in the image, so it needs no privilege.
# shellcheck disable=SC2086
${BUILDAH:-buildah} build -t "$image" -f "$here/Dockerfile" \
	--build-arg "VERSION=${VERSION:-dev}" --build-arg "REVISION=${REVISION:-unknown}" "$context"
