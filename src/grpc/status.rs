//! Refusals as gRPC codes. Cluster Autoscaler shows code and message in its logs and events only
//! (docs/reference/cluster-autoscaler.md#error-codes): the message is for the person who reads those.

use tonic::{Code, Status};

use crate::control::CommandError;
use crate::fleet::Refusal;

/// The status of a command that was not carried out.
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

/// The status of a question about a pool that is not there.
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
        | Refusal::AboveCostLimit(_) => Code::ResourceExhausted,
        Refusal::BelowMin { .. }
        | Refusal::NotGrowable { .. }
        | Refusal::PriceUnknown { .. }
        | Refusal::LimitsUnknown { .. } => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::StoreError;

    #[test]
    fn each_refusal_has_its_code_and_says_what_to_do() {
        let pool: crate::fleet::PoolId = "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap();
        let store = StoreError::Io { action: "write", problem: "disk full".to_owned() };
        let cases: Vec<(CommandError, Code, &str)> = vec![
            (Refusal::UnknownPool("x".to_owned()).into(), Code::NotFound, "NodeGroups lists the pools"),
            (Refusal::Delta { delta: 0, allowed: "above 0" }.into(), Code::InvalidArgument, "above 0"),
            (
                Refusal::AboveMax { pool: pool.clone(), delta: 3, group_target: 8, group_max: 10 }.into(),
                Code::ResourceExhausted,
                "8 of at most 10",
            ),
            (
                Refusal::AboveClusterMax { pool: pool.clone(), delta: 3, machines: 9, max: 11 }.into(),
                Code::ResourceExhausted,
                "maxClusterWorkers",
            ),
            (
                Refusal::BelowMin { pool: pool.clone(), healthy: 2, group_target: 3, group_min: 2 }.into(),
                Code::FailedPrecondition,
                "must keep 2",
            ),
            (
                Refusal::ForeignNode { pool: pool.to_string().parse().unwrap(), node: "cp-1".to_owned() }
                    .into(),
                Code::InvalidArgument,
                "nothing was deleted",
            ),
            (CommandError::Store(Arc::new(store)), Code::Unavailable, "disk full"),
            (CommandError::Stopped, Code::Unavailable, "ask again"),
            (CommandError::Deadline, Code::DeadlineExceeded, "ask again"),
        ];
        for (error, code, words) in cases {
            let status = command_error(&error);
            assert_eq!(status.code(), code, "{error}");
            assert!(status.message().contains(words), "{}", status.message());
        }
    }
}
