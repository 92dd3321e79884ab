use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use jiff::Timestamp;
use k8s_pb::api::core::v1 as k8s;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::wire::{
    BestOptions, BestOptionsReply, ById, DeleteNodes, Delta, Empty, ErrorMessage, ExpanderOption, ForNode,
    ForNodeReply, InstanceMessage, Instances, Label, NodeGroup, NodeGroups, NodePrice, OptionsReply,
    OptionsRequest, PodPrice, Price, StatusMessage, TargetSize, TemplateReply,
};
use crate::{
    Autoscaler, Config, Event, Expander, Link, LoopResult, Memory, Minor, Node, Pod, Provider, Report,
    Resources, Taint,
};

const NODE: Resources = Resources { cpu_millis: 2_000, memory_mib: 4_096, pods: 110 };

/// A provider with groups of at most three nodes. The test registers their Nodes.
#[derive(Clone, Default)]
struct FakeProvider(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    instances: BTreeMap<String, BTreeMap<String, InstanceMessage>>,
    serial: usize,
    short: Option<String>,
    codes: BTreeMap<String, Code>,
    /// Groups in the reply of the expander.
    best: Vec<&'static str>,
    empty_template: bool,
}

impl FakeProvider {
    fn with_groups(groups: &[&str]) -> Self {
        let fake = Self::default();
        fake.0.lock().unwrap().instances =
            groups.iter().map(|id| ((*id).to_owned(), BTreeMap::new())).collect();
        fake
    }

    fn set_code(&self, rpc: &str, code: Code) {
        self.0.lock().unwrap().codes.insert(rpc.to_owned(), code);
    }

    fn size(&self, group: &str) -> usize {
        self.0.lock().unwrap().instances[group].len()
    }

    fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap().instances.values().flat_map(BTreeMap::keys).cloned().collect()
    }

    fn link(&self) -> Link {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<Response<Body>, std::convert::Infallible>(fake.serve(request).await) }
        });
        Link::new(Duration::from_secs(5), service)
    }

    fn provider(&self, minor: Minor) -> Provider {
        Provider::new(minor, self.link())
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let fake = self.clone();
        if let Some(code) = self.0.lock().unwrap().codes.get(&rpc).filter(|code| **code != Code::Ok) {
            return Status::new(*code, "set by the test").into_http();
        }
        match rpc.as_str() {
            "NodeGroups" => serve_unary(request, move |_: Empty| fake.groups()).await,
            "NodeGroupForNode" => serve_unary(request, move |q: ForNode| fake.for_node(q)).await,
            "NodeGroupTargetSize" => {
                serve_unary(request, move |q: ById| TargetSize { size: fake.size(&q.id) as i32 }).await
            }
            "NodeGroupNodes" => serve_unary(request, move |q: ById| fake.nodes(&q.id)).await,
            "NodeGroupIncreaseSize" => serve_unary(request, move |q: Delta| fake.increase(&q)).await,
            "NodeGroupDeleteNodes" => serve_unary(request, move |q: DeleteNodes| fake.delete(&q)).await,
            "NodeGroupTemplateNodeInfo" => serve_unary(request, move |q: ById| fake.template(&q.id)).await,
            "NodeGroupGetOptions" => serve_unary(request, |_: OptionsRequest| OptionsReply::default()).await,
            "PricingNodePrice" => {
                serve_unary(request, |q: NodePrice| Price {
                    price: if q.node.unwrap().name == "b" { 2.0 } else { 1.0 },
                })
                .await
            }
            "PricingPodPrice" => serve_unary(request, |_: PodPrice| Price { price: 0.1 }).await,
            "BestOptions" => serve_unary(request, move |q: BestOptions| fake.best(&q)).await,
            "GPULabel" => serve_unary(request, |_: Empty| Label::default()).await,
            _ => serve_unary(request, |_: Empty| Empty {}).await,
        }
    }

    fn best(&self, request: &BestOptions) -> BestOptionsReply {
        let sent = |option: &ExpanderOption| option.pods.len().max(option.pod_bytes.len());
        assert!(request.options.iter().all(|option| sent(option) == 2 && option.nodes == 1), "{request:?}");
        assert_eq!(request.nodes.len().max(request.node_bytes.len()), 2, "{request:?}");
        let option =
            |group: &&str| ExpanderOption { group: (*group).to_owned(), ..ExpanderOption::default() };
        BestOptionsReply { options: self.0.lock().unwrap().best.iter().map(option).collect() }
    }

    fn groups(&self) -> NodeGroups {
        let group = |id: &String| NodeGroup { id: id.clone(), min_size: 0, max_size: 3 };
        NodeGroups { groups: self.0.lock().unwrap().instances.keys().map(group).collect() }
    }

    fn for_node(&self, request: ForNode) -> ForNodeReply {
        let id = request.node.unwrap().provider_id;
        let state = self.0.lock().unwrap();
        let owner = state.instances.iter().find(|(_, instances)| instances.contains_key(&id));
        ForNodeReply { group: owner.map(|(id, _)| NodeGroup { id: id.clone(), min_size: 0, max_size: 3 }) }
    }

    fn nodes(&self, group: &str) -> Instances {
        Instances { instances: self.0.lock().unwrap().instances[group].values().cloned().collect() }
    }

    fn increase(&self, request: &Delta) -> Empty {
        let mut state = self.0.lock().unwrap();
        for _ in 0..request.delta {
            state.serial += 1;
            let id = format!("vm-{}", state.serial);
            let short = state.short.as_ref() == Some(&request.id);
            let code = "OUT_OF_CAPACITY".to_owned();
            let error = short.then(|| ErrorMessage { code, message: String::new(), class: 1 });
            let status = Some(StatusMessage { state: 2, error });
            let instances = state.instances.get_mut(&request.id).unwrap();
            instances.insert(id.clone(), InstanceMessage { id, status });
        }
        Empty {}
    }

    fn delete(&self, request: &DeleteNodes) -> Empty {
        let mut state = self.0.lock().unwrap();
        let instances = state.instances.get_mut(&request.id).unwrap();
        for node in &request.nodes {
            instances.remove(&node.provider_id);
        }
        Empty {}
    }

    fn template(&self, group: &str) -> TemplateReply {
        if self.0.lock().unwrap().empty_template {
            return TemplateReply::default();
        }
        let quantity =
            |text: &str| k8s_pb::apimachinery::pkg::api::resource::Quantity { string: Some(text.to_owned()) };
        let allocatable = [("cpu", "2"), ("memory", "4Gi"), ("pods", "110")];
        let allocatable = allocatable.map(|(name, text)| (name.to_owned(), quantity(text))).into();
        let status = Some(k8s::NodeStatus { allocatable, ..k8s::NodeStatus::default() });
        let name = Some(group.to_owned());
        let metadata =
            Some(k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta { name, ..Default::default() });
        let bytes = k8s::Node { metadata, status, ..k8s::Node::default() }.encode_to_vec();
        TemplateReply { node_info: Some(bytes.clone()), node_bytes: Some(bytes) }
    }
}

/// Serves one unary request with tonic's framing.
async fn serve_unary<Q, R>(
    request: Request<Body>,
    reply: impl FnOnce(Q) -> R + Send + 'static,
) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    R: Message + Default + Send + 'static,
{
    let reply = Arc::new(Mutex::new(Some(reply)));
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let reply = reply.lock().unwrap().take().unwrap();
        async move { Ok::<_, Status>(tonic::Response::new(reply(request.into_inner()))) }
    });
    let codec = tonic_prost::ProstCodec::<R, Q>::default();
    tonic::server::Grpc::new(codec).unary(service, request).await.map(Body::new)
}

struct World {
    fake: FakeProvider,
    cluster: Memory,
    autoscaler: Autoscaler,
    now: Timestamp,
}

impl World {
    fn new(minor: Minor, groups: &[&str]) -> Self {
        let fake = FakeProvider::with_groups(groups);
        let autoscaler = Autoscaler::new(Config::default(), fake.provider(minor));
        Self { fake, cluster: Memory::default(), autoscaler, now: Timestamp::UNIX_EPOCH }
    }

    /// Runs the loop ten seconds later. Before it, Nodes of new instances join and Nodes without instance
    /// leave.
    async fn run_loop(&mut self) -> Report {
        self.run_loop_after(Duration::from_secs(10)).await
    }

    async fn run_loop_after(&mut self, pause: Duration) -> Report {
        self.now += pause;
        let ids = self.fake.ids();
        let gone = |node: &&Node| !node.provider_id.is_empty() && !ids.contains(&node.provider_id);
        for node in self.cluster.list_nodes().iter().filter(gone) {
            self.cluster.leave(&node.name);
        }
        for id in
            ids.iter().filter(|id| !self.cluster.list_nodes().iter().any(|node| node.provider_id == **id))
        {
            self.cluster.join(Node::new(&format!("node-{id}"), id, NODE, self.now));
        }
        self.cluster.step(self.now);
        self.loop_once().await
    }

    async fn loop_once(&mut self) -> Report {
        self.autoscaler.loop_once(&self.cluster, self.now).await
    }
}

#[tokio::test]
async fn scales_up_for_pods_and_down_to_zero() {
    for minor in Minor::ALL {
        let mut world = World::new(minor, &["a"]);
        world.cluster.deploy("web", 6, Pod::new("", 1_000, 512, world.now));
        for _ in 0..4 {
            assert_eq!(world.run_loop().await.outcome, LoopResult::Done, "{minor:?}");
        }
        assert_eq!((world.fake.size("a"), world.cluster.pending()), (3, 0), "{minor:?}");
        world.cluster.deploy("web", 0, Pod::new("", 1_000, 512, world.now));
        for _ in 0..180 {
            assert_eq!(world.run_loop().await.outcome, LoopResult::Done, "{minor:?}");
        }
        assert_eq!((world.fake.size("a"), world.cluster.list_nodes().len()), (0, 0), "{minor:?}");
    }
}

#[tokio::test]
async fn a_shortage_backs_off_one_group_and_scales_another() {
    for minor in [Minor::V1_33, Minor::V1_36] {
        let mut world = World::new(minor, &["a", "b"]);
        let mut events = Vec::new();
        world.fake.0.lock().unwrap().short = Some("b".to_owned());
        world.cluster.deploy("web", 2, Pod::new("", 1_000, 512, world.now));
        for _ in 0..6 {
            world.now += Duration::from_secs(10);
            for id in world.fake.0.lock().unwrap().instances["a"].keys() {
                world.cluster.join(Node::new(id, id, NODE, world.now));
            }
            world.cluster.step(world.now);
            events.extend(world.loop_once().await.events);
        }
        // With seed 0 the first choice between the two equal groups is "b".
        assert_eq!(events[0], Event::ScaledUp { group: "b".to_owned(), delta: 1 });
        assert!(events.iter().any(|event| matches!(event, Event::BackedOff { group, .. } if group == "b")));
        let removed = |event: &&Event| matches!(event, Event::RemovedFailed { done: true, .. });
        assert_eq!(events.iter().filter(removed).count(), 1, "{events:?}");
        assert_eq!(
            (world.fake.size("b"), world.fake.size("a"), world.cluster.pending()),
            (0, 1, 0),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn instances_that_never_register_are_deleted() {
    let mut world = World::new(Minor::V1_33, &["a"]);
    world.cluster.deploy("web", 1, Pod::new("", 1_000, 512, world.now));
    let mut events = Vec::new();
    for _ in 0..100 {
        world.now += Duration::from_secs(10);
        world.cluster.step(world.now);
        events.extend(world.loop_once().await.events);
    }
    assert!(events.contains(&Event::TimedOut { group: "a".to_owned() }), "{events:?}");
    let removed =
        Event::RemovedUnregistered { group: "a".to_owned(), ids: vec!["vm-1".to_owned()], done: true };
    assert!(events.contains(&removed), "{events:?}");
}

#[tokio::test]
async fn a_failing_target_size_aborts_the_loop_for_all_groups() {
    let mut world = World::new(Minor::V1_36, &["a"]);
    world.fake.set_code("NodeGroupTargetSize", Code::Unavailable);
    assert!(matches!(world.run_loop().await.outcome, LoopResult::Aborted(_)));
}

#[tokio::test]
async fn an_empty_template_crashes_the_process() {
    for minor in Minor::ALL {
        let mut world = World::new(minor, &["a"]);
        world.fake.0.lock().unwrap().empty_template = true;
        assert!(matches!(world.run_loop().await.outcome, LoopResult::Crashed(_)), "{minor:?}");
    }
}

#[tokio::test]
async fn a_failed_deletion_untaints_the_node() {
    let mut world = World::new(Minor::V1_33, &["a"]);
    world.cluster.deploy("web", 1, Pod::new("", 1_000, 512, world.now));
    world.run_loop().await;
    world.run_loop().await;
    world.cluster.deploy("web", 0, Pod::new("", 1_000, 512, world.now));
    world.fake.set_code("NodeGroupDeleteNodes", Code::Unavailable);
    let mut events = Vec::new();
    while !events.iter().any(|event| matches!(event, Event::DeletionFailed { .. })) {
        events.extend(world.run_loop().await.events);
    }
    assert!(world.cluster.list_nodes()[0].taints.is_empty());
}

#[tokio::test]
async fn a_node_with_scale_down_disabled_stays() {
    const DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
    let mut world = World::new(Minor::V1_33, &["a"]);
    world.cluster.deploy("web", 1, Pod::new("", 1_000, 512, world.now));
    while world.cluster.list_nodes().is_empty() {
        world.run_loop().await;
    }
    world.cluster.deploy("web", 0, Pod::new("", 1_000, 512, world.now));
    let name = world.cluster.list_nodes()[0].name.clone();
    let is_edited = world
        .cluster
        .edit(&name, |node| drop(node.annotations.insert(DISABLED.to_owned(), "true".to_owned())));
    assert!(is_edited);
    for _ in 0..200 {
        world.run_loop().await;
    }
    assert_eq!(world.cluster.list_nodes().len(), 1);
    world.cluster.edit(&name, |node| drop(node.annotations.remove(DISABLED)));
    for _ in 0..200 {
        world.run_loop().await;
    }
    assert_eq!(world.cluster.list_nodes().len(), 0);
}

#[tokio::test]
async fn the_same_seed_has_the_same_results() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut world = World::new(Minor::V1_34, &["a", "b", "c"]);
        world.cluster.deploy("web", 9, Pod::new("", 1_000, 512, world.now));
        let mut run = Vec::new();
        for _ in 0..20 {
            let report = world.run_loop().await;
            run.push((report.events, report.calls));
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
}

#[derive(Debug, serde::Deserialize)]
struct Recorded {
    phase: String,
    groups: usize,
    managed: usize,
    foreign: usize,
    rpcs: BTreeMap<String, usize>,
}

/// The model sends the same number of each RPC per loop as the recorded releases.
#[tokio::test]
async fn loops_equal_the_recorded_ones() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/recorded");
    let mut releases = 0;
    for minor in Minor::ALL {
        let path = folder.join(minor.as_str()).join("loops.jsonl");
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        releases += 1;
        for line in text.lines() {
            let recorded: Recorded = serde_json::from_str(line).unwrap();
            assert_eq!(count_rpcs(minor, &recorded).await, recorded.rpcs, "{minor:?}: {}", recorded.phase);
        }
    }
    assert!(releases >= 2, "recordings of {releases} releases in {}", folder.display());
}

/// Number of RPCs of one loop in a cluster like the recorded one, with nodes younger than a minute.
async fn count_rpcs(minor: Minor, recorded: &Recorded) -> BTreeMap<String, usize> {
    let names: Vec<_> = (0..recorded.groups).map(|number| format!("group-{number}")).collect();
    let mut world = World::new(minor, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let config = world.autoscaler.config_mut();
    config.scale_down_delay_after_add = Duration::from_secs(2);
    config.scale_down_unneeded_time = Duration::from_secs(3);
    let taint = Taint { key: "foreign".to_owned(), value: String::new(), effect: "NoSchedule".to_owned() };
    for number in 0..recorded.foreign {
        let mut node = Node::new(&format!("foreign-{number}"), "", NODE, world.now);
        node.taints.push(taint.clone());
        world.cluster.join(node);
    }
    let pods = match recorded.phase.as_str() {
        "idle" => 0,
        "full" => 2 * recorded.managed + 2,
        "busy" => 2 * recorded.managed,
        phase => panic!("phase {phase:?} must be idle, full or busy"),
    };
    world.cluster.deploy("web", pods, Pod::new("", 800, 500, world.now));
    let mut counts = BTreeMap::new();
    for _ in 0..15 {
        counts.clear();
        for call in world.run_loop_after(Duration::from_secs(1)).await.calls {
            *counts.entry(call.rpc.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(world.fake.ids().len(), recorded.managed, "{minor:?}: {}", recorded.phase);
    counts
}

/// The first group that is scaled up for two small pods, with this chain and these replies.
async fn first_scaled_up(
    minor: Minor,
    chain: &[Expander],
    best: &[&'static str],
    code: Code,
) -> Option<String> {
    let mut world = World::new(minor, &["a", "b"]);
    world.autoscaler = world.autoscaler.with_expander(world.fake.link());
    world.autoscaler.config_mut().expander = chain.to_vec();
    world.fake.0.lock().unwrap().best = best.to_vec();
    world.fake.set_code("BestOptions", code);
    world.cluster.deploy("web", 2, Pod::new("", 500, 512, world.now));
    let mut events = world.run_loop().await.events;
    events.extend(world.run_loop().await.events);
    events.into_iter().find_map(|event| match event {
        Event::ScaledUp { group, .. } => Some(group),
        _ => None,
    })
}

#[tokio::test]
async fn the_grpc_expander_selects_unless_it_fails() {
    let chain = [Expander::Grpc, Expander::LeastWaste];
    for minor in Minor::ALL {
        for best in ["a", "b"] {
            let group = first_scaled_up(minor, &chain, &[best], Code::Ok).await;
            assert_eq!(group.as_deref(), Some(best), "{minor:?}");
        }
        for (best, code) in [(&["a"], Code::Unavailable), (&["unknown"], Code::Ok)] {
            // The random choice with seed 0 is "b".
            assert_eq!(first_scaled_up(minor, &chain, best, code).await.as_deref(), Some("b"), "{minor:?}");
        }
        let empty = first_scaled_up(minor, &chain, &[], Code::Ok).await;
        assert_eq!(empty.as_deref(), (minor < Minor::V1_32).then_some("b"), "{minor:?}");
    }
}

#[tokio::test]
async fn the_price_expander_selects_the_cheaper_group() {
    let chain = [Expander::Price, Expander::LeastWaste];
    let mut world = World::new(Minor::V1_36, &["a", "b"]);
    world.autoscaler.config_mut().expander = chain.to_vec();
    world.fake.set_code("PricingPodPrice", Code::Unimplemented);
    world.cluster.deploy("web", 2, Pod::new("", 500, 512, world.now));
    for _ in 0..3 {
        assert!(world.run_loop().await.events.is_empty());
    }
    world.fake.set_code("PricingPodPrice", Code::Ok);
    let events = world.run_loop().await.events;
    assert_eq!(events, [Event::ScaledUp { group: "a".to_owned(), delta: 1 }]);
}

/// Kubernetes taints every new node, and removes the taint shortly after its Ready condition is true.
#[tokio::test]
async fn a_ready_node_with_a_not_ready_taint_is_upcoming() {
    for minor in Minor::ALL {
        let mut world = World::new(minor, &["a"]);
        world.cluster.deploy("web", 2, Pod::new("", 1_000, 512, world.now));
        for _ in 0..2 {
            world.now += Duration::from_secs(10);
            world.cluster.step(world.now);
            world.loop_once().await;
        }
        assert_eq!(world.fake.size("a"), 1, "{minor:?}");
        let id = world.fake.ids().remove(0);
        let taint = Taint {
            key: "node.kubernetes.io/not-ready".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        let node = Node { taints: vec![taint], ..Node::new("node", &id, NODE, world.now) };
        world.cluster.join(node);
        for _ in 0..2 {
            world.now += Duration::from_secs(1);
            world.cluster.step(world.now);
            let events = world.loop_once().await.events;
            assert!(events.is_empty(), "{minor:?}: {events:?}");
        }
    }
}
