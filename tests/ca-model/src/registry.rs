//! State of node groups between runs of the loop: upstream's ClusterStateRegistry
//! (docs/reference/cluster-autoscaler.md#cluster-state).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::minor::Minor;
use crate::model::{Config, Event, Stop};
use crate::object::{Node, Resources};
use crate::provider::{Instance, InstanceError, InstanceState, Options, Provider};

/// Upstream's maximum time until a new node becomes ready.
const STARTUP: Duration = Duration::from_mins(15);
const FAKE_NODE_REASON: &str = "k8s.io/cluster-autoscaler/fake-node-reason";

#[derive(Debug)]
struct Request {
    increase: i64,
    expected: Timestamp,
}

/// Names of nodes by readiness.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    pub registered: Vec<String>,
    pub ready: Vec<String>,
    pub unready: Vec<String>,
    pub not_started: Vec<String>,
    pub unregistered: Vec<String>,
    pub long_unregistered: Vec<String>,
}

impl Readiness {
    fn missing(&self, target: i64) -> i64 {
        target - (self.ready.len() + self.unready.len() + self.long_unregistered.len()) as i64
    }
}

#[derive(Debug)]
struct Backoff {
    until: Timestamp,
    duration: Duration,
    last_failure: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incorrect {
    current: i64,
    expected: i64,
    since: Timestamp,
}

#[derive(Clone, Debug)]
struct Unregistered {
    fake: Node,
    since: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    cache: BTreeMap<String, Vec<Instance>>,
    refreshed: Option<Timestamp>,
    instances: BTreeMap<String, Vec<Instance>>,
    previous: BTreeMap<String, Vec<Instance>>,
    unregistered: BTreeMap<String, Unregistered>,
    pub(crate) readiness: BTreeMap<String, Readiness>,
    total: Readiness,
    targets: BTreeMap<String, i64>,
    requests: BTreeMap<String, Request>,
    incorrect: BTreeMap<String, Incorrect>,
    backoffs: BTreeMap<String, Backoff>,
}

/// Inputs of one run of the loop, and its events.
pub(crate) struct Run<'a> {
    pub provider: &'a Provider,
    pub config: &'a Config,
    pub now: Timestamp,
    pub templates: &'a BTreeMap<String, Node>,
    pub events: &'a mut Vec<Event>,
}

impl Run<'_> {
    /// Options of a group, or the defaults.
    pub(crate) async fn options(&self, group: &str) -> Result<Options, Stop> {
        options(self.provider, self.config, group).await
    }
}

/// Options of a group, or the defaults.
pub(crate) async fn options(provider: &Provider, config: &Config, group: &str) -> Result<Options, Stop> {
    let defaults = config.options();
    Ok(provider.options(group, &defaults).await?.unwrap_or(defaults))
}

impl Registry {
    /// Upstream's background refresher: lists the instances of all groups every two minutes. After an error
    /// the list is empty.
    pub(crate) async fn refresh_instances(&mut self, provider: &Provider, config: &Config, now: Timestamp) {
        let due = self.refreshed.is_none_or(|at| now >= at + config.instances_refresh);
        if !due {
            return;
        }
        self.refreshed = Some(now);
        let groups = provider.groups().await;
        self.cache.retain(|id, _| groups.iter().any(|group| group.id == *id));
        for group in groups {
            let listed = provider.instances(&group.id).await.unwrap_or_default();
            self.cache.insert(group.id, listed);
        }
    }

    pub(crate) async fn update(&mut self, run: &mut Run<'_>, nodes: &[Node]) -> Result<(), Stop> {
        let targets = target_sizes(run.provider).await?;
        self.list_instances(run.provider).await?;
        self.find_unregistered(run, nodes);
        self.update_readiness(run, nodes).await?;
        self.targets = targets;
        self.update_requests(run).await?;
        self.handle_creation_errors(run).await?;
        self.update_incorrect_sizes(run).await;
        Ok(())
    }

    async fn list_instances(&mut self, provider: &Provider) -> Result<(), Stop> {
        for group in provider.groups().await {
            if self.is_scaling_up(&group.id) || !self.cache.contains_key(&group.id) {
                let listed = provider.instances(&group.id).await?;
                self.cache.insert(group.id, listed);
            }
        }
        self.previous = std::mem::replace(&mut self.instances, self.cache.clone());
        Ok(())
    }

    fn find_unregistered(&mut self, run: &Run<'_>, nodes: &[Node]) {
        let registered: BTreeSet<_> = nodes.iter().map(|node| node.provider_id.as_str()).collect();
        let expected = |instance: &&Instance| {
            !registered.contains(instance.id.as_str())
                && instance.state != Some(InstanceState::Deleting)
                && instance.error.is_none()
        };
        let found = self.instances.values().flatten().filter(expected).map(|instance| {
            let seen = self.unregistered.get(&instance.id).cloned();
            let new =
                || Unregistered { fake: fake_node(&instance.id, "unregistered", run.now), since: run.now };
            (instance.id.clone(), seen.unwrap_or_else(new))
        });
        self.unregistered = found.collect();
    }

    async fn update_readiness(&mut self, run: &Run<'_>, nodes: &[Node]) -> Result<(), Stop> {
        let mut groups: BTreeMap<String, Readiness> = BTreeMap::new();
        let mut total = Readiness::default();
        // From 1.35, nodes without a group get the startup time of the last group before them
        // (docs/reference/cluster-autoscaler.md#options).
        let mut startup = STARTUP;
        for node in nodes {
            let group = run.provider.group_of(node).await.ok().flatten();
            if run.provider.minor() >= Minor::V1_35 {
                if let Some(group) = &group {
                    for _ in 0..2 {
                        startup = ignore_abort(run.options(&group.id).await)?
                            .map_or(startup, |options| options.startup);
                    }
                } else {
                    drop(run.provider.group_of(node).await);
                }
            }
            if let Some(group) = group {
                classify_node(groups.entry(group.id).or_default(), node, startup, run.now);
            }
            classify_node(&mut total, node, startup, run.now);
        }
        for (id, unregistered) in &self.unregistered {
            let Ok(Some(group)) = run.provider.group_of(&unregistered.fake).await else { continue };
            let Some(options) = ignore_abort(run.options(&group.id).await)? else { continue };
            let readiness = groups.entry(group.id).or_default();
            if unregistered.since + options.provision < run.now {
                readiness.long_unregistered.push(id.clone());
                total.long_unregistered.push(id.clone());
            } else {
                readiness.unregistered.push(id.clone());
                total.unregistered.push(id.clone());
            }
        }
        self.readiness = groups;
        self.total = total;
        Ok(())
    }

    fn missing(&self, group: &str) -> i64 {
        let target = self.targets.get(group).copied().unwrap_or_default();
        self.readiness.get(group).map_or(target, |readiness| readiness.missing(target))
    }

    fn is_scaling_up(&self, group: &str) -> bool {
        self.requests.contains_key(group) && self.missing(group) > 0
    }

    async fn update_requests(&mut self, run: &mut Run<'_>) -> Result<(), Stop> {
        let reset = run.config.backoff_reset;
        self.backoffs.retain(|_, backoff| backoff.last_failure + reset > run.now);
        let groups: Vec<_> = self.requests.keys().cloned().collect();
        for group in groups {
            if self.missing(&group) <= 0 {
                self.requests.remove(&group);
            } else if let Some(request) = self.requests.get(&group)
                && request.expected < run.now
            {
                let increase = request.increase;
                self.requests.remove(&group);
                run.events.push(Event::TimedOut { group: group.clone() });
                self.back_off(run, &group, "timeout").await?;
                if run.provider.minor() >= Minor::V1_36 && increase > 0 {
                    let decreased = run.provider.decrease_target_size(&group, -increase).await;
                    run.events.push(Event::Decreased { group, delta: -increase, done: decreased.is_ok() });
                }
            }
        }
        Ok(())
    }

    /// Backs a group off after a failure. The backoff includes its template; up to 1.35 the template is
    /// requested.
    pub(crate) async fn back_off(&mut self, run: &mut Run<'_>, group: &str, code: &str) -> Result<(), Stop> {
        if run.provider.minor() < Minor::V1_36 {
            ignore_abort(run.provider.template(group).await.map_err(Stop::from))?;
        } else if !run.templates.contains_key(group) {
            return Ok(());
        }
        let config = run.config;
        let duration = match self.backoffs.get(group) {
            Some(old) if old.until > run.now => old.duration,
            Some(old) => (old.duration * 2).min(config.max_backoff),
            None => config.initial_backoff,
        };
        let until = run.now + duration;
        self.backoffs.insert(group.to_owned(), Backoff { until, duration, last_failure: run.now });
        run.events.push(Event::BackedOff { group: group.to_owned(), code: code.to_owned(), until });
        Ok(())
    }

    fn is_backed_off(&self, group: &str, now: Timestamp) -> bool {
        self.backoffs.get(group).is_some_and(|backoff| backoff.until > now)
    }

    async fn handle_creation_errors(&mut self, run: &mut Run<'_>) -> Result<(), Stop> {
        for (group, instances) in self.instances.clone() {
            let before = self.previous.get(&group).into_iter().flatten();
            let seen: BTreeSet<_> =
                before.filter(|old| has_creation_error(old)).map(|old| old.id.clone()).collect();
            let mut fresh: BTreeMap<(i32, String), i64> = BTreeMap::new();
            for instance in instances
                .iter()
                .filter(|instance| has_creation_error(instance) && !seen.contains(&instance.id))
            {
                if let Some(InstanceError { class, code, .. }) = &instance.error {
                    *fresh.entry((*class, code.clone())).or_default() += 1;
                }
            }
            for ((_, code), count) in fresh {
                if self.is_scaling_up(&group) {
                    self.register_scale_up(run, &group, -count).await?;
                    self.back_off(run, &group, &code).await?;
                }
            }
        }
        Ok(())
    }

    /// Records the request for `delta` nodes; a negative `delta` cancels requested nodes.
    pub(crate) async fn register_scale_up(
        &mut self,
        run: &Run<'_>,
        group: &str,
        delta: i64,
    ) -> Result<(), Stop> {
        let Some(options) = ignore_abort(run.options(group).await)? else { return Ok(()) };
        let expected = run.now + options.provision;
        match self.requests.get_mut(group) {
            None if delta > 0 => {
                self.requests.insert(group.to_owned(), Request { increase: delta, expected });
            }
            None => {}
            Some(request) if request.increase + delta <= 0 => {
                self.requests.remove(group);
            }
            Some(request) => {
                request.increase += delta;
                if delta > 0 {
                    request.expected = expected;
                }
            }
        }
        Ok(())
    }

    async fn update_incorrect_sizes(&mut self, run: &Run<'_>) {
        let mut result = BTreeMap::new();
        for group in run.provider.groups().await {
            let Some(readiness) = self.readiness.get(&group.id) else { continue };
            let expected = self.targets.get(&group.id).copied().unwrap_or_default();
            let current = readiness.registered.len() as i64;
            let waited = (readiness.unregistered.len() + readiness.long_unregistered.len()) as i64;
            if current > expected || current < expected - waited {
                let same =
                    self.incorrect.get(&group.id).filter(|o| o.current == current && o.expected == expected);
                let new = Incorrect { current, expected, since: run.now };
                result.insert(group.id, same.copied().unwrap_or(new));
            }
        }
        self.incorrect = result;
    }

    /// Deletes instances that have not registered in time. The next loop retries after an error.
    pub(crate) async fn remove_old_unregistered(&mut self, run: &mut Run<'_>) -> Result<(), Stop> {
        let mut old: BTreeMap<String, Vec<Node>> = BTreeMap::new();
        for unregistered in self.unregistered.values() {
            let Some(group) = run.provider.group_of(&unregistered.fake).await? else { continue };
            let options = run.options(&group.id).await?;
            if unregistered.since + options.provision < run.now {
                old.entry(group.id).or_default().push(unregistered.fake.clone());
            }
        }
        let groups = run.provider.groups().await;
        for (id, mut fakes) in old {
            let Some(group) = groups.iter().find(|group| group.id == id) else {
                return Err(Stop::Crash(format!(
                    "{id} is the group of a node, but not one of the node groups"
                )));
            };
            if !run.config.force_delete_unregistered {
                let spare = run.provider.target_size(&id).await? - group.min;
                fakes.truncate(usize::try_from(spare).unwrap_or_default());
            }
            if fakes.is_empty() {
                continue;
            }
            let deleted = run.provider.delete_nodes(&id, &fakes).await;
            self.cache.remove(&id);
            let ids = fakes.into_iter().map(|fake| fake.name).collect();
            run.events.push(Event::RemovedUnregistered { group: id, ids, done: deleted.is_ok() });
            deleted?;
        }
        Ok(())
    }

    /// Deletes instances with creation errors. Returns true iff one was deleted.
    pub(crate) async fn remove_failed(&mut self, run: &mut Run<'_>) -> bool {
        let mut any = false;
        for (group, instances) in self.instances.clone() {
            let fakes: Vec<_> = instances
                .iter()
                .filter(|instance| has_creation_error(instance))
                .map(|instance| fake_node(&instance.id, "create-error", run.now))
                .collect();
            if fakes.is_empty() {
                continue;
            }
            let deleted = run.provider.delete_nodes(&group, &fakes).await;
            if deleted.is_ok() {
                any = true;
                self.cache.remove(&group);
            }
            let ids = fakes.into_iter().map(|fake| fake.name).collect();
            run.events.push(Event::RemovedFailed { group, ids, done: deleted.is_ok() });
        }
        any
    }

    /// Decreases target sizes whose nodes never appeared. Returns true iff one was decreased.
    pub(crate) async fn fix_sizes(&mut self, run: &mut Run<'_>) -> Result<bool, Stop> {
        let mut fixed = false;
        for (group, incorrect) in self.incorrect.clone() {
            let options = run.options(&group).await?;
            let delta = incorrect.current - incorrect.expected;
            if incorrect.since + options.provision < run.now && delta < 0 {
                let decreased = run.provider.decrease_target_size(&group, delta).await;
                run.events.push(Event::Decreased { group, delta, done: decreased.is_ok() });
                decreased?;
                fixed = true;
            }
        }
        Ok(fixed)
    }

    /// Returns true iff the number of unready nodes permits scaling.
    pub(crate) fn is_cluster_healthy(&self, config: &Config) -> bool {
        let unready = self.total.unready.len();
        let all = self.total.registered.len();
        unready <= config.ok_unready || unready as f64 <= config.max_unready_percent / 100.0 * all as f64
    }

    /// Returns true iff the group may be scaled up now.
    pub(crate) fn is_safe_to_scale_up(&self, group: &str, config: &Config, now: Timestamp) -> bool {
        self.is_group_healthy(group, config) && !self.is_backed_off(group, now)
    }

    fn is_group_healthy(&self, group: &str, config: &Config) -> bool {
        let Some(&target) = self.targets.get(group) else { return false };
        let increase = self.requests.get(group).map_or(0, |request| request.increase);
        let Some(readiness) = self.readiness.get(group) else {
            let least = target - increase;
            return target == 0 || (least == 0 && target > 0);
        };
        let least = target - readiness.long_unregistered.len() as i64 - increase;
        let short = least - readiness.ready.len() as i64;
        let all = readiness.ready.len() + readiness.unready.len() + readiness.not_started.len();
        short <= config.ok_unready as i64 || short as f64 <= config.max_unready_percent / 100.0 * all as f64
    }

    /// Number of upcoming nodes by group, and the names of registered nodes that are not ready yet.
    pub(crate) async fn upcoming(&self, run: &Run<'_>) -> (BTreeMap<String, i64>, BTreeSet<String>) {
        let mut counts = BTreeMap::new();
        let mut names = BTreeSet::new();
        for group in run.provider.groups().await {
            let missing = self.missing(&group.id);
            let own_only = run.provider.minor() >= Minor::V1_36;
            let is_requested =
                self.requests.contains_key(&group.id) && !self.is_backed_off(&group.id, run.now);
            if missing > 0 && (is_requested || !own_only) {
                names.extend(
                    self.readiness.get(&group.id).into_iter().flat_map(|r| r.not_started.iter().cloned()),
                );
                counts.insert(group.id, missing);
            }
        }
        (counts, names)
    }

    /// Reads the target sizes again after a change. After an error all of them count as 0.
    pub(crate) async fn recalculate(&mut self, provider: &Provider) {
        self.targets = target_sizes(provider).await.unwrap_or_default();
    }
}

async fn target_sizes(provider: &Provider) -> Result<BTreeMap<String, i64>, Stop> {
    let mut targets = BTreeMap::new();
    for group in provider.groups().await {
        let target = provider.target_size(&group.id).await?;
        targets.insert(group.id, target);
    }
    Ok(targets)
}

fn classify_node(readiness: &mut Readiness, node: &Node, startup: Duration, now: Timestamp) {
    readiness.registered.push(node.name.clone());
    if node.to_be_deleted_since().is_some() {
        return;
    }
    let bucket = if node.is_ready() {
        &mut readiness.ready
    } else if node.created + startup > now {
        &mut readiness.not_started
    } else {
        &mut readiness.unready
    };
    bucket.push(node.name.clone());
}

/// The placeholder Node of an instance without a Node (docs/reference/cluster-autoscaler.md#made-up-nodes).
fn fake_node(id: &str, reason: &str, now: Timestamp) -> Node {
    let mut node = Node::new(id, id, Resources::default(), now);
    node.annotations.insert(FAKE_NODE_REASON.to_owned(), reason.to_owned());
    node
}

fn has_creation_error(instance: &Instance) -> bool {
    instance.state == Some(InstanceState::Creating) && instance.error.is_some()
}

/// Returns None for an error that does not abort the loop.
pub(crate) fn ignore_abort<T>(result: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Abort(_)) => Ok(None),
        Err(crash) => Err(crash),
    }
}
