//! `crds`: what to install in the cluster.

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

    /// `deployments/crds` is what is printed, a file for each. `UPDATE=1` writes it again.
    #[test]
    fn the_crds_in_deployments_are_those_that_are_printed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/crds");
        let mut all = String::new();
        for crd in api::crds() {
            let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
            let text = format!("---\n{}", api::to_yaml(&crd).unwrap());
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "{} differs: UPDATE=1 cargo test --lib crds", path.display());
            all += &text;
        }
        let mut printed = Vec::new();
        run(&mut printed).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), all);
    }
}
