# Fetching with pip, whatever the user's settings say of installing: `. scripts/pip.sh`.

# Settings that would refuse, or send packages elsewhere. Where packages come from (PIP_INDEX_URL,
# proxies, certificates) stays the user's. Variables win over pip.conf, so two are set to 0.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_SRC PIP_PYTHON PIP_DRY_RUN PIP_NO_DEPS PIP_NO_BINARY
unset PIP_ONLY_BINARY PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_REQUIREMENT PIP_REQUIRE_HASHES
unset PIP_PLATFORM PIP_PYTHON_VERSION PIP_ABI PIP_IMPLEMENTATION PIP_UPLOADED_PRIOR_TO
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_ROOT_USER_ACTION=ignore

# unpack PYTHON LIST FOLDER: the packages of a list (scripts/pin.py), unpacked into a folder.
#
# They are downloaded and unpacked, not installed: so neither the rules of a system's Python (PEP
# 668) nor a pip.conf with `user` or `target` apply. What comes is compared with the list's SHA-256.
unpack() {
    local python=$1 list=$2 folder=$3 wheel
    mkdir -p "$folder"
    "$python" -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
        --dest "$folder/.wheels" -r "$list"
    for wheel in "$folder/.wheels"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$folder"
        rm "$wheel"
    done
    rmdir "$folder/.wheels"
}

# with_pip PYTHON FOLDER: prints a Python that has pip. If this one has none, as Debian's without
# python3-pip, it is that of a virtual environment in the folder.
with_pip() {
    if "$1" -m pip --version >/dev/null 2>&1; then
        echo "$1"
    elif "$1" -m venv "$2" >/dev/null 2>&1 && "$2/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "$2/bin/python"
    else
        echo "error: $1 has no pip, and cannot make an environment that has it." \
            "Debian, Ubuntu: apt-get install python3-pip" >&2
        return 1
    fi
}
