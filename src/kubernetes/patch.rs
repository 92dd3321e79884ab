//! Minimal merge patches (RFC 7396).

use serde_json::{Map, Value};

/// The merge patch from `old` to `new`, or None if they are equal. Lists are replaced as a whole.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (name, value) in new {
        let differs = match old.get(name) {
            Some(before) => merge_patch(before, value),
            None => Some(value.clone()),
        };
        patch.extend(differs.map(|value| (name.clone(), value)));
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_has_only_differences() {
        let old = json!({"a": 1, "b": {"c": [1, 2], "d": 3}, "e": "x"});
        let new = json!({"a": 1, "b": {"c": [1], "d": 3}, "f": {"g": 1}});
        assert_eq!(merge_patch(&old, &new), Some(json!({"b": {"c": [1]}, "e": null, "f": {"g": 1}})));
        assert_eq!(merge_patch(&old, &old), None);
        assert_eq!(merge_patch(&Value::Null, &new), Some(new));
    }
}
