# shellcheck shell=bash
# Initial RAM disks of busybox and a script. Needs common.sh and kernel.sh.

TOOLS_LIB=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

# guest_initrd [TREE MODULE…] - prints the path of a small initial RAM disk for guests: it says
# `ampoule-guest: user space`, writes the marker byte, and runs `ampoule.run=` of the command line or a
# shell (guest-init.sh tells more). TREE (of guest_kernel) and module names: what is to be loaded first.
# shellcheck disable=SC2120 # some callers name modules
guest_initrd() {
    local modules='' tree
    need_packages busybox-static cpio
    if (($# > 1)); then
        tree=$1
        shift
        modules=$(module_closure "$tree" "$@")
    fi
    initrd_from "$TOOLS_LIB/guest-init.sh" "$modules" "$(guest_marker)"
}

# guest_root_image - prints the path of the same as a root file system, on an ext4 of 16 MiB. It is nobody's to write to: copy it.
guest_root_image() {
    local initrd key
    need_packages e2fsprogs cpio
    # shellcheck disable=SC2119 # without modules
    initrd=$(guest_initrd)
    key=$({ sha256sum <"$initrd" && declare -f build_root_image; } | hash_of)
    cached "initrd/$key.ext4" build_root_image "$initrd"
}

build_root_image() {
    local out=$1 tree=$1.tree
    rm -rf "$tree"
    mkdir "$tree"
    (cd "$tree" && cpio -id --quiet <"$2")
    truncate --size 16M "$out"
    with_sbin mkfs.ext4 -q -d "$tree" "$out"
    rm -rf "$tree"
    chmod a-w "$out"
}

# guest_check_initrd - prints the path of the same for the own kernel, with /kernel-check.sh, which looks at what that kernel promises.
guest_check_initrd() {
    need_packages busybox-static cpio
    initrd_from "$TOOLS_LIB/guest-init.sh" '' "$(guest_marker)" "$TOOLS_LIB/kernel-check.sh"
}

# guest_marker - prints the path of the program that writes the marker byte, compiled.
guest_marker() {
    rust_program guest-marker -C opt-level=s -C relocation-model=static -C link-arg=-nostartfiles -C link-arg=-nostdlib -C link-arg=-static
}

# rust_program NAME FLAG… - prints the path of the program whose source is NAME.rs beside this file, compiled with these flags.
rust_program() {
    local source=$TOOLS_LIB/$1.rs compiler key
    compiler=$(rustc -vV) || die 'no rustc (hint: install a stable Rust toolchain, as for building Ampoule)'
    key=$({ cat "$source" && printf '%s\n' "$compiler" "$@" && declare -f build_rust_program; } | hash_of)
    printf '%s/%s\n' "$(cached "$1/$key" build_rust_program "$source" "$@")" "$1"
}

build_rust_program() {
    local out=$1 source=$2 name=$3
    shift 3
    mkdir "$out"
    run_logged "compiling $name" -- rustc --edition 2024 --crate-name "${name//-/_}" -C panic=abort -C strip=symbols \
        --remap-path-prefix "$TOOLS_LIB=tools/lib" "$@" -o "$out/$name" "$source"
}

# guest_traffic_initrd TREE MODULE… - prints the path of that RAM disk with these modules and /guest-traffic, which sends and receives what
# it is told to (guest-traffic.rs).
guest_traffic_initrd() {
    local tree=$1 modules program
    shift
    need_packages busybox-static cpio
    modules=$(module_closure "$tree" "$@")
    # Static, as guests have no libraries.
    program=$(rust_program guest-traffic -C opt-level=2 -C target-feature=+crt-static)
    initrd_from "$TOOLS_LIB/guest-init.sh" "$modules" "$(guest_marker)" "$program"
}

# initrd_from INIT MODULES [FILE…] - a RAM disk with INIT as /init, busybox under all its names, the modules (paths, one a line) in
# /modules in the order to load them in (/modules/order), and the files in /.
initrd_from() {
    local init=$1 modules=$2 key
    shift 2
    key=$({
        sha256sum <"$init"
        sha256sum <"$(busybox_static)"
        # A module's path names its kernel's tree, which never changes.
        printf '%s\n' "$modules" "$@"
        declare -f build_initrd
        # shellcheck disable=SC2016 # not ours to expand
        (($# == 0)) || sha256sum -- "$@"
    } | hash_of)
    cached "initrd/$key.cpio" build_initrd "$init" "$modules" "$@"
}

busybox_static() {
    local busybox
    busybox=$(command -v busybox) || die 'no busybox (hint: sudo apt-get install busybox-static)'
    printf '%s\n' "$busybox"
}

build_initrd() {
    local out=$1 init=$2 modules=$3 root=$1.root module applet
    shift 3
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,etc,modules,mnt,proc,root,run,sys,tmp}
    cp "$(busybox_static)" "$root/bin/busybox"
    while read -r applet; do
        [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
    done < <("$root/bin/busybox" --list)
    install -m 755 "$init" "$root/init"
    : >"$root/modules/order"
    while read -r module; do
        [[ -n $module ]] || continue
        copy_module "$module" "$root/modules"
        module=${module##*/}
        printf '%s\n' "${module%%.ko*}.ko" >>"$root/modules/order"
    done <<<"$modules"
    (($# == 0)) || cp -- "$@" "$root/"
    # Not compressed: unpacking would cost the guest more than copying costs the host, above all on an emulated CPU.
    # Owned by root and in one order, so that the same inputs give the same bytes.
    (cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) >"$out"
    rm -rf "$root"
}
