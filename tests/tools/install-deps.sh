#!/usr/bin/env bash
# Installs what golemnode needs to be built, run and tested on Debian and Ubuntu; elsewhere it names what is missing.
# usage: install-deps.sh [GROUP…]
#   build   compiler, libvirt's headers, Rust          run     QEMU, libvirt, an ISO tool, ssh
#   tiny    what builds the guest 'tiny'               debian  what builds the guest 'debian:12'
#   guests  tiny debian                                demo    build run tiny (the default)
#   test    all of these, and what the tests call    lint    what `make lint` calls
# It says what it will do and asks first, unless CI is set or root runs it without a terminal. Nothing is started, and
# nothing that is there is replaced, but for a distribution's Rust that is too old.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Administrators' tools are not on an ordinary user's path, and rustup's are not on a shell's that was open before it.
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
export LC_ALL=C

say() { printf 'install-deps: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Debian's package, and what shows that it (or another system's package of the same thing) is there: a command, a file
# (a pattern will do), or a library that pkg-config knows. Order matters: see install().
packages_of() {
    case $1 in
    build)
        cat <<'L'
gcc             gcc
libc6-dev       /usr/include/stdio.h
make            make
pkg-config      pkg-config
libvirt-dev     lib:libvirt
ca-certificates /etc/ssl/certs/ca-certificates.crt
L
        ;;
    run)
        cat <<'L'
qemu-system-x86       qemu-system-x86_64
qemu-utils            qemu-img
libvirt-daemon        /usr/lib*/*/libvirt/connection-driver/libvirt_driver_qemu.so
libvirt-daemon-system /etc/libvirt/qemu.conf
libvirt-clients       virsh
genisoimage           genisoimage
openssh-client        ssh
procps                pgrep
L
        ;;
    # The guests' own programs and kernels are downloaded by their builders and never installed here.
    tiny)
        cat <<'L'
cpio       cpio
e2fsprogs  mke2fs
kmod       modprobe
binutils   readelf
xz-utils   xz
zstd       zstd
qemu-utils qemu-img
L
        ;;
    debian)
        cat <<'L'
mmdebstrap             mmdebstrap
debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
L
        ;;
    test)
        cat <<'L'
openssh-server sshd
rsync          rsync
ansible-core   ansible-playbook
cloud-init     cloud-init
python3        python3
libxml2-utils  xmllint
iproute2       ip
iptables       iptables
nftables       nft
L
        ;;
    lint)
        cat <<'L'
shellcheck shellcheck
git        git
L
        if rust_is_good; then
            echo "$(component rustfmt) cargo-fmt"
            echo "$(component clippy) cargo-clippy"
        fi
        ;;
    *) return 1 ;;
    esac
}

# component NAME: the package that belongs to the Rust that is here. Debian's -web packages have their own; what
# begins with rustup: is fetched by it.
component() {
    if [[ $(command -v cargo) == "$HOME"/.cargo/bin/* ]] || [ "$(dpkg-query -W -f '${db:Status-Status}' rustup 2>/dev/null)" = installed ]; then
        echo "rustup:$1"
    elif [ "$(dpkg-query -W -f '${db:Status-Status}' rustc-web 2>/dev/null)" = installed ]; then
        [ "$1" = clippy ] && echo rust-web-clippy || echo "$1-web"
    else
        [ "$1" = clippy ] && echo rust-clippy || echo "$1"
    fi
}

expand() {
    local group
    for group in "$@"; do
        case $group in
        demo) echo build run tiny ;;
        guests) echo tiny debian ;;
        test) echo build run tiny debian test ;;
        lint) echo build lint ;;
        build | run | tiny | debian) echo "$group" ;;
        *) die "unknown group '$group' (build, run, tiny, debian, guests, demo, test, lint)" ;;
        esac
    done
}

there() {
    case $1 in
    lib:*) pkg-config --exists "${1#lib:}" 2>/dev/null ;;
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The version of the Rust that a build here would take; nothing where one of the two is missing.
rust_version() {
    command -v cargo >/dev/null && rustc --version 2>/dev/null | cut -d ' ' -f 2
}
rust_is_good() {
    local version
    version=$(rust_version) && [ -n "$version" ] && at_least "$version" "$wanted"
}

# candidate PACKAGE: the version that apt would install, without Debian's epoch and revision.
candidate() {
    apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { sub(/^[0-9]+:/, "", $2); print $2 }'
}

# The distribution's packages with a Rust that is new enough, else its rustup, else nothing.
# Debian 12's rustc is 1.63; the one it builds browsers with (rustc-web) is kept new.
rust_packages() {
    local suffix version
    for suffix in "" -web; do
        version=$(candidate "rustc$suffix")
        if [ -n "$version" ] && [ -n "$(candidate "cargo$suffix")" ] && at_least "$version" "$wanted"; then
            echo "rustc$suffix cargo$suffix"
            return
        fi
    done
    [ -z "$(candidate rustup)" ] || echo rustup
}
no_rust() {
    die "Rust $wanted or newer is needed, $1: ${2:-install it with https://rustup.rs, then run this again}"
}

case ${1:-} in -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
missing=()
rust=0
named=$(expand "${@:-demo}")
mapfile -t groups < <(tr ' ' '\n' <<<"$named" | awk '!seen[$0]++')
look() {
    local group package probe
    missing=()
    for group in "${groups[@]}"; do
        while read -r package probe; do
            there "$probe" || missing+=("$package")
        done < <(packages_of "$group")
        [ "$group" != build ] || rust_is_good || rust=1
    done
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | awk 'NF && !seen[$0]++')
}
# The builders of guests download packages: on a machine whose package lists were emptied to save space they cannot.
lists=0
case " ${groups[*]} " in
*" tiny "* | *" debian "*) ! command -v apt-get >/dev/null || there '/var/lib/apt/lists/*Packages*' || lists=1 ;;
esac
look
[ ${#missing[@]} -gt 0 ] || [ "$rust" = 1 ] || [ "$lists" = 1 ] || exit 0

if ! command -v apt-get >/dev/null; then
    say "this is neither Debian nor Ubuntu: please install what these Debian packages have, then run this again"
    [ ${#missing[@]} = 0 ] || say "  ${missing[*]}"
    [ "$rust" = 0 ] || say "  Rust $wanted or newer (https://rustup.rs)"
    exit 1
fi

if [ "$rust" = 1 ]; then
    old=$(rust_version || true)
    case $(command -v cargo || true) in
    "" | /usr/bin/*) missing+=("rust${old:+ ($wanted or newer instead of $old)}") ;;
    # apt's Rust would stand behind it on the path.
    *) no_rust "the one at $(command -v cargo) is ${old:-broken}" "rustup update stable, then run this again" ;;
    esac
fi
[ ${#missing[@]} -gt 0 ] || missing=("package lists")
say "missing: ${missing[*]}"
sudo=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run this as root, or install sudo"
    sudo=(sudo)
fi
if [ -z "${CI:-}" ] && { [ -t 0 ] || [ "$(id -u)" != 0 ]; }; then
    [ -t 0 ] || die "no terminal to ask on; CI=1 installs without asking"
    read -r -p "install-deps: fetch them with ${sudo[*]:+${sudo[*]} }apt-get? [Y/n] " answer
    case $answer in
    "" | y | Y | yes) ;;
    *) die "nothing was installed" ;;
    esac
fi

as_root() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive "$@"; }
log=$(mktemp)
barred=
cleanup() {
    [ -z "$barred" ] || as_root rm -f "$barred"
    rm -f "$log"
}
trap cleanup EXIT

# apt's own talk goes to a file and is shown when it fails.
quietly() {
    "$@" >"$log" 2>&1 && return
    return 1
}
show_log() { tail -n 40 "$log" >&2; }

say "reading the package lists"
quietly as_root apt-get update -q || {
    show_log
    die "apt-get update failed"
}
[ "${missing[*]}" != "package lists" ] || exit 0
if [ "$rust" = 1 ]; then
    unset 'missing[-1]'
    read -r -a rust_names < <(rust_packages) || true
    [ ${#rust_names[@]} -gt 0 ] || no_rust "and this distribution has none"
    missing+=("${rust_names[@]}")
fi

# The sshd that the tests call and libvirt's daemon (which the default driver does not use) are not to be started by
# being installed. policy-rc.d is Debian's way to say so; one that is there is left alone.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    barred=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$log"
    as_root install -m 755 "$log" "$barred"
fi
had_sshd=$(command -v sshd || true)

apt_install() { quietly as_root apt-get install -q -y --no-install-recommends "$@"; }
# install PACKAGE…: all at once, else one after the other. Where a newer qemu-utils stands beside an older
# qemu-system-x86 apt finds no way for both at once; the system alone replaces the utilities, which then come back in
# the version that fits.
install() {
    local package debs=()
    for package in "$@"; do
        case $package in
        rustup:*) rustup component add "${package#rustup:}" || die "rustup component add ${package#rustup:} failed" ;;
        *) debs+=("$package") ;;
        esac
    done
    [ ${#debs[@]} -gt 0 ] || return 0
    set -- "${debs[@]}"
    say "installing $*"
    apt_install "$@" && return
    say "not all at once; trying one after the other"
    for package in "$@"; do
        apt_install "$package" || {
            show_log
            die "apt-get install $package failed"
        }
    done
}
[ ${#missing[@]} = 0 ] || install "${missing[@]}"

if [[ " ${missing[*]} " == *" openssh-server "* ]] && [ -z "$had_sshd" ] && [ -d /run/systemd/system ]; then
    say "the ssh service was not there before and stays off (systemctl enable --now ssh turns it on)"
    as_root systemctl disable -q ssh.service ssh.socket 2>/dev/null || true
fi
if [[ " ${missing[*]} " == *" rustup "* ]] && ! rust_is_good; then
    say "rustup fetches the current stable Rust"
    rustup default stable || die "rustup could not fetch a Rust; see https://rustup.rs"
fi

# Installing one thing may have removed another (see install); what is still missing gets a second try, then a name.
hash -r
rust=0
look
if [ ${#missing[@]} -gt 0 ]; then
    install "${missing[@]}"
    hash -r
    look
fi
[ ${#missing[@]} = 0 ] || die "installed, but still not found: ${missing[*]}"
[ "$rust" = 0 ] || no_rust "the one on the path is $(rust_version || echo missing)"
say "everything is there"
