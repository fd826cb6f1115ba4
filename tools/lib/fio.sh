# shellcheck shell=bash
# fio, for guests that put a load on their disks: Debian's program and C library. Needs common.sh and kernel.sh.

# guest_fio - prints the directory of a tree with bin/fio and all that it loads, fetched and made once; AMPOULE_REFRESH=1 looks for
# newer packages.
guest_fio() {
    local record uris key
    record=$(cache_dir)/fio/packages
    if [[ ! -e $record || -n ${AMPOULE_REFRESH:-} ]]; then
        uris=$(kernel_uris fio libc6) || die 'apt cannot tell where to get fio'
        mkdir -p "${record%/*}"
        printf '%s\n' "$uris" >"$record.$$"
        mv -f "$record.$$" "$record"
    fi
    key=$({ cut -d' ' -f2- "$record" | sort && declare -f build_fio build_unused_library; } | hash_of)
    cached "fio/$key" build_fio
}

# build_fio OUT
build_fio() {
    local out=$1 packages=$1/packages name
    mkdir -p "$packages" "$out"/{bin,lib,lib64}
    # apt-get puts what it downloads into the working directory.
    (cd "$packages" && run_logged 'fetching fio' -- apt-get "${APT_OPTIONS[@]}" download fio libc6)
    for name in "$packages"/*.deb; do
        dpkg-deb -x "$name" "$packages"
    done
    install "$packages/usr/bin/fio" "$out/bin/"
    # Where these are differs from release to release; of the loader there are links by other names of its directory.
    find "$packages" -type f -name ld-linux-x86-64.so.2 -exec cp {} "$out/lib64/" \;
    for name in libc.so.6 libm.so.6; do
        find "$packages" -type f -name "$name" -exec cp {} "$out/lib/" \;
    done
    rm -rf "$packages"
    build_unused_library "$out"
}

# build_unused_library TREE - a library in the place of all others that fio wants. It is linked with those of a dozen kinds of storage,
# 100 MiB with all that they need, which an emulated guest would take longer to load than any test takes, and calls none of them for a
# block device.
build_unused_library() {
    local tree=$1 name work=$1/work
    mkdir "$work"
    readelf -W --dyn-syms "$tree/bin/fio" | awk '$5 == "GLOBAL" && $7 == "UND" && $8 !~ /@GLIBC/ { print $8 }' | sort -u >"$work/symbols"
    # One that is called all the same is an invalid instruction.
    awk -F@ '{ print ".globl " $1 "\n.type " $1 ", @function\n" $1 ": ud2" } END { print ".section .note.GNU-stack" }' "$work/symbols" >"$work/unused.s"
    awk -F@ 'NF > 1 { names[$2] = names[$2] " " $1 ";" } END { for (version in names) print version " { global:" names[version] " };" }' \
        "$work/symbols" >"$work/versions"
    cc -shared -nostdlib -Wl,--version-script="$work/versions" -o "$tree/lib/unused.so" "$work/unused.s"
    rm -rf "$work"
    # One file by many names: it is loaded once.
    while read -r name; do
        [[ -e $tree/lib/$name ]] || ln -s unused.so "$tree/lib/$name"
    done < <(readelf -d "$tree/bin/fio" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}

# guest_fio_initrd INITRD - prints the path of the same RAM disk with fio in it.
guest_fio_initrd() {
    local tree key
    need_packages cpio
    tree=$(guest_fio)
    key=$(printf '%s\n' "$1" "$tree" "$(declare -f build_fio_initrd)" | hash_of)
    cached "initrd/$key.cpio" build_fio_initrd "$1" "$tree"
}

build_fio_initrd() {
    local out=$1 initrd=$2 tree=$3
    # The kernel unpacks archives that follow each other over each other.
    {
        cat "$initrd"
        (cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet)
    } >"$out"
}
