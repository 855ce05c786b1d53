#!/usr/bin/env bash
# vm.sh [KERNEL...]
#
# Boots Debian's kernels in a virtual machine and runs there slid doctor and the tests of the kernel probes and of control
# groups, so that they are known to load and count on kernels other than the one at hand. With all kernels it compares the
# table "kernel x probe x verdict" in bpf/README.md with what doctor said, or writes it if UPDATE=1 is set.
#
# Nothing is installed but qemu, busybox and cpio; the kernels are unpacked into ${XDG_CACHE_HOME:-~/.cache}/slid/kernels.
# Without KVM a boot with all tests takes a minute or two. A KERNEL is the beginning of a package's name behind
# linux-image-, by default 6.1 and 6.12. SLID_VM_TESTS is a pattern of the tests to run, by default all. With SLID_VM_CPUS=2
# there is a second CPU, which goes off and on again all the time.
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "$0")/env.sh"

internal/tools/packages.sh --required qemu-system-x86 busybox-static cpio e2fsprogs
cache=${XDG_CACHE_HOME:-$HOME/.cache}/slid/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly all=(6.1 6.12)
[[ $# -gt 0 ]] || set -- "${all[@]}"

# newest SERIES: prints the newest of Debian's cloud kernels of a series.
newest() {
	apt-cache search --names-only "^linux-image-${1//./\\.}\\.[0-9].*-cloud-amd64$" | cut -d' ' -f1 | sort -V | tail -n 1
}

# kernel SERIES: unpacks the newest kernel of a series and prints its folder.
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
	echo "$folder"
}

# What the tests use of the kernel that is a module, in the order of loading.
readonly modules=(
	virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk loop zsmalloc lzo_compress lzo-rle zram
	sch_netem veth dummy overlay
)

# packages of tests that run in the machine, by the name of their binary.
declare -rA tests=([bpf]=./bpf [latency]=./collector/latency [host]=./collector/host)

# root: the files of the machine that are the same for every kernel: busybox, slid, the tests, and what starts them.
root() {
	mkdir -p "$work"/root/{bin,proc,sys,dev,tmp,data}
	cp "$(command -v busybox)" "$work/root/bin/"
	CGO_ENABLED=0 go build -trimpath -o "$work/root/bin/slid" ./cmd/slid
	for name in "${!tests[@]}"; do
		CGO_ENABLED=0 go test -c -trimpath -o "$work/root/bin/$name.test" "${tests[$name]}"
	done
	# Some machines refuse a probe, but none refuses to say which are off by default.
	"$work/root/bin/slid" doctor -o json | go run ./internal/tools/kernels off >"$work/root/all.yaml"
	cp -r collector/host/testdata "$work/root/testdata"
	cat >"$work/root/init" <<-INIT
		#!/bin/busybox sh
		/bin/busybox --install -s /bin
		mount -t proc proc /proc
		mount -t sysfs sysfs /sys
		mount -t tmpfs tmpfs /tmp
		mount -t devtmpfs dev /dev
		mount -t tracefs tracefs /sys/kernel/tracing
		mount -t cgroup2 none /sys/fs/cgroup
		echo '+cpu +memory +io +pids' >/sys/fs/cgroup/cgroup.subtree_control
		ip link set lo up
		while read -r module; do insmod "\$module"; done </modules/list
		mount -t ext4 /dev/vda /data
		export SLID_TEST_DIR=/data SLID_TEST_DISK=/dev/vdb HOME=/tmp
		cp -r /testdata /tmp/
		cd /tmp
		mkdir /sys/fs/cgroup/some.service # a unit, as every host has
		slid doctor --config /all.yaml
		echo DOCTOR; slid doctor --config /all.yaml -o json 2>/dev/null | base64; echo END
		rmdir /sys/fs/cgroup/some.service
		second=/sys/devices/system/cpu/cpu1/online
		if [ -e \$second ]; then
			while sleep 0.4; do echo 0 >\$second; sleep 0.4; echo 1 >\$second; echo >>turns; done &
		fi
		bpf.test -test.v -test.run '${SLID_VM_TESTS:-.}' >log 2>&1
		status=\$?
		latency.test -test.v -test.run '${SLID_VM_TESTS:-.}' >>log 2>&1 || status=1
		host.test -test.v -test.run '${SLID_VM_TESTS:-CgroupLive}' >>log 2>&1 || status=1
		grep -vE '^(=== |  .*--- PASS)' log
		[ -e turns ] && echo "the second CPU went off and on \$(wc -l <turns) times"
		echo "STATUS \$status"
		poweroff -f
	INIT
	chmod +x "$work/root/init"
}

# initramfs FOLDER OUTPUT: packs the files of the machine with the modules of a kernel.
initramfs() {
	local file
	rm -rf "$work/root/modules"
	mkdir "$work/root/modules"
	for name in "${modules[@]}"; do # one that is not there is built in, or the kernel lacks it
		file=$(find "$1/lib/modules" -name "$name.ko*" | head -n 1)
		case $file in
		*.xz) xz -dc "$file" >"$work/root/modules/$name.ko" ;;
		*.ko) cp "$file" "$work/root/modules/" ;;
		*) continue ;;
		esac
		echo "/modules/$name.ko" >>"$work/root/modules/list"
	done
	(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$2"
}

# boot SERIES FOLDER: runs the machine; what it prints goes to SERIES.serial. One thread emulates it: with more, emulation
# of code that patches itself is not reliable. The disks are one with a file system and one that tests may overwrite.
boot() {
	local at=$work/$1
	truncate -s 128M "$at.data" "$at.scratch"
	/sbin/mke2fs -q -F -t ext4 "$at.data"
	timeout 900 qemu-system-x86_64 -accel tcg,thread=single -cpu max -smp "${SLID_VM_CPUS:-1}" -m 1024 -nodefaults \
		-no-user-config -no-reboot -display none -serial stdio -kernel "$2"/boot/vmlinuz-* -initrd "$at.initramfs" \
		-drive "file=$at.data,format=raw,if=virtio" -drive "file=$at.scratch,format=raw,if=virtio" \
		-append 'console=ttyS0 panic=-1 quiet' </dev/null | tr -d '\r' >"$at.serial"
}

# show SERIES FOLDER: prints what the machine printed, and says whether its tests passed.
show() {
	printf '\n-- Linux %s\n' "${2##*/linux-image-}"
	sed '/^DOCTOR$/,/^END$/d' "$work/$1.serial"
	# In base64, so that what the kernel prints meanwhile is told from it.
	sed -n '/^DOCTOR$/,/^END$/{//!p}' "$work/$1.serial" | grep -xE '[A-Za-z0-9+/=]+' | base64 -d >"$work/$1.json"
	grep -q '^STATUS 0' "$work/$1.serial" || { echo "vm.sh: tests failed on Linux $1" >&2 && return 1; }
}

root
declare -A folders=() boots=()
columns=()
for series in "$@"; do
	folders[$series]=$(kernel "$series")
	initramfs "${folders[$series]}" "$work/$series.initramfs"
	boot "$series" "${folders[$series]}" &
	boots[$series]=$!
	echo "vm.sh: Linux $series boots and tests; that takes some minutes"
done
for series in "$@"; do
	wait "${boots[$series]}" || true # the serial line tells
	show "$series" "${folders[$series]}"
	columns+=("$series=$work/$series.json")
done
[[ "$*" != "${all[*]}" ]] || go run ./internal/tools/kernels table bpf/README.md "${columns[@]}"
