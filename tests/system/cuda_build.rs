//! What can be seen of the CUDA build without a GPU, a CUDA compiler or Docker: its scripts, the compiler's front, the images' recipe.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a command to its end, which must be a good one.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn every_script_can_be_read_by_its_interpreter_and_run_by_its_name() {
    let folder = repository().join("deploy/cuda");
    let files = ["", "front", "stand-in"].into_iter().flat_map(|name| fs::read_dir(folder.join(name)).unwrap());
    let mut found = 0;
    for path in files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let is_python = first.ends_with("python3") || path.extension().is_some_and(|extension| extension == "py");
        if is_python {
            run(Command::new("python3")
                .args(["-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"])
                .arg(&path));
        } else if first.starts_with("#!") || path.extension().is_some_and(|extension| extension == "sh") {
            run(Command::new("bash").arg("-n").arg(&path));
        } else {
            continue;
        }
        let may_run = fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0;
        assert_eq!(may_run, first.starts_with("#!"), "{}", path.display());
        found += 1;
    }
    assert!(found > 8, "the scripts are found: {found}");
}

#[test]
fn the_images_hold_what_the_build_makes() {
    let recipe = read("deploy/cuda/Dockerfile");
    let packages = read("deploy/cuda/build.sh");
    let packages = packages.lines().find_map(|line| line.trim().strip_prefix("packages=(")).unwrap();
    let built: BTreeSet<&str> = packages.trim_end_matches(')').split(' ').collect();
    let after = |mark: &str| -> Vec<&str> {
        let parts = recipe.split(mark).skip(1);
        parts.map(|rest| rest.split(|letter: char| letter.is_whitespace() || letter == '"').next().unwrap()).collect()
    };
    for programs in [
        after(" target/release/"),
        after("/programs/").into_iter().filter(|name| *name != "*" && !name.is_empty()).collect(),
        after("ENTRYPOINT [\""),
    ] {
        assert_eq!(programs.iter().copied().collect::<BTreeSet<_>>(), built, "{programs:?}");
    }
    // Every script of ours that it runs is there.
    for script in after("    deploy/") {
        assert!(repository().join("deploy").join(script).is_file(), "{script}");
    }
    let stages: BTreeSet<&str> =
        recipe.lines().filter_map(|line| line.split_once(" AS ")).map(|(_, name)| name).collect();
    for used in after("--from=") {
        assert!(stages.contains(used), "{used}");
    }
}

#[test]
fn the_images_are_built_from_every_member_of_the_workspace() {
    let kept = read(".dockerignore");
    let kept: Vec<&str> = kept.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let folder = member.as_str().unwrap().split('/').next().unwrap();
        assert!(kept.iter().any(|path| path.split('/').next() == Some(folder)), "{folder}");
    }
    for path in kept.iter().filter(|path| !path.contains('*')) {
        assert!(repository().join(path).exists(), "{path}");
    }
}

/// A CUDA home whose compiler writes down what it is called with, a package with sources, and the compiler's front before both.
struct Front {
    folder: tempfile::TempDir,
}

impl Front {
    fn new(package: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        fs::create_dir_all(of("cuda/bin")).unwrap();
        let compiler = of("cuda/bin/nvcc");
        let real = repository().join("deploy/cuda/stand-in/nvcc");
        let script = format!("#!/bin/sh\necho \"$@\" >>{}\nexec {} \"$@\"\n", of("calls").display(), real.display());
        fs::write(&compiler, script).unwrap();
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(of(package).join("src")).unwrap();
        fs::write(of(package).join("Cargo.toml"), "").unwrap();
        fs::write(of(package).join("src/ffi.rs"), "pub fn moe_gemm(\n    pub fn mmq_run(\n").unwrap();
        Self { folder }
    }

    /// Compiles a source and returns the bytes of the result.
    fn compile(&self, package: &str, name: &str, kind: &str) -> Vec<u8> {
        let source = self.folder.path().join(package).join("src").join(name);
        if !source.exists() {
            fs::write(&source, "// one").unwrap();
        }
        let output = self.folder.path().join("output");
        let _ = fs::remove_file(&output);
        let mut command = Command::new(repository().join("deploy/cuda/front/nvcc"));
        command.env("CUDA_HOME", self.folder.path().join("cuda")).env("NVCC_CACHE", self.folder.path().join("cache"));
        run(command.arg("-O3").arg(kind).arg("-o").arg(&output).arg(&source));
        fs::read(&output).unwrap()
    }

    /// The compilations that reached the compiler.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line != "--version").map(str::to_owned).collect()
    }
}

#[test]
fn the_compilers_front_leaves_out_what_is_not_called() {
    let front = Front::new("candle-flash-attn-0.11.1");
    let compile = |name| front.compile("candle-flash-attn-0.11.1", name, "-c");
    assert!(compile("flash_fwd_hdim256_bf16_sm80.cu").starts_with(b"\x7fELF"));
    assert!(compile("flash_fwd_splitkv_hdim128_fp16_sm80.cu").starts_with(b"\x7fELF"));
    assert_eq!(front.calls(), [""; 0]);
    for (name, flag) in [
        ("flash_fwd_hdim96_bf16_causal_sm80.cu", "-DHEAD_SIZE=96"),
        ("flash_fwd_splitkv_hdim128_fp16_causal_sm80.cu", "-DHEAD_SIZE=128"),
        ("flash_api.cu", "-DDISPATCH"),
    ] {
        compile(name);
        let last = front.calls().pop().unwrap();
        assert!(last.contains("-include") && last.contains("flash_subset.h") && last.contains(flag), "{last}");
    }

    let front = Front::new("candle-kernels-0.11.1");
    let stubs = front.compile("candle-kernels-0.11.1", "moe_gguf.cu", "-c");
    for name in ["moe_gemm", "mmq_run"] {
        assert!(stubs.windows(name.len()).any(|window| window == name.as_bytes()), "{name} is defined");
    }
    assert!(front.compile("candle-kernels-0.11.1", "mmq_instance_q4_0.cu", "-c").starts_with(b"\x7fELF"));
    assert!(front.compile("candle-kernels-0.11.1", "quantized.cu", "--ptx").is_empty());
    assert_eq!(front.calls(), [""; 0]);
    front.compile("candle-kernels-0.11.1", "affine.cu", "--ptx");
    assert_eq!(front.calls().len(), 1);
}

#[test]
fn the_compilers_front_compiles_again_only_what_changed() {
    let front = Front::new("kernels");
    let compile = || front.compile("kernels", "a.cu", "--fatbin");
    compile();
    compile();
    assert_eq!(front.calls().len(), 1, "the second is from the cache");
    // A header beside it changes.
    fs::write(front.folder.path().join("kernels/src/b.cuh"), "// two").unwrap();
    compile();
    fs::write(front.folder.path().join("kernels/src/a.cu"), "// three").unwrap();
    compile();
    assert_eq!(front.calls().len(), 3);
    front.compile("kernels", "a.cu", "-c");
    assert_eq!(front.calls().len(), 4, "another kind of result");
}

/// Stands for the proof: most parts find nothing, one fails.
const PROOF: &str = r#"#!/usr/bin/env bash
part=$1 && shift
while (($#)); do
    case $1 in --results) results=$2 ;; --model) model=$2 ;; esac
    shift 2
done
case $part in
table) echo "a page" >"$results/RESULTS.md" ;;
checkpoint) mkdir "$model" ;;
model) exit 3 ;;
*) echo '{}' >"$results/$part.json" ;;
esac
"#;

#[test]
fn a_part_of_the_proof_that_fails_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let kernels = "#!/bin/sh\necho 'test result: ok. 30 passed; 0 failed; finished in 1.2s'\n";
    for (name, text) in [("proof", PROOF), ("kernels", kernels)] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    run(Command::new("tar").args(["-czf", "proof.tar.gz", "proof", "kernels"]).current_dir(folder.path()));
    // A python3 that has nothing to compare with.
    fs::write(folder.path().join("python3"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(folder.path().join("python3"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = repository().join("deploy/cuda/prove.sh");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.path().display());
    let mut command = Command::new(script);
    command.arg(folder.path().join("proof.tar.gz")).arg(folder.path().join("results")).env("PATH", path);
    let output = command.current_dir(repository()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.trim_end().ends_with("not well: model"), "{said}");
    for name in
        ["device.json", "kernels.json", "parity.json", "services.json", "pictures.json", "model.log", "RESULTS.md"]
    {
        assert!(folder.path().join("results").join(name).exists(), "{name}: {said}");
    }
    let kernels = fs::read_to_string(folder.path().join("results/kernels.json")).unwrap();
    let kernels: serde_json::Value = serde_json::from_str(&kernels).unwrap();
    assert_eq!(kernels["checks"][0]["holds"], true);
}

#[test]
fn a_profile_is_summed_up_by_kernel_whoever_took_it() {
    let folder = tempfile::tempdir().unwrap();
    let nsys = "Processing [a.sqlite] with [cuda_gpu_kern_sum.py]...\n\nTime (%),Total Time (ns),Instances,Name\n75.0,3000,3,\"gemm, wide\"\n\
                25.0,1000,2,norm\n";
    let ncu = "==PROF== Connected to process 1\n\"ID\",\"Kernel Name\",\"gpu__time_duration.sum\"\n\"\",\"\",\"ns\"\n\"0\",\"gemm, wide\",\"1,000\"\n\
               \"1\",\"norm\",\"600\"\n\"2\",\"gemm, wide\",\"2,000\"\n\"3\",\"norm\",\"400\"\n";
    for text in [nsys, ncu] {
        let path = folder.path().join("times.csv");
        fs::write(&path, text).unwrap();
        let script = repository().join("deploy/cuda/kernel_times.py");
        let printed = run(Command::new(script).arg("decode").arg(&path)).stdout;
        let printed = String::from_utf8(printed).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        assert!(lines[0].contains("0.004 ms in all"), "{printed}");
        assert!(lines[1].contains("75.0 %") && lines[1].ends_with("gemm, wide"), "{printed}");
    }
}
