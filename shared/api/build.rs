//! Compiles the wire contract in `proto/` without `protoc`.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "inference/grpc_service.proto",
    "inference/model_config.proto",
    "tessera/embedding/v1/embedding.proto",
    "tessera/gateway/v1/gateway.proto",
    "tessera/language/v1/language.proto",
    "tessera/vision/v1/vision.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;

    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script where to write by environment")]
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    // Maps of few entries, in order: equal messages are equal bytes.
    tonic_prost_build::configure().bytes(".").btree_map(".inference").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
