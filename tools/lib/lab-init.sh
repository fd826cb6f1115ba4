#!/bin/busybox sh
# shellcheck shell=dash
# /init of the lab: the host's files over 9p with a RAM disk above them, what a booted
# machine has mounted, and then lab-relay as process 1, which runs the command.
#
# On the kernel's command line, paths in base64:
#   lab.modules=DIR   where the host keeps this kernel's modules
#   lab.output=DIR    what the second share is mounted on
#   lab.scratch       mount /dev/vda on /scratch
export PATH=/bin

fail() {
    echo "lab: $*" >/dev/console
    # Ends QEMU, and with it the lab.
    poweroff -f
}

mount -t proc proc /proc
modules='' output='' scratch=''
# shellcheck disable=SC2013 # words are wanted
for word in $(cat /proc/cmdline); do
    case $word in
        lab.modules=*) modules=$(echo "${word#*=}" | base64 -d) ;;
        lab.output=*) output=$(echo "${word#*=}" | base64 -d) ;;
        lab.scratch) scratch=yes ;;
    esac
done

mount -t devtmpfs devtmpfs /dev
while read -r module; do
    # ext4 and the disk are for --scratch only, and take their time on an emulated CPU.
    case $module in
        ext4.ko | jbd2.ko | mbcache.ko | crc*.ko | libcrc32c.ko | virtio_blk.ko) [ -n "$scratch" ] || continue ;;
    esac
    insmod "/modules/$module" || fail "cannot load $module"
done </modules/order

mkdir -p /host /new /ram
# What the host changes while the lab runs need not be seen, so everything may be cached.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=507904,cache=loose host /host || fail 'cannot mount the host'
mount -t tmpfs -o size=75%,mode=755 ram /ram
mkdir /ram/upper /ram/work
mount -t overlay -o lowerdir=/host,upperdir=/ram/upper,workdir=/ram/work overlay /new || fail 'cannot lay a RAM disk over the host'

# The relay comes with us; the host's own might be out of this user's reach.
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
mount -t tmpfs -o mode=755,nosuid,nodev run /new/run
cp /lab-relay /new/run/lab-relay

# While the disk has its usual name, by which the list of mounts will call it.
if [ -n "$scratch" ]; then
    mkdir -p /new/scratch
    mount -t ext4 -o discard /dev/vda /new/scratch || fail 'cannot mount /scratch'
    chmod 1777 /new/scratch
fi

mount --move /proc /new/proc
mount --move /dev /new/dev
mount -t sysfs sysfs /new/sys
mkdir -p /new/dev/pts /new/dev/shm /new/dev/mqueue /new/dev/hugepages /new/dev/net
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /new/dev/shm
mount -t mqueue mqueue /new/dev/mqueue
mount -t hugetlbfs hugetlbfs /new/dev/hugepages
mount -t cgroup2 -o nsdelegate cgroup2 /new/sys/fs/cgroup
mount -t debugfs debugfs /new/sys/kernel/debug
mount -t tracefs tracefs /new/sys/kernel/tracing
echo '+cpu +cpuset +io +memory +pids' >/new/sys/fs/cgroup/cgroup.subtree_control

# What udev and kmod would see to: descriptors by name, nodes whose opening loads their module, who may use them.
ln -s /proc/self/fd /new/dev/fd
ln -s fd/0 /new/dev/stdin
ln -s fd/1 /new/dev/stdout
ln -s fd/2 /new/dev/stderr
node() {
    [ -e "/new/dev/$1" ] || mknod "/new/dev/$1" c 10 "$2"
    chmod "$3" "/new/dev/$1"
}
node kvm 232 666
node net/tun 200 666
node fuse 229 666
node vhost-net 238 660
node vhost-vsock 241 660
node loop-control 237 660
kvm=$(sed -n 's/^kvm:[^:]*:\([0-9]*\):.*/\1/p' /new/etc/group)
[ -z "$kvm" ] || chown ":$kvm" /new/dev/kvm /new/dev/vhost-net /new/dev/vhost-vsock

if [ -n "$modules" ]; then
    # A host with no kernel of its own has no such directory.
    lib=/new/lib/modules/$(uname -r)
    mkdir -p "$lib"
    mount --bind "/new$modules" "$lib" || fail "no modules in $modules"
fi
if [ -n "$output" ]; then
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=507904,cache=mmap output "/new$output" || fail "cannot mount $output"
fi

ip link set lo up
hostname lab
ulimit -Hn 1048576
exec switch_root /new /run/lab-relay
