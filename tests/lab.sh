#!/usr/bin/env bash
# Checks what tools/lab promises. Prints `ok NAME` or `not ok NAME` for each check; ends with 1 if one failed.
# shellcheck disable=SC2317 # checks are called by name
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
lab=$here/../tools/lab
failed=0

usage() {
    cat <<'END'
Usage: tests/lab.sh

Boots the lab several times, two at once (under two minutes), and checks exit codes, streams, arguments, environment,
what survives, /scratch, users, /dev/kvm and interruption.
END
}

# check NAME COMMAND… - says whether COMMAND succeeds. Inside the lab too.
check() {
    local name=$1 status
    shift
    # Not in the condition itself: there the first failure would not end the check.
    set +e
    (set -e && "$@") >"$checks.said" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        printf 'ok %s\n' "$name"
    else
        printf 'not ok %s\n' "$name"
        sed 's/^/# /' "$checks.said"
        failed=1
    fi
}

is() {
    [[ $1 == "$2" ]] || {
        printf 'wanted %q, got %q\n' "$2" "$1"
        return 1
    }
}

# ---- inside the lab --------------------------------------------------------------------------

KVM_API='import fcntl; f = open("/dev/kvm", "rb+", buffering=0); print(fcntl.ioctl(f, 0xAE00), fcntl.ioctl(f, 0xAE01, 0) > 0)'

direct_io() {
    dd if=/dev/zero of=/scratch/direct bs=4096 count=16 oflag=direct
    fallocate --punch-hole --offset 4096 --length 8192 /scratch/direct
    is "$(stat -c %s /scratch/direct)" 65536
    is "$(stat -fc %T /scratch)" ext2/ext3
}

user_attributes() {
    : >/scratch/attributes
    python3 -c 'import os; os.setxattr("/scratch/attributes", "user.ampoule", b"\0x"); assert os.getxattr("/scratch/attributes", "user.ampoule") == b"\0x"'
}

pure_cgroup_v2() {
    is "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
    mkdir /sys/fs/cgroup/check
    echo 16M >/sys/fs/cgroup/check/memory.max
    rmdir /sys/fs/cgroup/check
}

# Whoever is in a chroot may not make a user namespace.
user_namespace() { is "$(unshare --user --map-root-user --net -- id -u)" 0; }

modules_load() {
    modprobe vhost_net
    [[ -e /sys/module/vhost_net ]]
    ip link show lo 2>/dev/null | grep -q UP || grep -q '^ *lo:' /proc/net/dev
}

private_runtime_directory() { is "$(stat -c '%u %a' "$XDG_RUNTIME_DIR")" "$(id -u) 700"; }

orphans_are_reaped() {
    sh -c 'sleep 0.1 & exit' && sleep 1
    ! grep -ls '^State:.Z' /proc/[0-9]*/status
}

# Standard input and output hold what is compared outside; the checks go to standard error.
inside() {
    local input=$1 output=$2
    shift 2
    # Not what a user has put before it: a wrapper in many steps takes seconds here.
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    checks=/tmp/checks
    {
        is "$(sha256sum | cut -d' ' -f1)" "$input" && echo ok stdin-binary-and-its-end || echo not ok stdin-binary-and-its-end
        check arguments is "$(printf '<%s>' "$@")" $'<><two  words><a\nb><"quo\'ted" \\ $HOME *>'
        check environment is "${ODD:-}" $'x\n y "\' \\ $='
        check working-directory is "$PWD" "$output"
        check kvm is "$(python3 -c "$KVM_API")" '12 True'
        check cpus is "$(nproc)" 3
        check scratch-direct-io direct_io
        check scratch-user-attributes user_attributes
        check cgroup-v2 pure_cgroup_v2
        check user-namespace user_namespace
        check modules modules_load
        check runtime-directory private_runtime_directory
        check orphans orphans_are_reaped
        mkdir "$output/kept"
        echo kept >"$output/kept/file"
        chown 12345:54321 "$output/kept/file"
        echo lost >"${output%/*}/lost"
        echo lost >/etc/ampoule-lab-lost
    } >&2
    cat "$output/big"
    # Held by a process that stays: it must not hold the lab.
    sleep 1000 &
    exit 3
}

inside_as_user() {
    checks=$XDG_RUNTIME_DIR/checks
    check user is "$(id -un) $(id -u)" "nobody $(id -u nobody)"
    check user-environment is "$USER $LOGNAME" 'nobody nobody'
    check user-kvm is "$(python3 -c "$KVM_API")" '12 True'
    check user-runtime-directory private_runtime_directory
    kill -9 $$
}

# ---- outside ---------------------------------------------------------------------------------

start_main() {
    mkdir "$odd"
    head -c $((1 << 20)) /dev/urandom >"$work/input"
    head -c $((8 << 20)) /dev/urandom >"$odd/big"
    cd "$odd"
    local sum
    sum=$(sha256sum <"$work/input" | cut -d' ' -f1)
    run main env ODD=$'x\n y "\' \\ $=' "$lab" --always --cpus 3 --scratch 256M --output . -- \
        "$here/lab.sh" --inside "$sum" "$odd" '' 'two  words' $'a\nb' $'"quo\'ted" \\ $HOME *' <"$work/input"
}

# run NAME COMMAND… - leaves NAME.out, NAME.err and NAME.code in the work directory.
run() {
    local name=$1 code=0 start=$EPOCHREALTIME
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.err" || code=$?
    echo "$code" >"$work/$name.code"
    printf '# %s: %.1f s\n' "$name" "$(((${EPOCHREALTIME/./} - ${start/./}) / 1000))e-3"
}

ended_with() { is "$(cat "$work/$1.code")" "$2"; }

interrupted() {
    local signal=$1 wanted=$2 pid qemu code=0
    # Job control off: a background job ignores SIGINT, so it is sent to a shell that does not.
    python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' \
        "$lab" --always -- sleep 1000 </dev/null &
    pid=$!
    for _ in {1..300}; do
        qemu=$(cat "/proc/$pid/task/$pid/children")
        [[ $(cat "/proc/$pid/comm") == lab-relay && -n $qemu ]] && break
        sleep 0.1
    done
    # All of its threads share one processor of the host.
    [[ $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/${qemu% }/task/"*/status | sort -u) =~ ^[0-9]+$ ]] || return 1
    sleep 1
    kill "-$signal" "$pid"
    wait "$pid" || code=$?
    is "$code" "$wanted"
    sleep 0.5
    # A zombie is dead: whoever adopted it has yet to notice.
    ! grep '^State:.[^Z]' "/proc/${qemu% }/status" 2>/dev/null
}

survives() {
    is "$(cat "$odd/kept/file")" kept
    ((EUID != 0)) || is "$(stat -c %u:%g "$odd/kept/file")" 12345:54321
    [[ ! -e $work/lost && ! -e /etc/ampoule-lab-lost ]]
}

outside() {
    local start=$SECONDS
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    checks=$work/checks
    odd="$work/a 'directory'"$'\n'"\"with, commas\""
    # The first run fetches and builds what is missing.
    run first "$lab" --always -- true </dev/null

    # Two at once.
    start_main &
    {
        run user "$lab" --always --user nobody -- "$here/lab.sh" --inside-as-user </dev/null
        run not-found "$lab" --always -- ampoule-no-such-command </dev/null
        run not-executable "$lab" --always -- /etc/passwd </dev/null
    } &
    wait
    run panic "$lab" --always -- sh -c 'echo c >/proc/sysrq-trigger; sleep 100' </dev/null &
    run icount "$lab" --icount -- sh -c 'nproc; echo error >&2; exit 0' </dev/null &
    wait

    cat "$work/main.err" "$work/user.out"
    ! grep -q '^not ok' "$work/main.err" "$work/user.out" || failed=1
    check all-checks-ran is "$(cat "$work/main.err" "$work/user.out" | grep -Ec '^(not )?ok ')" 17
    check exit-0 ended_with first 0
    check exit-3 ended_with main 3
    check exit-126 ended_with not-executable 126
    check exit-127 ended_with not-found 127
    check exit-137 ended_with user 137
    check stdout-8MiB-intact cmp "$work/main.out" "$odd/big"
    check stderr-separate is "$(cat "$work/icount.out" "$work/icount.err")" $'1\nerror'
    check icount-exit-0 ended_with icount 0
    check output-survives-alone survives
    check lab-failure-is-125 ended_with panic 125
    check lab-failure-is-told grep -q 'lab: .*went down before' "$work/panic.err"
    check SIGTERM interrupted TERM 143
    check SIGINT interrupted INT 130
    check SIGKILL interrupted KILL 137
    check usage-error-is-125 is "$("$lab" --nonsense 2>/dev/null || echo $?)" 125
    check no-such-host-cpu-is-125 is "$("$lab" --host-cpu 9999 -- true 2>/dev/null || echo $?)" 125
    echo "# $((SECONDS - start)) s"
}

case ${1:-} in
    --inside) inside "${@:2}" ;;
    --inside-as-user) inside_as_user ;;
    '') outside ;;
    *) usage ;;
esac
exit "$failed"
