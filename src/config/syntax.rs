//! Kubernetes' rules for names, labels and taints.

use crate::fleet::is_label_value;

/// What a label value is: at most 63 of `A-Z a-z 0-9 - _ .`, with a letter or digit at both ends; may be empty.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_value(text) {
        return Ok(());
    }
    Err(format!(
        "is {text:?}, must be at most 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit"
    ))
}

/// What a label or taint key is: a label value that is not empty, after an optional DNS name and `/`.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if let Some(prefix) = prefix
        && dns_subdomain(prefix).is_err()
    {
        return Err(format!("has the prefix {prefix:?}, must be a DNS name such as example.com"));
    }
    if name.is_empty() || label_value(name).is_err() {
        return Err(format!(
            "has the name {name:?}, must be 1 to 63 letters, digits, '-', '_' or '.', and start and end with a \
             letter or digit"
        ));
    }
    Ok(())
}

/// What the name of most Kubernetes objects is.
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(part) {
        return Ok(());
    }
    Err(format!(
        "is {text:?}, must be lower-case letters, digits, '-' or '.', and start and end with a letter or digit"
    ))
}
