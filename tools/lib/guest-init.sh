#!/bin/busybox sh
# shellcheck shell=dash
# The whole of a test guest's user space, as /init of its initial RAM disk.
#
# It says that it is there, on the console and by the marker (byte 0x41 to I/O port 0x80), and then runs
#   ampoule.run=BASE64   of the kernel's command line, a shell script, or
#   a shell              on the console, with job control and Ctrl-C.
# When that ends the guest powers off.
export PATH=/bin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
# Kernels have ioperm or /dev/port, seldom both: Debian's cloud kernels lack the second.
/guest-marker || printf A | dd of=/dev/port bs=1 seek=128 conv=notrunc 2>/dev/null
echo 'ampoule-guest: user space'

while read -r module; do
    insmod "/modules/$module" || echo "ampoule-guest: cannot load $module"
done </modules/order

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
ip link set lo up 2>/dev/null

run=
# shellcheck disable=SC2013 # words are wanted
for word in $(cat /proc/cmdline); do
    case $word in ampoule.run=*) run=${word#ampoule.run=} ;; esac
done

if [ -n "$run" ]; then
    echo "$run" | base64 -d >/run/script
    sh /run/script
    echo "ampoule-guest: script ended with $?"
else
    # A console that signals and jobs work on must be its session's controlling terminal.
    setsid cttyhack sh
fi
poweroff -f
