//! Compiles `proto/` without protoc.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let services = protox::compile(["externalgrpc.proto", "expander.proto"], ["proto"])?;
    // Reflection serves these services only, without the messages of Kubernetes.
    std::fs::write(out.join("descriptors.bin"), services.encode_to_vec())?;
    for files in [services, protox::compile(["kubernetes.proto"], ["proto"])?] {
        tonic_prost_build::configure()
            .btree_map(".")
            // `Bytes` shares data: a template is in two fields of a reply, and requests to the expander
            // repeat pods.
            .bytes(".")
            .compile_fds(files)?;
    }
    Ok(())
}
