//! The binary with flags of the original VPSie autoscaler.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vpsie-autoscaler"))
        .args(line.split_whitespace())
        .env_clear()
        .output()
        .unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn flags_of_the_original_list_their_replacements() {
    let line = "--log-level=info --log-format=json --metrics-addr=:8080 --health-addr=:8081 --leader-elect=true \
                --leader-election-id=vpsie-autoscaler-leader --sync-period=30s --max-concurrent-reconciles=5 \
                --node-provision-timeout=10m --node-termination-timeout=5m --cost-optimization=true \
                --cost-optimization-strategy=auto --cost-optimization-interval=24h --rebalancing=true \
                --rebalancing-interval=24h --rebalancing-max-concurrent=2 --spot-instances=true \
                --spot-grace-period=120s";
    let output = run(line);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(error(&output));
}

#[test]
fn unknown_flags_are_reported_with_the_missing_subcommand() {
    let output = run("--http-listen=127.0.0.1:0 --htp-listen=127.0.0.1:0");
    assert_eq!(output.status.code(), Some(2));
    let error = error(&output);
    assert!(error.starts_with("serve: is missing: "), "{error}");
    assert!(error.contains("unexpected argument '--htp-listen' found"), "{error}");
}

#[test]
fn other_unknown_flags_are_reported_as_by_clap() {
    let output = run("--verison");
    assert_eq!(output.status.code(), Some(2));
    let error = error(&output);
    assert!(error.starts_with("error: unexpected argument '--verison' found"), "{error}");
    assert_eq!(run("--version").status.code(), Some(0));
}
