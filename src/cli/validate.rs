//! `validate`: checks settings and manifests.

use std::io::Write;

use crate::config::{ServeArgs, Settings, StoreKind, StoreSettings};

pub(super) fn run(mut args: ServeArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let api = &mut args.api;
    let credentials = api.vpsie_secret_name.is_some()
        || api.vpsie_api_token.is_some()
        || api.vpsie_api_token_file.is_some()
        || api.vpsie_client_id.is_some()
        || api.vpsie_client_secret.is_some()
        || api.vpsie_client_secret_file.is_some();
    // Manifests are often checked without credentials.
    let unchecked = !credentials
        && !args.fleet.simulate
        && args.fleet.node_groups.is_some()
        && args.fleet.store == StoreKind::File;
    if unchecked {
        api.vpsie_api_token = Some("none".into());
    }
    let manifests = match Settings::new(args)?.store {
        StoreSettings::File { manifests, .. } => manifests,
        StoreSettings::Kubernetes { namespace, .. } => {
            writeln!(
                out,
                "NodeGroups and records are in namespace {namespace}; `validate` does not check them"
            )?;
            return Ok(());
        }
    };
    if unchecked {
        writeln!(out, "note: no credentials given; `serve` needs them")?;
    }
    for note in &manifests.notes {
        writeln!(out, "note: {note}")?;
    }
    match &manifests.managed {
        Some(managed) => writeln!(out, "cluster {}, datacenter {}", managed.cluster, managed.datacenter)?,
        None => writeln!(out, "self-managed cluster")?,
    }
    let pools =
        || manifests.groups.iter().flat_map(|group| group.pools.iter().map(move |pool| (group, pool)));
    let width = pools().map(|(_, pool)| pool.to_string().len()).max().unwrap_or_default();
    writeln!(out, "{:width$}  NODES     TAINTS", "POOL")?;
    for (group, pool) in pools() {
        let taints: Vec<String> = group
            .node_taints(pool.capacity_type)
            .iter()
            .map(|taint| format!("{}={}:{}", taint.key, taint.value, taint.effect))
            .collect();
        let nodes = format!("{} to {}", group.min, group.max);
        let line = format!("{:width$}  {nodes:<8}  {}", pool.to_string(), taints.join(", "));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::run;
    use crate::cli::{Cli, Command};

    fn validate(line: &str) -> Result<String, String> {
        let Command::Validate(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not validate")
        };
        let mut out = Vec::new();
        run(*args, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn shows_the_pools_of_the_samples() {
        insta::assert_snapshot!(validate("vpsie-autoscaler validate --simulate").unwrap());
    }

    #[test]
    fn manifests_can_be_checked_without_credentials() {
        let out =
            validate("vpsie-autoscaler validate --node-groups deployments/samples/general.yaml").unwrap();
        assert!(out.starts_with("note: no credentials given"), "{out}");
    }

    #[test]
    fn samples_and_their_spot_price_are_valid() {
        let sample = include_str!("../../deployments/samples/spot.yaml");
        let commented: Vec<&str> = sample.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
        let price = commented.join("\n");
        assert!(price.contains("capacityType: spot"), "{price}");
        let folder = tempfile::tempdir().unwrap();
        let prices = folder.path().join("prices.yaml");
        std::fs::write(&prices, price).unwrap();
        let line = "vpsie-autoscaler validate --node-groups deployments/samples --price-file";
        let out = validate(&format!("{line} {}", prices.display())).unwrap();
        let taint = "autoscaler.vpsie.com/capacity-type=spot:PreferNoSchedule";
        for pool in ["s-2vcpu-4gb", "s-4vcpu-8gb"] {
            let words = ["spot/ams1/", pool, "/spot"].concat();
            let row = out.lines().find(|line| line.starts_with(&words)).unwrap();
            assert!(row.ends_with(&format!("1 to 20   {taint}")), "{row}");
        }
        let entries = std::fs::read_dir("deployments/samples").unwrap().map(|entry| entry.unwrap().path());
        for sample in entries.filter(|path| path.is_file()) {
            let name = sample.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(out.contains(&format!("\n{name}/ams1/")), "{name} is not in {out}");
        }
    }

    #[test]
    fn the_sample_of_a_self_managed_cluster_is_valid() {
        let out =
            validate("vpsie-autoscaler validate --node-groups deployments/samples/self-managed").unwrap();
        assert!(out.contains("self-managed cluster\n"), "{out}");
        assert!(out.contains("\nself-managed/ams1/c-2vcpu-4gb/on-demand"), "{out}");
    }

    #[test]
    fn both_credentials_and_manifests_are_required() {
        let problems = validate("vpsie-autoscaler validate").unwrap_err();
        assert!(problems.contains("--node-groups: is missing"), "{problems}");
        assert!(problems.contains("--vpsie-api-token: is missing"), "{problems}");
    }
}
