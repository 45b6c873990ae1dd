#!/bin/bash
# The first process of a machine once its root disk is there: mounts what a booted Debian has, runs
# the command of /programs/command and powers off. See tests/vm/machine.rs.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
# systemd does so, and what a guest needs to be a mount namespace of its own is then as there.
mount --make-rshared /
ip link set lo up
hostname machine
modprobe --all virtio_console loop

# Two ports to the host: what the command prints, and how it ended.
port() {
    local place
    for place in /sys/class/virtio-ports/*; do
        [ "$(cat "$place/name")" = "$1" ] && echo "/dev/${place##*/}"
    done
}
output=$(port output)
status=$(port status)

# Cargo compiles absolute paths into tests: here they lead to the disks of this machine.
# shellcheck source=/dev/null
. /programs/paths
mkdir -p "$CARGO_TARGET_TMPDIR" "${PROGRAM%/*}"
if [ -e /programs/vserver ]; then
    # This machine has the disk with guests.
    ln -s /programs/vserver "${PROGRAM%/*}/vserver"
else
    mke2fs -q -t ext4 -F -E lazy_itable_init=1 /dev/vdd
fi
mount /dev/vdd "$CARGO_TARGET_TMPDIR"
ln -s /programs/vhashify "$PROGRAM"

# What tests/support/filesystem.rs makes its ext4 with.
export VHASHIFY_EXT4_FEATURES=verity,quota,project

mapfile -d '' -t command </programs/command
cd "$CARGO_TARGET_TMPDIR" || exit
"${command[@]}" </dev/null >"$output" 2>&1
echo "$?" >"$status"
echo o >/proc/sysrq-trigger
sleep infinity
