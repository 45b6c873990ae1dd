#!/bin/bash
# The first process of a machine once its root disk is there: mounts what a booted Debian has, runs
# the list of /programs/items and powers off. See tests/vm/machine.rs.
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

# Two ports to the host: what each item prints after its mark, and how it ended.
port() {
    local place
    for place in /sys/class/virtio-ports/*; do
        [ "$(cat "$place/name")" = "$1" ] && echo "/dev/${place##*/}"
    done
}
# Opened once: a port takes one opener at a time, and an item may leave a process behind that has it.
exec 5>"$(port output)" 6>"$(port status)"

# The root disk has no directories for these two.
mkdir -p /scratch /guests
mke2fs -q -t ext4 -F -E lazy_itable_init=1 /dev/vdd
mount /dev/vdd /scratch
mount /dev/vde /guests

export VHASHIFY=/programs/vhashify VSERVER=/programs/vserver VHASHIFY_TEST_SCRATCH=/scratch
# What crates/testkit/src/filesystem.rs makes its ext4 with.
export VHASHIFY_EXT4_FEATURES=verity,quota,project

cd /scratch || exit
number=0
for item in /programs/items/*; do
    mapfile -d '' -t command <"$item"
    echo "vhashify-item $number begins" >/dev/kmsg
    printf '\036%s\n' "$number" >&5
    begun=$SECONDS
    "${command[@]}" </dev/null >&5 2>&1 5>&- 6>&-
    echo "$number $? $((SECONDS - begun))" >&6
    number=$((number + 1))
done
echo o >/proc/sysrq-trigger
sleep infinity
