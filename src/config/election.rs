//! Checks of the leader election's settings.

use super::args::ElectionArgs;
use crate::validation::{Problem, dns_subdomain};

/// Reports all problems. If a leader held the Lease for longer than standbys wait, there could be two
/// leaders.
pub(super) fn check(args: &ElectionArgs, problems: &mut Vec<Problem>) {
    let ElectionArgs {
        leader_election_id: id,
        leader_election_lease_duration: lease,
        leader_election_renew_deadline: deadline,
        leader_election_retry_period: retry,
        pod_name,
        pod_ip: _,
    } = args;
    if let Some(Err(message)) = pod_name.as_deref().map(dns_subdomain) {
        problems.push(Problem::new("--pod-name", "", message));
    }
    let mut wrong = |flag: &str, message: String| {
        problems.push(Problem::new(&format!("--leader-election-{flag}"), "", message));
    };
    if let Err(message) = dns_subdomain(id) {
        wrong("id", message);
    }
    // A Lease stores its duration in whole seconds.
    if lease.subsec_nanos() != 0 || lease.as_secs() > 86_400 {
        wrong("lease-duration", format!("is {lease:?}, must be whole seconds, at most a day"));
    }
    if deadline >= lease {
        wrong(
            "renew-deadline",
            format!(
                "is {deadline:?}, must be less than --leader-election-lease-duration, which is {lease:?}"
            ),
        );
    }
    if retry >= deadline {
        wrong(
            "retry-period",
            format!(
                "is {retry:?}, must be less than --leader-election-renew-deadline, which is {deadline:?}"
            ),
        );
    }
}
