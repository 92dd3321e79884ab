//! `crds`: prints the CustomResourceDefinitions.

use std::io::Write;

use crate::api;

pub(super) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    for crd in api::crds() {
        write!(out, "---\n{}", api::to_yaml(&crd)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `deployments/crds` has the printed CRDs, one in each file. `UPDATE=1` rewrites them.
    #[test]
    fn crds_in_deployments_match_the_output() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/crds");
        let mut all = String::new();
        for crd in api::crds() {
            let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
            let text = format!("---\n{}", api::to_yaml(&crd).unwrap());
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let stored = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(stored == text, "{} differs: UPDATE=1 cargo test --lib crds", path.display());
            all += &text;
        }
        let mut printed = Vec::new();
        run(&mut printed).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), all);
    }
}
