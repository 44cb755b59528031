#!/usr/bin/env bash
# What Cargo.lock may hold (deny.toml): licences, sources, and known advisories. ADVISORIES=FOLDER names a local copy of RustSec's database
# (git clone of its advisory-db) and needs no network; without it the database is fetched, and if that fails it is said.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "audit: installing cargo-deny (some minutes)" >&2
    cargo install --quiet --locked cargo-deny --version 0.20.2
fi
cargo deny check bans licenses sources
if [ -n "${ADVISORIES:-}" ]; then
    home=$(mktemp -d)
    trap 'rm -rf "$home"' EXIT
    sed "s|^\[advisories\]|&\ndb-path = \"$home\"|" deny.toml > "$home/deny.toml"
    cp -r "$ADVISORIES" "$home/advisory-db-3157b0e258782691"
    cargo deny --offline --config "$home/deny.toml" check --disable-fetch advisories
elif ! log=$(cargo deny check advisories 2>&1); then
    echo "$log" >&2
    # An advisory is an error; a database that cannot be reached is not one of this project's.
    if grep -q 'failed to fetch advisory database' <<<"$log"; then
        echo "audit: ADVISORIES WERE NOT CHECKED: their database cannot be reached from here; ADVISORIES=FOLDER names a copy" >&2
    else
        exit 1
    fi
fi
