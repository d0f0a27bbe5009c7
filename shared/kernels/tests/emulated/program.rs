//! The emulator's program: compiled once, started once a test. Or a GPU in its place.

use std::{
    env::consts::{ARCH, OS},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::LazyLock,
};

use crate::case::{Argument, Order};
use tessera_kernels::launch::Launch;

/// What runs the cases: the emulator, or the program that this variable of the environment names in its place, which is how
/// `deploy/cuda/prove.sh` has a GPU run them.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "a test has no other configuration")]
    let named = std::env::var_os("TESSERA_KERNEL_RUNNER");
    named.map_or_else(compile, PathBuf::from)
});

/// A running emulator.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Program {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(&*PROGRAM);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the emulator starts");
        let (input, output) = child.stdin.take().zip(child.stdout.take()).expect("both are piped");
        Self { child, input, output }
    }

    /// Runs a kernel; returns what each argument that is memory holds then, or what the kernel did wrong.
    pub(crate) fn run(
        &mut self,
        launch: &Launch,
        order: Order,
        arguments: &[Argument],
    ) -> Result<Vec<Vec<u8>>, String> {
        let mut case = Vec::new();
        put(&mut case, &[launch.function.len() as u32]);
        case.extend(launch.function.as_bytes());
        put(&mut case, &launch.grid);
        put(&mut case, &launch.block);
        let (order, seed) = order.code();
        put(&mut case, &[launch.shared_bytes, order, seed, arguments.len() as u32]);
        arguments.iter().for_each(|argument| argument.write(&mut case));
        // The emulator ends early where a kernel goes wrong; then reading tells.
        let _ = self.input.write_all(&case).and_then(|()| self.input.flush());
        let memories = arguments.iter().filter_map(Argument::bytes);
        let mut results: Vec<Vec<u8>> = memories.map(|bytes| vec![0; bytes.len()]).collect();
        let read = results.iter_mut().try_for_each(|result| self.output.read_exact(result));
        match read.and_then(|()| self.output.read_exact(&mut [0])) {
            Ok(()) => Ok(results),
            Err(_) => Err(self.last_words()),
        }
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let mut errors = self.child.stderr.take().expect("an emulator ends once");
        errors.read_to_string(&mut text).expect("the emulator writes UTF-8");
        text.trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(case: &mut Vec<u8>, words: &[u32]) {
    case.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}

/// Compiles the emulator with the kernels in it.
fn compile() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let emulator = here.join("tests/emulator");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join("emulator");
    let unfinished = folder.join(format!("emulator-{}", std::process::id()));
    let triple = match OS {
        "macos" => format!("{ARCH}-apple-darwin"),
        _ => format!("{ARCH}-unknown-linux-gnu"),
    };
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").target(&triple).host(&triple).opt_level(1).debug(false).out_dir(folder);
    build.cargo_metadata(false).warnings_into_errors(true).extra_warnings(true);
    for folder in [emulator.join("include"), emulator.clone(), here.join("cuda")] {
        build.include(folder);
    }
    // `unroll` is nvcc's. All faults have the same parameters, whether they need them or not. A jump from one fiber's
    // stack to another's is no mistake here. Where a kernel has its products rounded, no sum is to swallow one. What a GPU
    // traps, the compiler is made to trap too; without it, an access that is not aligned would go unnoticed.
    for flag in [
        "-Wno-unknown-pragmas",
        "-Wno-unused-parameter",
        "-U_FORTIFY_SOURCE",
        "-fno-strict-aliasing",
        "-ffp-contract=off",
        "-fsanitize=alignment,shift,bounds",
        "-fsanitize-undefined-trap-on-error",
    ] {
        build.flag(flag);
    }
    let compiler = build.try_get_compiler().unwrap_or_else(|error| panic!("{NO_COMPILER}: {error}"));
    let mut command: Command = compiler.to_command();
    command.args(["main.cpp", "fibers.cpp", "buffer.cpp"].map(|file| emulator.join(file))).arg("-o").arg(&unfinished);
    let output = command.output().unwrap_or_else(|error| panic!("{NO_COMPILER}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the kernels do not compile as C++: {command:?}\n{messages}");
    fs::rename(&unfinished, &program).expect("the program can be put in its place");
    program
}

const NO_COMPILER: &str = "these tests run the CUDA sources on the CPU and need a C++17 compiler: install one that is \
                           called c++ (g++ or clang), or name it in CXX";
