#!/usr/bin/env bash
# Boots a bundle in QEMU, without golemnode, and proves with OpenSSH's own clients what its manifest promises.
# usage: check-guest.sh BUNDLE [MEMORY_MIB]
# Emulated even where KVM is there. MACHINE=q35 and SEED_BUS=ide try other hardware.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=guest.sh
. "$here/guest.sh"
bundle=$(realpath "${1:?usage: check-guest.sh BUNDLE [MEMORY_MIB]}")
need qemu-system-x86_64 qemu-img genisoimage ssh scp rsync ssh-keygen ssh-keyscan
user=$(field default_user)
cloud_init=$(grep -c '"cloud-init"' "$bundle/manifest.json" || true)
[ "$cloud_init" = 0 ] && memory=${2:-128} cpus=1 patience=60 || memory=${2:-1024} cpus=2 patience=240

dir=$(mktemp -d)
trap '{ cut_power; rm -rf "$dir"; } 2>/dev/null' EXIT
new_keys "$dir"

failures=0
check() { # check WHAT COMMAND…
    local what=$1
    shift
    if "$@" >"$dir/out" 2>&1; then
        echo "ok      $what"
    else
        echo "FAILED  $what"
        sed 's/^/        /' "$dir/out"
        failures=$((failures + 1))
    fi
}
is() { [ "$1" = "$2" ] || { echo "got '$1', not '$2'" && return 1; }; }

plain_seed() {
    mkdir -p "$dir/seed/golemnode"
    echo "$1" >"$dir/seed/golemnode/hostname"
    cp "$dir/tenant.pub" "$dir/seed/golemnode/authorized_keys"
    cp "$dir/host" "$dir/seed/golemnode/ssh_host_ed25519_key"
}
# cloud_seed NAME: what a tenant's own file and ours become together: two parts, the tenant's first.
cloud_seed() {
    rm -rf "$dir/seed"
    mkdir -p "$dir/seed"
    printf 'instance-id: i-%s\nlocal-hostname: %s\n' "$1" "$1" >"$dir/seed/meta-data"
    local ours
    ours=$(
        printf '#cloud-config\nhostname: %s\n' "$1"
        printf 'users:\n  - name: %s\n    shell: /bin/sh\n    sudo: "ALL=(ALL) NOPASSWD:ALL"\n' "$user"
        printf '    ssh_authorized_keys:\n      - "%s"\n' "$(cat "$dir/tenant.pub")"
        printf 'ssh_deletekeys: true\nssh_genkeytypes: []\nssh_keys:\n  ed25519_private: |\n'
        sed 's/^/    /' "$dir/host"
        printf '  ed25519_public: "%s"\n' "$(cat "$dir/host.pub")"
        printf 'merge_how: "dict(recurse_array,no_replace)+list(append)"\n'
    )
    local theirs='#cloud-config
write_files:
  - path: /etc/tenant
    content: "from the tenant\n"
runcmd:
  - "echo ran > /run/tenant-ran"'
    case ${2:-mime} in
    mime)
        printf 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="seed"\n\n'
        printf -- '--seed\nContent-Type: text/cloud-config\n\n%s\n' "$theirs"
        printf -- '--seed\nContent-Type: text/cloud-config\n\n%s\n--seed--\n' "$ours"
        ;;
    archive)
        printf '#cloud-config-archive\n'
        printf -- '- type: text/cloud-config\n  content: |\n%s\n' "$(sed 's/^/    /' <<<"$theirs")"
        printf -- '- type: text/cloud-config\n  content: |\n%s\n' "$(sed 's/^/    /' <<<"$ours")"
        ;;
    esac >"$dir/seed/user-data"
}

fresh_disk() {
    qemu-img create -q -f qcow2 -F qcow2 -b "$bundle/disk.qcow2" "$dir/disk.qcow2" "${1:-2G}"
}
ssh_options=(-o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$dir/known_hosts" -o IdentitiesOnly=yes
    -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=20 -o LogLevel=ERROR)
guest() {
    ssh "${ssh_options[@]}" -i "$dir/tenant" -p "$port" "$user@127.0.0.1" "$@" </dev/null
}
# Ready, and under no other key than the tenant's: every key that is shown on the way is kept.
ready() {
    if ! wait_banner "$patience"; then
        tail -n 20 "$dir/console.log"
        die "no ssh after $patience s"
    fi
    local kind
    for kind in ed25519 rsa ecdsa; do
        ssh-keyscan -T 20 -t "$kind" -p "$port" 127.0.0.1 2>"$dir/scan-$kind" || true
    done | awk '{ print $2, $3 }' | sort -u >"$dir/shown"
    [ -s "$dir/shown" ] || cat "$dir"/scan-*
    cut -d ' ' -f 1,2 "$dir/host.pub" >"$dir/expected"
    printf '[127.0.0.1]:%s %s\n' "$port" "$(cat "$dir/expected")" >"$dir/known_hosts"
    check "$1: ssh banner after $seconds s, with the tenant's host key only" diff "$dir/expected" "$dir/shown"
}
transfer() {
    local sum options=("${ssh_options[@]}" -i "$dir/tenant")
    head -c 20M /dev/urandom >"$dir/blob"
    sum=$(sha256sum <"$dir/blob" | cut -c 1-64)
    check "scp of 20 MB" scp -q "${options[@]}" -P "$port" "$dir/blob" "$user@127.0.0.1:blob"
    check "its checksum in the guest" is "$(guest sha256sum blob | cut -c 1-64)" "$sum"
    check "rsync of 20 MB" rsync -e "ssh ${options[*]} -p $port" "$dir/blob" "$user@127.0.0.1:blob2"
    check "rsync back" rsync -e "ssh ${options[*]} -p $port" "$user@127.0.0.1:blob2" "$dir/back"
    check "its checksum" is "$(sha256sum <"$dir/back" | cut -c 1-64)" "$sum"
}
# Every client has the address of QEMU's user network: a limit by address would meet them all together.
crowd() {
    local i
    for i in $(seq 12); do guest "echo in" 2>&1 & done | sort | uniq -c | tr -s ' ' | sed 's/^ //'
}
shut_down() {
    started=$(date +%s.%N)
    echo system_powerdown >&8
    if wait_off 60; then
        elapsed
        echo "ok      the power button shuts it down, in $seconds s"
    else
        echo "FAILED  the power button shuts it down"
        failures=$((failures + 1))
        cut_power
        wait_off 5 || true
    fi
}
# The kernel makes a new boot id each time, so that the old sshd's last answers are not taken for the new one's.
reboots() {
    local id=/proc/sys/kernel/random/boot_id before deadline=$((SECONDS + patience))
    before=$(guest cat "$id")
    started=$(date +%s.%N)
    guest reboot || true
    until [ $SECONDS -ge $deadline ]; do
        case $(timeout 5 ssh "${ssh_options[@]}" -i "$dir/tenant" -p "$port" "$user@127.0.0.1" cat "$id" </dev/null 2>/dev/null) in
        "" | "$before") ;;
        *) return 0 ;;
        esac
    done
    echo "no new boot within $patience s" && return 1
}
no_password() {
    # Another key, and a client that would take a password.
    ! ssh "${ssh_options[@]}" -i "$dir/host" -o PreferredAuthentications=password,keyboard-interactive \
        -p "$port" "$user@127.0.0.1" true </dev/null
}

name=$(field name)
echo "== $name, $memory MiB, $cpus CPU, emulated"
if [ "$cloud_init" = 0 ]; then
    plain_seed web1
    iso "$dir/seed.iso" "$dir/seed"
    fresh_disk
    boot "$dir" "$memory" "$cpus" "$dir/seed.iso"
    ready "first boot"
    check "hostname" is "$(guest hostname)" web1
    check "uname" is "$(guest uname -s)" Linux
    check "exit codes pass" is "$(guest 'exit 7' || echo $?)" 7
    # shellcheck disable=SC2016
    check "SSH_ORIGINAL_COMMAND's channel: pipes and quoting" is "$(guest 'echo "$HOME" | tr a-z A-Z')" /ROOT
    check "no password" no_password
    check "12 logins at once" is "$(crowd)" "12 in"
    transfer
    guest 'echo mine >/etc/hostname; touch /root/kept'
    check "reboot from within" reboots
    ready "after reboot with the same seed"
    check "the owner's change stays" is "$(guest 'cat /etc/hostname; ls /root/kept' | tr '\n' ' ')" "mine /root/kept "
    shut_down
    boot "$dir" "$memory" "$cpus"
    ready "after power-on without a seed"
    shut_down
fi
cloud_seed web2
iso "$dir/seed.iso" "$dir/seed"
fresh_disk "${DISK:-4G}"
boot "$dir" "$memory" "$cpus" "$dir/seed.iso"
ready "cloud-init seed (MIME)"
check "hostname" is "$(guest hostname)" web2
if [ "$cloud_init" != 0 ]; then
    check "cloud-init ends without an error" is "$(guest 'cloud-init status --wait' | tr -d '.\n')" "status: done"
    elapsed
    echo "        cloud-init done after $seconds s"
    check "write_files of the tenant's part" is "$(guest cat /etc/tenant)" "from the tenant"
    check "runcmd of the tenant's part" is "$(guest cat /run/tenant-ran)" ran
    check "sudo" is "$(guest sudo -n id -u)" 0
    check "no password" no_password
    check "the root file system has the disk's size" is "$(guest df -BG --output=size / | tr -dc '0-9\n' | awk '$1 > 2 { print "grown" }')" grown
    check "a machine-id of its own" is "$(guest wc -c /etc/machine-id)" "33 /etc/machine-id"
    guest 'systemd-analyze; systemd-analyze blame | head -n 8; systemctl --failed --no-legend' | sed 's/^/        /'
    check "12 logins at once" is "$(crowd)" "12 in"
    transfer
fi
shut_down
if [ "$cloud_init" != 0 ]; then
    boot "$dir" "$memory" "$cpus" "$dir/seed.iso"
    ready "power-on with the same seed"
    check "what the tenant wrote is there" is "$(guest cat /etc/tenant)" "from the tenant"
    shut_down
    cloud_seed web3 archive
    iso "$dir/seed.iso" "$dir/seed"
    fresh_disk "${DISK:-4G}"
    boot "$dir" "$memory" "$cpus" "$dir/seed.iso"
    ready "cloud-init seed (cloud-config-archive)"
    check "hostname" is "$(guest hostname)" web3
    check "cloud-init ends without an error" is "$(guest 'cloud-init status --wait' | tr -d '.\n')" "status: done"
    check "write_files of the tenant's part" is "$(guest cat /etc/tenant)" "from the tenant"
    shut_down
fi
[ $failures = 0 ] || die "$failures checks failed"
echo "== $name: all checks passed"
