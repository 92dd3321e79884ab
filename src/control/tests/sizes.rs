//! A size that VPSie does not create, beside other sizes.

use super::*;

const WAITS: [Reply; 3] = [Reply::Silent, Reply::Broken, Reply::Never];

impl Process {
    /// With a listing that shows no worker, or one without its size: it is unknown whether listings have
    /// sizes.
    async fn listing(nodes: &[ListedNode]) -> Self {
        let process = Self::new().await;
        process.vpsie.state().nodes = nodes.to_vec();
        seconds(5).await;
        process
    }

    fn running(&self, pool: &str) -> usize {
        self.handle.read(|fleet| {
            let machines = fleet.machines_of(fleet.pool(pool).unwrap());
            machines.filter(|m| matches!(m.phase, Phase::Running { .. })).count()
        })
    }

    fn failures(&self, pool: &str) -> Vec<String> {
        self.handle.read(|fleet| {
            let failed = |m: &crate::fleet::Machine| match &m.phase {
                Phase::Failed { failure, .. } => Some(format!("{}: {}", failure.reason, failure.message)),
                _ => None,
            };
            fleet.machines_of(fleet.pool(pool).unwrap()).filter_map(failed).collect()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_size_that_is_never_made_does_not_hold_up_another() {
    for reply in WAITS {
        let process = Process::new().await;
        process.vpsie.state().creations.insert(SizeId(2), reply);
        seconds(5).await;
        process.increase(SMALL, 20).await;
        seconds(10).await;
        process.increase(LARGE, 1).await;
        seconds(10).await;
        assert_eq!((process.vpsie.count("create 4"), process.running(LARGE)), (1, 1), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_do_not_take_a_listing_each() {
    let process = Process::new().await;
    seconds(31).await;
    let before = process.vpsie.count("list");
    for _ in 0..20 {
        process.increase(SMALL, 1).await;
        process.increase(LARGE, 1).await;
    }
    seconds(1).await;
    assert_eq!(process.vpsie.count("create"), 40);
    assert!(process.vpsie.count("list") <= before + 1);
}

/// Before the first worker, it is unknown whether listings have sizes.
#[tokio::test(start_paused = true)]
async fn a_silent_size_holds_up_another_for_two_minutes_at_most() {
    for first in [vec![], vec![ListedNode { size: None, ..node(998, SizeId(2)) }]] {
        let process = Process::listing(&first).await;
        process.vpsie.state().creations.insert(SizeId(2), Reply::Silent);
        process.increase(SMALL, 1).await;
        seconds(2).await;
        process.increase(LARGE, 1).await;
        for _ in 0..13 {
            seconds(10).await;
            // Cluster Autoscaler keeps adding machines of the first size.
            process.increase(SMALL, 1).await;
        }
        assert_eq!(process.running(LARGE), 1, "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_waits_for_its_turn_does_not_fail() {
    let process = Process::listing(&[ListedNode { size: None, ..node(998, SizeId(2)) }]).await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Silent);
    process.increase(SMALL, 1).await;
    seconds(1).await;
    // Each of the other machines is older than the waiting one, and loses three requests.
    process.vpsie.state().creations.insert(SizeId(2), Reply::Broken);
    process.increase(SMALL, 30).await;
    process.increase(LARGE, 1).await;
    for _ in 0..90 {
        seconds(10).await;
        let failures = process.failures(LARGE);
        assert!(failures.is_empty(), "it was never requested from VPSie: {failures:?}");
    }
    assert_eq!(process.running(LARGE), 1);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_cannot_be_made_does_not_hold_up_another() {
    for reply in [Reply::Unavailable, Reply::Refused, Reply::Lost] {
        let process = Process::new().await;
        process.vpsie.state().creations.insert(SizeId(2), reply);
        process.increase(SMALL, 20).await;
        seconds(1).await;
        process.increase(LARGE, 1).await;
        seconds(30).await;
        assert_eq!(process.vpsie.count("create 4"), 1, "{reply:?}");
        assert!(process.handle.read(|fleet| {
            fleet.machines_of(fleet.pool(LARGE).unwrap()).all(|m| matches!(m.phase, Phase::Running { .. }))
        }));
    }
}
