//! `NodeGroupGetOptions`: which releases of Cluster Autoscaler can be told options at all
//! (docs/reference/cluster-autoscaler.md#options).

use std::time::Duration;

use super::proto::{MetaDuration, NodeGroupAutoscalingOptions};
use crate::fleet::AutoscalingOptions;

/// The version of grpc-go in every release of 1.33, and in none before: up to 1.32 there is 1.65 or an older one.
const CLIENT_OF_133: &str = "grpc-go/1.68.";

/// A span of releases of Cluster Autoscaler, told by the shape of the defaults in its request
/// (docs/reference/cluster-autoscaler.md#wire) and by its client. A reply replaces every field, also those
/// that it cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// 1.26 to 1.28: a reply sets MaxNodeProvisionTime to 0 and healthy machines are deleted.
    UpTo128,
    /// 1.29 to 1.32, or a 1.33 with another client than upstream's: a reply sets ignoreDaemonSetsUtilization to false,
    /// whatever the flag is, and the request does not tell the flag.
    From129To132,
    /// 1.33 and 1.34: a reply that fills every field is taken as it stands.
    From133To134,
    /// 1.35 and later: a reply sets MaxNodeStartupTime to 0.
    From135,
    /// No shape that is known.
    Unknown,
}

impl Release {
    /// Tells the release from the defaults it sends, and from what its client calls itself.
    pub(super) fn of(defaults: &NodeGroupAutoscalingOptions, client: Option<&str>) -> Self {
        let old = defaults.scale_down_unneeded_time.is_some();
        let provision = defaults.max_node_provision_time.is_some();
        let new = defaults.scale_down_unneeded_duration.is_some();
        // A field that is false is not sent: without any, only the client tells 1.33 from its predecessors.
        let has_flags = defaults.ignore_daemon_sets_utilization || defaults.zero_or_max_node_scaling;
        let is_133 = || client.is_some_and(|client| client.contains(CLIENT_OF_133));
        match (old, provision, new) {
            (true, true, true) => Self::From133To134,
            (true, true, false) if has_flags || is_133() => Self::From133To134,
            (true, true, false) => Self::From129To132,
            (true, false, false) => Self::UpTo128,
            (false, false, true) => Self::From135,
            _ => Self::Unknown,
        }
    }

    /// Whether a reply with these options sets no other option to a value of its own.
    pub(super) fn accepts(self, set: &AutoscalingOptions) -> bool {
        match self {
            Self::From133To134 => true,
            // What is missing is read as false, which is what the NodeGroup says then.
            Self::From129To132 => set.ignore_daemon_sets_utilization == Some(false),
            Self::UpTo128 | Self::From135 | Self::Unknown => false,
        }
    }

    /// What to say of it in a log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UpTo128 => "1.28 or older",
            Self::From129To132 => "1.29 to 1.32",
            Self::From133To134 => "1.33 or 1.34",
            Self::From135 => "1.35 or newer",
            Self::Unknown => "unknown",
        }
    }

    /// Why a reply is withheld from it, for a log.
    pub(super) fn why_withheld(self) -> &'static str {
        match self {
            Self::UpTo128 | Self::From135 | Self::Unknown => {
                "only Cluster Autoscaler 1.29 to 1.34 takes them without setting others to 0"
            }
            Self::From129To132 => {
                "they would turn --ignore-daemonsets-utilization off, because this release does not send that flag; to \
                 allow it, set ignoreDaemonSetsUtilization: false in the NodeGroup"
            }
            Self::From133To134 => "one of the durations does not fit the protocol",
        }
    }
}

/// The defaults with what the NodeGroup sets, every field of every release filled. None where a duration is
/// neither set nor sent, or does not fit the wire: then a reply would set it to 0.
pub(super) fn filled(
    set: &AutoscalingOptions,
    defaults: &NodeGroupAutoscalingOptions,
) -> Option<NodeGroupAutoscalingOptions> {
    let unneeded = pick(
        set.scale_down_unneeded_time,
        defaults.scale_down_unneeded_duration.as_ref(),
        defaults.scale_down_unneeded_time.as_ref(),
    )?;
    let unready = pick(
        set.scale_down_unready_time,
        defaults.scale_down_unready_duration.as_ref(),
        defaults.scale_down_unready_time.as_ref(),
    )?;
    let provision = pick(
        set.max_node_provision_time,
        defaults.max_node_provision_duration.as_ref(),
        defaults.max_node_provision_time.as_ref(),
    )?;
    Some(NodeGroupAutoscalingOptions {
        scale_down_utilization_threshold: set
            .scale_down_utilization_threshold
            .unwrap_or(defaults.scale_down_utilization_threshold),
        scale_down_gpu_utilization_threshold: set
            .scale_down_gpu_utilization_threshold
            .unwrap_or(defaults.scale_down_gpu_utilization_threshold),
        scale_down_unneeded_time: Some(unneeded.0),
        scale_down_unready_time: Some(unready.0),
        max_node_provision_time: Some(provision.0),
        zero_or_max_node_scaling: defaults.zero_or_max_node_scaling,
        ignore_daemon_sets_utilization: set
            .ignore_daemon_sets_utilization
            .unwrap_or(defaults.ignore_daemon_sets_utilization),
        scale_down_unneeded_duration: Some(unneeded.1),
        scale_down_unready_duration: Some(unready.1),
        max_node_provision_duration: Some(provision.1),
    })
}

/// One length of time in both of its forms.
fn pick(
    set: Option<Duration>,
    new: Option<&prost_types::Duration>,
    old: Option<&MetaDuration>,
) -> Option<(MetaDuration, prost_types::Duration)> {
    let value = match (set, new, old) {
        (Some(set), _, _) => set,
        (None, Some(new), _) => Duration::try_from(*new).ok()?,
        (None, None, Some(old)) => Duration::from_nanos(u64::try_from(old.duration).ok()?),
        (None, None, None) => return None,
    };
    let nanos = i64::try_from(value.as_nanos()).ok()?;
    Some((MetaDuration { duration: nanos }, prost_types::Duration::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn old(minutes: u32) -> MetaDuration {
        MetaDuration { duration: i64::from(minutes) * 60_000_000_000 }
    }

    fn new(minutes: u32) -> prost_types::Duration {
        prost_types::Duration { seconds: i64::from(minutes) * 60, nanos: 0 }
    }

    fn defaults_128() -> NodeGroupAutoscalingOptions {
        NodeGroupAutoscalingOptions {
            scale_down_utilization_threshold: 0.5,
            scale_down_gpu_utilization_threshold: 0.5,
            scale_down_unneeded_time: Some(old(10)),
            scale_down_unready_time: Some(old(20)),
            ..NodeGroupAutoscalingOptions::default()
        }
    }

    fn defaults_133() -> NodeGroupAutoscalingOptions {
        NodeGroupAutoscalingOptions { max_node_provision_time: Some(old(15)), ..defaults_128() }
    }

    fn defaults_135() -> NodeGroupAutoscalingOptions {
        NodeGroupAutoscalingOptions {
            scale_down_utilization_threshold: 0.5,
            scale_down_unneeded_duration: Some(new(10)),
            scale_down_unready_duration: Some(new(20)),
            max_node_provision_duration: Some(new(15)),
            ..NodeGroupAutoscalingOptions::default()
        }
    }

    #[test]
    fn the_request_tells_the_release() {
        let v134 = NodeGroupAutoscalingOptions {
            scale_down_unneeded_time: Some(old(10)),
            scale_down_unready_time: Some(old(20)),
            max_node_provision_time: Some(old(15)),
            ..defaults_135()
        };
        let flags = [
            NodeGroupAutoscalingOptions { ignore_daemon_sets_utilization: true, ..defaults_133() },
            NodeGroupAutoscalingOptions { zero_or_max_node_scaling: true, ..defaults_133() },
        ];
        let release = |defaults: &_| Release::of(defaults, Some("grpc-go/1.65.0"));
        assert_eq!(release(&defaults_128()), Release::UpTo128);
        assert_eq!(release(&defaults_133()), Release::From129To132);
        assert_eq!(Release::of(&defaults_133(), None), Release::From129To132);
        assert_eq!(Release::of(&defaults_133(), Some("grpc-go/1.68.1")), Release::From133To134);
        assert_eq!(flags.each_ref().map(release), [Release::From133To134; 2]);
        assert_eq!(release(&v134), Release::From133To134);
        assert_eq!(release(&defaults_135()), Release::From135);
        assert_eq!(release(&NodeGroupAutoscalingOptions::default()), Release::Unknown);
    }

    #[test]
    fn a_release_without_the_flag_takes_options_that_turn_it_off() {
        let set = |ignore| AutoscalingOptions {
            ignore_daemon_sets_utilization: ignore,
            ..AutoscalingOptions::default()
        };
        let takes = [None, Some(true), Some(false)].map(|ignore| Release::From129To132.accepts(&set(ignore)));
        assert_eq!(takes, [false, false, true]);
    }

    #[test]
    fn a_filled_reply_leaves_nothing_at_zero() {
        let set = AutoscalingOptions {
            scale_down_unneeded_time: Some(3 * MINUTE),
            ignore_daemon_sets_utilization: Some(true),
            ..AutoscalingOptions::default()
        };
        let reply = filled(&set, &defaults_133()).unwrap();
        assert_eq!(
            reply,
            NodeGroupAutoscalingOptions {
                scale_down_utilization_threshold: 0.5,
                scale_down_gpu_utilization_threshold: 0.5,
                scale_down_unneeded_time: Some(old(3)),
                scale_down_unready_time: Some(old(20)),
                max_node_provision_time: Some(old(15)),
                zero_or_max_node_scaling: false,
                ignore_daemon_sets_utilization: true,
                scale_down_unneeded_duration: Some(new(3)),
                scale_down_unready_duration: Some(new(20)),
                max_node_provision_duration: Some(new(15)),
            }
        );
    }

    #[test]
    fn a_duration_that_nobody_gives_means_no_reply() {
        let set =
            AutoscalingOptions { scale_down_unneeded_time: Some(MINUTE), ..AutoscalingOptions::default() };
        assert_eq!(filled(&set, &defaults_128()), None);
        let endless = AutoscalingOptions { scale_down_unneeded_time: Some(Duration::MAX), ..set };
        assert_eq!(filled(&endless, &defaults_133()), None);
    }
}
