#!/usr/bin/env bash
# Installs the program with all that it needs, for `make install`: install.sh PREFIX PROGRAM
#
#   PREFIX/bin/ptb-word-lm
#   PREFIX/lib/ptb-word-lm/torch/lib/        libtorch's libraries
#   PREFIX/lib/ptb-word-lm/nvidia/*/lib/     NVIDIA's, if they are at hand (`make train-cuda`)
#   PREFIX/share/                            manual pages, completions, licences
#
# The libraries have a folder of their own: in PREFIX/lib itself other programs might load them,
# libgomp above all. PREFIX can be moved as a whole, or be seen by other machines under another
# name: the program looks for its libraries from where it lies itself (build.rs, `link`).
set -euo pipefail
prefix=${1:?PREFIX} program=${2:?PROGRAM}
cd "$(dirname "$0")/.."
[[ $prefix = /* ]] || {
    echo "error: PREFIX=$prefix is not an absolute path" >&2
    exit 2
}
share=$prefix/share home=$prefix/lib/ptb-word-lm
# The loader's own answer, whatever the environment says.
libraries() {
    env -u LD_LIBRARY_PATH -u LD_PRELOAD ldd "$1" | sed -n 's/^\t[^ ]* => \([^ ]*\).*/\1/p'
}

mkdir -p "$prefix/bin"
# A running program keeps its file: the new one takes its name, as with the libraries below.
install -m 755 "$program" "$prefix/bin/ptb-word-lm"

cpu=$(libraries "$program" | grep '/libtorch_cpu\.so$') || {
    echo "error: $program finds no libtorch" >&2
    exit 1
}
torch=$(dirname "$(dirname "$(realpath "$cpu")")") # the folder of lib/
beside=$(dirname "$torch")                         # ... and of nvidia/
cuda=$torch/lib/libtorch_cuda.so
# What belongs to the driver need not be here.
drivers='libcuda\.so\|libnvidia-ml\.so'
missing=$(ldd "$cuda" 2>/dev/null | grep 'not found' | grep -v "$drivers") || true
{
    libraries "$program"
    if [ -e "$cuda" ] && [ -z "$missing" ]; then
        libraries "$cuda"
        # ... and what libtorch_cuda and cuDNN load at run time.
        printf '%s\n' "$cuda" "$torch"/lib/lib{torch_cuda_linalg,caffe2_nvrtc}.so
        printf '%s\n' "$beside"/nvidia/*/lib/*.so*
    fi
} | while read -r file; do
    [ -e "$file" ] || continue
    folder=$(realpath "$(dirname "$file")")
    case $folder in
    "$torch"/lib) to=$home/torch/lib ;;
    "$beside"/nvidia/*) to=$home/${folder#"$beside"/} ;;
    *) continue ;; # the system's own
    esac
    mkdir -p "$to"
    cp --remove-destination --dereference "$file" "$to/"
done

installed=$prefix/bin/ptb-word-lm
"$installed" man "$share/man/man1"
completions() { # SHELL FILE
    mkdir -p "$(dirname "$share/$2")"
    "$installed" completions "$1" > "$share/$2"
}
completions bash bash-completion/completions/ptb-word-lm
completions zsh zsh/site-functions/_ptb-word-lm
completions fish fish/vendor_completions.d/ptb-word-lm.fish
mkdir -p "$share/doc/ptb-word-lm"
cp LICENSE "$share/doc/ptb-word-lm/"
# (None with a libtorch that is no Python package.)
for info in "$beside"/{torch,nvidia_*}-*.dist-info; do
    [ -e "$info/licenses" ] || continue
    name=$(basename "$info" .dist-info)
    rm -rf "$share/doc/ptb-word-lm/$name"
    cp -r "$info/licenses" "$share/doc/ptb-word-lm/$name"
done
echo "$installed: $(du -sh "$home" | cut -f1) of libraries in $home" >&2
