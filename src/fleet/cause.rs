//! Causes of changes of the fleet.

use super::machine::DeletionReason;

macro_rules! causes {
    ($($cause:ident $meaning:literal,)*) => {
        /// The cause of a change of the fleet. The set is closed: `by` of the audit log has only these names.
        ///
        /// A [`DeletionReason`] is the cause that a machine's record keeps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $(#[doc = $meaning] $cause,)*
        }

        impl Cause {
            /// All causes, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$cause,)*];

            /// The name, as in the audit log and in events.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$cause => stringify!($cause),)*
                }
            }

            /// The meaning, as in the documentation of the audit log.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$cause => $meaning,)*
                }
            }
        }
    };
}

causes! {
    ClusterAutoscaler "Cluster Autoscaler added or deleted machines",
    VPSieNodeDeleted "a user deleted the VPSieNode of the machine, or removed its finalizer",
    NodeGroupDeleted "a user deleted the NodeGroup of the machine",
    NodeAnnotated "a user annotated a Node as added by hand",
    Provisioning "vpsie-autoscaler requested the VM of a recorded machine",
    VPSieReply "VPSie replied to a request, its reply was lost, or the request was not sent",
    VPSieListing "VPSie listed its nodes",
    VPSieCatalog "VPSie listed its offers and prices",
    Node "the API server showed the Node of the machine",
    Drain "the drain of the machine's Node progressed",
    Expiry "a time limit passed",
    FailedExpired "the machine failed, and Cluster Autoscaler did not delete it in time",
    Orphan "no machine adopted the orphan in time",
    VMGone "the VM of the machine is gone; only requests that may still create a VM are left",
    VMReturned "VPSie lists a deleted VM again",
    InterruptionNotice "VPSie gave notice of the interruption of the VM",
    RunawayGuard "the runaway guard counted VMs that may be paid for",
}

impl From<DeletionReason> for Cause {
    fn from(reason: DeletionReason) -> Self {
        match reason {
            DeletionReason::ClusterAutoscaler => Self::ClusterAutoscaler,
            DeletionReason::VPSieNodeDeleted => Self::VPSieNodeDeleted,
            DeletionReason::NodeGroupDeleted => Self::NodeGroupDeleted,
            DeletionReason::FailedExpired => Self::FailedExpired,
            DeletionReason::Orphan => Self::Orphan,
            DeletionReason::VMGone => Self::VMGone,
            DeletionReason::VMReturned => Self::VMReturned,
            DeletionReason::InterruptionNotice => Self::InterruptionNotice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_deletion_reasons_are_those_of_records() {
        for cause in Cause::ALL {
            let recorded = serde_json::from_value::<DeletionReason>(cause.name().into());
            if let Ok(reason) = recorded {
                assert_eq!((Cause::from(reason), reason.name()), (*cause, cause.name()));
            }
        }
        let reasons = Cause::ALL
            .iter()
            .filter(|cause| serde_json::from_value::<DeletionReason>(cause.name().into()).is_ok());
        assert_eq!(reasons.count(), 8, "every DeletionReason has a cause of its name");
    }
}
