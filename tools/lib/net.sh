# shellcheck shell=bash
# Programs that put a load on networks, for guests and for those whom they talk to: Debian's, with what they load. Needs common.sh and
# kernel.sh.

# nginx is in a package that starts no server, wrk on the other side only.
NET_PACKAGES=(iperf3 libiperf0 libsctp1 nginx wrk libluajit-5.1-2)
# Some of what they load is installed wherever these are.
NET_NEEDS=(libssl3 libpcre2-8-0 zlib1g libcrypt1)

# guest_net - prints the directory of a tree with bin/iperf3, bin/nginx, bin/wrk and all that they load, fetched and made once;
# AMPOULE_REFRESH=1 looks for newer packages.
guest_net() {
    local record uris key
    need_packages "${NET_NEEDS[@]}"
    record=$(cache_dir)/net/packages
    if [[ ! -e $record || -n ${AMPOULE_REFRESH:-} ]]; then
        uris=$(kernel_uris "${NET_PACKAGES[@]}") || die "apt cannot tell where to get ${NET_PACKAGES[*]}"
        mkdir -p "${record%/*}"
        printf '%s\n' "$uris" >"$record.$$"
        mv -f "$record.$$" "$record"
    fi
    key=$({ cut -d' ' -f2- "$record" | sort && declare -f build_net; } | hash_of)
    cached "net/$key" build_net
}

# build_net OUT
build_net() {
    local out=$1 packages=$1/packages name library
    mkdir -p "$packages" "$out"/{bin,lib,lib64}
    # apt-get puts what it downloads into the working directory.
    (cd "$packages" && run_logged 'fetching iperf3, nginx and wrk' -- apt-get "${APT_OPTIONS[@]}" download "${NET_PACKAGES[@]}")
    for name in "$packages"/*.deb; do
        dpkg-deb -x "$name" "$packages"
    done
    for name in usr/bin/iperf3 usr/sbin/nginx usr/bin/wrk; do
        install "$packages/$name" "$out/bin/"
        while read -r library; do
            cp -L "$library" "$out/lib/"
        done < <(LD_LIBRARY_PATH=$packages/usr/lib/x86_64-linux-gnu ldd "$packages/$name" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p')
    done
    # The C library's loader has no arrow in ldd's words.
    cp -L /lib64/ld-linux-x86-64.so.2 "$out/lib64/"
    rm -rf "$packages"
    mkdir -p "$out"/etc/nginx "$out"/var/{log/nginx,lib/nginx}
    echo 'root:x:0:0:root:/root:/bin/sh' >"$out/etc/passwd"
    echo 'root:x:0:' >"$out/etc/group"
    cat >"$out/etc/nginx/nginx.conf" <<'END'
user root;
worker_processes 1;
events { worker_connections 2048; }
http {
    access_log off;
    sendfile on;
    client_max_body_size 0;
    server {
        listen 80 backlog=2048;
        root /www;
        client_body_temp_path /www/body;
        dav_methods PUT;
    }
}
END
}

# guest_net_initrd INITRD - prints the path of the same RAM disk with these programs in it.
guest_net_initrd() {
    local tree key
    need_packages cpio
    tree=$(guest_net)
    key=$(printf '%s\n' "$1" "$tree" "$(declare -f build_net_initrd)" | hash_of)
    cached "initrd/$key.cpio" build_net_initrd "$1" "$tree"
}

build_net_initrd() {
    local out=$1 initrd=$2 tree=$3 root=$1.root
    rm -rf "$root"
    cp -a "$tree" "$root"
    rm "$root/bin/wrk" "$root"/lib/libluajit*
    # The kernel unpacks archives that follow each other over each other.
    {
        cat "$initrd"
        (cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet)
    } >"$out"
    rm -rf "$root"
}
