#!/usr/bin/env bash
# Holds the invariants of ARCHITECTURE.md that a compiler does not: who may name which library, and how long a file is.
# usage: check-layers.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

# A test inside a crate may say what it skipped.
skips='eprintln!\("SKIPPED:'
failures=0
fail() {
    printf 'check-layers: %s\n' "$1" >&2
    sed 's/^/    /' >&2
    failures=$((failures + 1))
}

# code FILE…: the lines as FILE:LINE:TEXT, without comments.
code() { grep -nH '' -- "$@" | grep -Ev '^[^:]+:[0-9]+:[[:space:]]*//' || true; }

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- '*.rs' | while read -r file; do
    [ ! -f "$file" ] || echo "$file"
done)
[ ${#sources[@]} -gt 0 ] || { echo "check-layers: no sources found" >&2 && exit 1; }
all=$(code "${sources[@]}")

# only WHAT PATTERN ALLOWED: PATTERN stands in no file whose path does not match ALLOWED.
only() {
    local found
    found=$(grep -E "^[^:]+:[0-9]+:.*($2)" <<<"$all" | grep -Ev "^($3)|$skips" || true)
    [ -z "$found" ] || fail "$1" <<<"$found"
}

only "libp2p stops at node/src/mesh/" '\blibp2p(_[a-z]+)?::' 'node/src/mesh/|node/src/mesh\.rs|node/tests/|tests/|simulations/src/live/bare\.rs'
only "virt stops at backends/src/libvirt/" '(^|[^a-z_:])virt(_sys)?::|extern crate virt' 'backends/src/libvirt(/|\.rs)|backends/tests/|tests/src/bin/'
only "sled stops at node/src/store.rs" '\bsled::' 'node/src/store(/tests)?\.rs'
only "CBOR stops at protocol/src/codec.rs" '\bserde_cbor::' 'protocol/src/codec\.rs'
only "axum stops at node/src/api/" '\baxum::' 'node/src/api/|tests/|node/tests/|backends/tests/'
only "every channel has a bound" '\bunbounded(_channel|_send)?\b *(::<[^>]*>)? *\(|Unbounded(Sender|Receiver)' '$^'
only "the terminal is touched in cli only" '\b(e?print(ln)?|dbg)!' 'cli/|[a-z]+/tests/|tests/|simulations/'
only "only cli ends the process" 'process::(exit|abort)\b' 'cli/|[a-z]+/tests/|tests/'

# Imports point one way. Cargo refuses a circle, but not a shortcut that makes one impossible to undo later.
imports() { # imports CRATE FORBIDDEN [BUT_FOR]
    local found
    found=$(grep -E "^$1/src/[^:]+:[0-9]+:.*(^|[^a-zA-Z_:])($2)::" <<<"$all" | grep -Ev "^(${3:-\$^})" || true)
    [ -z "$found" ] || fail "$1 does not know $2" <<<"$found"
}
imports protocol 'backends|node|cli|simulations'
imports backends 'node|cli|simulations'
imports simulations 'backends|node' 'simulations/src/live/'
imports simulations 'cli'

# A file that is longer is two files. 600 lines are what one reads in one go.
long=$(wc -l "${sources[@]}" | awk '$2 != "total" && $1 > 600')
[ -z "$long" ] || fail "over 600 lines" <<<"$long"

[ "$failures" = 0 ] || exit 1
echo "check-layers: ${#sources[@]} files, every invariant holds"
