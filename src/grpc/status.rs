//! gRPC codes of refusals. Cluster Autoscaler only shows code and message in its logs and events
//! (docs/reference/cluster-autoscaler.md#error-codes), so the message is for operators.

use tonic::{Code, Status};

use crate::control::CommandError;
use crate::fleet::Refusal;

/// The status of a failed command.
pub(super) fn command_error(error: &CommandError) -> Status {
    let code = match error {
        CommandError::Refused(refusal) => refusal_code(refusal),
        CommandError::Store(_) | CommandError::Stopped => Code::Unavailable,
        CommandError::Deadline => Code::DeadlineExceeded,
    };
    let message = match error {
        CommandError::Store(_) => format!("nothing was changed: {error}"),
        CommandError::Refused(_) | CommandError::Stopped | CommandError::Deadline => error.to_string(),
    };
    Status::new(code, message)
}

/// The status of a request for an unknown pool.
pub(super) fn unknown_pool(id: &str) -> Status {
    command_error(&Refusal::UnknownPool(id.to_owned()).into())
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::UnknownPool(_) => Code::NotFound,
        Refusal::Delta { .. } | Refusal::ForeignNode { .. } => Code::InvalidArgument,
        Refusal::AboveMax { .. }
        | Refusal::AboveClusterMax { .. }
        | Refusal::VmsStillPaid { .. }
        | Refusal::Halted { .. }
        | Refusal::AboveVmLimit { .. }
        | Refusal::AboveSpotShare { .. }
        | Refusal::SpotUnavailable { .. }
        | Refusal::FallbackDisabled { .. }
        | Refusal::DatacenterUnavailable { .. }
        | Refusal::AboveCostLimit(_) => Code::ResourceExhausted,
        Refusal::BelowMin { .. }
        | Refusal::NeededForSpotShare { .. }
        | Refusal::BelowDatacenterMin { .. }
        | Refusal::NotGrowable { .. }
        | Refusal::PriceUnknown { .. }
        | Refusal::LimitsUnknown { .. } => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Arc;

    use rust_decimal::Decimal;

    use super::*;
    use crate::cost::UsdPerHour;
    use crate::fleet::{CostLimitReached, DatacenterBlock, PoolId};
    use crate::store::StoreError;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/protocol.md");
    const MARKS: [&str; 2] = ["<!-- refusals: generated -->", "<!-- /refusals -->"];

    /// One of each kind.
    fn samples() -> Vec<CommandError> {
        let [pool, spot]: [PoolId; 2] =
            ["web/ams1/small/on-demand", "web/ams1/small/spot"].map(|id| id.parse().unwrap());
        let usd = |cents| UsdPerHour(Decimal::new(cents, 2));
        let delta = 3;
        let whose = "NodeGroup web".to_owned();
        let reached = CostLimitReached {
            pool: pool.clone(),
            delta,
            whose: whose.clone(),
            cost: usd(90),
            limit: usd(100),
            price: usd(5),
        };
        let refusals = [
            Refusal::UnknownPool(pool.to_string()),
            Refusal::Delta { delta: 0, allowed: "above 0" },
            Refusal::ForeignNode { pool: pool.to_string(), node: "cp-1".to_owned() },
            Refusal::AboveMax { pool: pool.clone(), delta, group_target: 8, group_max: 10 },
            Refusal::AboveClusterMax { pool: pool.clone(), delta, machines: 9, max: 11 },
            Refusal::VmsStillPaid { pool: pool.clone(), delta, whose, target: 7, extra_vms: 4, paid_max: 12 },
            Refusal::Halted { pool: pool.clone(), why: "growth is halted: …".to_owned() },
            Refusal::AboveVmLimit { pool: pool.clone(), delta: 2, counted: 11, waiting: 2, limit: 14 },
            Refusal::AboveSpotShare { pool: spot.clone(), delta, spot: 4, on_demand: 1, percent: 80 },
            Refusal::SpotUnavailable {
                pool: spot.clone(),
                delta,
                block: crate::fleet::SpotBlock::Open { failure: None, until: jiff::Timestamp::UNIX_EPOCH },
            },
            Refusal::FallbackDisabled { pool: pool.clone(), delta, spot: 3, on_demand: 1, percent: 80 },
            Refusal::DatacenterUnavailable { pool: pool.clone(), delta, block: DatacenterBlock::NoWeight },
            Refusal::BelowDatacenterMin { pool: pool.clone(), healthy: 1, machines: 2, minimum: 2 },
            Refusal::AboveCostLimit(Box::new(reached)),
            Refusal::NeededForSpotShare {
                pool: pool.clone(),
                healthy: 1,
                spot: 4,
                on_demand: 1,
                percent: 80,
            },
            Refusal::BelowMin { pool: pool.clone(), healthy: 2, group_target: 3, group_min: 2 },
            Refusal::NotGrowable { pool: pool.clone(), why: "its NodeGroup is being deleted".to_owned() },
            Refusal::PriceUnknown { pool: pool.clone(), offer: "small".to_owned() },
            Refusal::LimitsUnknown { pool, why: "the API server does not answer".into() },
        ];
        let store = StoreError::Io { action: "write", problem: "disk full".to_owned() };
        let others = [CommandError::Store(Arc::new(store)), CommandError::Stopped, CommandError::Deadline];
        refusals.into_iter().map(Into::into).chain(others).collect()
    }

    /// The code and the remedy of an error. A new kind of error also needs a sample.
    fn remedy(error: &CommandError) -> (Code, &'static str) {
        match error {
            CommandError::Refused(refusal) => match refusal {
                Refusal::UnknownPool(_) => {
                    (Code::NotFound, "wait for CA's next loop: the pool's NodeGroup or offer is gone")
                }
                Refusal::Delta { .. } => {
                    (Code::InvalidArgument, "report it: the caller sent an invalid delta")
                }
                Refusal::ForeignNode { .. } => {
                    (Code::InvalidArgument, "compare the Node's `spec.providerID` with VPSieNodes")
                }
                Refusal::AboveMax { .. } => (Code::ResourceExhausted, "raise `maxNodes`"),
                Refusal::AboveClusterMax { .. } => (Code::ResourceExhausted, "raise `maxClusterWorkers`"),
                Refusal::VmsStillPaid { .. } => (
                    Code::ResourceExhausted,
                    "wait for the deletions; delete unexpected nodes at VPSie, or annotate them",
                ),
                Refusal::Halted { .. } => (Code::ResourceExhausted, "follow the message"),
                Refusal::AboveVmLimit { .. } => (
                    Code::ResourceExhausted,
                    "wait until the requested VMs are listed; delete unused VMs, or raise `maxNodes`",
                ),
                Refusal::AboveSpotShare { .. } => (
                    Code::ResourceExhausted,
                    "raise `spotConfig.maxSpotPercentage`; otherwise nothing: CA adds on-demand machines",
                ),
                Refusal::SpotUnavailable { .. } => (
                    Code::ResourceExhausted,
                    "nothing: CA adds on-demand machines, unless `spotConfig.fallbackToOnDemand` is false; see \
                     the condition `SpotAvailable`",
                ),
                Refusal::FallbackDisabled { .. } => (
                    Code::ResourceExhausted,
                    "wait for spot machines, or set `spotConfig.fallbackToOnDemand` to true",
                ),
                Refusal::DatacenterUnavailable { .. } => (
                    Code::ResourceExhausted,
                    "nothing: CA adds machines in another datacenter; see the condition `DatacentersHealthy`",
                ),
                Refusal::BelowDatacenterMin { .. } => {
                    (Code::FailedPrecondition, "lower `multiRegion.minNodesPerRegion`")
                }
                Refusal::AboveCostLimit(_) => {
                    (Code::ResourceExhausted, "raise `costLimit`, or choose cheaper offers")
                }
                Refusal::NeededForSpotShare { .. } => (
                    Code::FailedPrecondition,
                    "nothing: CA retries after spot machines are removed; or raise `spotConfig.maxSpotPercentage`",
                ),
                Refusal::BelowMin { .. } => (Code::FailedPrecondition, "lower `minNodes`"),
                Refusal::NotGrowable { .. } => (
                    Code::FailedPrecondition,
                    "see the condition `Ready` of the NodeGroup; correct an invalid NodeGroup; nothing to do for a \
                     deleted one",
                ),
                Refusal::PriceUnknown { .. } => (Code::FailedPrecondition, "set a price in `--price-file`"),
                Refusal::LimitsUnknown { .. } => {
                    (Code::FailedPrecondition, "correct the AutoscalerConfig, or the permission to list it")
                }
            },
            CommandError::Store(_) => {
                (Code::Unavailable, "restore the API server, or free disk space; CA retries")
            }
            CommandError::Stopped => (Code::Unavailable, "nothing; CA calls the next leader"),
            CommandError::Deadline => {
                (Code::DeadlineExceeded, "look for a slow API server; the command is undone, and CA retries")
            }
        }
    }

    fn table() -> String {
        let mut table = "\n| Code | Message, with examples | What to do |\n|---|---|---|\n".to_owned();
        for error in samples() {
            let status = command_error(&error);
            let (_, remedy) = remedy(&error);
            let message = status.message().replace('|', "\\|");
            writeln!(table, "| `{:?}` | {message} | {remedy} |", status.code()).unwrap();
        }
        table
    }

    #[test]
    fn gives_each_refusal_its_code() {
        for error in samples() {
            let status = command_error(&error);
            assert_eq!(status.code(), remedy(&error).0, "{error}");
            assert!(status.message().contains(&error.to_string()), "{}", status.message());
        }
        let remedies: std::collections::BTreeSet<_> = samples().iter().map(|error| remedy(error).1).collect();
        assert_eq!(remedies.len(), samples().len(), "a sample of each kind, and no kind twice");
    }

    #[test]
    fn docs_protocol_md_lists_the_refusals() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (before, rest) = page.split_once(MARKS[0]).unwrap();
        let (_, after) = rest.split_once(MARKS[1]).unwrap();
        let written = format!("{before}{}\n{}\n{}{after}", MARKS[0], table(), MARKS[1]);
        if std::env::var_os("UPDATE").is_some() {
            return std::fs::write(PAGE, &written).unwrap();
        }
        let problem = "docs/reference/protocol.md is outdated: run UPDATE=1 cargo test --lib docs";
        assert!(page == written, "{problem}");
    }
}
