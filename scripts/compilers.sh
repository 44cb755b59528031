#!/usr/bin/env bash
# Compiles the C++ of src/kernels with every compiler that is installed, GCC from 9 on and clang from 11 on, and runs the kernels' tests with each.
set -euo pipefail
cd "$(dirname "$0")/.."
libtorch=${LIBTORCH:-$PWD/.libtorch/torch}
include=${LIBTORCH_INCLUDE:-$libtorch}/include
common=(-std=c++17 -O2 -c -o /dev/null)
own=(-Wall -Wextra -Werror -Wno-unknown-pragmas)

# COMPILER NAME=FLAGS...: the softmax kernel for some instruction sets, then what includes libtorch's headers.
compile() {
    local compiler=$1 set file
    shift
    for set in "$@"; do
        # shellcheck disable=SC2086
        "$compiler" "${common[@]}" "${own[@]}" -fopenmp-simd -DPTB_SOFTMAX_ROWS="ptb_softmax_rows_${set%%=*}" ${set#*=} src/kernels/softmax_rows.cpp
    done
    for file in src/kernels/*.cpp; do
        case $file in
        */softmax_rows.cpp) ;;
        */softmax.cpp) "$compiler" "${common[@]}" "${own[@]}" -DPTB_X86_64 "$file" ;;
        *) "$compiler" "${common[@]}" -w -I "$include" "$file" ;;
        esac
    done
}

tried=0
for compiler in c++ g++-{9..16} clang++-{11..22}; do
    command -v "$compiler" >/dev/null || continue
    compile "$compiler" baseline= "avx2=-mavx2 -mfma" "avx512=-mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl"
    PTB_CXX=$compiler cargo test --release --lib model::softmax -- --test-threads 1
    echo "compilers: $compiler ($("$compiler" -dumpfullversion -dumpversion)): compiled, and the kernels' tests pass"
    tried=$((tried + 1))
done
echo "compilers: $tried tried"
