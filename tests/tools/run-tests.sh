#!/usr/bin/env bash
# Runs the whole suite and says at the end what was skipped, and why. A test skips by printing a line that begins with
# "SKIPPED:" and passing. Called by `make test`; ends with the test runner's own exit code.
# usage: run-tests.sh [ARGUMENTS FOR cargo nextest run]
set -euo pipefail
cd "$(dirname "$0")/../.."
CARGO=${CARGO:-cargo}
read -r -a flags <<<"${CARGOFLAGS:-}"

mkdir -p out
log=out/test.log
skipped=out/skipped.txt
: >"$log"
: >"$skipped"

# Debian's guest needs a mirror within reach; without it the tests say that they were skipped. In CI it must be there.
if [ -e tests/guests/build-debian.sh ]; then
    make --no-print-directory bundle-debian || {
        [ -z "${CI:-}" ] || exit 1
        echo "the guest debian:12 could not be built (see above)" >>"$skipped"
    }
fi
export GOLEMNODE_TEST_IMAGES=$PWD/out/images

"$CARGO" build "${flags[@]}" --workspace

status=0
if "$CARGO" nextest --version >/dev/null 2>&1; then
    report=target/nextest/ci/junit.xml
    rm -f "$report"
    "$CARGO" nextest run "${flags[@]}" --workspace --profile ci "$@" || status=$?
    # The report has what tests printed that passed. One line each: the test, and its reason.
    # There is none when the tests did not build.
    [ ! -e "$report" ] || awk '
        match($0, /<testcase name="[^"]*"/) { name = substr($0, RSTART + 16, RLENGTH - 17) }
        (at = index($0, "SKIPPED:")) {
            text = substr($0, at + 8)
            sub(/<\/system-(out|err)>.*/, "", text)
            gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text)
            gsub(/&apos;|&#39;/, "\047", text); gsub(/&amp;/, "\\&", text)
            print name ":" text
        }' "$report" >>"$skipped"
    # nextest has no doc tests.
    [ "$status" != 0 ] || "$CARGO" test "${flags[@]}" --workspace --doc --quiet >"$log" 2>&1 || {
        status=$?
        cat "$log"
    }
else
    # show_failures: libtest's report without the output of what passed; that stays in the log.
    show_failures() { awk '/^successes:$/ { hide = 1 } /^(failures:$|test result:)/ { hide = 0 } !hide { print; fflush() }'; }
    run() {
        "$CARGO" test "${flags[@]}" --no-fail-fast "$@" --show-output 2>&1 | tee -a "$log" | show_failures || status=$?
    }
    run --workspace --exclude tests --exclude backends --
    # Emulated guests one at a time: a second one makes every deadline a guess. Their modules are those of nextest.toml.
    run -p backends -- --skip guest::
    run -p backends --tests -- guest:: --test-threads 1
    run -p tests -- --skip rent::
    run -p tests --tests -- rent:: --test-threads 1
    awk '
        /^---- .* stdout ----$/ { name = $2 }
        (at = index($0, "SKIPPED:")) { print name ":" substr($0, at + 8) }' "$log" >>"$skipped"
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "Summary: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
fi

sort -u -o "$skipped" "$skipped"
if [ -s "$skipped" ]; then
    echo "skipped, each with its reason:"
    sed 's/^/  SKIPPED: /' "$skipped"
else
    echo "nothing was skipped"
fi
exit "$status"
