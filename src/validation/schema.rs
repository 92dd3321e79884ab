//! Checks a manifest against the schema of its CRD, as the API server does, and reports all problems.
//!
//! Unlike the API server it refuses unknown fields: a misspelt limit costs money.

use serde_json::{Value, json};

/// Calls `report` with field and message of each problem. Replaces each invalid value by a valid one, so that
/// the rest can be deserialized and checked.
pub(super) fn check(schema: &Value, value: &mut Value, path: &str, report: &mut impl FnMut(&str, String)) {
    let Some(kind) = schema["type"].as_str() else { return };
    if !has_type(kind, value) {
        report(path, format!("is {}, must be {}", describe(value), describe_type(kind)));
        *value = valid_value(schema);
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<String> = allowed.iter().filter(|a| !a.is_null()).map(Value::to_string).collect();
        report(path, format!("is {}, must be one of {}", describe(value), names.join(", ")));
        *value = valid_value(schema);
    }
    match value {
        Value::Object(fields) => check_object(schema, fields, path, report),
        Value::Array(items) => {
            if items.len() < read_minimum(&schema["minItems"]) {
                report(path, "is empty, must have at least one entry".to_owned());
            }
            check_maximum(schema, "maxItems", items.len(), "entries", path, report);
            for (n, item) in items.iter_mut().enumerate() {
                check(&schema["items"], item, &format!("{path}[{n}]"), report);
            }
        }
        Value::String(text) if text.chars().count() < read_minimum(&schema["minLength"]) => {
            report(path, "is empty, must have a value".to_owned());
        }
        Value::String(text) => {
            check_maximum(schema, "maxLength", text.chars().count(), "characters", path, report);
        }
        Value::Number(_) => check_number(schema, value, path, report),
        _ => {}
    }
}

fn check_object(
    schema: &Value,
    fields: &mut serde_json::Map<String, Value>,
    path: &str,
    report: &mut impl FnMut(&str, String),
) {
    check_maximum(schema, "maxProperties", fields.len(), "entries", path, report);
    let known = schema["properties"].as_object();
    fields.retain(|name, value| {
        let path = join(path, name);
        match (known.and_then(|known| known.get(name)), &schema["additionalProperties"], known) {
            (Some(schema), _, _) => check(schema, value, &path, report),
            (None, any @ Value::Object(_), _) => check(any, value, &path, report),
            (None, _, Some(known)) => {
                report(&path, format!("is not a known field; {}", suggestion(name, known.keys())));
                return false;
            }
            (None, _, None) => {}
        }
        true
    });
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            report(&join(path, name), "is missing".to_owned());
            fields.insert(name.to_owned(), valid_value(&schema["properties"][name]));
        }
    }
}

fn check_maximum(
    schema: &Value,
    limit: &str,
    count: usize,
    what: &str,
    path: &str,
    report: &mut impl FnMut(&str, String),
) {
    if let Some(most) = schema[limit].as_u64().filter(|most| count as u64 > *most) {
        report(path, format!("has {count} {what}, must have at most {most}"));
    }
}

fn valid_value(schema: &Value) -> Value {
    match (schema["type"].as_str(), &schema["enum"]) {
        (_, Value::Array(allowed)) => allowed.first().cloned().unwrap_or_default(),
        (Some("object"), _) => json!({}),
        (Some("array"), _) => json!([]),
        (Some("string"), _) => json!("x"),
        (Some("boolean"), _) => json!(false),
        (Some("integer" | "number"), _) => json!(schema["minimum"].as_f64().unwrap_or_default() as i64),
        _ => Value::Null,
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, report: &mut impl FnMut(&str, String)) {
    let limit = |name: &str| schema[name].as_f64();
    let (low, high) = match schema["format"].as_str() {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (f64::MIN, f64::MAX),
    };
    let low = limit("minimum").unwrap_or(low);
    let high = limit("maximum").unwrap_or(high);
    let Some(number) = value.as_f64() else { return };
    if number < low {
        report(path, format!("is {value}, must be at least {low}"));
    } else if number > high {
        report(path, format!("is {value}, must be at most {high}"));
    }
}

fn has_type(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn describe_type(kind: &str) -> String {
    match kind {
        "object" => "a mapping".to_owned(),
        "array" => "a list".to_owned(),
        "string" => "text (in quotes if it looks like a number or a boolean)".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => "a whole number".to_owned(),
        kind => format!("a {kind}"),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Object(_) => "a mapping".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        value => value.to_string(),
    }
}

fn read_minimum(limit: &Value) -> usize {
    limit.as_u64().unwrap_or(0) as usize
}

/// The path of a field. A name with a dot is quoted: `labels["a.b/c"]`.
pub(super) fn join(path: &str, name: &str) -> String {
    match (path, name.contains('.')) {
        ("", _) => name.to_owned(),
        (path, false) => format!("{path}.{name}"),
        (path, true) => format!("{path}[{name:?}]"),
    }
}

fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let near = known.iter().find(|k| k.eq_ignore_ascii_case(name) || edit_distance(k, name) <= 2);
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("its fields are {}", known.join(", ")),
    }
}

/// The edit distance of two names (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let edited = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = edited.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
