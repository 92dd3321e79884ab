//! A fleet whose changes are audited.

use super::*;

pub(super) fn policy() -> Policy {
    Policy { running_when_listed: false, ..Policy::default() }
}

/// A fleet, its time, and the fleet that readers see. Entries are derived from the latter.
pub(in crate::control) struct AuditedFleet {
    pub(super) now: Timestamp,
    pub(super) working: Fleet,
    pub(super) shared: Fleet,
    pub(super) drawn: u32,
}

impl AuditedFleet {
    pub(in crate::control) fn new(adopt: bool) -> Self {
        let group = NodeGroup {
            name: "web".into(),
            min: 0,
            max: 3,
            pools: vec![POOL.parse().unwrap()],
            size: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            preferred: None,
            options: AutoscalingOptions::default(),
            adopt,
            cost_limit: crate::cost::CostLimit::default(),
            deletion: None,
            node: crate::fleet::DeclaredNode::default(),
            spot: None,
            has_cloud_controller: false,
            distribution: None,
        };
        let offer = Offer {
            size: SizeId(2),
            name: "small".to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            capacity_type: CapacityType::OnDemand,
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40, pods: 110 },
            monthly: Some(Decimal::from(20)),
            hourly: None,
        };
        let catalog = Some(Arc::new(Catalog { offers: vec![offer] }));
        let records = Records { catalog, ..Records::default() };
        let working = Fleet::restore(vec![group], records, Reserved::default());
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut audited = Self { now, shared: working.clone(), working, drawn: 0 };
        // A foreign worker shows that listings have sizes.
        audited.list(&[]);
        audited
    }

    pub(in crate::control) fn fleet(&self) -> &Fleet {
        &self.shared
    }

    pub(super) fn play(
        &mut self,
        cause: Cause,
        decide: impl FnOnce(
            &mut Fleet,
            Timestamp,
            &mut dyn FnMut(&crate::fleet::NodeGroupName) -> MachineId,
        ) -> Vec<Change>,
    ) -> Vec<AuditEntry> {
        let drawn = &mut self.drawn;
        let changes = decide(&mut self.working, self.now, &mut |group| {
            *drawn += 1;
            MachineId::new(format!("{group}-{drawn}"))
        });
        let mut entries = Vec::new();
        for change in &changes {
            entries.extend(audit_entries(&self.shared, change, cause));
            self.shared.apply(change);
        }
        entries
    }

    pub(in crate::control) fn increase(&mut self) -> Vec<AuditEntry> {
        self.play(Cause::ClusterAutoscaler, |fleet, now, names| fleet.increase(POOL, 1, now, names).unwrap())
    }

    /// Adds a spot pool.
    pub(super) fn offer_spot(&mut self) {
        let pool = self.working.pool(POOL).unwrap();
        let mut groups: Vec<NodeGroup> = self.working.group(pool).cloned().into_iter().collect();
        groups[0].pools.push(SPOT.parse().unwrap());
        groups[0].spot = Some(SpotPolicy {
            max_share: MaxSpotShare::new(100),
            on_demand_fallback: true,
            grace_period: Duration::from_mins(2),
            allowed_interruption_rate: None,
            taint: None,
        });
        self.working.declare(groups.clone());
        self.shared.declare(groups);
        self.play(Cause::VPSieCatalog, |fleet, _, _| {
            let mut offers = fleet.catalog().unwrap().offers.clone();
            offers.push(Offer { capacity_type: CapacityType::Spot, ..offers[0].clone() });
            fleet.update_catalog(Catalog { offers })
        });
    }

    pub(super) fn increase_spot(&mut self) {
        self.play(Cause::ClusterAutoscaler, |fleet, now, names| fleet.increase(SPOT, 1, now, names).unwrap());
    }

    pub(super) fn request(&mut self) -> Vec<AuditEntry> {
        self.play(Cause::Provisioning, |fleet, now, _| fleet.record_requests(&["web-1".into()], now))
    }

    pub(super) fn record_outcome(&mut self, outcome: CreationOutcome) -> Vec<AuditEntry> {
        self.play(Cause::VPSieReply, |fleet, now, _| {
            fleet.record_outcome(&"web-1".into(), outcome, now, &policy())
        })
    }

    pub(super) fn list(&mut self, nodes: &[ListedNode]) -> Vec<AuditEntry> {
        let nodes: Vec<_> = nodes.iter().cloned().chain([node(99)]).collect();
        let listing = NodeListing::of_nodes(nodes.clone(), true);
        self.play(Cause::VPSieListing, |fleet, now, names| {
            let mut changes = fleet.observe(&listing, now, &policy());
            changes.extend(fleet.adopt_workers(&nodes, now, names));
            changes
        })
    }

    pub(super) fn pass(&mut self, minutes: u64) -> Vec<AuditEntry> {
        self.now += Duration::from_mins(minutes);
        self.play(Cause::Expiry, |fleet, now, names| fleet.apply_deadlines(now, &policy(), names))
    }

    pub(super) fn retire(&mut self, reason: DeletionReason) -> Vec<AuditEntry> {
        self.play(reason.into(), |fleet, now, _| fleet.retire(&"web-1".into(), reason, now))
    }

    /// With machine web-1, Running on VM slave-1.
    pub(super) fn running() -> Self {
        let mut audited = Self::new(false);
        audited.increase();
        audited.request();
        audited.record_outcome(CreationOutcome::Accepted);
        audited.list(&[node(1)]);
        audited.register();
        audited
    }

    pub(super) fn register(&mut self) -> Vec<AuditEntry> {
        self.play(Cause::Node, |fleet, now, _| fleet.note_registered(&Hostname::new("slave-1"), now))
    }

    pub(super) fn delete(&mut self) -> Vec<AuditEntry> {
        let victim =
            NodeRef { provider_id: "vpsie://uuid-1".to_owned(), name: "slave-1".to_owned(), fake: false };
        self.play(Cause::ClusterAutoscaler, |fleet, now, _| fleet.delete_nodes(POOL, &[victim], now).unwrap())
    }

    pub(super) fn accept_deletion(&mut self) -> Vec<AuditEntry> {
        self.play(Cause::VPSieReply, |fleet, now, _| fleet.deletion_accepted(&"web-1".into(), now))
    }

    /// Saves slave-1 as an unmanaged node of this kind.
    pub(super) fn show(&mut self, kind: UnmanagedKind, awaited_by: Option<PoolId>) -> Vec<AuditEntry> {
        let unmanaged = UnmanagedNode {
            hostname: Hostname::new("slave-1"),
            id: Some("uuid-1".into()),
            first_seen: self.now,
            awaited_by,
            request: None,
            abandoned_request: None,
            kind,
        };
        self.play(Cause::VPSieListing, |fleet, _, _| {
            let change = Change::SaveUnmanaged(unmanaged);
            fleet.apply(&change);
            vec![change]
        })
    }

    pub(super) fn delete_group(&mut self) {
        let pool = self.working.pool(POOL).unwrap();
        let mut groups: Vec<NodeGroup> = self.working.group(pool).cloned().into_iter().collect();
        groups[0].deletion = Some(DeletionPolicy::WhenEmpty);
        self.working.declare(groups.clone());
        self.shared.declare(groups);
    }

    /// Enough listings without the VM.
    pub(super) fn lose_vm(&mut self) -> Vec<AuditEntry> {
        let mut entries = Vec::new();
        for _ in 0..4 {
            self.now += policy().vanish_after;
            entries.extend(self.list(&[]));
        }
        entries
    }
}

pub(super) fn node(n: u32) -> ListedNode {
    ListedNode {
        addresses: Vec::new(),
        hostname: Hostname::new(&format!("slave-{n}")),
        id: Some(VmId::new(format!("uuid-{n}"))),
        size: Some(SizeId(2)),
        excluded: std::collections::BTreeSet::new(),
        datacenter: Some("ams1".into()),
        capacity_type: Some(CapacityType::OnDemand),
        role: if n == 99 { NodeRole::ControlPlane } else { NodeRole::Worker },
        state: VmState::Running,
        created_at: None,
        interruption: None,
        attachment: None,
        pool: None,
    }
}
