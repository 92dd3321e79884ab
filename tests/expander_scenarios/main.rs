//! Scenarios of the expander: each `*.yaml` here is a request of Cluster Autoscaler, sent in the form of
//! several releases. The `.txt` of the same name has the reply and the output of `explain`.
//!
//! `UPDATE=1 cargo test --test expander_scenarios` rewrites the `.txt` files.

// All code of this file is test code.
#![allow(clippy::unwrap_used, clippy::panic)]

mod scenario;
mod wire;

use std::path::Path;
use std::sync::Arc;

use tonic::Request;
use vpsie_autoscaler::cli::render;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::grpc::proto::grpcplugin::expander_server::Expander as _;
use vpsie_autoscaler::grpc::{DecisionRecord, Decisions, ExpanderService};

use scenario::{Release, Scenario};

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> jiff::Timestamp {
        scenario::NOW
    }
}

/// Returns the expander's reply and the output of `explain`.
async fn run_scenario(scenario: &Scenario, release: Release) -> (Vec<String>, String) {
    let decisions = Arc::new(Decisions::default());
    let handle = FleetHandle::fixed(scenario.fleet());
    let service = ExpanderService::new(handle, Arc::new(FixedClock), Arc::clone(&decisions));
    let request = wire::request(scenario, release);
    let reply = service.best_options(Request::new(request)).await.unwrap().into_inner();
    let reply = reply.options.into_iter().map(|option| option.node_group_id).collect();
    let record = DecisionRecord { micros: 0, ..(*decisions.last(1)[0]).clone() };
    (reply, render(&record))
}

#[tokio::test]
async fn decisions_match_the_files() {
    let update = std::env::var_os("UPDATE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expander_scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.display();
        let text = std::fs::read_to_string(&file).unwrap();
        let scenario: Scenario =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut first = None;
        for release in [Release::V1_26, Release::V1_34, Release::V1_36] {
            let (reply, explained) = run_scenario(&scenario, release).await;
            assert_eq!(reply.is_empty(), scenario.options.is_empty(), "{name}: {reply:?}");
            let result = format!("reply: {}\n\n{explained}", reply.join(", "));
            let first = first.get_or_insert_with(|| result.clone());
            assert_eq!(*first, result, "{name}: the reply to {release:?} differs");
        }
        let actual = first.unwrap();
        let expected_file = file.with_extension("txt");
        if update {
            std::fs::write(&expected_file, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        assert!(
            actual == expected,
            "{name}:\n{actual}\nexpected\n{expected}\nUPDATE=1 cargo test --test expander_scenarios"
        );
    }
}
