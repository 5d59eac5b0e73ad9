#!/usr/bin/env bash
# What one would do without golemnode: keys, a seed, an overlay, virsh, and ssh until it answers. What `vm create` is
# measured against.
# usage: plain-vm.sh BUNDLE DIR        makes a VM of 1 CPU, 256 MiB and 1 GiB, and runs 'true' in it by ssh
#        plain-vm.sh --destroy DIR
set -euo pipefail
if [ "$1" = --destroy ]; then
    # Nobody is attached to the embedded driver now, and one that attaches takes a while to know its guest.
    pid=$(cat "$2/libvirt/run/qemu/plain.pid")
    kill -9 "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -rf "$2/vm" "$2/libvirt/run"
    exit
fi
bundle=$1 dir=$2
field() { sed -n "s/^ *\"$1\": *\"\(.*\)\",\{0,1\}$/\1/p" "$bundle/manifest.json"; }

mkdir -p "$dir/vm/seed/golemnode" "$dir/libvirt/etc"
echo 'stdio_handler = "file"' >"$dir/libvirt/etc/qemu.conf"
ssh-keygen -q -t ed25519 -N '' -f "$dir/vm/key"
ssh-keygen -q -t ed25519 -N '' -f "$dir/vm/host"
echo plain >"$dir/vm/seed/golemnode/hostname"
cp "$dir/vm/key.pub" "$dir/vm/seed/golemnode/authorized_keys"
cp "$dir/vm/host" "$dir/vm/seed/golemnode/ssh_host_ed25519_key"
genisoimage -quiet -output "$dir/vm/seed.iso" -volid CIDATA -joliet -rock "$dir/vm/seed"
qemu-img create -q -f qcow2 -F qcow2 -b "$bundle/disk.qcow2" "$dir/vm/disk.qcow2" 1G
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$dir/vm/domain.xml" <<XML
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>plain</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$bundle/$(field kernel)</kernel>
    <initrd>$bundle/$(field initrd)</initrd>
    <cmdline>$(field cmdline)</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='$dir/vm/disk.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='$dir/vm/seed.iso'/><target dev='vdb' bus='virtio'/><readonly/>
    </disk>
    <controller type='usb' model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=n0,romfile=,addr=0x10'/>
  </qemu:commandline>
</domain>
XML
virsh -q -c "qemu:///embed?root=$dir/libvirt" create "$dir/vm/domain.xml" 2>"$dir/vm/virsh.log" || {
    cat "$dir/vm/virsh.log" >&2
    exit 1
}
echo "[127.0.0.1]:$port $(cut -d ' ' -f 1,2 "$dir/vm/host.pub")" >"$dir/vm/known_hosts"
until ssh -F none -i "$dir/vm/key" -p "$port" -o BatchMode=yes -o ConnectTimeout=1 -o LogLevel=QUIET \
    -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$dir/vm/known_hosts" root@127.0.0.1 true </dev/null; do
    sleep 0.05
done
