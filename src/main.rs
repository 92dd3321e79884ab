//! The binary: parse, build, run.

/// Steadier than the system's, most of all in musl images.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Nobody was here before to install another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    vpsie_autoscaler::cli::main()
}
