//! The binary: parse, build, run.

fn main() -> std::process::ExitCode {
    // Nobody was here before to install another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    vpsie_autoscaler::cli::main()
}
