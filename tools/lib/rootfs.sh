# shellcheck shell=bash
# Root images with a Debian on them. Needs common.sh.

# What a minimal Debian lacks to be a machine of its own.
ROOTFS_PACKAGES=(systemd-sysv systemd-resolved udev dbus libpam-systemd kmod iproute2 procps netbase)

# debian_image BYTES RELEASE MIRROR [PACKAGE…] - prints the path of the cache's image. It is nobody's to write to: copy it.
debian_image() {
    local bytes=$1 tree key
    shift
    need_packages debootstrap debian-archive-keyring e2fsprogs
    key=$({ printf '%s\n' "$@" && declare -p ROOTFS_PACKAGES && declare -f build_debian_tree configure_debian; } | hash_of)
    tree=$(cached "rootfs/$key.tar" build_debian_tree "$@")
    key=$({ printf '%s\n' "$bytes" "$key" && declare -f build_debian_image; } | hash_of)
    cached "rootfs/$key.raw" build_debian_image "$tree" "$bytes"
}

# An archive, because a tree with files of root's could not be removed by everybody.
build_debian_tree() {
    local out=$1 release=$2 mirror=$3 tree packages
    shift 3
    can_be_root || die 'debootstrap needs root (hint: sudo tools/rootfs)'
    tree=$(as_root mktemp -d "${TMPDIR:-/var/tmp}/ampoule-rootfs.XXXXXX")
    # shellcheck disable=SC2064 # now, not then
    trap "as_root rm -rf --one-file-system '$tree'" EXIT
    packages=$(IFS=, && printf '%s' "${ROOTFS_PACKAGES[*]}${1+,$*}")
    run_logged "installing Debian $release (some 150 MiB)" -- \
        as_root env PATH="$PATH:/usr/sbin:/sbin" debootstrap --force-check-gpg --variant=minbase --include="$packages" "$release" "$tree" "$mirror"
    configure_debian "$tree"
    as_root tar --create --numeric-owner --one-file-system --xattrs --directory "$tree" . >"$out"
}

# configure_debian TREE - makes it a machine that anybody may log in to on its console, and that is like no other.
configure_debian() {
    local tree=$1
    as_root chroot "$tree" passwd --quiet --delete root
    as_root tee "$tree/etc/hostname" <<<debian >/dev/null
    as_root tee -a "$tree/etc/hosts" <<<'127.0.1.1 debian' >/dev/null
    # Every card asks for its address. Nothing waits for one: there may be no card, or nobody who gives any.
    as_root tee "$tree/etc/systemd/network/80-dhcp.network" >/dev/null <<'END'
[Match]
Type=ether

[Network]
DHCP=yes
END
    as_root chroot "$tree" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
    as_root chroot "$tree" systemctl --quiet disable systemd-networkd-wait-online.service
    as_root ln -sf /run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
    # Empty: made at the first boot, without the questions of a first boot.
    as_root truncate --size 0 "$tree/etc/machine-id"
    # So are the keys of an SSH server, where there is one. Not RSA's, which take longest to make and nobody needs.
    if [[ -d $tree/etc/ssh ]]; then
        as_root rm -f "$tree"/etc/ssh/ssh_host_*
        as_root mkdir -p "$tree/etc/systemd/system/ssh.service.d"
        as_root tee "$tree/etc/systemd/system/ssh.service.d/keys.conf" >/dev/null <<'END'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'for kind in ecdsa ed25519; do key=/etc/ssh/ssh_host_$${kind}_key; [ -s $$key ] || ssh-keygen -q -N "" -t $$kind -f $$key; done'
ExecStartPre=/usr/sbin/sshd -t
END
    fi
    as_root rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/var/log/bootstrap.log
}

build_debian_image() {
    local out=$1 archive=$2 bytes=$3 tree
    tree=$(as_root mktemp -d "${TMPDIR:-/var/tmp}/ampoule-rootfs.XXXXXX")
    # shellcheck disable=SC2064 # now, not then
    trap "as_root rm -rf --one-file-system '$tree'" EXIT
    as_root tar --extract --numeric-owner --xattrs --directory "$tree" <"$archive"
    truncate --size "$bytes" "$out"
    run_logged 'making the file system' -- as_root env PATH="$PATH:/usr/sbin:/sbin" mkfs.ext4 -q -L root -d "$tree" "$out"
    chmod a-w "$out"
}
