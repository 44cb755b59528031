#!/usr/bin/env bash
# Installs the program with all that it needs: install.sh PREFIX PROGRAM   (what `make install` calls)
#
#   PREFIX/bin/ptb-word-lm
#   PREFIX/lib/ptb-word-lm/            libtorch's libraries, in a folder of their own: in PREFIX/lib itself
#       torch/lib/  nvidia/*/lib/      other programs might load them, libgomp above all
#   PREFIX/share/                      manual pages, completions for bash, zsh and fish, licences
#
# PREFIX can be moved as a whole, or be seen by other machines under another name: the program looks
# for its libraries from where it lies itself (build.rs, `link`). With NVIDIA's libraries at hand
# (`make train-cuda` fetches them) they are installed too, 4 GB; else the program is for the CPU.
set -euo pipefail
prefix=${1:?PREFIX} program=${2:?PROGRAM}
cd "$(dirname "$0")/.."
[[ $prefix = /* ]] || { echo "error: PREFIX=$prefix is not an absolute path" >&2; exit 2; }
share=$prefix/share home=$prefix/lib/ptb-word-lm
# The loader's own answer, whatever the environment says. A path of a library that is not there is empty.
libraries() { env -u LD_LIBRARY_PATH -u LD_PRELOAD ldd "$1" | sed -n 's/^\t[^ ]* => \([^ ]*\).*/\1/p'; }

mkdir -p "$prefix/bin"
# A running program keeps its file: the new one takes its name, as with the libraries below.
install -m 755 "$program" "$prefix/bin/ptb-word-lm"

cpu=$(libraries "$program" | grep '/libtorch_cpu\.so$') || { echo "error: $program finds no libtorch" >&2; exit 1; }
torch=$(dirname "$(dirname "$(realpath "$cpu")")")  # the folder of lib/
beside=$(dirname "$torch")                          # ... and of nvidia/
cuda=$torch/lib/libtorch_cuda.so
# What belongs to the driver need not be here.
missing=$(ldd "$cuda" 2>/dev/null | grep 'not found' | grep -v 'libcuda\.so\|libnvidia-ml\.so') || true
{
    libraries "$program"
    if [ -e "$cuda" ] && [ -z "$missing" ]; then
        libraries "$cuda"
        # ... and what libtorch_cuda and cuDNN load at run time.
        printf '%s\n' "$cuda" "$torch"/lib/lib{torch_cuda_linalg,caffe2_nvrtc}.so "$beside"/nvidia/*/lib/*.so*
    fi
} | while read -r file; do
    [ -e "$file" ] || continue
    file=$(realpath "$(dirname "$file")")/$(basename "$file")
    case $file in
    "$torch"/lib/*) to=$home/torch/lib ;;
    "$beside"/nvidia/*) to=$home/$(dirname "${file#"$beside"/}") ;;
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
for info in "$beside"/{torch,nvidia_*}-*.dist-info; do # none with a libtorch that is no Python package
    [ -e "$info/licenses" ] || continue
    name=$(basename "$info" .dist-info)
    rm -rf "$share/doc/ptb-word-lm/$name"
    cp -r "$info/licenses" "$share/doc/ptb-word-lm/$name"
done
echo "$installed: $(du -sh "$home" | cut -f1) of libraries in $home" >&2
