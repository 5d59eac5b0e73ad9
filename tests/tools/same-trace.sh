#!/usr/bin/env bash
# Runs a scenario so many times with the same seed; each run must end with the same trace.
# usage: same-trace.sh GOLEMNODE FILE TIMES
set -euo pipefail
golemnode=$1 file=$2 times=$3

trace() { "$golemnode" sim run "$file" --json | tail -n 1 | grep -o '"trace":"[0-9a-f]*"'; }

first=$(trace)
for n in $(seq 2 "$times"); do
    this=$(trace)
    if [ "$this" != "$first" ]; then
        echo "same-trace: run $n of $file has $this, the first had $first" >&2
        exit 1
    fi
done
echo "same-trace: $times runs of $file, each with $first"
