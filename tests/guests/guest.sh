# Boots a bundle in QEMU without libvirt and without golemnode. Sourced by check-guest.sh.
# Always emulated: what is shown here holds on every host.

# new_keys DIR: the tenant's key, and the host key that the tenant makes for the guest.
new_keys() {
    ssh-keygen -q -t ed25519 -N '' -C tenant -f "$1/tenant"
    ssh-keygen -q -t ed25519 -N '' -C guest -f "$1/host"
}

iso() { # iso OUT DIR
    genisoimage -quiet -output "$1" -volid CIDATA -joliet -rock "$2"
}

# boot DIR MEMORY CPUS [SEED]: starts DIR/disk.qcow2, an overlay of $bundle. Sets qemu_pid, port; monitor on fd 8.
boot() {
    local dir=$1 memory=$2 cpus=$3 seed=${4:-} drive=() line
    rm -f "$dir/monitor.in"
    mkfifo "$dir/monitor.in"
    [ -z "$seed" ] || drive=(-drive "file=$seed,format=raw,if=${SEED_BUS:-virtio},media=${SEED_MEDIA:-disk},readonly=on")
    started=$(date +%s.%N)
    qemu-system-x86_64 -accel "tcg,thread=multi" -machine "${MACHINE:-pc}" -m "$memory" -smp "$cpus" -cpu "${CPU:-max}" \
        -nodefaults -display none -serial "file:$dir/console.log" -monitor stdio \
        -kernel "$bundle/$(field kernel)" -initrd "$bundle/$(field initrd)" -append "${CMDLINE:-$(field cmdline)}" \
        -drive "file=$dir/disk.qcow2,format=qcow2,if=virtio" "${drive[@]}" \
        -netdev "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22" -device virtio-net-pci,netdev=n0,romfile= \
        -device virtio-rng-pci -device virtio-balloon-pci ${QEMU_EXTRA:-} \
        <"$dir/monitor.in" >"$dir/monitor.out" 2>"$dir/qemu.err" &
    qemu_pid=$!
    exec 8>"$dir/monitor.in"
    echo 'info usernet' >&8
    until port=$(sed -n 's/.*HOST_FORWARD.*127\.0\.0\.1 *\([0-9]*\) .*/\1/p' "$dir/monitor.out") && [ -n "$port" ]; do
        kill -0 "$qemu_pid" 2>/dev/null || die "QEMU ended: $(cat "$dir/qemu.err")"
        sleep 0.05
    done
}

# QEMU takes the connection before the guest listens, so only the banner counts.
wait_banner() { # wait_banner SECONDS
    local deadline=$((SECONDS + $1)) banner
    while [ $SECONDS -lt $deadline ]; do
        banner=$(timeout 1 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && head -c 4 <&3" 2>/dev/null | tr -d '\0') || true
        [ "$banner" = SSH- ] && elapsed && return 0
        kill -0 "$qemu_pid" 2>/dev/null || return 1
    done
    return 1
}

elapsed() { seconds=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'); }

# The monitor's prompt would fill the pipe otherwise; QEMU ends by itself when the guest powers off.
wait_off() { # wait_off SECONDS
    local deadline=$((SECONDS + $1))
    while kill -0 "$qemu_pid" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
    wait "$qemu_pid" 2>/dev/null || true
    exec 8>&-
}

cut_power() {
    [ -z "${qemu_pid:-}" ] || kill -9 "$qemu_pid" 2>/dev/null || true
}

field() { sed -n "s/^ *\"$1\": *\"\(.*\)\",\{0,1\}$/\1/p" "$bundle/manifest.json"; }
