//! Tests each rule of the CRDs with manifests that it accepts and refuses (`src/api/cases/*.yaml`), without a
//! cluster, and compares this module's results for the same manifests.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::Validator as Schema;
use kube::CustomResourceExt;
use kube::core::cel::{CompiledSchema, ValidationError, Validator, apply_defaults, compile_schema};
use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Source, parse_manifests};
use crate::api::{AutoscalerConfig, LABELS, MachinePhase, NodeGroup, ReservedKeys, TAINTS, VPSieNode};
use crate::fleet::SpotDefaults;

const NODE_GROUPS: &str = include_str!("../api/cases/nodegroups.yaml");
const CONFIGS: &str = include_str!("../api/cases/autoscalerconfigs.yaml");
const VPSIE_NODES: &str = include_str!("../api/cases/vpsienodes.yaml");

#[derive(Deserialize)]
struct CaseTable {
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

impl CaseTable {
    fn read(text: &str) -> Self {
        serde_saphyr::from_str(text).unwrap()
    }

    /// The object of a case, and its earlier version if the case is an update.
    fn objects(&self, case: &Case) -> (Value, Option<Value>) {
        let patched = |patch: &Value| {
            let mut object = self.good.clone();
            merge(&mut object, patch);
            object
        };
        let mut object = patched(&case.set);
        let before = case.before.as_ref().map(patched);
        // The API server keeps the earlier status.
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

/// The validation of the API server.
struct Server {
    schema: Value,
    structure: Schema,
    rules: CompiledSchema,
}

/// A refusal in the format of the API server, with keys in brackets.
fn format_refusal(error: &ValidationError) -> String {
    let error = error.to_string();
    let of_key = |map: &&str| {
        let (key, message) = error.strip_prefix(*map)?.strip_prefix('.')?.split_once(": ")?;
        // Its values are objects, and its keys have no dots.
        let (key, field) = match key.split_once('.').filter(|_| *map == NETWORKS) {
            Some((key, field)) => (key, format!(".{field}")),
            None => (key, String::new()),
        };
        Some(format!("{map}[{key}]{field}: {message}"))
    };
    MAPS.iter().find_map(of_key).unwrap_or(error.clone())
}

/// Fields whose keys users choose.
const MAPS: [&str; 6] = [
    "spec.labels",
    "spec.multiRegion.weightedDistribution",
    "spec.nodeTemplate.labels",
    "spec.nodeTemplate.resources",
    "spec.selfManaged.imageIDs",
    NETWORKS,
];
const NETWORKS: &str = "spec.selfManaged.networks";

#[derive(Debug, PartialEq)]
enum ServerResult {
    Accepted,
    SchemaRefuses,
    RulesRefuse(BTreeSet<String>),
}

impl Server {
    fn for_kind<K: CustomResourceExt>() -> Self {
        let crd = serde_json::to_value(K::crd()).unwrap();
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
        let structure = jsonschema::options().should_validate_formats(false).build(&schema).unwrap();
        Self { structure, rules: compile_schema(&schema), schema }
    }

    fn validate(&self, object: &Value, before: Option<&Value>) -> ServerResult {
        let object = apply_defaults(&self.schema, object);
        if !self.structure.is_valid(&object) || has_int32_overflow(&self.schema, &object) {
            return ServerResult::SchemaRefuses;
        }
        match Validator::new().validate_compiled(&self.rules, &object, before) {
            Ok(()) => ServerResult::Accepted,
            Err(errors) => ServerResult::RulesRefuse(errors.iter().map(format_refusal).collect()),
        }
    }

    /// The place and the message of each rule.
    fn rules(&self) -> BTreeSet<(String, String)> {
        let mut rules = BTreeSet::new();
        visit(&self.schema, "", &mut |place, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                rules.insert((place.to_owned(), rule["message"].as_str().unwrap().to_owned()));
            }
        });
        rules
    }

    /// Finds the rule of a refusal.
    fn find_rule(&self, refusal: &str) -> (String, String) {
        let of = |(place, message): &(String, String)| match refusal.strip_suffix(message.as_str()) {
            Some("") => place.is_empty(),
            Some(field) => schema_path(field.strip_suffix(": ").unwrap_or_default()) == *place,
            None => false,
        };
        self.rules().into_iter().find(of).unwrap_or_else(|| panic!("no rule has the message {refusal:?}"))
    }
}

/// The path of a field in the schema: without the numbers and keys of entries.
fn schema_path(field: &str) -> String {
    let mut inside = false;
    let stays = |c: &char| {
        let stays = !inside || *c == ']';
        inside = *c == '[' || inside && *c != ']';
        stays
    };
    field.chars().filter(stays).collect()
}

fn visit(schema: &Value, place: &str, see: &mut impl FnMut(&str, &Value)) {
    see(place, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        visit(field, format!("{place}.{name}").trim_start_matches('.'), see);
    }
    for entries in [&schema["items"], &schema["additionalProperties"]] {
        if entries.is_object() {
            visit(entries, &format!("{place}[]"), see);
        }
    }
}

/// `format: int32`, which JSON Schema does not know.
fn has_int32_overflow(schema: &Value, value: &Value) -> bool {
    let inner = |(name, value): (&String, &Value)| {
        let any = &schema["additionalProperties"];
        has_int32_overflow(schema["properties"].get(name).unwrap_or(any), value)
    };
    match value {
        Value::Object(fields) => fields.iter().any(inner),
        Value::Number(number) if schema["format"] == "int32" => {
            number.as_i64().is_none_or(|number| i32::try_from(number).is_err())
        }
        _ => false,
    }
}

fn expected_result(case: &Case) -> ServerResult {
    match (case.schema, &case.refused[..]) {
        (true, _) => ServerResult::SchemaRefuses,
        (false, []) => ServerResult::Accepted,
        (false, refused) => ServerResult::RulesRefuse(refused.iter().cloned().collect()),
    }
}

/// Checks the result of every case of a table. Every rule must accept at least one case, and refuse one.
fn check_all_cases<K: CustomResourceExt + DeserializeOwned>(text: &str) {
    let server = Server::for_kind::<K>();
    let table = CaseTable::read(text);
    let mut refused = BTreeSet::new();
    let mut accepted = BTreeSet::new();
    for case in &table.cases {
        let (object, before) = table.objects(case);
        let result = server.validate(&object, before.as_ref());
        assert_eq!(result, expected_result(case), "{}", case.does);
        match result {
            ServerResult::Accepted => {
                serde_json::from_value::<K>(object.clone()).unwrap();
                fields(&apply_defaults(&server.schema, &object), String::new(), &mut accepted);
            }
            ServerResult::SchemaRefuses => {}
            ServerResult::RulesRefuse(by) => {
                refused.extend(by.iter().map(|refusal| server.find_rule(refusal)));
            }
        }
    }
    let rules = server.rules();
    let unseen: Vec<_> = rules.difference(&refused).collect();
    assert!(unseen.is_empty(), "no case is refused by {unseen:#?}");
    let unseen: Vec<_> = rules.iter().filter(|(place, _)| !accepted.contains(place)).collect();
    assert!(unseen.is_empty(), "no case is accepted by {unseen:#?}");
}

/// Adds the paths of all values of an object to `seen`.
fn fields(value: &Value, place: String, seen: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                let place = match place.as_str() {
                    "" => name.clone(),
                    map if MAPS.contains(&map) => format!("{place}[]"),
                    place => format!("{place}.{name}"),
                };
                fields(value, place, seen);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, format!("{place}[]"), seen)),
        _ => {}
    }
    seen.insert(place);
}

#[test]
fn node_group_rules_accept_and_refuse() {
    check_all_cases::<NodeGroup>(NODE_GROUPS);
}

#[test]
fn autoscaler_config_rules_accept_and_refuse() {
    check_all_cases::<AutoscalerConfig>(CONFIGS);
}

#[test]
fn vpsie_node_rules_accept_and_refuse() {
    check_all_cases::<VPSieNode>(VPSIE_NODES);
}

#[test]
fn files_and_api_server_agree() {
    let table = CaseTable::read(NODE_GROUPS);
    for case in table.cases.iter().filter(|case| case.before.is_none()) {
        let text = table.objects(case).0.to_string();
        let manifests =
            parse_manifests("", &[Source { name: case.does.clone(), text }], SpotDefaults::default());
        assert_eq!(
            manifests.is_ok(),
            expected_result(case) == ServerResult::Accepted,
            "{}: {manifests:?}",
            case.does
        );
    }
}

#[test]
fn every_reserved_key_is_refused() {
    let server = Server::for_kind::<NodeGroup>();
    let table = CaseTable::read(NODE_GROUPS);
    let label = |key: String| {
        let labels = json!({ "labels": {key: "x"} });
        [json!({"nodeTemplate": labels}), labels]
    };
    let labels = LABELS.iter().flat_map(ReservedKeys::examples).flat_map(label);
    let taint = |key| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    for spec in labels.chain(TAINTS.iter().flat_map(ReservedKeys::examples).map(taint)) {
        let mut object = table.good.clone();
        merge(&mut object["spec"], &spec);
        assert!(matches!(server.validate(&object, None), ServerResult::RulesRefuse(_)), "{spec}");
        let source = Source { name: String::new(), text: object.to_string() };
        let error = parse_manifests("", &[source], SpotDefaults::default()).unwrap_err().to_string();
        assert!(error.contains("is reserved, remove it"), "{error}");
    }
    let count = |of: &str| server.rules().iter().filter(|(place, _)| place == of).count();
    // One more rule for the syntax of the keys of labels, and one for duplicate taints.
    assert_eq!((count("spec.labels"), count("spec.taints")), (LABELS.len() + 1, TAINTS.len() + 1));
    assert_eq!(count("spec.nodeTemplate.labels"), LABELS.len() + 1);
}

#[test]
fn manifests_of_the_original_are_accepted() {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(include_str!("../api/cases/original.yaml")).unwrap();
    for document in documents {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let node_group = document["kind"] == "NodeGroup";
        let server =
            if node_group { Server::for_kind::<NodeGroup>() } else { Server::for_kind::<VPSieNode>() };
        let mut object = document.clone();
        // The API server drops the status from writes of users.
        object.as_object_mut().unwrap().remove("status");
        assert_eq!(server.validate(&object, None), ServerResult::Accepted, "{name}");
        assert_eq!(fields_unknown_to(&server.schema, &document), Vec::<String>::new(), "{name}");
        if node_group {
            let source = Source { name: name.clone(), text: document.to_string() };
            assert_eq!(
                parse_manifests("", &[source], SpotDefaults::default()).unwrap().groups.len(),
                1,
                "{name}"
            );
            assert!(serde_json::from_value::<NodeGroup>(document).is_ok(), "{name}");
        } else {
            // An existing object can be read as well.
            let node: VPSieNode = serde_json::from_value(document).unwrap();
            assert_eq!(node.status.unwrap().phase, MachinePhase::Running);
        }
    }
}

/// Fields that the API server would drop, or `kubectl` refuse.
fn fields_unknown_to(schema: &Value, document: &Value) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut written = BTreeSet::new();
    visit(schema, "", &mut |place, _| {
        known.insert(place.to_owned());
    });
    for part in ["spec", "status"] {
        fields(&document[part], part.to_owned(), &mut written);
    }
    written.difference(&known).cloned().collect()
}

/// Texts that are valid or nearly valid.
fn near_valid(alphabet: &'static str) -> impl Strategy<Value = String> {
    let character = proptest::sample::select(alphabet.chars().collect::<Vec<_>>());
    proptest::collection::vec(character, 0..12).prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn texts_are_validated_as_by_the_api_server(
        key in near_valid("aB1-_./ "),
        resource in "(requests[.])?[aB]{0,2}(kubernetes[.]io)?(/[aB]?|hugepages-[12]?[KM]?i?)",
        amount in near_valid("019KMi. "),
        value in near_valid("aB1-_. "),
        duration in near_valid("0019hms. "),
        version in near_valid("v10..-+x"),
        cluster in near_valid("aB1-_ "),
    ) {
        static SERVER: LazyLock<(Server, CaseTable)> =
            LazyLock::new(|| (Server::for_kind::<NodeGroup>(), CaseTable::read(NODE_GROUPS)));
        let (server, table) = &*SERVER;
        for spec in [
            json!({"labels": {key.as_str(): "a"}}),
            json!({"nodeTemplate": {"labels": {key.as_str(): value}}}),
            json!({"nodeTemplate": {"resources": {key.as_str(): "1"}}}),
            json!({"nodeTemplate": {"resources": {resource.as_str(): "1"}}}),
            json!({"nodeTemplate": {"resources": {"nvidia.com/gpu": amount}}}),
            json!({"taints": [{"key": key, "effect": "NoSchedule"}]}),
            json!({"labels": {"a": value}}),
            json!({"offeringIDs": [value]}),
            json!({"datacenterID": value}),
            json!({"autoscalingOptions": {"maxNodeProvisionTime": duration}}),
            json!({"kubernetesVersion": version}),
            json!({"kubernetesVersion": format!("v1.{version}")}),
            json!({"resourceIdentifier": cluster}),
        ] {
            let mut object = table.good.clone();
            merge(&mut object["spec"], &spec);
            let source = Source { name: String::new(), text: object.to_string() };
            let accepted = server.validate(&object, None) == ServerResult::Accepted;
            prop_assert_eq!(parse_manifests("", &[source], SpotDefaults::default()).is_ok(), accepted, "{}", spec);
        }
    }
}
