//! How the built programs find libtorch: its folder goes into their rpath, so that they run without LD_LIBRARY_PATH.

fn main() {
    // torch-sys tells where it found libtorch (its `links` key makes this variable for direct dependents).
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
    println!("cargo:rerun-if-changed=build.rs");
}
