#!/usr/bin/env bash
# vm.sh [KERNEL...]
#
# Boots Debian's kernels in a virtual machine and runs there slid doctor and the tests of the kernel probes, so that they
# are known to load and count on kernels other than the one at hand. Nothing is installed but qemu, busybox and cpio; the
# kernels are unpacked into ${XDG_CACHE_HOME:-~/.cache}/slid/kernels. Without KVM a boot with all tests takes half a
# minute. A KERNEL is the beginning of a package's name behind linux-image-, by default 6.1 and 6.12.
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "$0")/env.sh"

internal/tools/packages.sh --required qemu-system-x86 busybox-static cpio
cache=${XDG_CACHE_HOME:-$HOME/.cache}/slid/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[[ $# -gt 0 ]] || set -- 6.1 6.12

# newest SERIES: prints the newest of Debian's cloud kernels of a series.
newest() {
	apt-cache search --names-only "^linux-image-${1//./\\.}\\.[0-9].*-cloud-amd64$" | cut -d' ' -f1 | sort -V | tail -n 1
}

# kernel SERIES: unpacks the newest kernel of a series and prints the path of its image.
kernel() {
	local package folder
	package=$(newest "$1")
	[[ -n $package ]] || { apt-get update -qq >&2 && package=$(newest "$1"); }
	[[ -n $package ]] || { echo "vm.sh: Debian has no kernel $1 here" >&2 && return 1; }
	folder=$cache/$package
	if [[ ! -d $folder ]]; then
		echo "vm.sh: fetching $package" >&2
		mkdir -p "$work/$package" "$cache"
		(cd "$work" && apt-get download -qq "$package" >&2 && dpkg-deb -x "$package"_*.deb "$package")
		mv "$work/$package" "$folder"
	fi
	ls "$folder"/boot/vmlinuz-*
}

# initramfs: a root file system of busybox, slid and the test binaries, which runs the tests and powers off.
initramfs() {
	mkdir -p "$work"/root/{bin,proc,sys,dev,tmp}
	cp "$(command -v busybox)" "$work/root/bin/"
	CGO_ENABLED=0 go build -trimpath -o "$work/root/bin/slid" ./cmd/slid
	CGO_ENABLED=0 go test -c -trimpath -o "$work/root/bin/bpf.test" ./bpf
	CGO_ENABLED=0 go test -c -trimpath -o "$work/root/bin/latency.test" ./collector/latency
	cat >"$work/root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox --install -s /bin
		mount -t proc proc /proc
		mount -t sysfs sysfs /sys
		mount -t tmpfs tmpfs /tmp
		mount -t devtmpfs dev /dev
		mount -t cgroup2 none /sys/fs/cgroup
		ip link set lo up
		cd /tmp
		slid doctor
		bpf.test -test.v -test.run 'HTTP|RunQueue|Hist' >log 2>&1
		status=$?
		latency.test -test.v >>log 2>&1 || status=1
		grep -vE '^(=== |  .*--- PASS)' log
		echo "STATUS $status"
		poweroff -f
	INIT
	chmod +x "$work/root/init"
	(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"
}

# boot IMAGE: runs the machine. One CPU only: with more, emulation of code that patches itself is not reliable.
boot() {
	timeout 300 qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 1024 -nodefaults -no-user-config -no-reboot \
		-display none -serial stdio -kernel "$1" -initrd "$work/initramfs" -append 'console=ttyS0 panic=-1 quiet' </dev/null
}

initramfs
for series in "$@"; do
	image=$(kernel "$series")
	printf '\n-- Linux %s\n' "${image##*/vmlinuz-}"
	boot "$image" | tee "$work/serial"
	grep -q '^STATUS 0' "$work/serial" || { echo "vm.sh: tests failed on Linux $series" >&2 && exit 1; }
done
