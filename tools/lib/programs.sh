# shellcheck shell=bash
# Programs for guests that nobody here wrote, Debian's with its C library: fio, which puts a load on disks, and socat, which speaks over
# sockets. Needs common.sh and kernel.sh.

# guest_program NAME - prints the directory of a tree with bin/NAME and all that it loads, fetched and made once; AMPOULE_REFRESH=1 looks
# for newer packages.
guest_program() {
    local program=$1 record uris key
    record=$(cache_dir)/$program/packages
    if [[ ! -e $record || -n ${AMPOULE_REFRESH:-} ]]; then
        uris=$(kernel_uris "$program" libc6) || die "apt cannot tell where to get $program"
        mkdir -p "${record%/*}"
        printf '%s\n' "$uris" >"$record.$$"
        mv -f "$record.$$" "$record"
    fi
    key=$({ cut -d' ' -f2- "$record" | sort && declare -f build_program build_unused_library; } | hash_of)
    cached "$program/$key" build_program "$program"
}

guest_fio() { guest_program fio; }

# build_program OUT NAME
build_program() {
    local out=$1 program=$2 packages=$1/packages name
    mkdir -p "$packages" "$out"/{bin,lib,lib64}
    # apt-get puts what it downloads into the working directory.
    (cd "$packages" && run_logged "fetching $program" -- apt-get "${APT_OPTIONS[@]}" download "$program" libc6)
    for name in "$packages"/*.deb; do
        dpkg-deb -x "$name" "$packages"
    done
    install "$packages/usr/bin/$program" "$out/bin/"
    # Where these are differs from release to release; of the loader there are links by other names of its directory.
    find "$packages" -type f -name ld-linux-x86-64.so.2 -exec cp {} "$out/lib64/" \;
    for name in libc.so.6 libm.so.6; do
        find "$packages" -type f -name "$name" -exec cp {} "$out/lib/" \;
    done
    rm -rf "$packages"
    build_unused_library "$out" "$program"
}

# build_unused_library TREE NAME - a library in the place of all others that the program wants. fio is linked with those of a dozen kinds
# of storage, 100 MiB with all that they need, which an emulated guest would take longer to load than any test takes, and calls none of
# them for a block device; socat with those of TLS.
build_unused_library() {
    local tree=$1 program=$2 name work=$1/work
    mkdir "$work"
    readelf -W --dyn-syms "$tree/bin/$program" | awk '$5 == "GLOBAL" && $7 == "UND" && $8 !~ /@GLIBC/ { print $8 }' | sort -u >"$work/symbols"
    # Variables, which a program copies from their library (R_X86_64_COPY): name and size.
    readelf -W --dyn-syms "$tree/bin/$program" |
        awk '$4 == "OBJECT" && $5 == "GLOBAL" && $7 != "UND" && $8 !~ /@/ { print $8, $3 }' | sort -u >"$work/variables"
    # A function that is called all the same is an invalid instruction.
    {
        awk -F@ '{ print ".globl " $1 "\n.type " $1 ", @function\n" $1 ": ud2" }' "$work/symbols"
        awk 'BEGIN { print ".bss" } { print ".balign 16\n.globl " $1 "\n.type " $1 ", @object\n.size " $1 ", " $2 "\n" $1 ": .zero " $2 }' "$work/variables"
        echo '.section .note.GNU-stack'
    } >"$work/unused.s"
    awk -F@ 'NF > 1 { names[$2] = names[$2] " " $1 ";" } END { for (version in names) print version " { global:" names[version] " };" }' \
        "$work/symbols" >"$work/versions"
    cc -shared -nostdlib -Wl,--version-script="$work/versions" -o "$tree/lib/unused.so" "$work/unused.s"
    rm -rf "$work"
    # One file by many names: it is loaded once.
    while read -r name; do
        [[ -e $tree/lib/$name ]] || ln -s unused.so "$tree/lib/$name"
    done < <(readelf -d "$tree/bin/$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}

# guest_program_initrd NAME INITRD - prints the path of the same RAM disk with that program in it.
guest_program_initrd() {
    local tree key
    need_packages cpio
    tree=$(guest_program "$1")
    key=$(printf '%s\n' "$2" "$tree" "$(declare -f build_program_initrd)" | hash_of)
    cached "initrd/$key.cpio" build_program_initrd "$2" "$tree"
}

guest_fio_initrd() { guest_program_initrd fio "$1"; }

build_program_initrd() {
    local out=$1 initrd=$2 tree=$3
    # The kernel unpacks archives that follow each other over each other.
    {
        cat "$initrd"
        (cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet)
    } >"$out"
}
