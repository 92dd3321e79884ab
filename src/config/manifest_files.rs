//! Files of NodeGroup manifests.

use std::path::{Path, PathBuf};

use crate::fleet::SpotDefaults;
use crate::validation::{Manifests, Problem, Problems, Source, parse_manifests};

/// Reads a file, or all `.yaml`, `.yml` and `.json` files of a folder in the order of their names, and the
/// NodeGroups in them. `spot` applies to NodeGroups that set nothing.
pub fn load_manifests(path: &Path, spot: SpotDefaults) -> Result<Manifests, Problems> {
    let sources = read(path).map_err(|problem| Problems(vec![problem]))?;
    parse_manifests(&path.display().to_string(), &sources, spot)
}

fn read(path: &Path) -> Result<Vec<Source>, Problem> {
    let failed = |path: &Path, error: &std::io::Error| {
        Problem::new(&path.display().to_string(), "", format!("cannot be read: {error}"))
    };
    let files = if path.is_dir() {
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut files: Vec<PathBuf> =
            entries.map_err(|error| failed(path, &error))?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| {
            file.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
        });
        files.sort();
        files
    } else {
        vec![path.to_owned()]
    };
    let read = |file: PathBuf| match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Source { name: file.display().to_string(), text }),
        Err(error) => Err(failed(&file, &error)),
    };
    files.into_iter().map(read).collect()
}
