use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::catalog::CapacityType;
use crate::fleet::{Policy, SpotDefaults};
use crate::kubernetes::KubernetesAccess;
use crate::validation::Manifests;
use crate::validation::tests::GOOD;
use crate::vpsie::Timeouts;

#[test]
fn a_folder_is_read_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: String| std::fs::write(folder.path().join(file), text).unwrap();
    write("b.yml", GOOD.replace("name: workers", "name: second"));
    write("a.yaml", GOOD.replace("name: workers", "name: first"));
    write("notes.txt", "not read".to_owned());
    let manifests = load_manifests(folder.path(), SpotDefaults::default()).unwrap();
    let names: Vec<&str> = manifests.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let missing =
        load_manifests(&folder.path().join("c.yaml"), SpotDefaults::default()).unwrap_err().to_string();
    assert!(missing.contains("c.yaml: cannot be read: "), "{missing}");
}

#[test]
fn the_samples_are_sound_and_fit_the_simulator() {
    let samples = sample_manifests(SpotDefaults::default()).unwrap();
    assert_eq!(samples.notes, []);
    assert_eq!(samples.managed.as_ref().unwrap().cluster.as_str(), crate::simulator::DEFAULT_CLUSTER);
    assert_eq!(samples.managed.as_ref().unwrap().datacenter.as_str(), crate::simulator::DEFAULT_DATACENTER);
    let offers = crate::simulator::SimulatorConfig::default().offers;
    for pool in samples.groups.iter().flat_map(|group| &group.pools) {
        assert!(offers.iter().any(|offer| offer.name == pool.offer.as_str()), "{pool}");
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("groups.yaml"), GOOD).unwrap();
        std::fs::write(files.path("pem"), "").unwrap();
        std::fs::write(files.path("token"), "t0ken\n").unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Settings of a command line in which `@name` is a file.
    fn settings(&self, line: &str) -> Result<Settings, String> {
        let words = line.split_whitespace().map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        });
        let line = Line::try_parse_from(std::iter::once("serve".to_owned()).chain(words));
        let folder = format!("{}/", self.0.path().display());
        Settings::new(line.map_err(|error| error.to_string())?.serve)
            .map_err(|problems| problems.to_string().replace(&folder, ""))
    }
}

fn in_file(settings: &Settings) -> (Manifests, PathBuf) {
    let StoreSettings::File { manifests, data_file, .. } = settings.store.clone() else {
        panic!("not a file")
    };
    (manifests, data_file)
}

#[test]
fn a_token_and_node_groups_are_enough() {
    let settings = Files::new().settings("--node-groups @groups.yaml --vpsie-api-token-file @token").unwrap();
    let VpsieSettings::Real { client: config, source } = &settings.vpsie else { panic!("simulated") };
    assert!(matches!(source, CredentialSource::TokenFile(file) if file.ends_with("token")));
    assert_eq!((config.rate_per_minute, config.timeouts), (100, Timeouts::default()));
    assert_eq!(in_file(&settings).1, PathBuf::from("vpsie-autoscaler.redb"));
    assert_eq!(settings.grpc_listen.to_string(), "127.0.0.1:8086");
    assert_eq!(settings.policy(), Policy { running_when_listed: true, ..Policy::default() });
    assert_eq!((settings.kubernetes(), &settings.grpc.tls), (None, &None));
}

#[test]
fn a_simulation_needs_nothing_and_has_records_of_its_own() {
    let settings = Files::new().settings("--simulate").unwrap();
    assert!(matches!(settings.vpsie, VpsieSettings::Simulated { .. }));
    let (manifests, data_file) = in_file(&settings);
    assert_eq!(manifests, sample_manifests(SpotDefaults::default()).unwrap());
    assert_eq!(data_file, PathBuf::from("vpsie-autoscaler-simulated.redb"));
}

#[test]
fn kubernetes_is_reached_by_service_account_or_kubeconfig() {
    let kubernetes =
        |line: &str| Files::new().settings(&format!("--simulate {line}")).unwrap().kubernetes().cloned();
    assert_eq!(kubernetes("--kubeconfig in-cluster"), Some(KubernetesAccess::InCluster));
    assert!(
        !Files::new().settings("--simulate --kubeconfig in-cluster").unwrap().policy().running_when_listed
    );
    assert_eq!(kubernetes("--kubeconfig a/b"), Some(KubernetesAccess::Kubeconfig("a/b".into())));
}

#[test]
fn with_everything_in_kubernetes_a_kubeconfig_is_enough() {
    let files = Files::new();
    let line = "--store kubernetes --kubeconfig in-cluster --vpsie-api-token t";
    let settings = files.settings(line).unwrap();
    assert!(!settings.policy().running_when_listed);
    let StoreSettings::Kubernetes { access, namespace, election } = settings.store else { panic!("a file") };
    assert_eq!((access, namespace.as_str()), (KubernetesAccess::InCluster, "kube-system"));
    let defaults = ElectionArgs {
        leader_election_id: "vpsie-autoscaler-leader".to_owned(),
        leader_election_lease_duration: Duration::from_secs(15),
        leader_election_renew_deadline: Duration::from_secs(10),
        leader_election_retry_period: Duration::from_secs(2),
        pod_name: None,
        pod_ip: None,
    };
    assert_eq!(election, defaults);
    let line = "--leader-election-lease-duration 1m --leader-election-renew-deadline 59s --namespace a-1";
    assert!(files.settings(&format!("--store=kubernetes --kubeconfig a --vpsie-api-token t {line}")).is_ok());
}

#[test]
fn credentials_have_a_source() {
    let files = Files::new();
    let source = |line: &str| {
        let settings = files.settings(&format!("--node-groups @groups.yaml {line}")).unwrap();
        let VpsieSettings::Real { source, .. } = settings.vpsie else { panic!("simulated") };
        source
    };
    assert_eq!(source("--vpsie-api-token t"), CredentialSource::Fixed);
    assert_eq!(source("--vpsie-client-id i --vpsie-client-secret s"), CredentialSource::Fixed);
    let file = files.path("token");
    let id = "i".to_owned();
    let from_file = CredentialSource::ClientSecretFile { id, file };
    assert_eq!(source("--vpsie-client-id i --vpsie-client-secret-file @token"), from_file);
    let secret = |namespace: &str| {
        let namespace = namespace.to_owned();
        let name = "vpsie.a".to_owned();
        CredentialSource::Secret { namespace, name }
    };
    let line = "--kubeconfig in-cluster --vpsie-secret-name vpsie.a";
    assert_eq!(source(line), secret("kube-system"));
    assert_eq!(source(&format!("{line} --namespace a-1")), secret("a-1"));
    let settings = files.settings(&format!("--store=kubernetes {line} --namespace a-1")).unwrap();
    assert!(matches!(settings.vpsie, VpsieSettings::Real { source, .. } if source == secret("a-1")));
}

#[test]
fn wrong_settings_are_all_named() {
    let files = Files::new();
    std::fs::write(files.path("spaced"), "two words\n").unwrap();
    std::fs::write(files.path("none"), "\n").unwrap();
    let mut report = String::new();
    for line in [
        "",
        "--simulate --grpc-listen 0.0.0.0:8086",
        "--simulate --grpc-tls-cert @pem --grpc-tls-key @absent",
        "--simulate --grpc-tls-cert @pem --grpc-tls-key @pem --grpc-tls-client-ca @pem --grpc-insecure-plaintext",
        "--simulate --http-listen 127.0.0.1:8086 --log-level inof --vpsie-timeout 2m",
        "--simulate --simulator-config @groups.yaml",
        "--node-groups @groups.yaml --vpsie-api-url http://api.vpsie.com --vpsie-api-token-file @absent",
        "--node-groups @groups.yaml --vpsie-api-token-file @spaced",
        "--node-groups @groups.yaml --vpsie-api-token-file @none",
        "--node-groups @groups.yaml --vpsie-api-token t --vpsie-api-token-file @token",
        "--node-groups @groups.yaml --vpsie-api-token t --vpsie-client-id i --vpsie-client-secret s",
        "--node-groups @groups.yaml --vpsie-client-id i",
        "--node-groups @groups.yaml --vpsie-client-secret s",
        "--node-groups @absent --vpsie-client-id i --vpsie-client-secret s",
        "--node-groups @groups.yaml --vpsie-secret-name a --namespace a.b",
        "--node-groups @groups.yaml --kubeconfig a --vpsie-secret-name A --vpsie-api-token-file @absent --vpsie-client-id i",
        "--store kubernetes --vpsie-secret-name a --vpsie-api-token t",
        "--store kubernetes --vpsie-api-token t",
        "--store kubernetes --kubeconfig a --simulate --data-file b --node-groups @groups.yaml",
        "--store kubernetes --kubeconfig a --vpsie-api-token t --namespace a.b --leader-election-id - --pod-name A_",
        "--store kubernetes --kubeconfig a --vpsie-api-token t --leader-election-lease-duration 10s",
        "--store kubernetes --kubeconfig a --vpsie-api-token t --leader-election-lease-duration 1500ms \
         --leader-election-renew-deadline 1s",
        "--store kubernetes --kubeconfig a --vpsie-api-token t --leader-election-renew-deadline 2s",
    ] {
        writeln!(report, "> {line}\n{}", files.settings(line).unwrap_err()).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn the_last_of_a_flag_that_is_given_twice_holds() {
    let flags = "--simulate --grpc-listen 127.0.0.1:1 --http-listen=127.0.0.1:2 --create-timeout=1m";
    let own = "--grpc-listen [::1]:3 --http-listen=[::]:4 --create-timeout=2m --simulate";
    let settings = Files::new().settings(&format!("{flags} {own}")).unwrap();
    let listens = [settings.grpc_listen, settings.http_listen].map(|address| address.to_string());
    assert_eq!(listens, ["[::1]:3", "[::]:4"]);
    assert_eq!(settings.timing.create_timeout, Duration::from_mins(2));
}

#[test]
fn plaintext_is_served_where_it_was_asked_for() {
    let files = Files::new();
    assert!(files.settings("--simulate --grpc-listen 0.0.0.0:1 --grpc-insecure-plaintext").is_ok());
    let tls = "--grpc-tls-cert @pem --grpc-tls-key @pem --grpc-tls-client-ca @pem";
    assert!(files.settings(&format!("--simulate --grpc-listen 0.0.0.0:1 {tls}")).unwrap().grpc.tls.is_some());
}

#[test]
fn spot_flags_are_defaults_of_node_groups() {
    let spot = |line: &str| {
        let settings = Files::new().settings(&format!("--simulate --node-groups @groups.yaml {line}"))?;
        let pools = in_file(&settings).0.groups.into_iter().flat_map(|group| group.pools);
        let spot = pools.filter(|pool| pool.capacity_type == CapacityType::Spot).count();
        assert_eq!(settings.fleet.spot.enabled, spot > 0, "{line}");
        Ok::<_, String>((spot, settings.fleet.spot.grace_period))
    };
    let default = Duration::from_mins(2);
    assert_eq!(spot("").unwrap(), (0, default));
    assert_eq!(spot("--spot-instances=false").unwrap(), (0, default));
    assert_eq!(spot("--spot-instances").unwrap(), (2, default));
    let both = "--spot-instances=true --spot-grace-period 24h";
    assert_eq!(spot(both).unwrap(), (2, Duration::from_hours(24)));
    let problem = spot("--spot-grace-period 25h").unwrap_err();
    assert_eq!(problem, "--spot-grace-period: is 90000s, must be at most 24h");
    for refused in ["--spot-grace-period 0s", "--spot-grace-period 120", "--spot-instances=maybe"] {
        assert!(spot(refused).is_err(), "{refused}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_the_command_line() {
    let files = Files::new();
    for (line, want) in [
        ("--create-timeout soon", "must be a duration such as 90s, 10m or 1h30m, above 0 and at most 87600h"),
        ("--create-timeout 99999999h", "above 0 and at most 87600h"),
        ("--create-timeout 0s", "above 0 and at most 87600h"),
        ("--hours-per-month 800", "800 is not in 1..=744"),
        ("--cost-limit-hourly 0", "must be an amount above 0 in USD such as 0.50 or 300"),
        ("--cost-limit-monthly 30EUR", "is \"30EUR\", must be an amount above 0 in USD"),
        ("--expander-tls-cert @pem", "--expander-tls-key <FILE>"),
        ("--vpsie-rate-limit 0", "0 is not in 1..=60000"),
        ("--grpc-listen nowhere", "invalid socket address"),
    ] {
        let error = files.settings(line).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let line = "serve --vpsie-api-token hunter2 --vpsie-client-secret hunter3";
    let args = Line::try_parse_from(line.split(' ')).unwrap().serve;
    let shown = format!("{args:?}");
    let refused = Settings::new(args).unwrap_err().to_string();
    let files = Files::new();
    let settings = files.settings("--node-groups @groups.yaml --vpsie-api-token hunter2").unwrap();
    for text in [shown, refused, format!("{settings:?}")] {
        assert!(!text.contains("hunter"), "{text}");
    }
}
