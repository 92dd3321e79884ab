//! `interrupt`: sets an interruption notice on a Node, or shows its effect.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{Selector, SelectorExt as _};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::http_query::{HttpQueryArgs, Output};
use crate::clock::{Clock as _, SystemClock};
use crate::control::{NodePods, PreviewQuery, drain_time};
use crate::fleet::{InterruptionPreview, MAX_NOTICE, names};
use crate::kubernetes::{DrainAction, connect, drain_action, pods_on, termination_grace};
use crate::validation::parse_duration;
use report::{InterruptReport, PodReport};

#[derive(Args, Debug)]
pub(super) struct InterruptArgs {
    /// Name of the Node
    #[arg(value_name = "NODE")]
    node: String,
    /// Time until the interruption, at most 24h
    #[arg(long = "in", value_name = "DURATION", default_value = "120s", value_parser = parse_notice_time)]
    time: Duration,
    /// Show the effect of a notice without setting it. Needs the HTTP port of the leader
    #[arg(long)]
    dry_run: bool,
    /// Withdraw the notice
    #[arg(long, conflicts_with_all = ["dry_run", "time"])]
    withdraw: bool,
    /// Kubeconfig file, or `in-cluster` for the service account of the pod. Default: ~/.kube/config
    #[arg(long, value_name = "FILE|in-cluster", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    query: HttpQueryArgs,
}

fn parse_notice_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time <= MAX_NOTICE { Ok(time) } else { Err("must be at most 24h".to_owned()) }
}

pub(super) async fn run(args: InterruptArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let client = connect(&args.kubeconfig()?.into()).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = &args.node;
    if args.dry_run {
        let object = nodes.get(node).await.with_context(|| format!("cannot read Node {node}"))?;
        let report = args.build_report(&client, &object).await?;
        match args.query.output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
            Output::Table => write!(out, "{}", report.to_table())?,
        }
        return Ok(());
    }
    let deadline = SystemClock.now() + args.time;
    let value =
        if args.withdraw { Value::Null } else { json!(deadline.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()) };
    let patch = json!({"metadata": {"annotations": {names::INTERRUPTION: value}}});
    let patched = nodes.patch_metadata(node, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.with_context(|| format!("cannot annotate Node {node}"))?;
    match value.as_str() {
        Some(deadline) => writeln!(
            out,
            "set an interruption notice on Node {node}, deadline {deadline}. Watch the events: \
             kubectl get events -A --watch"
        )?,
        None => writeln!(
            out,
            "removed the interruption notice from Node {node}; notices of other sources remain"
        )?,
    }
    Ok(())
}

impl InterruptArgs {
    fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        if let Some(given) = &self.kubeconfig {
            return Ok(given.clone());
        }
        let home =
            std::env::home_dir().context("--kubeconfig: is missing, and there is no home directory")?;
        Ok(home.join(".kube/config"))
    }

    /// The effect of the notice.
    async fn build_report(&self, client: &Client, node: &Node) -> anyhow::Result<InterruptReport> {
        let pods = pods_on(client, &self.node).await.context("cannot list the pods of the Node")?;
        let to_move = NodePods::from_pods(&pods);
        let query = PreviewQuery {
            node: self.node.clone(),
            provider_id: node.spec.as_ref().and_then(|spec| spec.provider_id.clone()),
            cpu_millis: to_move.requests.cpu_millis,
            memory_mib: to_move.requests.memory_mib,
            disk_gib: to_move.requests.disk_gib,
            pods: to_move.requests.pods,
        };
        let path = format!("/debug/interruption?{}", query.to_url_query());
        let text = self.query.fetch(&path).await?;
        let preview: InterruptionPreview =
            serde_json::from_str(&text).context("the reply of /debug/interruption is not a preview")?;
        let pods = report_pods(client, &pods).await?;
        Ok(InterruptReport::new(preview, self.time, drain_time(Some(&to_move), self.time), pods))
    }
}

/// The pods that must move, with the budgets that apply to them.
async fn report_pods(client: &Client, pods: &[Pod]) -> anyhow::Result<Vec<PodReport>> {
    let moving: Vec<&Pod> = pods.iter().filter(|pod| drain_action(pod) == DrainAction::Evict).collect();
    let namespaces: BTreeSet<String> = moving.iter().filter_map(|pod| pod.namespace()).collect();
    let mut budgets = BTreeMap::new();
    for namespace in namespaces {
        let api: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
        let listed = api.list(&ListParams::default()).await;
        let listed =
            listed.with_context(|| format!("cannot list the disruption budgets of namespace {namespace}"))?;
        budgets.insert(namespace, listed.items);
    }
    moving.into_iter().map(|pod| report_pod(pod, &budgets)).collect()
}

fn report_pod(pod: &Pod, budgets: &BTreeMap<String, Vec<PodDisruptionBudget>>) -> anyhow::Result<PodReport> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut blocking = Vec::new();
    let mut selecting = 0;
    for budget in budgets.get(&namespace).into_iter().flatten() {
        let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.clone()) else { continue };
        let name = budget.name_any();
        let Ok(selector) = Selector::try_from(selector) else {
            bail!("PodDisruptionBudget {namespace}/{name}: its selector is invalid")
        };
        if selector.matches(pod.labels()) {
            selecting += 1;
            if budget.status.as_ref().is_none_or(|status| status.disruptions_allowed <= 0) {
                blocking.push(name);
            }
        }
    }
    Ok(PodReport {
        pod: format!("{namespace}/{}", pod.name_any()),
        grace_seconds: termination_grace(pod).as_secs(),
        blocking,
        budgets: selecting,
    })
}
