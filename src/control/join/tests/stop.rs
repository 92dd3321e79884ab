//! The limit of VMs until the first VM of a payload joins, and the stop of a payload whose VMs never join.

use super::*;

impl World {
    fn own_template() -> Self {
        let world = Self::new(JoinConfig {
            template: PayloadTemplate::ConfigMap(key("payload", "script")),
            ..config(JoinKind::Custom)
        });
        world.template("#!/bin/sh\n# {{ token }} wrong");
        world
    }

    fn template(&self, text: &str) {
        self.put("ConfigMap", NAMESPACE, "payload", json!({ "script": text }));
    }

    /// A machine whose VM is listed, and joins or is deleted after 15 minutes.
    async fn try_one(&self, name: &str, joins: bool) -> Result<(), PayloadError> {
        let (mut machine, request) = self.requested(name, 1);
        if let Err(error) = self.payload(&request).await {
            self.give_up(&mut machine);
            return Err(error);
        }
        self.bind(&mut machine);
        self.clean().await;
        self.pass(15);
        if joins {
            self.join(&mut machine);
        } else {
            self.delete(&mut machine);
        }
        self.clean().await;
        Ok(())
    }

    fn give_up(&self, machine: &mut Machine) {
        machine.requests.clear();
        machine.phase = Phase::Pending;
        self.save(machine);
    }

    /// Why the NodeGroup is stopped in the datacenter, or empty.
    fn stop_in(&self, datacenter: &str) -> String {
        let stopped = self.payloads.stopped();
        let stopped = stopped.borrow();
        let message = stopped.get(&NodeGroupName::from("batch")).and_then(|stopped| stopped.get(datacenter));
        message.cloned().unwrap_or_default()
    }

    fn stop(&self) -> String {
        self.stop_in("ams1")
    }
}

fn waiting() -> PayloadError {
    PayloadError::Unavailable("waiting for the first VM with this payload to join".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_never_joins_is_stopped_until_it_changes() {
    let world = World::own_template();
    for (name, joins) in [("batch-1", false), ("batch-2", false), ("batch-3", true), ("batch-4", false)] {
        world.try_one(name, joins).await.unwrap();
    }
    assert_eq!(world.stop(), "", "one of them joined");
    world.try_one("batch-5", false).await.unwrap();
    world.try_one("batch-6", false).await.unwrap();
    let message = world.stop();
    assert!(message.starts_with("the last 3 machines with the payload "), "{message}");
    assert!(message.contains(" until 2026-01-02T05:04:05Z, then one: "), "{message}");
    assert_eq!(world.try_one("batch-7", false).await, Err(PayloadError::Invalid(message.clone())));
    let events: Vec<_> = world.kube.list("events");
    assert_eq!(events.iter().filter(|event| event["reason"] == "PayloadNeverJoins").count(), 1, "{events:?}");
    assert_eq!(events[0]["note"], message);

    world.template("#!/bin/sh\n# {{ token }} corrected");
    world.clean().await;
    assert_eq!(world.stop(), "");
    world.try_one("batch-8", false).await.unwrap();
    assert_eq!(world.stop(), "", "the new payload starts at 0");
}

#[tokio::test(start_paused = true)]
async fn another_image_lifts_the_stop() {
    let world = World::new(config(JoinKind::Kubeadm));
    for name in ["batch-1", "batch-2", "batch-3"] {
        world.try_one(name, false).await.unwrap();
    }
    assert!(matches!(world.try_one("batch-4", true).await, Err(PayloadError::Invalid(_))));
    let mut vms = vms();
    vms.places.values_mut().for_each(|place| place.image = "debian".to_owned());
    let group = SelfManagedGroup { vms, join: config(JoinKind::Kubeadm) };
    world.payloads.set_groups([("batch".into(), group)].into());
    world.clean().await;
    assert_eq!(world.stop(), "");
    world.try_one("batch-5", true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_for_one_machine_and_then_lasts_longer() {
    let world = World::own_template();
    for name in ["batch-1", "batch-2", "batch-3"] {
        world.try_one(name, false).await.unwrap();
    }
    for (tried, minutes) in (3..).zip([30, 60, 120, 240, 480, 480]) {
        world.pass(minutes - 1);
        world.clean().await;
        assert!(world.stop().starts_with(&format!("the last {tried} machines ")), "{}", world.stop());
        world.pass(1);
        world.clean().await;
        assert_eq!(world.stop(), "", "{minutes}");
        world.try_one(&format!("batch-1{tried}"), false).await.unwrap();
    }
    world.pass(480);
    let (mut first, request) = world.requested("batch-20", 1);
    world.payload(&request).await.unwrap();
    let (_, second) = world.requested("batch-21", 1);
    assert_eq!(world.payload(&second).await, Err(waiting()), "only one is tried");
    world.bind(&mut first);
    world.join(&mut first);
    world.clean().await;
    world.payload(&second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_burst_counts_once() {
    let world = World::new(config(JoinKind::Kubeadm));
    world.try_one("batch-9", true).await.unwrap();
    for burst in 0..3 {
        assert_eq!(world.stop(), "", "{burst}");
        let mut machines = Vec::new();
        for n in 0..4 {
            let (mut machine, request) = world.requested(&format!("batch-{burst}{n}"), 1);
            world.payload(&request).await.unwrap();
            world.bind(&mut machine);
            machines.push(machine);
        }
        world.clean().await;
        world.pass(15);
        for machine in &mut machines {
            world.delete(machine);
            world.clean().await;
        }
    }
    assert!(world.stop().starts_with("the last 3 machines "));
}

#[tokio::test(start_paused = true)]
async fn a_new_payload_is_limited_until_a_vm_with_it_joined() {
    let world = World::new(config(JoinKind::Kubeadm));
    let mut machines = Vec::new();
    for n in 0..3 {
        let (mut machine, request) = world.requested(&format!("batch-{n}"), 1);
        world.payload(&request).await.unwrap();
        world.bind(&mut machine);
        machines.push(machine);
    }
    let (mut waits, request) = world.requested("batch-3", 1);
    assert_eq!(world.payload(&request).await, Err(waiting()));
    assert_eq!(world.secrets().len(), 3);
    world.give_up(&mut waits);
    world.delete(&mut machines[0]);
    let (mut next, request) = world.requested("batch-4", 1);
    world.payload(&request).await.unwrap();
    world.give_up(&mut next);
    world.join(&mut machines[1]);
    world.clean().await;
    for n in 5..9 {
        let (_, request) = world.requested(&format!("batch-{n}"), 1);
        world.payload(&request).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_not_listed_for_long_shows_nothing() {
    let world = World::new(config(JoinKind::Kubeadm));
    for n in 0..4 {
        let (mut machine, request) = world.requested(&format!("batch-{n}"), 1);
        world.payload(&request).await.unwrap();
        world.pass(15);
        world.bind(&mut machine);
        world.clean().await;
        world.pass(9);
        world.delete(&mut machine);
        world.clean().await;
    }
    assert_eq!(world.stop(), "");
}

mod datacenters {
    use super::*;
    use crate::fleet::{DatacenterStrategy, Distribution, PayloadFindings};

    const PLACES: [&str; 4] = ["ams1", "fra1", "lon1", "nyc1"];

    /// A NodeGroup in the first `count` datacenters, and its own template.
    fn world(count: usize) -> World {
        let world = World::own_template();
        let pool = |at: &&str| format!("batch/{at}/small/on-demand").parse().unwrap();
        let here = |at: &&str| crate::catalog::Offer { datacenter: (*at).into(), ..offer(2, "small") };
        let places = &PLACES[..count];
        let distribution = Distribution {
            datacenters: places.iter().map(|at| (*at).into()).collect(),
            strategy: DatacenterStrategy::Balanced,
            min_per_datacenter: 0,
            max_skew: 2,
            max_price_difference: 10,
        };
        let group = NodeGroup {
            pools: places.iter().map(pool).collect(),
            distribution: (count > 1).then_some(distribution),
            max: 40,
            ..node_group()
        };
        let catalog = Catalog { offers: places.iter().map(here).collect() };
        let mut fleet = world.handle.fleet.write().unwrap();
        fleet.declare(vec![group]);
        fleet.apply(&Change::SaveCatalog(Arc::new(catalog)));
        drop(fleet);
        world
    }

    /// Cluster Autoscaler wants as many machines as it can get, in these datacenters. None joins within 15 minutes, and all are
    /// deleted. Returns the number of VMs.
    async fn try_all(world: &World, places: &[&str], round: usize) -> usize {
        let mut bought = Vec::new();
        for at in places {
            for n in 0..12 {
                let (mut machine, request) = world.requested_in(at, &format!("batch-{round}-{n}-{at}"), 1);
                if world.payload(&request).await.is_ok() {
                    world.bind(&mut machine);
                    bought.push(machine);
                } else {
                    world.give_up(&mut machine);
                }
            }
        }
        world.clean().await;
        world.pass(15);
        for machine in &mut bought {
            world.delete(machine);
        }
        world.clean().await;
        bought.len()
    }

    /// 3n + 2 machines for n datacenters: two more than one each at first, then one each, until there are three failures in
    /// each.
    #[tokio::test(start_paused = true)]
    async fn a_broken_payload_has_few_machines_in_all_datacenters() {
        for count in 1..=4 {
            let (at_once, one_by_one) = (world(count), world(count));
            let places = &PLACES[..count];
            let mut bought = 0;
            for round in 0..5 {
                bought += try_all(&at_once, places, round).await;
            }
            assert_eq!(bought, 3 * count + 2, "in {count} datacenters at once");
            let mut bought = 0;
            for (at, place) in places.iter().enumerate() {
                for round in 0..5 {
                    bought += try_all(&one_by_one, &[place], 10 * at + round).await;
                }
            }
            assert_eq!(bought, 3 * count + 2, "in {count} datacenters one after another");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_one_datacenter_stops_no_other() {
        let world = world(2);
        for round in 0..3 {
            assert_eq!(world.stop(), "");
            try_all(&world, &["ams1"], round).await;
        }
        assert!(world.stop().contains(" in datacenter ams1 never joined "), "{}", world.stop());
        assert_eq!(world.stop_in("fra1"), "");
        let (mut machine, request) = world.requested_in("fra1", "batch-1", 1);
        world.payload(&request).await.unwrap();
        world.bind(&mut machine);
        world.join(&mut machine);
        world.clean().await;
        assert_eq!(world.stop(), "", "the payload is good");
        for n in 2..8 {
            let (_, request) = world.requested_in("ams1", &format!("batch-{n}"), 1);
            world.payload(&request).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn machines_that_join_in_one_datacenter_wait_for_no_other() {
        let world = world(2);
        for n in 0..3 {
            let (_, request) = world.requested_in("ams1", &format!("batch-{n}"), 1);
            world.payload(&request).await.unwrap();
        }
        let (_, request) = world.requested_in("fra1", "batch-3", 1);
        world.payload(&request).await.unwrap();
        let (_, request) = world.requested_in("fra1", "batch-4", 1);
        assert_eq!(world.payload(&request).await, Err(waiting()));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_from_before_a_join_elsewhere_do_not_count() {
        let world = world(2);
        let (mut ams, request) = world.requested_in("ams1", "batch-1", 1);
        world.payload(&request).await.unwrap();
        world.bind(&mut ams);
        world.clean().await;
        world.pass(5);
        let (mut fra, request) = world.requested_in("fra1", "batch-2", 1);
        world.payload(&request).await.unwrap();
        world.bind(&mut fra);
        world.join(&mut fra);
        world.clean().await;
        world.pass(10);
        world.delete(&mut ams);
        world.clean().await;
        assert!(!world.joins()["payload.batch"].to_string().contains("unjoined"), "{}", world.joins());
    }

    #[tokio::test(start_paused = true)]
    async fn the_fleet_knows_where_a_payload_is_stopped() {
        let world = world(2);
        let findings =
            async || world.payloads.findings(&world.payloads.records.read().await.unwrap().payloads).await;
        assert_eq!(
            findings().await,
            PayloadFindings { proven: Some([].into()), ..PayloadFindings::default() }
        );
        for round in 0..3 {
            try_all(&world, &["ams1"], round).await;
        }
        let found = findings().await;
        assert!(found.problems.is_empty(), "{found:?}");
        let stopped = &found.stopped[&NodeGroupName::from("batch")];
        assert_eq!(stopped.keys().map(DatacenterId::as_str).collect::<Vec<_>>(), ["ams1"]);
        let both = self::world(2);
        for round in 0..3 {
            try_all(&both, &["ams1", "fra1"], round).await;
        }
        let records = both.payloads.records.read().await.unwrap();
        let found = both.payloads.findings(&records.payloads).await;
        assert!(found.stopped.is_empty() && found.problems.len() == 1, "{found:?}");
        world.template("#!/bin/sh\n# {{ token }} corrected");
        world.clean().await;
        world.try_one("batch-1", true).await.unwrap();
        let found = findings().await;
        assert!(found.problems.is_empty() && found.stopped.is_empty(), "{found:?}");
        assert_eq!(found.proven, Some([NodeGroupName::from("batch")].into()));
    }
}
