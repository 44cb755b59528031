#!/usr/bin/env bash
# Checks what Cargo.lock holds against deny.toml: licences, sources, and known advisories.
#
# ADVISORIES=FOLDER names a copy of RustSec's database (a git clone of rustsec/advisory-db) and
# needs no network. Without it the database is fetched; if that fails, the script says so and
# succeeds.
set -euo pipefail
advisories=${ADVISORIES:+$(realpath "$ADVISORIES")}
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "audit: installing cargo-deny (some minutes)" >&2
    cargo install --quiet --locked cargo-deny --version 0.20.2
fi
cargo deny check bans licenses sources
if [ -n "$advisories" ]; then
    [ -d "$advisories/crates" ] || {
        echo "error: ADVISORIES=$ADVISORIES is not a copy of rustsec/advisory-db" >&2
        exit 1
    }
    home=$(mktemp -d)
    trap 'rm -rf "$home"' EXIT
    # cargo-deny looks for the database under this name, which comes from its address.
    cp -r "$advisories" "$home/advisory-db-3157b0e258782691"
    sed "s|^\[advisories\]|&\ndb-path = \"$home\"|" deny.toml > "$home/deny.toml"
    cargo deny --offline --config "$home/deny.toml" check advisories
elif ! log=$(cargo deny check advisories 2>&1); then
    echo "$log" >&2
    # An advisory is an error; a database that cannot be reached is not one of this project's.
    if grep -q 'failed to fetch advisory database' <<<"$log"; then
        echo "audit: ADVISORIES WERE NOT CHECKED: their database cannot be reached from here;" \
            "ADVISORIES=FOLDER names a copy" >&2
    else
        exit 1
    fi
fi
