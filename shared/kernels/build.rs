//! Compiles the kernels with nvcc where the feature `cuda` asks for it.

use std::{
    error::Error,
    path::Path,
    process::{Command, ExitStatus},
};

/// The file that includes all others.
const SOURCE: &str = "cuda/kernels.cu";
/// Hopper, what is compiled for where nobody says otherwise.
const DEFAULT_CAPABILITY: &str = "90";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if variable("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");

    let out = variable("OUT_DIR").ok_or("cargo sets OUT_DIR for a build script")?;
    let capabilities = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| DEFAULT_CAPABILITY.to_owned());
    let mut arguments = vec!["--fatbin".to_owned(), "-O3".to_owned(), "--std=c++17".to_owned()];
    arguments.extend(targets(&capabilities)?);
    arguments.extend([
        "-o".to_owned(),
        Path::new(&out).join("kernels.fatbin").display().to_string(),
        SOURCE.to_owned(),
    ]);

    let status = nvcc(&arguments)?;
    if status.success() { Ok(()) } else { Err(format!("nvcc {} failed: {status}", arguments.join(" ")).into()) }
}

/// Machine code for every capability that is listed (`90`, `8.0`, `80,90a`), and PTX of the last, which later GPUs compile
/// for themselves.
fn targets(capabilities: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut arguments = Vec::new();
    let mut last = String::new();
    for capability in capabilities.split([',', ';']).map(|text| text.trim().replace('.', "")) {
        let number = capability.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        if number.len() < 2 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("CUDA_COMPUTE_CAP is {capabilities:?}, write it as 90, or as 80,90 for several").into());
        }
        arguments.push(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
        number.clone_into(&mut last);
    }
    arguments.push(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    Ok(arguments)
}

/// Runs the nvcc on PATH, or else that of `CUDA_HOME`: a wrapper that stands in front of the compiler is to be found first.
fn nvcc(arguments: &[String]) -> Result<ExitStatus, Box<dyn Error>> {
    let at_home = variable("CUDA_HOME").map(|home| format!("{home}/bin/nvcc"));
    for program in std::iter::once("nvcc".to_owned()).chain(at_home) {
        match Command::new(&program).args(arguments).status() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => return result.map_err(|error| format!("{program} cannot be run: {error}").into()),
        }
    }
    Err("the feature `cuda` needs nvcc: put a CUDA 13 toolkit's bin folder on PATH, or name the toolkit in CUDA_HOME"
        .into())
}

#[expect(clippy::disallowed_methods, reason = "cargo and CUDA's toolkit speak to build scripts by environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
