//! The binary: parse, build, run.

fn main() -> std::process::ExitCode {
    // Ignored: no provider can be installed this early.
    let _ = rustls::crypto::ring::default_provider().install_default();
    vpsie_autoscaler::cli::main()
}
