//! NodeGroups of manifests and of the API server.

use std::collections::{BTreeMap, BTreeSet};

use kube::{CustomResourceExt, Resource};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::node_group::{self, Checked, Product};
use super::problem::{Findings, Problem, Problems};
use super::schema;
use crate::api;
use crate::fleet::{NodeGroup, SpotDefaults};
use crate::vpsie::{CommonField, ManagedConfig};

/// The content of valid manifests.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests {
    /// The NodeGroups, in the order of their files.
    pub groups: Vec<NodeGroup>,
    /// The managed cluster of all NodeGroups. None: they are plain VMs of a self-managed cluster.
    pub managed: Option<ManagedConfig>,
    /// Input without effect.
    pub notes: Vec<Problem>,
}

/// The text of a file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in messages.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A NodeGroup of the API server, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedNodeGroup {
    /// The declaration.
    pub group: NodeGroup,
    /// Its product.
    pub product: Product,
    /// Input without effect.
    pub notes: Vec<Problem>,
}

/// Checks a NodeGroup of the API server by the same rules as files: it may be older than a rule. `spot` applies where it
/// sets nothing.
pub fn check_node_group(object: &api::NodeGroup, spot: SpotDefaults) -> Result<CheckedNodeGroup, Problems> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut document = serde_json::to_value(object).unwrap_or_default();
    drop_nulls(&mut document);
    let mut reader = Reader::new(spot);
    reader.node_group(name, &document);
    match reader.read.pop() {
        Some(Read { checked: Checked { group, product }, .. }) if reader.problems.is_empty() => {
            Ok(CheckedNodeGroup { group, product, notes: reader.notes })
        }
        _ => Err(Problems(reader.problems)),
    }
}

/// Reads the NodeGroups of the sources. `origin` is the location of problems that concern all of them, `spot` applies to
/// NodeGroups that set nothing.
pub fn parse_manifests(origin: &str, sources: &[Source], spot: SpotDefaults) -> Result<Manifests, Problems> {
    let mut reader = Reader::new(spot);
    for source in sources {
        reader.file(source);
    }
    reader.finish(origin)
}

struct Reader {
    schema: Value,
    spot: SpotDefaults,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
    read: Vec<Read>,
}

struct Read {
    place: String,
    checked: Checked,
    /// Fields that were invalid and replaced by defaults.
    unread: BTreeSet<String>,
}

impl Reader {
    fn new(spot: SpotDefaults) -> Self {
        let crd = serde_json::to_value(api::NodeGroup::crd()).unwrap_or_default();
        Self {
            schema: crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default(),
            spot,
            problems: Vec::new(),
            notes: Vec::new(),
            read: Vec::new(),
        }
    }

    fn file(&mut self, source: &Source) {
        let documents = match serde_saphyr::from_multiple::<Spanned<Value>>(&source.text) {
            Ok(documents) => documents,
            Err(error) => {
                let place = error.location().map_or_else(
                    || source.name.clone(),
                    |location| format!("{}:{}", source.name, location.line()),
                );
                let message = format!("is not YAML: {}", error.without_snippet());
                return self.problems.push(Problem::new(&place, "", message));
            }
        };
        for document in documents {
            let place = format!("{}:{}", source.name, document.referenced.line());
            self.document(&place, document.value);
        }
    }

    fn document(&mut self, place: &str, mut document: Value) {
        drop_nulls(&mut document);
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let version = text("apiVersion");
        let kind = text("kind");
        if kind == "List" {
            for item in document["items"].as_array().cloned().unwrap_or_default() {
                self.document(place, item);
            }
            return;
        }
        if kind != "NodeGroup" {
            let what = if kind.is_empty() { "has no kind".to_owned() } else { format!("is a {kind}") };
            return self.notes.push(Problem::new(place, "", format!("{what}, not a NodeGroup: ignored")));
        }
        let name = document["metadata"]["name"].as_str().unwrap_or("without a name");
        let place = format!("{place}: NodeGroup {name}");
        let wanted = api::NodeGroup::api_version(&());
        if version != wanted {
            let message = format!("is {version:?}, must be {wanted:?}");
            return self.problems.push(Problem::new(&place, "apiVersion", message));
        }
        if document["metadata"]["labels"][crate::fleet::names::MANAGED] == "false" {
            let message = format!("has the label {}=false: ignored", crate::fleet::names::MANAGED);
            return self.notes.push(Problem::new(&place, "", message));
        }
        self.node_group(place, &document);
    }

    fn node_group(&mut self, place: String, document: &Value) {
        let before = self.problems.len();
        for part in ["spec", "metadata"] {
            if document[part].is_null() {
                self.problems.push(Problem::new(&place, part, "is missing"));
            }
        }
        if self.problems.len() > before {
            return;
        }
        let mut wanted = document.clone();
        // The API server writes the status: it is not a declaration.
        if let Some(fields) = wanted.as_object_mut() {
            fields.remove("status");
        }
        let mut unread = BTreeSet::new();
        let spec = &self.schema["properties"]["spec"];
        schema::check(spec, &mut wanted["spec"], "spec", &mut |field, message| {
            unread.insert(field.to_owned());
            self.problems.push(Problem::new(&place, field, message));
        });
        let manifest = match serde_path_to_error::deserialize::<_, api::NodeGroup>(&wanted) {
            Ok(manifest) => manifest,
            Err(error) => {
                let field = error.path().to_string();
                let message = error.inner().to_string();
                return self.problems.push(Problem::new(&place, field, message));
            }
        };
        let mut findings = Findings::default();
        let checked = node_group::check(&manifest, self.spot, &mut findings);
        let problems = |found: Vec<(String, String)>| {
            let ours = |field: &str| {
                unread.contains(field) || field == "spec.minNodes" && unread.contains("spec.maxNodes")
            };
            let found = found.into_iter().filter(|(field, _)| !ours(field));
            found.map(|(field, message)| Problem::new(&place, field, message)).collect::<Vec<_>>()
        };
        self.problems.extend(problems(findings.wrong));
        self.notes.extend(problems(findings.notes));
        self.read.push(Read { place, checked, unread });
    }

    fn finish(mut self, origin: &str) -> Result<Manifests, Problems> {
        self.cross_check();
        let first = self.read.first().map(|first| first.checked.product.managed().cloned());
        match first {
            Some(managed) if self.problems.is_empty() => Ok(Manifests {
                groups: self.read.into_iter().map(|read| read.checked.group).collect(),
                managed,
                notes: self.notes,
            }),
            None if self.problems.is_empty() => {
                let message = "has no NodeGroup: name a file or folder with at least one";
                let mut problems = vec![Problem::new(origin, "", message)];
                problems.extend(self.notes);
                Err(Problems(problems))
            }
            _ => Err(Problems(self.problems)),
        }
    }

    fn cross_check(&mut self) {
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        for read in &self.read {
            if let Some(first) = names.insert(read.checked.group.name.as_str(), &read.place) {
                let message = format!("is also the name at {}: names must differ", position(first));
                self.problems.push(Problem::new(&read.place, "metadata.name", message));
            }
        }
        self.require_one_product();
        for field in ManagedConfig::COMMON_FIELDS {
            self.require_equal(field);
        }
    }

    fn require_one_product(&mut self) {
        let Some(first) = self.read.first() else { return };
        let is_managed = |read: &Read| read.checked.product.managed().is_some();
        for read in self.read.iter().filter(|read| is_managed(read) != is_managed(first)) {
            let at = position(&first.place);
            let state = if is_managed(read) { "is missing, but set" } else { "is set, but not" };
            let message = format!("{state} at {at}: all NodeGroups must be of one product");
            self.problems.push(Problem::new(&read.place, "spec.selfManaged", message));
        }
    }

    /// Requires that all NodeGroups have the value of the first one.
    fn require_equal(&mut self, field: &CommonField) {
        let readable = self.read.iter().filter(|read| !read.unread.contains(field.path));
        let mut readable = readable.filter_map(|read| Some((read, read.checked.product.managed()?)));
        let Some((first, managed)) = readable.next() else { return };
        for (read, own) in readable {
            let actual = (field.value)(own);
            let expected = (field.value)(managed);
            if actual != expected {
                let at = position(&first.place);
                let message = format!("is {actual:?}, must be {expected:?} as at {at}: {}", field.reason);
                self.problems.push(Problem::new(&read.place, field.path, message));
            }
        }
    }
}

/// File and line of a location.
fn position(place: &str) -> &str {
    place.split_once(": NodeGroup").map_or(place, |(position, _)| position)
}

/// Removes fields without a value, as the API server does.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
