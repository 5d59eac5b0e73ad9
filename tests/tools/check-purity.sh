#!/usr/bin/env bash
# protocol is pure: no clock, no sockets, no files, no randomness of the system's. Where the target is installed it is
# built for wasm32-unknown-unknown, which has none of these; everywhere its dependencies and its text are looked at.
# usage: check-purity.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

failures=0
fail() {
    printf 'check-purity: %s\n' "$1" >&2
    sed 's/^/    /' >&2
    failures=$((failures + 1))
}

# What could do I/O, or read a clock or the system's randomness. libc is not among them: cpufeatures takes its
# constants from it, and calls nothing.
denied='tokio|mio|socket2|async-std|smol|async-io|polling|libp2p(-.*)?|virt|virt-sys|sled|getrandom|rand|reqwest|hyper|axum|rustix|nix|tempfile|chrono|time|humantime|tracing-subscriber|quinn(-.*)?|rustls|ring|aws-lc-.*|ssh-key|backends|node|cli|simulations|tests'
tree=$(cargo tree --locked --quiet -p protocol -e normal --prefix none --format '{p}' --target all)
found=$(awk '{ print $1 }' <<<"$tree" | sort -u | grep -Ex "$denied" || true)
[ -z "$found" ] || fail "protocol depends on what can do I/O (cargo tree -p protocol -i NAME tells why)" <<<"$found"

# Tests may do as they like; they live in files named *_tests.rs.
mapfile -t sources < <(find protocol/src -name '*.rs' ! -name '*_tests.rs' ! -name tests.rs ! -path '*/tests/*')
impure='std::(fs|net|process|thread|os|io::std)\b|env::(var|vars|var_os|args|current_dir|temp_dir)\b|\b(Instant|SystemTime)\b|std::\{[^}]*\b(fs|net|process|thread)\b|\basync fn\b|\.await\b|\bHash(Map|Set)\b|\bstatic mut\b|\bunsafe\b'
found=$(grep -nHE "$impure" "${sources[@]}" | grep -Ev '^[^:]+:[0-9]+:[[:space:]]*//' || true)
[ -z "$found" ] || fail "protocol reaches outside" <<<"$found"

how="its dependencies and its text"
if rustup target list --installed 2>/dev/null | grep -qx wasm32-unknown-unknown ||
    [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown/lib" ]; then
    cargo check --locked --quiet -p protocol --lib --target wasm32-unknown-unknown || fail "protocol does not build for wasm32" <<<""
    how="$how, and a build for wasm32-unknown-unknown"
fi

[ "$failures" = 0 ] || exit 1
echo "check-purity: protocol is pure ($how; $(wc -l <<<"$(awk '{ print $1 }' <<<"$tree" | sort -u)") crates, ${#sources[@]} files)"
