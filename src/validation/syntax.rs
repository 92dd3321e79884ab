//! Syntax of values in manifests. The schema of the CRD has the same rules (`api::text`), for the API server.

use std::time::Duration;

use rust_decimal::Decimal;

use super::duration::any_duration;
use crate::fleet::is_label_value;

/// Checks a label value: at most 63 of `A-Z a-z 0-9 - _ .`, with a letter or digit at both ends; may be
/// empty.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_value(text) {
        return Ok(());
    }
    Err(format!(
        "is {text:?}, must be at most 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit"
    ))
}

/// Checks a label or taint key: a label value that is not empty, after an optional DNS name and `/`.
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

/// Checks the name of a Kubernetes object.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), String> {
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

/// Checks the name of a namespace.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    if text.len() <= 63 && !text.contains('.') && dns_subdomain(text).is_ok() {
        return Ok(());
    }
    Err(format!(
        "is {text:?}, must be at most 63 lower-case letters, digits or '-', and start and end with a letter or digit"
    ))
}

/// Checks a Kubernetes version, such as `v1.33.2`.
pub(super) fn version(text: &str) -> Result<(), String> {
    let number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let mut parts = text.strip_prefix('v').unwrap_or_default().splitn(3, '.');
    let major = parts.next();
    let minor = parts.next();
    let rest = parts.next().unwrap_or_default();
    let (patch, build) = rest.split_at(rest.find(['-', '+']).unwrap_or(rest.len()));
    if [major.unwrap_or_default(), minor.unwrap_or_default(), patch].into_iter().all(number)
        && !build.contains('\n')
    {
        return Ok(());
    }
    Err(format!("is {text:?}, must be a version such as v1.33.2"))
}

/// Parses an amount of money, USD.
pub(crate) fn money(text: &str) -> Result<Decimal, String> {
    let digits = |part: &str, most| part.len() <= most && part.chars().all(|c| c.is_ascii_digit());
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let written = !whole.is_empty() && digits(whole, 9) && !part.is_empty() && digits(part, 6);
    let amount = if written { text.parse().ok() } else { None };
    amount
        .filter(|amount: &Decimal| *amount > Decimal::ZERO)
        .ok_or_else(|| format!("is {text:?}, must be an amount above 0 in USD such as 0.50 or 300"))
}

/// Parses a duration of hours, minutes and seconds in that order, which CEL and Go read equally.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut unparsed = text;
    for unit in ['h', 'm', 's'] {
        if let Some((digits, more)) = unparsed.split_once(unit)
            && (1..=9).contains(&digits.len())
            && digits.chars().all(|c| c.is_ascii_digit())
        {
            unparsed = more;
        }
    }
    let duration = if unparsed.is_empty() { any_duration(text) } else { None };
    duration.ok_or_else(|| format!("is {text:?}, must be a duration above 0 such as 90s, 10m or 1h30m"))
}

/// Checks the name of a resource in `nodeTemplate.resources`: a device or huge pages.
pub(super) fn extended_resource(name: &str) -> Result<(), String> {
    let digits = |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let page =
        name.strip_prefix("hugepages-").and_then(|size| size.split_at_checked(size.len().checked_sub(2)?));
    let is_page = page.is_some_and(|(size, unit)| digits(size) && matches!(unit, "Ki" | "Mi" | "Gi"));
    let domain = name.split_once('/').map(|(domain, _)| domain);
    let is_device = domain.is_some_and(|domain| {
        domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && !domain.starts_with("requests.")
    });
    if is_page || is_device && qualified_name(name).is_ok() {
        return Ok(());
    }
    Err(format!(
        "has the name {name:?}, must be the name of a device with a DNS name and '/', such as nvidia.com/gpu, or \
         hugepages-2Mi or the like: cores, memory, disk and pods follow from the offer"
    ))
}

/// Parses an amount of a resource.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40)];
    let unit = UNITS.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit, 6)));
    let (number, unit, most) = unit.unwrap_or((text, 1, 15));
    let written = (1..=most).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let amount = if written { number.parse::<u64>().ok() } else { None };
    amount.and_then(|amount| amount.checked_mul(unit)).ok_or_else(|| {
        format!("is {text:?}, must be a whole number such as 1, or an amount of bytes such as 512Mi or 1Gi")
    })
}

/// Checks `host:port`.
pub(super) fn endpoint(text: &str) -> Result<(), String> {
    let is_port =
        |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = |host: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
            && ends(host.chars().next())
            && ends(host.chars().last())
    };
    let is_ipv6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|host| !host.is_empty() && host.chars().all(|c| c.is_ascii_hexdigit() || c == ':'))
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (is_name(host) || is_ipv6(host)) => Ok(()),
        _ => Err(format!("is {text:?}, must be a host and a port such as 10.0.0.1:6443")),
    }
}

/// Checks an identifier at VPSie.
pub(super) fn identifier(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(());
    }
    Err(format!("is {text:?}, must be an identifier of VPSie: letters, digits or '-'"))
}

/// Checks a key in the data of a ConfigMap or Secret.
pub(super) fn data_key(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Ok(());
    }
    Err(format!("is {text:?}, must be letters, digits, '-', '_' or '.'"))
}

/// Checks the name of a variable.
pub(super) fn variable_name(text: &str) -> Result<(), String> {
    let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word && text.chars().next().is_some_and(|first| !first.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("is {text:?}, must be letters, digits or '_', and not start with a digit"))
}
