//! Compiles the C++ files, and tells the built programs where libtorch is.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for file in ["simd.h", "softmax.cpp", "product.cpp", "cuda.cpp", "libtorch.cpp"] {
        println!("cargo:rerun-if-changed=src/{file}");
    }
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
        .compile("ptb_pointwise");

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

    if std::env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        distributed(&root.join("include"));
    }
}

/// c10d's part (src/distributed): Gloo's always, NCCL's where NVIDIA's headers are.
fn distributed(libtorch: &Path) {
    println!("cargo:rerun-if-changed=src/distributed/c10d.cpp");
    println!("cargo:rerun-if-changed=src/distributed/nccl.cpp");
    println!("cargo:rerun-if-env-changed=GLOO_INCLUDE");
    println!("cargo:rerun-if-env-changed=NCCL_INCLUDE");
    // `make distributed` touches it: headers may be there now that were not.
    if Path::new(".libtorch/headers.stamp").exists() {
        println!("cargo:rerun-if-changed=.libtorch/headers.stamp");
    }
    println!("cargo:rustc-check-cfg=cfg(ptb_nccl)");
    let ours =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(".libtorch");
    let gloo = [
        std::env::var_os("GLOO_INCLUDE").map(PathBuf::from),
        Some(ours.join("gloo/usr/include")),
        Some("/usr/include".into()),
    ];
    let Some(gloo) = gloo.into_iter().flatten().find(|folder| folder.join("gloo/context.h").exists()) else {
        panic!(
            "Gloo's headers are missing: `make distributed` fetches them; or install libgloo-dev, or set GLOO_INCLUDE"
        );
    };
    let includes = [libtorch.to_owned(), libtorch.join("torch/csrc/api/include")];
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .includes(&includes)
        .include(gloo)
        .file("src/distributed/c10d.cpp")
        .compile("ptb_c10d");

    // NVIDIA's packages put them beside libtorch's own folder.
    let nvidia = libtorch.ancestors().nth(2).map(|folder| folder.join("nvidia"));
    let folders = ["nccl/include", "cu13/include"];
    let headers: Vec<PathBuf> = match std::env::var_os("NCCL_INCLUDE") {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => {
            nvidia.iter().chain([&ours.join("nvidia")]).flat_map(|n| folders.map(|f| n.join(f))).collect()
        }
    };
    let there = |file: &str| headers.iter().any(|folder| folder.join(file).exists());
    if !["nccl.h", "cuda_runtime.h", "crt/host_config.h", "nv/target"].into_iter().all(there) {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("libptb_nccl.so");
    let compiler = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D_NCCL", None)
        .define("USE_CUDA", None)
        .includes(includes.iter().chain(&headers))
        .get_compiler();
    let mut command: Command = compiler.to_command();
    let status = command.args(["-shared", "src/distributed/nccl.cpp", "-o"]).arg(&out).status();
    match status {
        Ok(status) if status.success() => println!("cargo:rustc-cfg=ptb_nccl"),
        _ => println!("cargo:warning=src/distributed/nccl.cpp cannot be compiled: built without NCCL"),
    }
}
