# shellcheck shell=bash
# What every tool shares: words to the user, apt packages, the cache, sizes.
# Sourced, after the tool has set TOOL (its name in messages) and, where its
# exit codes are pinned, TOOL_FAILURE (the exit code of its own failures).

set -Eeuo pipefail
# Without this a failure inside $(…) goes unseen.
shopt -s inherit_errexit

: "${TOOL:=$(basename "$0")}" "${TOOL_FAILURE:=1}"

# A command that failed unexpectedly is the tool's own failure, whatever its code was.
trap 'exit "$TOOL_FAILURE"' ERR

# log WORDS… - one line of progress, to standard error: standard output belongs to results.
log() { printf '%s: %s\n' "$TOOL" "$*" >&2; }

# die WORDS… - one line of what went wrong and what to try, then out.
die() {
    log "$@"
    exit "$TOOL_FAILURE"
}

# run_logged WORDS -- COMMAND… - for commands that are slow and talkative: says what is being
# done and how long it took; shows the command's own words only when it fails.
run_logged() {
    local what=$1 output status=0 start=$SECONDS
    shift 2
    log "$what …"
    output=$("$@" 2>&1 </dev/null) || status=$?
    if ((status)); then
        printf '%s\n' "$output" | tail -n 20 >&2
        log "$what: failed ($1 ended with $status)"
        return "$status"
    fi
    ((SECONDS - start < 3)) || log "$what: done in $((SECONDS - start)) s"
}

# with_sbin COMMAND… - finds it also where Debian keeps an ordinary user from looking. PATH itself stays as it
# is: what a tool runs for the user gets the user's.
with_sbin() { PATH=$PATH:/usr/sbin:/sbin "$@"; }

# parse_size WORDS - 4G, 512MiB, 64 (MiB) … as bytes.
parse_size() {
    local number suffix shift
    [[ $1 =~ ^([0-9]{1,15})([A-Za-z]*)$ ]] || return 1
    number=${BASH_REMATCH[1]} suffix=${BASH_REMATCH[2],,}
    case $suffix in
        k | kib) shift=10 ;;
        '' | m | mib) shift=20 ;;
        g | gib) shift=30 ;;
        t | tib) shift=40 ;;
        *) return 1 ;;
    esac
    # 10#: a leading zero does not make it octal.
    ((10#$number <= (1 << 62) >> shift)) || return 1
    printf '%s\n' "$((10#$number << shift))"
}

# need_rust [COMPONENT…] - makes sure of cargo and rustc; of clippy and rustfmt where they are asked for.
need_rust() {
    local home component
    if ! cargo -V >/dev/null 2>&1; then
        # rustup looks for its toolchains below HOME, which may be another than the one that it was installed into.
        home=$(getent passwd "$EUID" | cut -d: -f6)
        PATH=$home/.cargo/bin:$PATH
        export PATH RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        cargo -V >/dev/null 2>&1 || die 'no cargo (hint: install a stable Rust toolchain with rustup)'
    fi
    # Linking is the C compiler's work.
    command -v cc >/dev/null || need_packages gcc libc6-dev
    for component; do
        cargo "${component#rust}" --version >/dev/null 2>&1 || run_logged "installing $component" -- rustup component add "$component" ||
            die "no $component (hint: rustup component add $component)"
    done
}

# ---- apt -------------------------------------------------------------------------------------

APT_OPTIONS=(-o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root -o Acquire::Retries=0)
apt_updated=

# as_root COMMAND… - directly, or through sudo where that asks for nothing.
as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo -n -- "$@"
    fi
}

can_be_root() { ((EUID == 0)) || sudo -n true 2>/dev/null; }

# apt_update - once per run of a tool. Somebody who cannot become root gets package lists of
# their own in the cache: enough for `apt-get download`.
apt_update() {
    [[ -z $apt_updated ]] || return 0
    apt_updated=1
    if can_be_root; then
        run_logged 'updating the package lists' -- \
            as_root env DEBIAN_FRONTEND=noninteractive apt-get "${APT_OPTIONS[@]}" update
    else
        local own
        own=$(cache_dir)/apt
        mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
        APT_OPTIONS+=(-o "Dir::State::Lists=$own/lists" -o "Dir::Cache=$own/cache")
        run_logged 'fetching package lists of our own' -- apt-get "${APT_OPTIONS[@]}" update
    fi
}

# missing_packages PKG… - those of them that are not installed.
missing_packages() {
    local package
    for package; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] ||
            printf '%s\n' "$package"
    done
}

# need_packages PKG… - installs what is missing of them; says how where it may not.
need_packages() {
    local missing
    command -v dpkg-query >/dev/null || die "needs Debian or Ubuntu: there is no dpkg here (packages wanted: $*)"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    can_be_root || die "missing: ${missing[*]} (hint: sudo apt-get install ${missing[*]})"

    # Lists that never were fetched, or name versions that the archive has dropped, are the two
    # ways for an install to fail that an update mends.
    apt-cache show "${missing[@]}" >/dev/null 2>&1 || apt_update
    apt_install "${missing[@]}" || {
        [[ -z $apt_updated ]] && apt_update && apt_install "${missing[@]}"
    } || die "could not install ${missing[*]} (hint: sudo apt-get update && sudo apt-get install ${missing[*]})"
}

apt_install() {
    run_logged "installing $*" -- as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get "${APT_OPTIONS[@]}" install -y --no-install-recommends "$@"
}

# ---- cache -----------------------------------------------------------------------------------

# cache_dir - where what the tools made or fetched is kept: outside the tree, so that a fresh clone
# finds it again and `git clean` does not take it.
cache_dir() {
    local base=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    # No home at all (a service, a container's odd user): a directory of one's own under /tmp.
    if [[ $base != /?* || $base == /.cache ]]; then
        base=/tmp/ampoule-cache-$EUID
        # Programs are run from it, and anybody may have made a directory of that name before us.
        mkdir -m 700 "$base" 2>/dev/null || true
        [[ ! -L $base && -O $base && $(stat -c %a "$base") == 700 ]] ||
            die "$base is not a private directory of ours (hint: set HOME or XDG_CACHE_HOME)"
    fi
    mkdir -p "$base/ampoule/tools" || die "cannot make the cache $base/ampoule/tools (hint: set XDG_CACHE_HOME to a directory that you may write to)"
    printf '%s\n' "$base/ampoule/tools"
}

# hash_of - of standard input; short enough for a file name, long enough never to collide.
hash_of() { sha256sum | cut -c1-24; }

# cached NAME BUILDER ARGUMENTS… - prints the path of the cache's entry NAME. What is not there is made by
# BUILDER OUT ARGUMENTS…, which leaves a file or directory at OUT. NAME holds a hash of all that goes in, BUILDER's own text
# included. One of several
# runs builds and the others wait; a run that is killed leaves nothing that looks finished.
cached() {
    local entry
    entry=$(cache_dir)/$1
    shift
    [[ -e $entry ]] || (
        mkdir -p "$(dirname "$entry")"
        # The lock goes with this subshell's descriptor, however it ends.
        exec {lock}>"$entry.lock"
        flock "$lock"
        [[ ! -e $entry ]] || exit 0
        rm -rf "$entry.new"
        trap 'rm -rf "$entry.new"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        builder=$1
        shift
        # Not `builder || …`: that would switch off errexit within it.
        "$builder" "$entry.new" "$@" >&2
        mv -T "$entry.new" "$entry"
    )
    printf '%s\n' "$entry"
}

# allowed_cpus - prints the host's processors that this may run on, one a line.
allowed_cpus() {
    local range
    for range in $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr , ' '); do
        seq "${range%-*}" "${range#*-}"
    done
}

# has_real_kvm - whether this host's KVM runs stock kernels: kvm_pvm offers the same device with no hardware underneath.
has_real_kvm() {
    [[ -r /dev/kvm && -w /dev/kvm && ! -d /sys/module/kvm_pvm ]] && grep -Eqw 'vmx|svm' /proc/cpuinfo
}
