# shellcheck shell=bash
# Kernels for guests: the distribution's own, fetched and unpacked into the cache. Nothing is
# installed: a kernel package's scripts would rebuild the host's boot files.

# guest_kernel NAME - prints the directory into which the kernel that the package NAME stands for is unpacked
# (boot/vmlinuz-RELEASE, lib/modules/RELEASE). Once fetched it stays as it is;
# AMPOULE_REFRESH=1 looks for a newer one.
guest_kernel() {
    local name=$1 cache link packages uris key tree
    cache=$(cache_dir)
    link=$cache/kernel/$name
    if [[ -e $link && -z ${AMPOULE_REFRESH:-} ]]; then
        realpath "$link"
        return
    fi
    mapfile -t packages < <(kernel_packages "$name")
    if ((${#packages[@]} == 0)); then
        # Old lists may lack it, and have what would be taken in its place.
        apt_update
        mapfile -t packages < <(kernel_packages "$name" or-else)
    fi
    ((${#packages[@]})) || die "apt knows no kernel package for $name"
    uris=$(kernel_uris "${packages[@]}") || die "apt cannot tell where to get ${packages[*]}"
    key=$({ cut -d' ' -f2- <<<"$uris" | sort && declare -f build_kernel_tree; } | hash_of)
    tree=$(cached "kernel/$key" build_kernel_tree "$uris" "${packages[@]}")
    # Replaced in one step: others may be reading it.
    ln -sfn "$key" "$link.$$"
    mv -fT "$link.$$" "$link"
    printf '%s\n' "$tree"
}

# kernel_packages NAME [or-else] - the packages that together are that kernel: Debian's metapackage and the image
# that it depends on; with `or-else`, elsewhere (or in another release), the nearest thing there is.
kernel_packages() {
    local name found
    local -a names=("$1") all
    case ${2:+$1} in
        linux-image-6.12-cloud-amd64) names+=(linux-image-cloud-amd64 linux-image-virtual) ;;
        linux-image-cloud-amd64) names+=(linux-image-virtual) ;;
        linux-image-amd64) names+=(linux-image-generic) ;;
    esac
    for name in "${names[@]}"; do
        all=()
        collect_kernel_packages "$name"
        for found in "${all[@]}"; do
            printf '%s\n' "$found"
        done
        ((${#all[@]} == 0)) || return 0
    done
}

# Adds to `all` of the caller: NAME, and what it needs of the same kind. Ubuntu keeps most modules in packages of their own.
collect_kernel_packages() {
    local needed
    [[ " ${all[*]} " != *" $1 "* ]] || return 0
    apt-cache "${APT_OPTIONS[@]}" show --no-all-versions "$1" >/dev/null 2>&1 || return 0
    all+=("$1")
    while read -r needed; do
        collect_kernel_packages "$needed"
    done < <(apt-cache "${APT_OPTIONS[@]}" depends --important "$1" |
        sed -n 's/^ *Depends: \(linux-\(image\|modules\)[^ <>]*\)$/\1/p')
}

# kernel_uris PKG… - lines of: 'URI' FILE SIZE HASH.
kernel_uris() {
    local uris
    uris=$(apt-get "${APT_OPTIONS[@]}" download --print-uris "$@" 2>/dev/null) || {
        apt_update
        uris=$(apt-get "${APT_OPTIONS[@]}" download --print-uris "$@")
    }
    grep "^'" <<<"$uris"
}

build_kernel_tree() {
    local tree=$1 uris=$2 mebibytes debs deb release
    shift 2
    need_packages kmod
    mebibytes=$(awk '{ sum += $3 } END { printf "%d", sum / 1048576 }' <<<"$uris")
    debs=$tree/debs
    mkdir -p "$debs"
    # apt-get puts what it downloads into the working directory.
    (cd "$debs" && run_logged "fetching $* ($mebibytes MiB)" -- apt-get "${APT_OPTIONS[@]}" download "$@")
    for deb in "$debs"/*.deb; do
        run_logged "unpacking $(basename "$deb")" -- dpkg-deb -x "$deb" "$tree"
    done
    rm -rf "$debs" "${tree:?}/usr/share"
    # Newer releases keep modules below /usr/lib; both names serve.
    [[ -e $tree/lib || ! -d $tree/usr/lib ]] || ln -s usr/lib "$tree/lib"
    release=$(kernel_release "$tree")
    # The package's own scripts would have done this on installing.
    with_sbin depmod -b "$tree" "$release"
    chmod -R go+rX "$tree"
}

# kernel_release TREE - as `uname -r` will say it.
kernel_release() {
    local image
    image=$(kernel_image "$1")
    image=${image##*/}
    printf '%s\n' "${image#vmlinuz-}"
}

# kernel_image TREE - the kernel as shipped.
kernel_image() {
    local image
    image=$(find "$1/boot" -maxdepth 1 -name 'vmlinuz-*' | sort -V | tail -n 1)
    [[ -n $image ]] || die "no kernel in $1/boot"
    printf '%s\n' "$image"
}

# kernel_modules TREE - the directory of its modules.
kernel_modules() { printf '%s/lib/modules/%s\n' "$1" "$(kernel_release "$1")"; }

# kernel_elf TREE - the kernel decompressed. Started at its PVH entry it skips its own
# decompressor, which is the longest single step of a boot on an emulated CPU.
kernel_elf() {
    local image
    image=$(kernel_image "$1")
    cached "kernel/elf-$(basename "$(realpath "$1")")" decompress_bzimage "$image"
}

decompress_bzimage() {
    local out=$1 image=$2 sectors offset length magic
    # The x86 boot protocol's header: setup_sects, payload_offset, payload_length.
    sectors=$(number_at "$image" 0x1f1 1)
    offset=$(((sectors + 1) * 512 + $(number_at "$image" 0x248 4)))
    length=$(number_at "$image" 0x24c 4)
    magic=$(od -An -tx1 -j "$offset" -N 4 "$image" | tr -d ' ')
    local -a unpack
    case $magic in
        fd377a58)
            need_packages xz-utils
            unpack=(xz -dc --single-stream)
            ;;
        28b52ffd)
            need_packages zstd
            unpack=(zstd -dc)
            ;;
        1f8b*) unpack=(gzip -dc) ;;
        02214c18)
            need_packages lz4
            unpack=(lz4 -dc)
            ;;
        *) die "$image: a payload of an unknown kind ($magic)" ;;
    esac
    # The payload is followed by its uncompressed size, over which decompressors grumble: what counts is what came out.
    { tail -c "+$((offset + 1))" "$image" | head -c "$length" | "${unpack[@]}" >"$out"; } 2>/dev/null || true
    [[ $(head -c 4 "$out" | od -An -tx1) == ' 7f 45 4c 46' ]] || die "$image: its payload is no ELF file"
}

number_at() { od -An -tu"$3" -j "$(($2))" -N "$3" "$1" | tr -d ' '; }

# module_closure TREE NAME… - the modules' files with all that they need, in the order to load them in. What
# is built into this kernel is left out, and so is a NAME? that this kernel has not.
module_closure() {
    local modules
    modules=$(kernel_modules "$1")
    shift
    awk -v base="$modules" -v wanted="$*" '
        function name(path) { sub(/.*\//, "", path); sub(/\.ko(\.[a-z0-9]+)?$/, "", path); gsub(/-/, "_", path); return path }
        function load(path) { if (!(path in done)) { done[path] = 1; print base "/" path } }
        FNR == 1 { file++ }
        file == 1 { builtin[name($1)] = 1; next }
        { path = $1; sub(/:$/, "", path); of[name(path)] = path; $1 = ""; needs[path] = $0 }
        END {
            count = split(wanted, names, " ")
            for (i = 1; i <= count; i++) {
                optional = sub(/[?]$/, "", names[i])
                key = name(names[i])
                if (key in builtin || (optional && !(key in of))) continue
                if (!(key in of)) { print "no module " names[i] " in " base > "/dev/stderr"; exit 1 }
                # Whole closure already, its nearest dependency first.
                for (j = split(needs[of[key]], deps, " "); j > 0; j--) load(deps[j])
                load(of[key])
            }
        }' "$modules/modules.builtin" "$modules/modules.dep"
}

# copy_module FILE DIRECTORY - as a plain .ko, whatever it is packed with.
copy_module() {
    local plain
    plain=$2/$(basename "$1")
    case $1 in
        *.xz) need_packages xz-utils && xz -dc "$1" >"${plain%.xz}" ;;
        *.zst) need_packages zstd && zstd -qdc "$1" >"${plain%.zst}" ;;
        *.gz) gzip -dc "$1" >"${plain%.gz}" ;;
        *) cp "$1" "$plain" ;;
    esac
}
