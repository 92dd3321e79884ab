//! Compiles `proto/` without protoc.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files = protox::compile(["externalgrpc.proto", "expander.proto"], ["proto"])?;
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        // The template's bytes stand in two fields of one reply, and the expander is sent each pod many times.
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
