//! Compiles the one C++ file, and tells the built programs where libtorch is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/softmax.cpp");
    // torch-sys links the OpenMP runtime that libtorch brings, so these loops run on libtorch's own threads.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flags(["-fopenmp", "-fno-math-errno", "-fno-trapping-math"])
        .file("src/softmax.cpp")
        .compile("ptb_softmax");
    // libtorch's folder goes into the rpath, so that the programs run without LD_LIBRARY_PATH. torch-sys tells where it found it: its
    // `links` key makes this variable for those who depend on it directly.
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
}
