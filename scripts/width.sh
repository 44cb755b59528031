#!/usr/bin/env bash
# Fails on a line of more than 100 columns under src/: rustfmt does not look at comments and strings. Rows of tables
# may be wider. C++ is compared with .clang-format, where clang-format 14 is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
wide=$(find src build.rs -name '*.rs' -o -name '*.cpp' | sort | xargs grep -nE '^.{101,}' | grep -vE ':\s*//[/!] \|' || true)
[ -z "$wide" ] || { echo "lines of more than 100 columns:"; echo "$wide"; exit 1; } >&2
if command -v clang-format-14 >/dev/null; then
    find src -name '*.cpp' -print0 | xargs -0 clang-format-14 --dry-run -Werror
else
    echo "width.sh: no clang-format-14 here: C++ is not compared with .clang-format" >&2
fi
