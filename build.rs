//! Compiles the C++ files, and tells the built programs where libtorch is.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/kernels");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rustc-check-cfg=cfg(ptb_nccl)");
    // The documentation alone, without libtorch and without C++ (docs.rs).
    if std::env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return;
    }
    // torch-sys reports where it found libtorch; its `links` key passes this variable to the
    // packages that depend on it directly.
    let lib = PathBuf::from(
        std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is"),
    );
    // The headers are beside the libraries, unless LIBTORCH_INCLUDE says otherwise, as for
    // torch-sys.
    let root = std::env::var_os("LIBTORCH_INCLUDE").map_or(lib.with_file_name(""), PathBuf::from);
    ensure_version(&root.join("include"));
    link(&lib);

    softmax();

    kernel_compiler()
        .warnings(false)
        .include(root.join("include"))
        .file("src/kernels/product.cpp")
        .file("src/kernels/cuda_graph.cpp")
        .file("src/kernels/foreach.cpp")
        .file("src/kernels/libtorch.cpp")
        .compile("ptb_libtorch");

    if std::env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        distributed(&root.join("include"));
    }
}

/// The softmax layer's pointwise part, once per instruction set. Any compiler from GCC 9 and clang
/// 11 on makes the same fast loops: the program chooses between them when it runs, and their
/// threads are those of the OpenMP runtime that libtorch brings.
fn softmax() {
    let baseline: (&str, &[&str]) = ("baseline", &[]);
    let avx2: (&str, &[&str]) =
        ("avx2", &["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mf16c"]);
    let avx512_flags =
        [avx2.1, &["-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]].concat();
    let x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let sets =
        if x86_64 { vec![baseline, avx2, ("avx512", &avx512_flags)] } else { vec![baseline] };
    for (name, flags) in sets {
        kernel_compiler()
            .opt_level(3)
            .flags(["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"])
            .flags(flags)
            .define("PTB_SOFTMAX_ROWS", format!("ptb_softmax_rows_{name}").as_str())
            .file("src/kernels/softmax_rows.cpp")
            .compile(&format!("ptb_softmax_rows_{name}"));
    }
    let mut softmax = kernel_compiler();
    if x86_64 {
        softmax.define("PTB_X86_64", None);
    }
    softmax.file("src/kernels/softmax.cpp").compile("ptb_softmax");
}

/// The compiler of this package's own C++: PTB_CXX names another than torch-sys's (`make
/// compilers`).
fn kernel_compiler() -> cc::Build {
    println!("cargo:rerun-if-env-changed=PTB_CXX");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").debug(false);
    if let Some(compiler) = std::env::var_os("PTB_CXX") {
        build.compiler(compiler);
    }
    build
}

/// The libtorch that tch 0.24 is written for.
const LIBTORCH: &str = "2.11.0";

/// Refuses another libtorch with a message, where the compiler would print pages.
fn ensure_version(include: &Path) {
    println!("cargo:rerun-if-env-changed=LIBTORCH_BYPASS_VERSION_CHECK");
    // Where releases since 2.9 have it, and those before.
    let files = ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"];
    let found = files.iter().find_map(|file| {
        let header = std::fs::read_to_string(include.join(file)).ok()?;
        let mut lines = header.lines().map(str::trim);
        lines.find_map(|line| Some(line.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    });
    if found.as_deref() != Some(LIBTORCH)
        && std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none()
    {
        println!(
            "cargo::error={}: this is libtorch {}, and tch 0.24 needs libtorch {LIBTORCH}. \
             `make libtorch` fetches it; LIBTORCH=FOLDER names another",
            include.display(),
            found.as_deref().unwrap_or("of an unknown version"),
        );
        std::process::exit(1);
    }
}

/// Passes the linker the folders in which programs look for libtorch when they start: first the
/// one that `make install` fills, then the one that this build uses.
///
/// They go into the older DT_RPATH, which is searched before LD_LIBRARY_PATH. DT_RUNPATH is
/// searched after it, and an activated conda environment would put its own libtorch in our place.
fn link(lib: &Path) {
    // Other systems' linkers know neither the option nor the name `$ORIGIN`.
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let arg = match linux {
        true => format!(
            "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib/ptb-word-lm/torch/lib,-rpath,{}",
            lib.display()
        ),
        false => format!("-Wl,-rpath,{}", lib.display()),
    };
    println!("cargo:rustc-link-arg={arg}");
    // The argument reaches this package's programs only. The build script of a package that depends
    // on this one finds it in DEP_PTB_WORD_LM_LINK_ARG (the section of README.md on a program of
    // your own).
    println!("cargo:link_arg={arg}");
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
    let ours = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join(".libtorch");
    let gloo = [
        std::env::var_os("GLOO_INCLUDE").map(PathBuf::from),
        Some(ours.join("gloo/usr/include")),
        Some("/usr/include".into()),
    ];
    let Some(gloo) =
        gloo.into_iter().flatten().find(|folder| folder.join("gloo/context.h").exists())
    else {
        panic!(
            "Gloo's headers are missing: `make distributed` fetches them; or install \
             libgloo-dev, or set GLOO_INCLUDE"
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
        None => nvidia
            .iter()
            .chain([&ours.join("nvidia")])
            .flat_map(|n| folders.map(|f| n.join(f)))
            .collect(),
    };
    let there = |file: &str| headers.iter().any(|folder| folder.join(file).exists());
    if !["nccl.h", "cuda_runtime.h", "crt/host_config.h", "nv/target"].into_iter().all(there) {
        return;
    }
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("libptb_nccl.so");
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
        _ => println!(
            "cargo:warning=src/distributed/nccl.cpp cannot be compiled: built without NCCL"
        ),
    }
}
