//! Compiles `proto/` without protoc.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let services = protox::compile(["externalgrpc.proto", "expander.proto"], ["proto"])?;
    // For reflection: services, and not what others' messages carry as bytes.
    std::fs::write(out.join("descriptors.bin"), services.encode_to_vec())?;
    for files in [services, protox::compile(["kubernetes.proto"], ["proto"])?] {
        tonic_prost_build::configure()
            .btree_map(".")
            // The template's bytes stand in two fields of one reply, and the expander is sent each pod many times.
            .bytes(".")
            .compile_fds(files)?;
    }
    Ok(())
}
