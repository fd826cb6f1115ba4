# shellcheck shell=bash
# The own guest kernel: Debian's source with the configuration in resources/kernel, built into the cache. Needs common.sh.

OWN_KERNEL_CONFIGURATION=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../resources/kernel")
OWN_KERNEL_VERSIONS=(6.12 6.1)
# What compiles it, beyond what `cached` and the rest of the tools need anyway.
OWN_KERNEL_PACKAGES=(gcc make flex bison bc libelf-dev libssl-dev xz-utils)

# own_kernel VERSION JOBS [FRAGMENT…] - prints the directory that holds the kernel's `vmlinux`, its `config` and its `release`.
# VERSION is 6.12, 6.1 or empty: the first that apt has. FRAGMENTs are laid over the configuration.
own_kernel() {
    local version=$1 jobs=$2 package source key
    local -a fragments
    shift 2
    package=$(own_kernel_package "$version")
    version=${package#linux-source-}
    fragments=("$OWN_KERNEL_CONFIGURATION/guest.config")
    # What an older source calls otherwise, or has not.
    [[ ! -e $OWN_KERNEL_CONFIGURATION/guest-$version.config ]] || fragments+=("$OWN_KERNEL_CONFIGURATION/guest-$version.config")
    fragments+=("$@")
    source=$(own_kernel_source "$package")
    key=$({
        printf '%s\n' "${source#* }" "$(own_kernel_compiler)"
        cat -- "${fragments[@]}"
        declare -f build_own_kernel unpack_kernel_source configure_own_kernel compile_own_kernel settings missing_settings
    } | hash_of)
    cached "own-kernel/$key" build_own_kernel "$package" "${source#* }" "$jobs" "${fragments[@]}"
}

own_kernel_compiler() {
    [[ -n $(type -P gcc) && -n $(type -P ld) ]] || need_packages "${OWN_KERNEL_PACKAGES[@]}"
    gcc --version | head -n 1
    ld --version | head -n 1
}

# own_kernel_package VERSION - the source package.
own_kernel_package() {
    local version
    local -a wanted=("${OWN_KERNEL_VERSIONS[@]}")
    [[ -z $1 ]] || wanted=("$1")
    for version in "${wanted[@]}"; do
        # Once fetched, it is known without asking apt.
        if [[ -e $(cache_dir)/kernel-source/linux-source-$version.uri ]] || has_candidate "linux-source-$version"; then
            printf 'linux-source-%s\n' "$version"
            return
        fi
    done
    if [[ -z $apt_updated ]]; then
        apt_update
        own_kernel_package "$1"
        return
    fi
    die "apt knows no kernel source of version ${wanted[*]}"
}

has_candidate() { apt-cache "${APT_OPTIONS[@]}" show --no-all-versions "$1" >/dev/null 2>&1; }

# own_kernel_source PACKAGE - 'URI' FILE SIZE HASH, as apt says, of the version to build from. It stays until AMPOULE_REFRESH=1 asks for
# a newer one: a kernel is not to change below its users because the archive has moved on.
own_kernel_source() {
    local package=$1 record uris
    record=$(cache_dir)/kernel-source/$package.uri
    if [[ ! -e $record || -n ${AMPOULE_REFRESH:-} ]]; then
        [[ -z ${AMPOULE_REFRESH:-} ]] || apt_update
        uris=$(kernel_uris "$package") || die "apt cannot tell where to get $package"
        mkdir -p "${record%/*}"
        printf '%s\n' "$uris" >"$record.$$"
        mv -f "$record.$$" "$record"
    fi
    cat "$record"
}

# kernel_source_archive PACKAGE FILE - prints the path of the fetched package; FILE names it, version included.
kernel_source_archive() { cached "kernel-source/$2" fetch_kernel_source "$1" "$2"; }

fetch_kernel_source() {
    local out=$1 package=$2 file=$3 version
    version=${file#*_}
    # The epoch's colon and the like are escaped in a file's name, not in a version.
    version=$(sed 's/%3a/:/g; s/_[^_]*$//' <<<"$version")
    mkdir "$out.fetch"
    # apt-get puts what it downloads into the working directory.
    (cd "$out.fetch" && run_logged "fetching $package $version" -- apt-get "${APT_OPTIONS[@]}" download "$package=$version") || {
        rm -rf "$out.fetch"
        die "$package $version is not to be had any more (hint: AMPOULE_REFRESH=1 takes the present one)"
    }
    mv "$out.fetch"/*.deb "$out"
    rm -rf "$out.fetch"
}

# build_own_kernel OUT PACKAGE FILE-SIZE-HASH JOBS FRAGMENT…
build_own_kernel() {
    local out=$1 package=$2 file=$3 jobs=$4 archive source objects release
    shift 4
    need_packages "${OWN_KERNEL_PACKAGES[@]}"
    archive=$(kernel_source_archive "$package" "${file%% *}")
    mkdir "$out"
    source=$out/source objects=$out/objects
    run_logged "unpacking $package" -- unpack_kernel_source "$archive" "$source"
    run_logged 'configuring' -- configure_own_kernel "$source" "$objects" "$@"
    compile_own_kernel "$source" "$objects" "$jobs"
    release=$(<"$objects/include/config/kernel.release")
    printf '%s\n' "$release" >"$out/release"
    cp "$objects/.config" "$out/config"
    cp "$objects/System.map" "$out/System.map"
    # Sections that are not loaded, symbols among them, only make the file bigger.
    objcopy --strip-all "$objects/vmlinux" "$out/vmlinux"
    rm -rf "$source" "$objects"
}

# unpack_kernel_source ARCHIVE DIRECTORY - without the code of drivers for hardware that no guest has, which is half of it; their
# Kconfig files and Makefiles stay.
unpack_kernel_source() {
    local archive=$1 directory=$2 tarball
    mkdir "$directory"
    dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$directory" --wildcards --strip-components=3 './usr/src/linux-source-*.tar.xz'
    tarball=$(echo "$directory"/linux-source-*.tar.xz)
    tar -x -J -f "$tarball" -C "$directory" --strip-components=1 --wildcards \
        --exclude='*/Documentation/*.rst' --exclude='*/Documentation/*.yaml' --exclude='*/Documentation/*.txt' \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/drivers/net/ethernet/*.[ch]' \
        --exclude='*/drivers/net/wireless/*.[ch]' --exclude='*/drivers/staging/*.[ch]' --exclude='*/drivers/scsi/*.[ch]' \
        --exclude='*/drivers/usb/*.[ch]' --exclude='*/sound/*.[ch]' --exclude='*.dts' --exclude='*.dtsi' \
        --exclude='*/tools/testing/*' --exclude='*/tools/perf/*'
    rm "$tarball"
}

# settings FRAGMENT… - their lines CONFIG_NAME=VALUE, comments taken off; of several for one name the last.
settings() {
    sed -E 's/[[:space:]]+#.*$//; /^[[:space:]]*(#|$)/d' -- "$@" |
        awk -F= '{ line[$1] = $0; if (!($1 in at)) at[$1] = NR } END { for (name in line) print at[name], line[name] }' |
        sort -n | cut -d' ' -f2-
}

configure_own_kernel() {
    local source=$1 objects=$2 wanted missing
    shift 2
    wanted=$(settings "$@")
    mkdir "$objects"
    make -s -C "$source" O="$objects" tinyconfig
    # Of two lines for one option the later counts.
    sed -E 's/^(CONFIG_[A-Za-z0-9_]+)=n$/# \1 is not set/' <<<"$wanted" >>"$objects/.config"
    # It warns of each line that overrides an earlier one, which is what they are for.
    make -s -C "$source" O="$objects" olddefconfig 2> >(grep -v "warning: override:" >&2)
    missing=$(missing_settings "$objects/.config" "$wanted")
    [[ -z $missing ]] || {
        printf 'these options did not take: a name may be wrong, or something that they need is off:\n%s\n' "$missing"
        return 1
    }
}

# missing_settings CONFIG WANTED - the lines of WANTED that CONFIG does not have.
missing_settings() {
    awk -F= 'NR == FNR { if (/^CONFIG_/) { name = $1; sub(/^[^=]*=/, ""); is[name] = $0 } next }
        { name = $1; value = $0; sub(/^[^=]*=/, "", value)
          actual = name in is ? is[name] : "n"
          if (actual != value) print name "=" value " (is " actual ")" }' "$1" - <<<"$2"
}

# compile_own_kernel SOURCE OBJECTS JOBS - says every while how far it is.
compile_own_kernel() {
    local source=$1 objects=$2 jobs=$3 start=$SECONDS date make status=0
    # Neither the clock nor who builds where may show in the result.
    date=$(date -u -r "$source/Makefile" '+%Y-%m-%d %H:%M:%S UTC')
    make -C "$source" O="$objects" -j "$jobs" KBUILD_BUILD_TIMESTAMP="$date" KBUILD_BUILD_USER=ampoule \
        KBUILD_BUILD_HOST=ampoule vmlinux >"$objects/log" 2>&1 </dev/null &
    make=$!
    # A signal is answered at once, not when the compilers have finished.
    trap 'kill "$make" 2>/dev/null; wait "$make"; exit 130' INT
    trap 'kill "$make" 2>/dev/null; wait "$make"; exit 143' TERM
    log "compiling with $jobs jobs …"
    while kill -0 "$make" 2>/dev/null; do
        sleep 1
        if (((SECONDS - start) % 30 == 0)); then
            log "compiling: $(grep -c '^  [A-Z]' "$objects/log" || true) steps of about 1500, $((SECONDS - start)) s"
        fi
    done
    wait "$make" || status=$?
    if ((status)); then
        tail -n 20 "$objects/log" >&2
        die "compiling failed (make ended with $status)"
    fi
    log "compiling: done in $((SECONDS - start)) s"
}
