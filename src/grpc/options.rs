//! `NodeGroupGetOptions`: the releases of Cluster Autoscaler that handle options correctly
//! (docs/reference/cluster-autoscaler.md#options).

use std::time::Duration;

use super::proto::{MetaDuration, NodeGroupAutoscalingOptions};
use crate::fleet::AutoscalingOptions;

/// The version of grpc-go in every release of 1.33. Earlier releases have 1.65 or older.
const CLIENT_OF_133: &str = "grpc-go/1.68.";

/// A range of releases of Cluster Autoscaler, detected by the fields of the defaults in its request
/// (docs/reference/cluster-autoscaler.md#wire) and by its client. A reply replaces every field, including
/// fields that it cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// 1.26 to 1.28: a reply sets MaxNodeProvisionTime to 0 and healthy machines are deleted.
    UpTo128,
    /// 1.29 to 1.32, or a 1.33 with another client than upstream's: a reply sets ignoreDaemonSetsUtilization
    /// to false, whatever the flag is, and the request does not contain the flag.
    From129To132,
    /// 1.33 and 1.34: a reply with every field is used unchanged.
    From133To134,
    /// 1.35 and later: a reply sets MaxNodeStartupTime to 0.
    From135,
    /// Unknown fields.
    Unknown,
}

impl Release {
    /// Detects the release by the defaults in the request and by the client's user agent.
    pub(super) fn detect(defaults: &NodeGroupAutoscalingOptions, client: Option<&str>) -> Self {
        let old = defaults.scale_down_unneeded_time.is_some();
        let provision = defaults.max_node_provision_time.is_some();
        let new = defaults.scale_down_unneeded_duration.is_some();
        // False is not sent: without flags, only the client distinguishes 1.33 from earlier releases.
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

    /// Returns true iff a reply with these options changes no other option.
    pub(super) fn accepts(self, set: &AutoscalingOptions) -> bool {
        match self {
            Self::From133To134 => true,
            // A missing flag is read as false, which is what the NodeGroup sets.
            Self::From129To132 => set.ignore_daemon_sets_utilization == Some(false),
            Self::UpTo128 | Self::From135 | Self::Unknown => false,
        }
    }

    /// The name for log messages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UpTo128 => "1.28 or older",
            Self::From129To132 => "1.29 to 1.32",
            Self::From133To134 => "1.33 or 1.34",
            Self::From135 => "1.35 or newer",
            Self::Unknown => "unknown",
        }
    }

    /// The reason for withholding a reply, for log messages.
    pub(super) fn why_withheld(self) -> &'static str {
        match self {
            Self::UpTo128 | Self::From135 | Self::Unknown => {
                "releases other than Cluster Autoscaler 1.29 to 1.34 would set other options to 0"
            }
            Self::From129To132 => {
                "they would turn --ignore-daemonsets-utilization off, because this release does not send that flag; to \
                 allow it, set ignoreDaemonSetsUtilization: false in the NodeGroup"
            }
            Self::From133To134 => "a duration is outside the range of the protocol",
        }
    }
}

/// The defaults, overridden by the NodeGroup's options, with every field of every release. None if a duration
/// is neither set nor sent, or outside the range of the protocol: a reply would set it to 0.
pub(super) fn fill_options(
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

/// A duration in both wire formats.
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
    fn requests_identify_the_release() {
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
        let release = |defaults: &_| Release::detect(defaults, Some("grpc-go/1.65.0"));
        assert_eq!(release(&defaults_128()), Release::UpTo128);
        assert_eq!(release(&defaults_133()), Release::From129To132);
        assert_eq!(Release::detect(&defaults_133(), None), Release::From129To132);
        assert_eq!(Release::detect(&defaults_133(), Some("grpc-go/1.68.1")), Release::From133To134);
        assert_eq!(flags.each_ref().map(release), [Release::From133To134; 2]);
        assert_eq!(release(&v134), Release::From133To134);
        assert_eq!(release(&defaults_135()), Release::From135);
        assert_eq!(release(&NodeGroupAutoscalingOptions::default()), Release::Unknown);
    }

    #[test]
    fn a_release_without_the_flag_accepts_it_as_false() {
        let set = |ignore| AutoscalingOptions {
            ignore_daemon_sets_utilization: ignore,
            ..AutoscalingOptions::default()
        };
        let takes = [None, Some(true), Some(false)].map(|ignore| Release::From129To132.accepts(&set(ignore)));
        assert_eq!(takes, [false, false, true]);
    }

    #[test]
    fn a_filled_reply_has_no_zero_duration() {
        let set = AutoscalingOptions {
            scale_down_unneeded_time: Some(3 * MINUTE),
            ignore_daemon_sets_utilization: Some(true),
            ..AutoscalingOptions::default()
        };
        let reply = fill_options(&set, &defaults_133()).unwrap();
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
    fn a_missing_duration_means_no_reply() {
        let set =
            AutoscalingOptions { scale_down_unneeded_time: Some(MINUTE), ..AutoscalingOptions::default() };
        assert_eq!(fill_options(&set, &defaults_128()), None);
        let endless = AutoscalingOptions { scale_down_unneeded_time: Some(Duration::MAX), ..set };
        assert_eq!(fill_options(&endless, &defaults_133()), None);
    }
}
