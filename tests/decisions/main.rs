//! Decisions that a person can read: each `*.yaml` here is a question of Cluster Autoscaler, sent to the expander as
//! the releases send it, and `explain` must say of it what stands beside it in the `.txt`.
//!
//! `UPDATE=1 cargo test --test decisions` writes the answers again.

// A test that cannot run stops.
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
use vpsie_autoscaler::grpc::{Decisions, ExpanderService, Record};

use scenario::{Release, Scenario};

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> jiff::Timestamp {
        scenario::NOW
    }
}

/// What the expander replied, and how it explains that.
async fn decide(scenario: &Scenario, release: Release) -> (Vec<String>, String) {
    let decisions = Arc::new(Decisions::default());
    let handle = FleetHandle::fixed(scenario.fleet());
    let service = ExpanderService::new(handle, Arc::new(Fixed), Arc::clone(&decisions));
    let request = wire::request(scenario, release);
    let reply = service.best_options(Request::new(request)).await.unwrap().into_inner();
    let reply = reply.options.into_iter().map(|option| option.node_group_id).collect();
    let record = Record { micros: 0, ..(*decisions.last(1)[0]).clone() };
    (reply, render(&record))
}

#[tokio::test]
async fn decisions_are_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decisions");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.display();
        let text = std::fs::read_to_string(&file).unwrap();
        let scenario: Scenario =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut said = None;
        for release in [Release::V1_26, Release::V1_34, Release::V1_36] {
            let (reply, explained) = decide(&scenario, release).await;
            assert_eq!(reply.is_empty(), scenario.options.is_empty(), "{name}: {reply:?}");
            let answer = format!("reply: {}\n\n{explained}", reply.join(", "));
            let said = said.get_or_insert_with(|| answer.clone());
            assert_eq!(*said, answer, "{name}: {release:?} is answered differently");
        }
        let said = said.unwrap();
        let beside = file.with_extension("txt");
        if update {
            std::fs::write(&beside, &said).unwrap();
        }
        let written = std::fs::read_to_string(&beside).unwrap_or_default();
        assert!(written == said, "{name}:\n{said}\nwant\n{written}\nUPDATE=1 cargo test --test decisions");
    }
}
