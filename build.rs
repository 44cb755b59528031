//! Compiles the C++ files, and tells the built programs where libtorch is.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/softmax.cpp");
    println!("cargo:rerun-if-changed=src/product.cpp");
    println!("cargo:rerun-if-changed=src/cuda.cpp");
    println!("cargo:rerun-if-changed=src/libtorch.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    // torch-sys tells where it found libtorch: its `links` key makes this variable for those who depend on it directly.
    let lib =
        PathBuf::from(std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is"));
    // libtorch's folder goes into the rpath, so that the programs run without LD_LIBRARY_PATH.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());

    // torch-sys links the OpenMP runtime that libtorch brings, so these loops run on libtorch's own threads.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flags(["-fopenmp", "-fno-math-errno", "-fno-trapping-math"])
        .file("src/softmax.cpp")
        .compile("ptb_softmax");

    // The headers are beside the libraries, unless LIBTORCH_INCLUDE says otherwise, as for torch-sys.
    let root = std::env::var_os("LIBTORCH_INCLUDE").map_or(lib.with_file_name(""), PathBuf::from);
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .file("src/product.cpp")
        .file("src/cuda.cpp")
        .file("src/libtorch.cpp")
        .compile("ptb_libtorch");
}
