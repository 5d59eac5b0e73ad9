#!/usr/bin/env bash
# Builds the guest `debian:12`: Debian 12 with its own cloud-init and OpenSSH, booted by kernel and initrd directly.
# usage: build-debian.sh OUTDIR     (a bundle, see docs/images.md; MIRROR chooses another mirror than Debian's own)
# As an ordinary user it needs user namespaces and /etc/subuid; nothing is mounted outside them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
[ $# = 1 ] || die "usage: build-debian.sh OUTDIR"
need apt-get dpkg-deb modprobe depmod cpio mke2fs qemu-img strip mmdebstrap

out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sysroot=$work/sysroot
overlay=$work/overlay
bundle=$work/bundle
mkdir -p "$sysroot" "$overlay" "$bundle"

version=$(fetch_kernel "$sysroot")
fetch_packages "$sysroot" busybox-static
busybox=$sysroot/bin/busybox
[ -x "$busybox" ] || busybox=/bin/busybox
make_initrd "$sysroot" "$version" "$busybox" "$bundle/initrd.img" \
    virtio_pci virtio_blk virtio_net virtio_rng virtio_balloon button evdev isofs
cp "$sysroot/boot/vmlinuz-$version" "$bundle/vmlinuz"

cp -r "$here/debian/." "$overlay/"
mkdir -p "$overlay/usr/lib/modules"
cp -r "$sysroot/lib/modules/$version" "$overlay/usr/lib/modules/"
rm -f "$overlay/usr/lib/modules/$version"/{build,source}
while read -r kind name; do
    case $kind in
    unit) target=etc/systemd/system ;;
    generator) target=etc/systemd/system-generators ;;
    rule) target=etc/udev/rules.d ;;
    *) continue ;;
    esac
    mkdir -p "$overlay/$target"
    ln -s /dev/null "$overlay/$target/$name"
done <"$here/debian.masked"
tar -C "$overlay" --owner=0 --group=0 -cf "$work/overlay.tar" .

# Runs in the new root: what no file of the overlay can say.
cat >"$work/inside" <<'X'
set -eu
systemctl -q enable systemd-networkd.service ssh.service
# The tenant's host key, and a machine id of its own, come with the first boot.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /etc/resolv.conf
: >/etc/machine-id
ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
[ -e /lib/systemd/systemd-resolved ] || { rm /etc/resolv.conf; echo 'nameserver 10.0.2.3' >/etc/resolv.conf; }
# Compiled once here instead of at the first start in every guest.
python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.11 >/dev/null || true
rm -rf /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /var/log/*.log /var/log/apt /tmp/inside
X

# Runs outside of the new root, as its root (a namespace's, for an ordinary user): the disk is made where ownership is
# seen as the guest will see it.
cat >"$work/pack" <<'X'
set -eu
root=$1
raw=$(mktemp -p "${root%/*}" disk.XXXXXX)
trap 'rm -f "$raw"' EXIT
# SPEC: the smallest disk of a Debian guest. Sparse; an order's disk is an overlay of this size or more.
truncate -s 2G "$raw"
# What is mounted in the new root during its making is none of its files.
unshare --mount sh -euc '
    for dir in dev/pts dev/shm dev proc sys run; do
        while mountpoint -q "$1/$dir"; do umount -l "$1/$dir"; done
    done
    mke2fs -q -F -t ext4 -L debian -m 0 -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$1" "$2"
' sh "$root" "$raw"
qemu-img convert -f raw -O qcow2 "$raw" "$root/disk.qcow2"
X
# An ordinary user's namespace may not look into the user's folders.
pack=$(sed '/^#/d' "$work/pack")

log=$work/log
say "installing Debian 12 (about two minutes)"
mmdebstrap --mode=auto --variant=minbase --components=main --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --include="$(tr '\n' ' ' <"$here/debian.packages" | sed 's/ *$//; s/ /,/g')" \
    --customize-hook="tar-in $work/overlay.tar /" \
    --customize-hook="upload $work/inside /tmp/inside" \
    --customize-hook='chroot "$1" sh /tmp/inside' \
    --customize-hook="$pack" \
    --customize-hook="download /disk.qcow2 $bundle/disk.qcow2" \
    --format=null bookworm - ${MIRROR:+"$MIRROR"} >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    die "mmdebstrap failed"
}

cat >"$bundle/manifest.json" <<X
{
  "name": "debian:12",
  "arch": "$(uname -m)",
  "disk": "disk.qcow2",
  "kernel": "vmlinuz",
  "initrd": "initrd.img",
  "cmdline": "$(tr '\n' ' ' <"$here/debian.cmdline" | sed 's/ *$//')",
  "default_user": "debian",
  "features": ["cloud-init", "ssh-key", "host-key", "hostname", "user-data", "sftp", "rsync", "acpi-poweroff"]
}
X
finish "$out" "$bundle"
