//! Fuzzers: each target passes mutated input from outside to the code that reads it. A panic, an overflow, a
//! hang, unbounded memory or a broken invariant of the target fails the test. `README.md` has the targets and
//! longer runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod files;
mod fleets;
mod messages;
mod mutate;
mod objects;
mod records;
mod replies;
mod runner;
mod vms;

use runner::{Target, fuzz};

#[test]
fn replies_of_vpsie() {
    fuzz(&Target { name: "replies", seeds: replies::seeds, run: replies::run });
}

#[test]
fn replies_about_plain_vms() {
    fuzz(&Target { name: "vms", seeds: vms::seeds, run: vms::run });
}

#[test]
fn objects_of_kubernetes() {
    fuzz(&Target { name: "objects", seeds: objects::seeds, run: objects::run });
}

#[test]
fn records_of_the_store() {
    fuzz(&Target { name: "records", seeds: records::seeds, run: records::run });
}

#[test]
fn messages_of_cluster_autoscaler() {
    fuzz(&Target { name: "messages", seeds: messages::seeds, run: messages::run });
}

#[test]
fn files_of_users() {
    fuzz(&Target { name: "files", seeds: files::seeds, run: files::run });
}
