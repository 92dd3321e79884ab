//! The format of records in objects, as an annotation.

use kube::core::ObjectMeta;
use serde_json::{Value, json};

const ANNOTATION: &str = "autoscaler.vpsie.com/record-format";
/// The format that this version writes. It grows with every change of a record
/// (docs/reference/record-formats.md#rules).
const FORMAT: u32 = 2;
/// The format of records without the annotation.
const FIRST: u32 = 1;

/// The annotation of a new record.
pub(super) fn annotation() -> (String, String) {
    (ANNOTATION.to_owned(), FORMAT.to_string())
}

/// Returns true iff a newer version wrote the record.
pub(super) fn is_newer(meta: &ObjectMeta) -> bool {
    stored(meta).is_some_and(|format| format > FORMAT)
}

/// The annotations that an older record needs once it is written in this format. A newer record keeps its
/// format: it may still have fields of it.
pub(super) fn raised(meta: &ObjectMeta) -> Option<Value> {
    stored(meta).is_some_and(|format| format < FORMAT).then(|| json!({ANNOTATION: FORMAT.to_string()}))
}

/// None if the annotation is not a number.
fn stored(meta: &ObjectMeta) -> Option<u32> {
    match meta.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION)) {
        Some(text) => text.parse().ok(),
        None => Some(FIRST),
    }
}
