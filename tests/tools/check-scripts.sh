#!/usr/bin/env bash
# Every shell script parses, and shellcheck, where it is installed, has nothing to say.
# usage: check-scripts.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t scripts < <(
    git ls-files --cached --others --exclude-standard | while read -r file; do
        [ -f "$file" ] && head -c 64 "$file" | tr -d '\0' | head -n 1 | grep -qE '^#!.*\b(ba)?sh\b' && echo "$file"
    done
)
for script in "${scripts[@]}"; do
    case $(head -n 1 "$script") in
    *bash*) bash -n "$script" ;;
    *) sh -n "$script" ;;
    esac
done
how="parsed"
if command -v shellcheck >/dev/null; then
    # 2034, 2154: variables that go to a sourced file, or come from a program such as udhcpc.
    shellcheck -x -P SCRIPTDIR -S warning -e SC2034,SC2154 "${scripts[@]}"
    how="parsed and shellchecked"
fi
echo "check-scripts: ${#scripts[@]} scripts $how"
