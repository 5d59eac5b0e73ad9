#!/usr/bin/env bash
# Feeds every decoder hostile input: libFuzzer through cargo-fuzz, as many targets at once as there are cores.
# With a nightly compiler under AddressSanitizer; without one the stable compiler does, which finds panics, overflows,
# hangs and broken promises just as well, but no misuse of memory in the libraries.
# usage: fuzz.sh [SECONDS FOR EACH TARGET] [TARGET…]   60 seconds, all of tests/fuzz/fuzz_targets
#        fuzz.sh keep [TARGET…]                        takes what the last runs found into the committed corpus
# FUZZ_SANITIZER=none|address overrides the choice; FUZZ_JOBS is how many run at once; with FUZZ_SEED the same inputs are
# tried in the same order, as far as the time goes.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
fuzz=$root/tests/fuzz
out=$root/out/fuzz
CARGO_FUZZ=0.13.2
# Larger inputs say nothing new: every limit that could be met is lower, or has a test of its own.
MAX_LEN=4095
# Inputs kept for a target beside its seeds.
MOST_KEPT=40

fail() {
    echo "fuzz.sh: $1" >&2
    exit 1
}

has_nightly() { cargo +nightly --version >/dev/null 2>&1; }

choose_compiler() {
    # A machine of CI's may have only what we bring.
    if [ -n "${CI:-}" ] && ! has_nightly && command -v rustup >/dev/null; then
        rustup toolchain install nightly --profile minimal >/dev/null 2>&1 || echo "fuzz.sh: no nightly compiler to be had"
    fi
    if has_nightly; then
        compiler=(+nightly)
        sanitizer=${FUZZ_SANITIZER:-address}
    else
        compiler=()
        sanitizer=${FUZZ_SANITIZER:-none}
        # So that cargo-fuzz may ask the stable compiler what only a nightly one would do.
        export RUSTC_BOOTSTRAP=1
    fi
}

dictionary() {
    case $1 in
    frame_request | frame_response | posting | envelope | stored | tunnel | core) echo messages ;;
    api_answers | manifest | disk_info | lease_document | api_requests) echo json ;;
    settings | catalogue) echo "$1" ;;
    addresses | text) echo text ;;
    esac
}

run_one() {
    local target=$1 seconds=$2 dict log=$out/$1.log status=0 began=$SECONDS
    local -a flags=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len="$MAX_LEN" -print_final_stats=1)
    [ -z "${FUZZ_SEED:-}" ] || flags+=(-seed="$FUZZ_SEED")
    dict=$(dictionary "$target")
    [ -z "$dict" ] || flags+=(-dict="$fuzz/dict/$dict.dict")
    mkdir -p "$out/$target"
    "$bin/$target" "${flags[@]}" -artifact_prefix="$out/$target-" "$out/$target" "$fuzz/corpus/$target" >"$log" 2>&1 || status=$?
    local runs found
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    found=$(grep -Eo 'cov: [0-9]+' "$log" | tail -1 || true)
    printf '%-15s %9s runs %5d s  %s%s\n' "$target" "${runs:-?}" $((SECONDS - began)) "$found" \
        "$([ "$status" = 0 ] || echo '  FAILED')"
    [ "$status" = 0 ] || {
        grep -E 'panicked|ERROR|assertion|Test unit written' -A2 "$log" | head -n 20
        return 1
    }
}

# What reaches more than the seeds do, the smallest first, and few.
keep_one() {
    local target=$1 corpus=$fuzz/corpus/$1 merged number=0
    merged=$(mktemp -d)
    find "$corpus" -type f ! -name 'seed-*' -delete
    cp "$corpus"/seed-* "$merged"
    "$bin/$target" -merge=1 -max_len=$MAX_LEN -timeout=20 "$merged" "$out/$target" >"$out/$target-merge.log" 2>&1 ||
        fail "$target: see $out/$target-merge.log"
    while read -r _ file; do
        number=$((number + 1))
        [ "$number" -le $MOST_KEPT ] || break
        cp "$file" "$corpus/"
    done < <(find "$merged" -type f ! -name 'seed-*' -printf '%s %p\n' | spread)
    rm -rf "$merged"
    echo "$target: $(find "$corpus" -type f | wc -l) inputs"
}

# Of many, some of every size.
spread() { sort -n | awk -v most=$MOST_KEPT '{ line[NR] = $0 } END { step = NR > most ? NR / most : 1; for (at = 1; at <= NR; at += step) print line[int(at)] }'; }

keep=
seconds=60
case ${1:-} in
keep) keep=yes && shift ;;
[0-9]*) seconds=$1 && shift ;;
esac
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs "$fuzz"/fuzz_targets/*.rs)

command -v cargo-fuzz >/dev/null || cargo install --locked --quiet "cargo-fuzz@$CARGO_FUZZ"
choose_compiler
# The versions that we ship, and libFuzzer's own beside them.
cp Cargo.lock "$fuzz/Cargo.lock"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/fuzz-$sanitizer
cargo "${compiler[@]}" fuzz build --dev --sanitizer "$sanitizer" --fuzz-dir "$fuzz"
bin=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/debug
mkdir -p "$out"

if [ -n "$keep" ]; then
    for target in "${targets[@]}"; do keep_one "$target"; done
    exit
fi
echo "fuzz.sh: ${#targets[@]} targets, $seconds s each, sanitizer $sanitizer"
export -f run_one dictionary
export bin fuzz out seconds MAX_LEN
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I {} bash -euo pipefail -c 'run_one {} "$seconds"' ||
    fail "something was found: out/fuzz has the inputs, and 'TARGET FILE' runs one again (the programs are in $bin)"
