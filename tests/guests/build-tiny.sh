#!/usr/bin/env bash
# Builds the guest `tiny`: busybox, dropbear, sftp-server and rsync on a kernel that boots in seconds even emulated.
# usage: build-tiny.sh OUTDIR      (a bundle, see docs/images.md; KERNEL_PACKAGE chooses another kernel)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
[ $# = 1 ] || die "usage: build-tiny.sh OUTDIR"
need apt-get dpkg-deb modprobe depmod cpio mke2fs debugfs qemu-img readelf strip

out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sysroot=$work/sysroot
root=$work/root
bundle=$work/bundle
mkdir -p "$sysroot" "$root" "$bundle"

version=$(fetch_kernel "$sysroot")
fetch_packages "$sysroot" busybox-static dropbear-bin openssh-sftp-server rsync ipsvd

# find_file PATH…: the first that exists, what was unpacked before what is installed.
find_file() {
    local path
    for path in "${@/#/$sysroot}" "$@"; do
        [ -f "$path" ] && realpath "$path" && return
    done
    die "not found: $*"
}

# put SOURCE TARGET: a program with every library that it needs, in the place where the loader looks.
put() {
    local source=$1 target=$root$2 name library
    mkdir -p "${target%/*}"
    cp "$source" "$target"
    chmod 755 "$target"
    for name in $(readelf -d "$source" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        case $name in
        ld-linux-*) library=/lib64/$name ;;
        *) library=/lib/$name ;;
        esac
        [ -e "$root$library" ] && continue
        put "$(find_file "$library" {,/usr}/lib/"$(uname -m)"-linux-gnu/"$name" "/usr$library")" "$library"
    done
}

mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,mnt,root/.ssh,usr/bin,usr/sbin,usr/lib,etc/dropbear,var/lib/golemnode,var/log,lib/modules}
put "$(find_file /bin/busybox /usr/bin/busybox)" /bin/busybox
for name in $("$root/bin/busybox" --list-full); do
    mkdir -p "$root/$(dirname "$name")"
    [ -e "$root/$name" ] || ln -s /bin/busybox "$root/$name"
done
put "$(find_file /usr/sbin/dropbear)" /usr/sbin/dropbear
put "$(find_file /usr/bin/tcpsvd)" /usr/bin/tcpsvd
put "$(find_file /usr/bin/dropbearconvert)" /usr/bin/dropbearconvert
put "$(find_file /usr/bin/rsync)" /usr/bin/rsync
put "$(find_file /usr/lib/openssh/sftp-server)" /usr/lib/openssh/sftp-server
# Where dropbear's own default looks.
ln -s openssh/sftp-server "$root/usr/lib/sftp-server"
for file in "$root"/lib/*.so* "$root"/usr/sbin/dropbear; do
    [ -L "$file" ] || strip --strip-unneeded "$file"
done

cp -r "$here/tiny/." "$root/"
chmod 755 "$root"/etc/init.d/* "$root"/etc/udhcpc.sh "$root"/etc/acpi/PWRF/*
chmod 700 "$root/root" "$root/root/.ssh"
chmod 1777 "$root/tmp"
ln -s /proc/mounts "$root/etc/mtab"

# The few modules that may be wanted later, loaded by name when they are.
modules=$root/lib/modules/$version
mkdir -p "$modules"
load_order "$sysroot" "$version" isofs ata_piix virtio_scsi sr_mod >"$work/late"
while read -r file; do
    name=${file##*/}
    plain_module "$file" "$modules/${name%%.ko*}.ko"
done <"$work/late"
: >"$modules/modules.order"
: >"$modules/modules.builtin"
: >"$modules/modules.builtin.modinfo"
depmod -b "$root" "$version"

make_initrd "$sysroot" "$version" "$root/bin/busybox" "$bundle/initrd.img" \
    virtio_pci virtio_blk virtio_net virtio_rng virtio_balloon button evdev
cp "$sysroot/boot/vmlinuz-$version" "$bundle/vmlinuz"
# The smallest disk that a tenant can order: an overlay of any order is then as large or larger.
make_disk "$root" 1G tiny "$bundle/disk.qcow2"

cat >"$bundle/manifest.json" <<X
{
  "name": "tiny",
  "arch": "$(uname -m)",
  "disk": "disk.qcow2",
  "kernel": "vmlinuz",
  "initrd": "initrd.img",
  "cmdline": "$(tr '\n' ' ' <"$here/tiny.cmdline" | sed 's/ *$//')",
  "default_user": "root",
  "features": ["ssh-key", "host-key", "hostname", "sftp", "rsync", "acpi-poweroff"]
}
X
finish "$out" "$bundle"
