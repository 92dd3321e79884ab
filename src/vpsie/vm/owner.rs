//! The owner marker in the notes of VMs, and the form of their hostnames.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::digest;

use crate::fleet::{ClusterId, Hostname, PoolId};

/// The owner of a VM: the first line of its notes (docs/reference/vpsie-api.md#owner-marker).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::vpsie) struct Owner {
    /// The cluster and the namespace of its NodeGroups: `<UID of the namespace kube-system>/<namespace>`.
    pub(in crate::vpsie) cluster: ClusterId,
    pub(in crate::vpsie) pool: PoolId,
}

const PROGRAM: &str = "vpsie-autoscaler";

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PROGRAM} {} {}", self.cluster, self.pool)
    }
}

impl Owner {
    /// Reads the owner from notes. None if the first line is not exactly an owner marker.
    pub(super) fn parse(notes: &str) -> Option<Self> {
        let words: Vec<&str> = notes.lines().next()?.split(' ').collect();
        let [PROGRAM, cluster, pool] = words[..] else { return None };
        if cluster.is_empty() {
            return None;
        }
        Some(Self { cluster: cluster.into(), pool: pool.parse().ok()? })
    }

    /// The notes of a VM: the marker, then the notes of the user.
    pub(super) fn notes(&self, user: Option<&str>) -> String {
        match user.map(str::trim).filter(|user| !user.is_empty()) {
            Some(user) => format!("{self}\n{user}"),
            None => self.to_string(),
        }
    }
}

/// Digits of the code of a cluster.
const CODE_LENGTH: usize = 8;

/// A short code of the owner of VMs, for names and labels: the first 8 digits of its SHA-256.
pub fn cluster_code(cluster: &ClusterId) -> String {
    let digest = digest::digest(&digest::SHA256, cluster.as_str().as_bytes());
    HEXLOWER.encode(digest.as_ref()).chars().take(CODE_LENGTH).collect()
}

/// Prefix of the owner tag.
const TAG_PREFIX: &str = "vpsie-autoscaler:";

/// The tag of VMs of a cluster. Pending VMs show their tags, and no notes.
pub(super) fn owner_tag(cluster: &ClusterId) -> String {
    format!("{TAG_PREFIX}{cluster}")
}

/// Whether it is the owner tag of another cluster.
pub(super) fn is_tag_of_other(tag: &str, cluster: &ClusterId) -> bool {
    tag.starts_with(TAG_PREFIX) && tag != owner_tag(cluster)
}

/// Whether a hostname has the form that vpsie-autoscaler gives: `<NodeGroup>-<8 hex digits>-<n>`.
pub(super) fn has_own_form(hostname: &Hostname) -> bool {
    let mut parts = hostname.as_str().rsplitn(3, '-');
    let number = parts.next().unwrap_or_default();
    let code = parts.next().unwrap_or_default();
    let group = parts.next().unwrap_or_default();
    let is_number = number.bytes().all(|b| b.is_ascii_digit())
        && !number.starts_with('0')
        && number.parse::<u32>().is_ok();
    let is_code = code.len() == 8 && code.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_number && is_code && !group.is_empty()
}

/// Whether a text is a DNS label, as hostnames and Node names must be.
pub(super) fn is_dns_label(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "vpsie-autoscaler 5d1e-uid workers/ams1/s-2vcpu-4gb/on-demand";

    #[test]
    fn the_marker_is_the_first_line_of_the_notes() {
        let owner = Owner::parse(MARKER).unwrap();
        assert_eq!(owner.cluster.as_str(), "5d1e-uid");
        assert_eq!(owner.to_string(), MARKER);
        assert_eq!(owner.notes(Some(" team a\nteam b ")), format!("{MARKER}\nteam a\nteam b"));
        assert_eq!(owner.notes(Some(" ")), MARKER);
        for notes in [format!("{MARKER}\nmore"), format!("{MARKER}\r\nmore"), owner.notes(Some("x"))] {
            assert_eq!(Owner::parse(&notes), Some(owner.clone()), "{notes}");
        }
    }

    #[test]
    fn a_similar_line_is_no_marker() {
        for notes in [
            String::new(),
            "team a".to_owned(),
            format!("team a\n{MARKER}"),
            format!(" {MARKER}"),
            format!("{MARKER} more"),
            MARKER.replacen(' ', "  ", 1),
            MARKER.replace("/on-demand", ""),
            MARKER.replace("on-demand", "reserved"),
            MARKER.replace("vpsie-autoscaler", "VPSie-autoscaler"),
        ] {
            assert_eq!(Owner::parse(&notes), None, "{notes:?}");
        }
    }

    #[test]
    fn recognizes_own_hostnames() {
        for (name, want) in [
            ("workers-0a1b2c3d-1", true),
            ("my-workers-0a1b2c3d-12", true),
            ("workers-0a1b2c3d", false),
            ("workers-0a1b2c3d-0", false),
            ("workers-0a1b2c3d-01", false),
            ("workers-0a1b2c3d-+1", false),
            ("workers-0a1b2c3g-1", false),
            ("workers-0a1b2c3-1", false),
            ("-0a1b2c3d-1", false),
            ("0a1b2c3d-1", false),
            ("", false),
        ] {
            assert_eq!(has_own_form(&Hostname::new(name)), want, "{name}");
        }
    }

    #[test]
    fn a_duplicate_keeps_its_hostname_in_its_name() {
        let hostname = Hostname::new("workers-0a1b2c3d-1");
        let duplicate = hostname.duplicate(&"u-2".into());
        assert_eq!(duplicate.as_str(), "workers-0a1b2c3d-1.duplicate-u-2");
        assert_eq!(duplicate.without_duplicate(), hostname);
        assert_eq!(hostname.without_duplicate(), hostname);
        assert!(!has_own_form(&duplicate));
    }

    #[test]
    fn the_code_of_a_cluster_depends_on_its_namespace() {
        // printf 5d1e-uid/team-a | sha256sum
        assert_eq!(cluster_code(&"5d1e-uid/team-a".into()), "e9fd28f6");
        assert_ne!(cluster_code(&"5d1e-uid/team-b".into()), "e9fd28f6");
        let owner = Owner::parse(&MARKER.replace("5d1e-uid", "5d1e-uid/team-a")).unwrap();
        assert_eq!(owner.cluster.as_str(), "5d1e-uid/team-a");
        assert!(is_tag_of_other(&owner_tag(&owner.cluster), &"5d1e-uid/team-b".into()));
    }

    #[test]
    fn a_hostname_is_one_dns_label() {
        assert!(is_dns_label("workers-0a1b2c3d-1") && is_dns_label(&"a".repeat(63)));
        for text in ["", "a.b", "A", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert!(!is_dns_label(text), "{text}");
        }
    }
}
