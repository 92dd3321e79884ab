//! Each rule of the CRDs against manifests that it takes and refuses (`cases/*.yaml`), without a cluster, and
//! against what `config` says to the same manifests.

use std::collections::BTreeSet;

use jsonschema::Validator as Schema;
use kube::CustomResourceExt;
use kube::core::cel::{Validator, apply_defaults};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{NodeGroup, VPSieNode};
use crate::config::{Source, parse_manifests};

const NODE_GROUPS: &str = include_str!("cases/nodegroups.yaml");
const VPSIE_NODES: &str = include_str!("cases/vpsienodes.yaml");

#[derive(Deserialize)]
struct Table {
    good: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    does: String,
    #[serde(default)]
    set: Value,
    before: Option<Value>,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    schema: bool,
}

impl Table {
    fn read(text: &str) -> Self {
        serde_saphyr::from_str(text).unwrap()
    }

    /// The object of a case, and the one that it is an update of.
    fn objects(&self, case: &Case) -> (Value, Option<Value>) {
        let patched = |patch: &Value| {
            let mut object = self.good.clone();
            merge(&mut object, patch);
            object
        };
        let (mut object, before) = (patched(&case.set), case.before.as_ref().map(patched));
        // The API server takes the status from what was there.
        if let Some(status) = before.as_ref().and_then(|before| before.get("status")) {
            object["status"] = status.clone();
        }
        (object, before)
    }
}

/// JSON merge patch (RFC 7396).
fn merge(object: &mut Value, patch: &Value) {
    for (name, value) in patch.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
            Value::Object(_) if object[name].is_object() => merge(&mut object[name], value),
            value => object[name] = value.clone(),
        }
    }
}

/// The API server, as far as it judges objects.
struct Server {
    schema: Value,
    structure: Schema,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Taken,
    SchemaRefuses,
    RulesRefuse(BTreeSet<String>),
}

impl Server {
    fn of<K: CustomResourceExt>() -> Self {
        let crd = serde_json::to_value(K::crd()).unwrap();
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
        Self {
            structure: jsonschema::options().should_validate_formats(false).build(&schema).unwrap(),
            schema,
        }
    }

    fn verdict(&self, object: &Value, before: Option<&Value>) -> Verdict {
        let object = apply_defaults(&self.schema, object);
        if !self.structure.is_valid(&object) || whole_numbers_that_do_not_fit(&self.schema, &object) {
            return Verdict::SchemaRefuses;
        }
        match Validator::new().validate(&self.schema, &object, before) {
            Ok(()) => Verdict::Taken,
            Err(errors) => Verdict::RulesRefuse(errors.iter().map(ToString::to_string).collect()),
        }
    }

    /// Each rule as the place that it stands at, and its message.
    fn rules(&self) -> BTreeSet<(String, String)> {
        let mut rules = BTreeSet::new();
        visit(&self.schema, String::new(), &mut |place, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                rules.insert((place.to_owned(), rule["message"].as_str().unwrap().to_owned()));
            }
        });
        rules
    }

    /// The rules among what refused an object.
    fn named(&self, refusal: &str) -> (String, String) {
        let of = |(place, message): &(String, String)| match refusal.strip_suffix(message.as_str()) {
            Some("") => place.is_empty(),
            Some(field) => place_of(field.strip_suffix(": ").unwrap_or_default()) == *place,
            None => false,
        };
        self.rules().into_iter().find(of).unwrap_or_else(|| panic!("no rule says {refusal:?}"))
    }
}

/// Where in the schema a field is. Entries of the only mapping with rules for its values are `*`.
fn place_of(field: &str) -> String {
    let field =
        field.strip_prefix("spec.labels.").map_or_else(|| field.to_owned(), |_| "spec.labels.*".to_owned());
    let mut place = String::new();
    let mut inside = false;
    for c in field.chars() {
        inside = c == '[' || inside && c != ']';
        if !inside || c == '[' {
            place.push(c);
        }
    }
    place
}

fn visit(schema: &Value, place: String, see: &mut impl FnMut(&str, &Value)) {
    see(&place, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        visit(field, format!("{place}{}{name}", if place.is_empty() { "" } else { "." }), see);
    }
    if schema["items"].is_object() {
        visit(&schema["items"], format!("{place}[]"), see);
    }
    if schema["additionalProperties"].is_object() {
        visit(&schema["additionalProperties"], format!("{place}.*"), see);
    }
}

/// `format: int32`, which JSON Schema does not know.
fn whole_numbers_that_do_not_fit(schema: &Value, value: &Value) -> bool {
    let inner = |(name, value): (&String, &Value)| {
        let any = &schema["additionalProperties"];
        whole_numbers_that_do_not_fit(schema["properties"].get(name).unwrap_or(any), value)
    };
    match value {
        Value::Object(fields) => fields.iter().any(inner),
        Value::Number(number) if schema["format"] == "int32" => {
            number.as_i64().is_none_or(|number| i32::try_from(number).is_err())
        }
        _ => false,
    }
}

fn wanted(case: &Case) -> Verdict {
    match (case.schema, &case.refused[..]) {
        (true, _) => Verdict::SchemaRefuses,
        (false, []) => Verdict::Taken,
        (false, refused) => Verdict::RulesRefuse(refused.iter().cloned().collect()),
    }
}

/// Goes through a table: every verdict, and every rule at least once taken and once refused.
fn all_verdicts<K: CustomResourceExt + DeserializeOwned>(text: &str) {
    let (server, table) = (Server::of::<K>(), Table::read(text));
    let (mut refused, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for case in &table.cases {
        let (object, before) = table.objects(case);
        let verdict = server.verdict(&object, before.as_ref());
        assert_eq!(verdict, wanted(case), "{}", case.does);
        match verdict {
            Verdict::Taken => {
                serde_json::from_value::<K>(object.clone()).unwrap();
                fields(&apply_defaults(&server.schema, &object), String::new(), &mut taken);
            }
            Verdict::SchemaRefuses => {}
            Verdict::RulesRefuse(by) => refused.extend(by.iter().map(|refusal| server.named(refusal))),
        }
    }
    let rules = server.rules();
    let unseen: Vec<_> = rules.difference(&refused).collect();
    assert!(unseen.is_empty(), "no case is refused by {unseen:#?}");
    let unseen: Vec<_> = rules.iter().filter(|(place, _)| !taken.contains(place)).collect();
    assert!(unseen.is_empty(), "no case is taken by {unseen:#?}");
}

/// The places that an object has values at.
fn fields(value: &Value, place: String, seen: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                let name = if place == "spec.labels" { "*" } else { name };
                fields(value, format!("{place}{}{name}", if place.is_empty() { "" } else { "." }), seen);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, format!("{place}[]"), seen)),
        _ => {}
    }
    seen.insert(place);
}

#[test]
fn every_rule_of_node_groups_takes_and_refuses() {
    all_verdicts::<NodeGroup>(NODE_GROUPS);
}

#[test]
fn every_rule_of_vpsie_nodes_takes_and_refuses() {
    all_verdicts::<VPSieNode>(VPSIE_NODES);
}

#[test]
fn files_are_judged_as_the_api_server_judges() {
    let table = Table::read(NODE_GROUPS);
    for case in table.cases.iter().filter(|case| case.before.is_none()) {
        let text = table.objects(case).0.to_string();
        let manifests = parse_manifests("", &[Source { name: case.does.clone(), text }]);
        assert_eq!(manifests.is_ok(), wanted(case) == Verdict::Taken, "{}: {manifests:?}", case.does);
    }
}
