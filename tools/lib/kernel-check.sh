# shellcheck shell=sh
# What the own guest kernel promises, looked at from inside a guest: to be run there (busybox suffices; `ampoule.run=`).
# Prints a line per failure, then `kernel-check: N passed, N failed`, and ends with 1 if anything failed.
passed=0 failed=0

check() {
    what=$1
    shift
    if "$@" >/dev/null 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "kernel-check: not there: $what"
    fi
}

# configured NAME… - whether the kernel was built with these options.
configured() {
    for option; do
        grep -q "^CONFIG_$option=y" /run/check/config || return 1
    done
}

has_word() { grep -qw -- "$1" "$2"; }
not() { ! "$@"; }
is() { [ "$(cat "$1")" = "$2" ]; }

mkdir -p /run/check/cgroup /run/check/a
zcat /proc/config.gz >/run/check/config

for name in ext4 erofs squashfs overlay tmpfs devtmpfs proc sysfs cgroup2 fuse virtiofs autofs vfat iso9660 hugetlbfs mqueue \
    bpf securityfs configfs devpts; do
    check "file system $name" has_word "$name" /proc/filesystems
done
for name in cgroup ipc mnt net pid time user uts; do
    check "$name namespace" [ -e "/proc/self/ns/$name" ]
done
check 'a user namespace, made' unshare -U true
check 'all other namespaces, made' unshare -m -u -i -n -p -f true

mount -t cgroup2 none /run/check/cgroup
for name in cpu io memory pids hugetlb rdma misc cpuset; do
    # cpusets are for several CPUs: a kernel for one has none.
    [ "$name" = cpuset ] && ! grep -q ' SMP ' /proc/version && continue
    check "cgroup controller $name" has_word "$name" /run/check/cgroup/cgroup.controllers
done
for name in cgroup.kill cgroup.freeze cpu.pressure; do
    mkdir -p /run/check/cgroup/inner
    check "cgroup file $name" [ -e "/run/check/cgroup/inner/$name" ]
done

for name in fuse net/tun loop-control kmsg input/event0 ttyS0 autofs null urandom; do
    check "/dev/$name" [ -e "/dev/$name" ]
done
for name in virtio_blk virtio_net virtio_console virtio_balloon virtio_rng virtiofs virtio_pmem virtio_mem \
    vmw_vsock_virtio_transport; do
    check "driver $name" [ -e "/sys/bus/virtio/drivers/$name" ]
done
check 'driver virtio-mmio' [ -e /sys/bus/platform/drivers/virtio-mmio ]
check 'driver virtio-pci' [ -e /sys/bus/pci/drivers/virtio-pci ]
check 'power button' grep -q 'Power Button' /proc/bus/input/devices
check 'kvm-clock' is /sys/devices/system/clocksource/clocksource0/current_clocksource kvm-clock

for type in bridge dummy ifb ; do
    check "network device $type" ip link add "check-$type" type "$type"
done
check 'network device veth' ip link add check-veth type veth
check 'VLAN' ip link add link check-dummy name check-vlan type vlan id 7
for type in macvlan ipvlan; do
    check "network device $type" ip link add link check-dummy name "check-$type" type "$type"
    ip link delete "check-$type" 2>/dev/null
done
check 'IPv6' [ -e /proc/net/if_inet6 ]
check 'packet sockets' [ -e /proc/net/packet ]
check 'UNIX sockets' [ -e /proc/net/unix ]
check 'bridged packets pass iptables' [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]
check 'connection tracking' [ -e /proc/sys/net/netfilter/nf_conntrack_max ]
for name in FILTER NAT MANGLE RAW; do
    check "iptables' table $name" configured "IP_NF_$name" "IP6_NF_$name"
done

check 'seccomp filters' grep -q errno /proc/sys/kernel/seccomp/actions_avail
mount -t securityfs none /sys/kernel/security 2>/dev/null
check 'Landlock' grep -q landlock /sys/kernel/security/lsm
check 'BPF' [ -e /proc/sys/kernel/unprivileged_bpf_disabled ]
check 'io_uring' [ -e /proc/sys/kernel/io_uring_disabled ]
check 'inotify' [ -e /proc/sys/fs/inotify/max_user_watches ]
check 'epoll' [ -e /proc/sys/fs/epoll/max_user_watches ]
check 'POSIX message queues' [ -e /proc/sys/fs/mqueue/msg_max ]
check 'System V IPC' [ -e /proc/sysvipc/shm ]
check 'pressure stall information' [ -e /proc/pressure/memory ]
check 'core dumps' [ -e /proc/sys/kernel/core_pattern ]
check 'transparent huge pages' grep -q '\[madvise\]' /sys/kernel/mm/transparent_hugepage/enabled
mkdir /run/check/binfmt
check 'binfmt_misc' mount -t binfmt_misc none /run/check/binfmt
mkdir /run/check/lower /run/check/upper /run/check/work
mount -t tmpfs none /run/check/a && mkdir /run/check/a/lower /run/check/a/upper /run/check/a/work
check 'an overlay' mount -t overlay none -o lowerdir=/run/check/a/lower,upperdir=/run/check/a/upper,workdir=/run/check/a/work /run/check/lower
check 'no modules' [ ! -e /proc/modules ]
check 'no /dev/mem' [ ! -e /dev/mem ]

# systemd's README, "REQUIREMENTS": required and strongly recommended, then what must be off.
for name in DEVTMPFS CGROUPS INOTIFY_USER SIGNALFD TIMERFD EPOLL UNIX SYSFS PROC_FS FHANDLE TMPFS_XATTR TMPFS_POSIX_ACL SECCOMP \
    SECCOMP_FILTER KCMP NET_SCHED NET_SCH_FQ_CODEL IPV6 AUTOFS_FS CGROUP_BPF BPF_SYSCALL CFS_BANDWIDTH CGROUP_SCHED FAIR_GROUP_SCHED \
    MEMCG PSI NET_NS USER_NS CRYPTO_HMAC CRYPTO_SHA256 CRYPTO_USER_API_HASH EPOLL POSIX_TIMERS BINFMT_MISC; do
    check "CONFIG_$name" configured "$name"
done
for name in SYSFS_DEPRECATED RT_GROUP_SCHED UEVENT_HELPER FW_LOADER_USER_HELPER AUDIT; do
    check "CONFIG_$name off" not configured "$name"
done

# A boot without a word of complaint: emergencies to warnings.
dmesg -r | grep '^<[0-4]>' >/run/check/complaints
check 'a kernel log without warnings' [ ! -s /run/check/complaints ]
sed 's/^/kernel-check: kernel: /' /run/check/complaints
vulnerable=$(grep -l '^Vulnerable' /sys/devices/system/cpu/vulnerabilities/* 2>/dev/null | sed 's|.*/||' | tr '\n' ' ')
[ -z "$vulnerable" ] || echo "kernel-check: unmitigated on this CPU: $vulnerable"

echo "kernel-check: $passed passed, $failed failed"
[ "$failed" = 0 ]
