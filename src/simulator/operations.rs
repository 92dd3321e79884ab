//! The operations of the simulated API. Pure: time and randomness are arguments.

use rand::RngExt;
use secrecy::ExposeSecret;

use super::anomalies::draw_event;
use super::config::Shortage;
use super::datacenter_faults::Creations;
use super::market::{Interruption, MarketEvent, Storm};
use super::shapes::DeleteGroup;
use super::span::later;
use super::state::{Context, State, Token};
use super::vm::{End, EndedBy, Vm, VmKind};
use crate::catalog::CapacityType;
use jiff::SignedDuration;

/// An error reply of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The message of the API.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "Not found")
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == 404
    }
}

impl State {
    /// Logs in and returns a token.
    pub(super) fn login(&mut self, cx: &mut Context<'_>, id: &str, secret: &str) -> Result<Token, ApiError> {
        let account = &cx.config.account;
        if id != account.client_id || secret != account.client_secret.expose_secret() {
            return Err(ApiError::new(401, "Invalid client credentials"));
        }
        let token = Token {
            text: format!("{:032x}", cx.rng.random::<u128>()),
            expires_at: later(cx.now, account.token_lifetime),
        };
        self.tokens.push(token.clone());
        self.revision += 1;
        Ok(token)
    }

    /// Returns true iff the token is valid.
    pub(super) fn accepts_token(&self, cx: &Context<'_>, token: &str) -> bool {
        token == cx.config.account.token.expose_secret()
            || self.tokens.iter().any(|t| t.text == token && t.expires_at > cx.now)
    }

    /// Creates a node group. A cluster has at most one per size (docs/reference/vpsie-api.md#groups).
    pub(super) fn add_group(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &str,
        name: &str,
        size: u64,
    ) -> Result<u64, ApiError> {
        let (_, cluster) = cx.config.cluster(cluster).ok_or_else(ApiError::not_found)?;
        let offered = cx.config.offer(size).filter(|offer| {
            let datacenter = cx.config.datacenter(&cluster.datacenter);
            datacenter.is_some_and(|(_, d)| d.offers.as_ref().is_none_or(|names| names.contains(&offer.name)))
        });
        if offered.is_none() {
            return Err(ApiError::new(400, "Please select a valid size"));
        }
        if self.groups.values().any(|g| g.cluster == cluster.identifier && g.size == size) {
            let message = format!("Group {name} has same selected Size, please select another size");
            return Err(ApiError::new(400, message));
        }
        Ok(self.insert_group(cx, &cluster.identifier, name, size))
    }

    /// Deletes a node group.
    pub(super) fn delete_group(&mut self, cx: &mut Context<'_>, identifier: &str) -> Result<(), ApiError> {
        let group = self.groups.values().find(|group| group.identifier == identifier);
        let id = group.ok_or_else(ApiError::not_found)?.id;
        if cx.config.shapes.delete_group == DeleteGroup::Refuse && self.workers(id).next().is_some() {
            return Err(ApiError::new(400, "Group has nodes, please remove them first"));
        }
        for vm in self.vms.values_mut().filter(|vm| vm.group == Some(id)) {
            vm.finish(
                EndedBy::Reduction,
                cx.now,
                SignedDuration::ZERO,
                cx.config.times.deletion.draw(cx.rng),
            );
        }
        self.groups.remove(&id);
        self.revision += 1;
        Ok(())
    }

    /// Adds a worker and returns its numeric id. None: the request is accepted, but no VM is created.
    pub(super) fn add_worker(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &str,
        group: u64,
        spot: bool,
    ) -> Result<Option<u64>, ApiError> {
        let (_, cluster) = cx.config.cluster(cluster).ok_or_else(ApiError::not_found)?;
        let group = self.groups.get(&group).filter(|g| g.cluster == cluster.identifier);
        let group = group.cloned().ok_or_else(ApiError::not_found)?;
        if spot && cx.config.offer(group.size).is_none_or(|offer| offer.spot_monthly.is_none()) {
            return Err(ApiError::new(400, "The size is not available as spot"));
        }
        let workers = self.vms.values().filter(|vm| matches!(vm.kind, VmKind::Worker | VmKind::Foreign));
        if self.worker_quota.is_some_and(|quota| workers.count() >= quota as usize) {
            return Err(ApiError::new(400, "Worker nodes count exceeds the allowed limit"));
        }
        match cx.config.faults_at(&cluster.datacenter).creations {
            Creations::Refused => return Err(ApiError::new(400, cx.config.shortage_message.clone())),
            Creations::Lost => return Ok(None),
            Creations::Accepted | Creations::Hidden | Creations::Pending => {}
        }
        let is_sold_out = spot
            && cx.config.offer(group.size).is_some_and(|offer| {
                let class = cx.config.market_class(offer, &cluster.datacenter);
                cx.config.spot_market.is_sold_out(class, cx.now)
            });
        if is_sold_out || self.remaining_capacity(&cluster.datacenter, group.size, spot) == Some(0) {
            return match cx.config.shortage {
                Shortage::Refused => Err(ApiError::new(400, cx.config.shortage_message.clone())),
                Shortage::Silent => Ok(None),
            };
        }
        if draw_event(cx.config.anomalies.duplicates, cx.rng) {
            self.insert_worker(cx, cluster, &group, spot);
        }
        Ok(Some(self.insert_worker(cx, cluster, &group, spot)))
    }

    /// Deletes a worker by UUID.
    pub(super) fn delete_worker(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &str,
        uuid: &str,
    ) -> Result<(), ApiError> {
        let deletion = cx.config.times.deletion.draw(cx.rng);
        let anomalies = cx.config.anomalies;
        let returns_after =
            draw_event(anomalies.returns, cx.rng).then(|| anomalies.returns_after.draw(cx.rng));
        let vm = self.vm_mut(uuid).filter(|vm| vm.cluster.as_deref() == Some(cluster));
        let vm = vm.ok_or_else(ApiError::not_found)?;
        if vm.kind == VmKind::ControlPlane {
            return Err(ApiError::new(400, "Master node can not be deleted"));
        }
        if anomalies.deletions_forbidden {
            return Err(ApiError::new(403, "Permission denied"));
        }
        vm.finish(EndedBy::Deletion, cx.now, SignedDuration::ZERO, deletion);
        vm.returns_at = returns_after.map(|after| later(later(cx.now, deletion), after));
        self.revision += 1;
        Ok(())
    }

    /// Deletes a random worker of the cluster, or of the given group.
    pub(super) fn reduce(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &str,
        group: Option<u64>,
    ) -> Result<(), ApiError> {
        let deletion = cx.config.times.deletion.draw(cx.rng);
        let candidates = self.vms.values_mut().filter(|vm| {
            vm.cluster.as_deref() == Some(cluster)
                && vm.kind != VmKind::ControlPlane
                && vm.end.is_none()
                && group.is_none_or(|group| vm.group == Some(group))
        });
        let mut candidates: Vec<_> = candidates.collect();
        if candidates.is_empty() {
            return Err(ApiError::not_found());
        }
        let victim = cx.rng.random_range(0..candidates.len());
        candidates[victim].finish(EndedBy::Reduction, cx.now, SignedDuration::ZERO, deletion);
        self.revision += 1;
        Ok(())
    }

    /// Applies the events of the spot market that are due.
    pub(super) fn apply_events(&mut self, cx: &mut Context<'_>) {
        if self.started_at.is_none() {
            self.started_at = Some(cx.now);
            self.revision += 1;
        }
        let started_at = self.started_at.unwrap_or(cx.now);
        let mut events: Vec<&MarketEvent> = cx.config.spot_market.events.iter().collect();
        events.sort_by_key(|event| event.at);
        let due = events.into_iter().skip(self.past_events);
        let due: Vec<&MarketEvent> = due.take_while(|event| later(started_at, event.at) <= cx.now).collect();
        for event in due {
            self.past_events += 1;
            self.revision += 1;
            let now = later(started_at, event.at);
            if let Some(storm) = &event.storm {
                self.interrupt_share(&mut Context { config: cx.config, now, rng: cx.rng }, storm);
            }
            if let Some(capacity) = &event.capacity
                && let Some(offer) = cx.config.offer_named(&capacity.offer)
            {
                let spot = Some(CapacityType::Spot);
                self.set_capacity(capacity.datacenter.clone(), offer.id, spot, capacity.limit);
            }
        }
    }

    /// Interrupts a share of the running spot VMs, chosen at random. Returns their UUIDs.
    pub(super) fn interrupt_share(&mut self, cx: &mut Context<'_>, storm: &Storm) -> Vec<String> {
        let offer = |vm: &Vm| cx.config.offer(vm.size).map_or("", |offer| offer.name.as_str());
        let is_victim = |vm: &&Vm| vm.spot && vm.end.is_none() && storm.includes(offer(vm), &vm.datacenter);
        let mut victims: Vec<String> =
            self.vms.values().filter(is_victim).map(|vm| vm.uuid.clone()).collect();
        let count = (victims.len() as f64 * storm.share).ceil() as usize;
        while victims.len() > count {
            victims.swap_remove(cx.rng.random_range(0..victims.len()));
        }
        for uuid in &victims {
            let interrupted = self.interrupt(cx, uuid, storm.notice);
            debug_assert!(interrupted.is_ok(), "{uuid}");
        }
        victims
    }

    /// Gives a VM notice of an interruption, and ends it then. Without time, there is no notice.
    pub(super) fn interrupt(
        &mut self,
        cx: &mut Context<'_>,
        uuid: &str,
        notice: SignedDuration,
    ) -> Result<(), ApiError> {
        let deletion = cx.config.times.deletion.draw(cx.rng);
        let vm = self.vm_mut(uuid).ok_or_else(ApiError::not_found)?;
        let until = later(cx.now, notice);
        let deadline = (!notice.is_zero()).then_some(until);
        vm.interruptions.retain(|planned| planned.announced_at <= cx.now);
        vm.interruptions.push(Interruption { announced_at: cx.now, deadline, until, withdrawn: false });
        vm.finish(EndedBy::Interruption, cx.now, notice, deletion);
        self.revision += 1;
        Ok(())
    }

    /// Withdraws the notices of a VM that still runs.
    pub(super) fn withdraw_interruption(&mut self, cx: &Context<'_>, uuid: &str) -> Result<(), ApiError> {
        let now = cx.now;
        let vm = self.vm_mut(uuid).ok_or_else(ApiError::not_found)?;
        let ends = |end: End| end.by == EndedBy::Interruption && end.stops_at > now;
        vm.end = vm.end.filter(|end| !ends(*end));
        for interruption in vm.interruptions.iter_mut().filter(|i| i.announced_at <= now && i.until > now) {
            (interruption.until, interruption.withdrawn) = (now, true);
        }
        self.revision += 1;
        Ok(())
    }

    /// Ends any VM, bypassing the API.
    pub(super) fn end_vm(
        &mut self,
        cx: &mut Context<'_>,
        uuid: &str,
        by: EndedBy,
        notice: SignedDuration,
    ) -> Result<(), ApiError> {
        let deletion = cx.config.times.deletion.draw(cx.rng);
        let vm = self.vm_mut(uuid).ok_or_else(ApiError::not_found)?;
        vm.finish(by, cx.now, notice, deletion);
        self.revision += 1;
        Ok(())
    }
}

/// A token bucket for requests per minute.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RateLimit {
    tokens: f64,
    at: jiff::Timestamp,
}

impl RateLimit {
    /// A full bucket.
    pub(super) fn full(per_minute: u32, now: jiff::Timestamp) -> Self {
        Self { tokens: f64::from(per_minute), at: now }
    }

    /// Admits a request, or returns the seconds that it must wait.
    pub(super) fn admit(&mut self, per_minute: u32, now: jiff::Timestamp) -> Result<(), u32> {
        let rate = f64::from(per_minute) / 60.0;
        let elapsed = self.at.duration_until(now).as_secs_f64().max(0.0);
        self.tokens = (self.tokens + elapsed * rate).min(f64::from(per_minute));
        self.at = now;
        if self.tokens < 1.0 {
            return Err(((1.0 - self.tokens) / rate).ceil() as u32);
        }
        self.tokens -= 1.0;
        Ok(())
    }
}
