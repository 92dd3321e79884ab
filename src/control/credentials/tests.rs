//! The loop against the simulator, with an API server in the process, on tokio's paused clock.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use fake_kube::FakeKube;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::clock::Clock;
use crate::kubernetes::EventMetrics;
use crate::simulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_CLUSTER, DEFAULT_DATACENTER, Simulator, SimulatorConfig,
};
use crate::vpsie::{Backend as _, ClientConfig, ManagedBackend, ManagedConfig, Metrics};

const NAMESPACE: &str = "vpsie-system";
const NAME: &str = "vpsie-secret";

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + self.0.elapsed()
    }
}

struct World {
    kube: FakeKube,
    simulator: Simulator,
    client: Client,
    metrics: CredentialMetrics,
    /// Hosts of the requests.
    hosts: Arc<Mutex<Vec<String>>>,
    shutdown: CancellationToken,
}

impl World {
    fn new(credentials: Credentials) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TestClock(Instant::now()));
        let simulator = Simulator::new(SimulatorConfig::default(), Arc::clone(&clock)).unwrap();
        simulator.set_token("first".into());
        let hosts = Arc::new(Mutex::new(Vec::new()));
        let inside = simulator.transport();
        let sent_to = Arc::clone(&hosts);
        let transport = BoxCloneSyncService::new(tower::service_fn(move |request: http::Request<_>| {
            sent_to.lock().unwrap().push(request.uri().host().unwrap_or_default().to_owned());
            tower::ServiceExt::oneshot(inside.clone(), request)
        }));
        let base = BaseUrl::parse("https://vpsie.test").unwrap();
        let config = ClientConfig::new(base, credentials);
        let client = Client::new(config, transport, Arc::clone(&clock), Metrics::default());
        let kube = FakeKube::new(move || clock.now());
        let metrics = CredentialMetrics::default();
        Self { kube, simulator, client, metrics, hosts, shutdown: CancellationToken::new() }
    }

    /// With a watched Secret.
    fn from_secret() -> Self {
        let this = Self::new(Credentials::missing("the Secret was not read yet"));
        let client = this.kube.client("provider", NAMESPACE);
        let (events, publisher) = Events::new(client.clone(), NAMESPACE, EventMetrics::default());
        tokio::spawn(publisher.run(this.shutdown.clone()));
        let rotation =
            Rotation::from_secret(this.client.clone(), NAMESPACE, NAME, this.metrics.clone(), events);
        tokio::spawn(rotation.run(credentials_in_secret(client, NAMESPACE, NAME), this.shutdown.clone()));
        this
    }

    fn write_secret(&self, keys: &[(&str, &str)]) {
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        let data: BTreeMap<_, _> = keys.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        let mut secret = json!(Secret { data: Some(data), ..Secret::default() });
        secret["apiVersion"] = json!("v1");
        secret["kind"] = json!("Secret");
        secret["metadata"] = json!({"name": NAME, "namespace": NAMESPACE});
        self.kube.put_object(secret).unwrap();
    }

    /// VPSie's reply to a call with the credentials in use.
    async fn reply(&self) -> String {
        let target = ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() };
        match ManagedBackend::new(self.client.clone(), target).list().await {
            Ok(_) => "welcome".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Counts of accepted, refused, unknown and invalid; and whether the credentials are valid.
    fn counted(&self) -> ([u64; 4], bool) {
        let counted =
            ["accepted", "refused", "unknown", "invalid"].map(|result| self.metrics.counted(result));
        (counted, self.metrics.is_valid())
    }

    /// Reasons and messages of events; a series counts once.
    fn events(&self) -> Vec<String> {
        let events = self.kube.list("events");
        let mut events: Vec<_> = events
            .iter()
            .map(|event| {
                assert_eq!(
                    (&event["regarding"]["kind"], &event["regarding"]["name"]),
                    (&json!("Secret"), &json!(NAME))
                );
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                (text("eventTime"), format!("{} {}: {}", text("type"), text("reason"), text("note")))
            })
            .collect();
        events.sort();
        events.into_iter().map(|(_, words)| words).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn new_credentials_are_used_once_vpsie_accepts_them() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([1, 0, 0, 0], true)));

    world.simulator.set_token("second".into());
    world.write_secret(&[("token", "second\n")]);
    pass(5).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([2, 0, 0, 0], true)));
    // Unchanged credentials are not checked again.
    world.write_secret(&[("token", "second")]);
    world.kube.cut_watches();
    pass(600).await;
    assert_eq!(world.counted(), ([2, 0, 0, 0], true));
    let accepted = "Normal CredentialsAccepted: VPSie accepts the credentials; they are in use now";
    assert_eq!(world.events(), [accepted]);
}

#[tokio::test(start_paused = true)]
async fn keeps_the_credentials_in_use_and_checks_refused_again() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    world.write_secret(&[("token", "second")]);
    pass(5).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([1, 1, 0, 0], false)));
    let refused = "Warning CredentialsRefused: VPSie refuses the credentials: VPSie refused the API token; \
                   it may have expired; the earlier credentials stay in use";
    assert_eq!(world.events()[1], refused);
    // After 1, 2, 4 and 8 minutes, then every 10.
    pass(40 * 60).await;
    assert_eq!(world.counted(), ([1, 7, 0, 0], false));

    world.simulator.set_token("second".into());
    pass(10 * 60).await;
    assert_eq!((world.reply().await.as_str(), world.counted().1), ("welcome", true));

    // After the change is reverted, no check is needed.
    world.write_secret(&[("token", "third")]);
    pass(5).await;
    assert!(!world.metrics.is_valid());
    world.write_secret(&[("token", "second")]);
    pass(3600).await;
    assert_eq!(world.counted(), ([2, 8, 0, 0], true));
}

#[tokio::test(start_paused = true)]
async fn keeps_the_credentials_in_use_while_vpsie_is_down() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    world.simulator.set_outage(true);
    world.simulator.set_token("second".into());
    world.write_secret(&[("token", "second")]);
    pass(600).await;
    let ([accepted, refused, unknown, _], valid) = world.counted();
    assert_eq!((accepted, refused, valid), (1, 0, true));
    assert!(unknown > 3, "{unknown}");
    world.simulator.set_outage(false);
    pass(120).await;
    assert_eq!((world.reply().await.as_str(), world.counted().0[0]), ("welcome", 2));
}

#[tokio::test(start_paused = true)]
async fn newer_credentials_replace_waiting_ones() {
    let world = World::from_secret();
    world.write_secret(&[("token", "wrong")]);
    world.simulator.set_outage(true);
    pass(30).await;
    world.write_secret(&[("token", "first")]);
    pass(1).await;
    world.simulator.set_outage(false);
    pass(120).await;
    assert_eq!(world.reply().await, "welcome");
    assert_eq!(world.counted().0[1], 0, "the older ones are not tried any more");
}

#[tokio::test(start_paused = true)]
async fn calls_fail_with_the_reason_without_credentials() {
    let world = World::from_secret();
    assert!(world.reply().await.contains("the Secret was not read yet"));
    pass(5).await;
    let reply = world.reply().await;
    assert!(reply.contains("Secret vpsie-system/vpsie-secret does not exist"), "{reply}");
    assert_eq!(world.hosts.lock().unwrap().len(), 0);

    world.write_secret(&[("token", "second")]);
    pass(5).await;
    let reply = world.reply().await;
    let want = "VPSie refuses the credentials of Secret vpsie-system/vpsie-secret";
    assert!(reply.contains(want), "{reply}");
    pass(30 * 60).await;
    assert_eq!(world.counted(), ([0, 31, 0, 1], false));
    world.simulator.set_token("second".into());
    pass(60).await;
    assert_eq!(world.reply().await, "welcome");
}

#[tokio::test(start_paused = true)]
async fn keeps_the_credentials_in_use_if_the_secret_is_invalid() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    world.kube.delete("secrets", NAMESPACE, NAME).unwrap();
    pass(5).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([1, 0, 0, 1], false)));
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    assert_eq!(world.counted(), ([1, 0, 0, 1], true));
    // Earlier, it would be part of the same event series.
    pass(600).await;
    world.write_secret(&[("token", "first"), ("clientId", "hunter2")]);
    pass(5).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([1, 0, 0, 2], false)));
    let events = world.events();
    let invalid = "Warning CredentialsInvalid: Secret vpsie-system/vpsie-secret";
    assert_eq!(events[1], format!("{invalid} does not exist; the earlier credentials stay in use"));
    assert!(events[2].starts_with(&format!("{invalid}: token contradicts clientId")), "{events:?}");
    assert!(!format!("{events:?}").contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_secret_that_died_silently_is_replaced_soon() {
    let world = World::from_secret();
    world.write_secret(&[("token", "wrong")]);
    pass(5).await;
    world.kube.silence_watches();
    world.write_secret(&[("token", "first")]);
    pass(55).await;
    assert_eq!(world.reply().await, "welcome");
}

#[tokio::test(start_paused = true)]
async fn sends_credentials_to_the_url_of_their_secret() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    world.write_secret(&[("token", "first"), ("url", "https://other.test")]);
    pass(5).await;
    world.hosts.lock().unwrap().clear();
    assert_eq!(world.reply().await, "welcome");
    world.write_secret(&[("token", "first")]);
    pass(5).await;
    assert_eq!(world.reply().await, "welcome");
    let mut hosts = world.hosts.lock().unwrap().clone();
    hosts.dedup();
    assert_eq!(hosts, ["other.test", "vpsie.test"]);
    assert_eq!(world.counted(), ([3, 0, 0, 0], true));
}

#[tokio::test(start_paused = true)]
async fn restarts_a_watch_that_fails() {
    let world = World::from_secret();
    world.write_secret(&[("token", "first")]);
    world.kube.set_down(true);
    pass(60).await;
    assert!(world.reply().await.contains("the Secret was not read yet"));
    world.kube.set_down(false);
    pass(60).await;
    assert_eq!(world.reply().await, "welcome");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut write = |text: &str| {
        file.as_file().set_len(0).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.path().to_owned()
    };
    let path = write("first\n");
    let world = World::new(Credentials::token("first"));
    let metrics = world.metrics.clone();
    let rotation = Rotation::from_file(world.client.clone(), &path, Credentials::token("first"), metrics);
    let candidates = credentials_in_file(path, Credentials::token);
    tokio::spawn(rotation.run(candidates, world.shutdown.clone()));
    pass(5).await;
    assert_eq!(world.counted(), ([1, 0, 0, 0], true));
    for (text, counted) in
        [("second\n", ([1, 1, 0, 0], false)), ("", ([1, 1, 0, 1], false)), ("first", ([1, 1, 0, 1], true))]
    {
        write(text);
        pass(31).await;
        assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", counted));
    }
    world.simulator.set_token("second".into());
    write("second");
    pass(31).await;
    assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", ([2, 1, 0, 1], true)));
}

/// The log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_id_replaces_a_token_and_no_secret_is_logged() {
    // Without this, threads of other tests that have no subscriber would disable log lines that they reach
    // first.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry()));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::from_secret();
    world.simulator.set_token("hunter1".into());
    world.write_secret(&[("token", "hunter1")]);
    pass(5).await;
    for (id, secret, counted) in [
        (DEFAULT_CLIENT_ID, "hunter2", ([1, 1, 0, 0], false)),
        (DEFAULT_CLIENT_ID, "hunter 2", ([1, 1, 0, 1], false)),
        (DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, ([2, 1, 0, 1], true)),
    ] {
        world.write_secret(&[("clientId", id), ("clientSecret", secret)]);
        pass(5).await;
        assert_eq!((world.reply().await.as_str(), world.counted()), ("welcome", counted));
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in
        ["VPSie accepts the credentials", "VPSie refuses the credentials", "clientSecret contains spaces"]
    {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
    for secret in ["hunter", DEFAULT_CLIENT_SECRET] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
}

#[test]
fn names_of_the_metrics() {
    let mut registry = crate::telemetry::Registry::default();
    let metrics = CredentialMetrics::default();
    metrics.register(&mut registry);
    metrics.count_result("accepted");
    metrics.set_valid(true);
    let text = registry.encode().unwrap();
    for line in [
        r#"vpsie_autoscaler_credential_checks_total{result="accepted"} 1"#,
        "vpsie_autoscaler_credentials_valid 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
