# Shared by the builders of the test guests. Sourced, never run.
# Nothing here mounts a file system or needs root: file systems are written by `mke2fs -d`.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

need() {
    local tool missing=()
    for tool in "$@"; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} = 0 ] || die "missing: ${missing[*]} (tests/tools/install-deps.sh guests installs them)"
}

# Administrators' tools are not on an ordinary user's path.
export PATH="$PATH:/usr/sbin:/sbin"
export LC_ALL=C
umask 022

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# fetch_packages DIR PACKAGE…: unpacks into DIR what of PACKAGE… and its dependencies is not installed here, so that
# building a guest never installs an ssh server or a kernel on the builder.
fetch_packages() {
    local dir=$1 debs missing=() package
    shift
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    mapfile -t missing < <(
        { apt-get install --simulate --no-upgrade --no-install-recommends "${missing[@]}" 2>/dev/null || true; } |
            awk '$1 == "Inst" { print $2 }' | cat - <(printf '%s\n' "${missing[@]}") | sort -u
    )
    say "downloading ${missing[*]}"
    debs=$(mktemp -d)
    (cd "$debs" && apt-get download -q "${missing[@]}" >log 2>&1) || {
        cat "$debs/log" >&2
        die "apt-get download failed (is the package list fresh? apt-get update)"
    }
    for package in "$debs"/*.deb; do
        dpkg-deb --extract "$package" "$dir"
    done
    rm -r "$debs"
}

# The package that has the kernel itself: the one named by the distribution's package of the newest virtual kernel.
kernel_package() {
    local meta real
    for meta in ${KERNEL_PACKAGE:-linux-image-cloud-amd64 linux-image-virtual}; do
        real=$(apt-cache depends --no-recommends --no-suggests "$meta" 2>/dev/null |
            awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
        [ -n "$real" ] && break
    done
    # A list of packages emptied to save space still leaves what is installed.
    [ -n "$real" ] || real=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-image-[0-9]*-cloud-amd64' 2>/dev/null |
        awk '$1 == "installed" { print $2 }' | sort -V | tail -n 1)
    [ -n "$real" ] || die "no kernel package found (is the package list there? apt-get update)"
    printf '%s\n' "$real"
}

# fetch_kernel DIR: leaves DIR/boot/vmlinuz-VERSION and DIR/lib/modules/VERSION, prints VERSION.
fetch_kernel() {
    local dir=$1 package version
    package=$(kernel_package)
    version=${package#linux-image-}
    version=${version#unsigned-}
    mkdir -p "$dir/boot" "$dir/lib/modules"
    if [ -r "/boot/vmlinuz-$version" ] && [ -d "/lib/modules/$version/kernel" ]; then
        cp "/boot/vmlinuz-$version" "$dir/boot/"
        cp -r "/lib/modules/$version" "$dir/lib/modules/"
    else
        fetch_packages "$dir" "$package"
        # Ubuntu keeps the modules apart.
        [ -d "$dir/lib/modules/$version/kernel" ] || fetch_packages "$dir" "linux-modules-$version"
        [ -r "$dir/boot/vmlinuz-$version" ] || die "$package has no /boot/vmlinuz-$version"
    fi
    [ -e "$dir/lib/modules/$version/modules.dep" ] || depmod -b "$dir" "$version"
    printf '%s\n' "$version"
}

# load_order ROOT VERSION MODULE…: the module files to load, dependencies first, one path a line.
load_order() {
    local root=$1 version=$2 module
    shift 2
    for module in "$@"; do
        modprobe -d "$root" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++'
}

# plain_module FILE TARGET: uncompressed and without the distribution's signature. The kernel does not insist on one,
# and checking RSA signatures in an emulated CPU takes longer than loading the module.
plain_module() {
    case $1 in
    *.ko.xz) xz -dc "$1" ;;
    *.ko.zst) zstd -dcq "$1" ;;
    *) cat "$1" ;;
    esac >"$2"
    strip --strip-debug "$2"
}

# make_initrd ROOT VERSION BUSYBOX OUT MODULE…: loads the modules, mounts /dev/vda and goes on there.
make_initrd() {
    local root=$1 version=$2 busybox=$3 out=$4 dir file name
    shift 4
    dir=$(mktemp -d)
    mkdir -p "$dir"/{bin,dev,m,r}
    cp "$busybox" "$dir/bin/busybox"
    {
        printf '#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n'
        for file in $(load_order "$root" "$version" "$@"); do
            name=${file##*/}
            name=${name%%.ko*}.ko
            plain_module "$file" "$dir/m/$name"
            printf '/bin/busybox insmod /m/%s\n' "$name"
        done
        # 5 s: a slow host may find its disk late; without one there is nothing to boot.
        cat <<'X'
n=0
until [ -b /dev/vda ] || [ $n = 250 ]; do /bin/busybox usleep 20000; n=$((n + 1)); done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /r || { echo "no root file system on /dev/vda"; /bin/busybox poweroff -f; }
/bin/busybox mount --move /dev /r/dev
exec /bin/busybox switch_root /r /sbin/init
X
    } >"$dir/init"
    chmod +x "$dir/init"
    (cd "$dir" && find . | sort | cpio --quiet -o -H newc -R 0:0) | ${COMPRESS:-cat} >"$out"
    rm -r "$dir"
}

# make_disk DIR SIZE LABEL OUT: an ext4 file system from a folder, everything owned by root, as qcow2.
make_disk() {
    local dir=$1 size=$2 label=$3 out=$4 raw
    raw=$(mktemp "${out%/*}/raw.XXXXXX")
    truncate -s "$size" "$raw"
    mke2fs -q -F -t ext4 -L "$label" -m 0 -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$dir" "$raw"
    if [ "$(id -u)" != 0 ]; then
        (cd "$dir" && find . -mindepth 1 -printf 'sif "/%P" uid 0\nsif "/%P" gid 0\n') | debugfs -w -f - "$raw" >/dev/null 2>&1
    fi
    qemu-img convert -f raw -O qcow2 "$raw" "$out"
    rm "$raw"
}

# finish OUT STAGING: the bundle appears whole or not at all.
finish() {
    local out=$1 staging=$2
    # libvirt's own user reads a bundle that is used in place.
    chmod -R a+rX "$staging"
    rm -rf "$out"
    mkdir -p "${out%/*}"
    mv "$staging" "$out"
    say "$out: $(du -sh "$out" | cut -f1)"
}
