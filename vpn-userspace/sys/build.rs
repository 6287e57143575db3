//! Builds the eBPF programs (vpn-ebpf/programs) for the BPF target, to be embedded into this crate.
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the programs are compiled for: 64-bit little endian, with the instructions of kernel 5.12 (`v3`: 32-bit
/// arithmetic and atomics).
const TARGET: &str = "bpfel-unknown-none";
const FLAGS: &[&str] = &[
    "-Clinker=bpf-linker",
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    // Else each array that is zeroed becomes a loop over its bytes, which the verifier follows again and again.
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// What the crate finds the objects by, and their names.
const OBJECTS: [(&str, &str); 4] = [
    ("CULVERT_EBPF_OBJECT", "culvert-ebpf"),
    ("CULVERT_STEER_OBJECT", "culvert-steer"),
    ("CULVERT_MSS_OBJECT", "culvert-mss"),
    ("CULVERT_ESP_OBJECT", "culvert-esp"),
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: the eBPF programs were not built: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let ebpf = manifest_dir.join("../../vpn-ebpf");
    for input in ["programs/src", "programs/Cargo.toml", "shared/src", "shared/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", ebpf.join(input).display());
    }
    // The manifest of shared inherits from the workspace's.
    println!("cargo::rerun-if-changed={}", manifest_dir.join("../../Cargo.toml").display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");

    let rustc = variable("RUSTC")?;
    require_toolchain(&rustc)?;
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("ebpf");
    let output = Command::new(variable("CARGO")?)
        .current_dir(ebpf.join("programs"))
        .args(["build", "--release", "--target", TARGET, "-Zbuild-std=core", "--bins"])
        .arg("--target-dir")
        .arg(&target_dir)
        // `-Z build-std` and inline atomics are not stable; the compiler is the one in use, so they are what they are.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("PATH", path_with_cargo_bin()?)
        // Meant for the host's build, which may be clippy's or coverage's.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MAKEFLAGS")
        .env_remove("MAKEFLAGS")
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo failed; if a tool is missing, run `cargo xtask setup`\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    for (variable, object) in OBJECTS {
        let object = target_dir.join(TARGET).join("release").join(object);
        println!("cargo::rustc-env={variable}={}", object.display());
    }
    Ok(())
}

/// Says what to do before cargo fails in a way that does not.
fn require_toolchain(rustc: &str) -> Result<(), String> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("cannot run {rustc}: {error}"))?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    println!("cargo::rerun-if-changed={}", core.display());
    if !core.is_file() {
        return Err(format!(
            "the source of Rust's core is missing ({}); run `cargo xtask setup`",
            core.display()
        ));
    }
    let found = env::split_paths(&path_with_cargo_bin()?).any(|dir| dir.join("bpf-linker").is_file());
    if !found {
        return Err("bpf-linker is missing; run `cargo xtask setup`".to_owned());
    }
    Ok(())
}

/// `PATH`, with the place where `cargo install` puts programs behind it.
fn path_with_cargo_bin() -> Result<std::ffi::OsString, String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    env::join_paths(dirs).map_err(|error| format!("PATH: {error}"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set; build scripts are run by cargo"))
}
