//! Syntax of strings: types for schemas with a validation rule and its message.
//!
//! `validation::syntax` checks manifests from files by the same rules, with the same messages.

use std::borrow::Cow;

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

pub(super) const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// The prefix is a DNS name. [`is_qualified_name`] limits its length.
pub(super) const QUALIFIED_NAME: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// The rule for the key of a label or taint, in the expression `name`.
pub(super) fn is_qualified_name(name: &str) -> String {
    format!("{name}.matches(r'{QUALIFIED_NAME}') && {name}.indexOf('/') <= 253")
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $min:literal to $max:literal, $rule:expr, $message:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!({
                    "type": "string",
                    "maxLength": $max,
                    "x-kubernetes-validations": [Rule::new($rule).message($message)],
                });
                if $min > 0 {
                    schema.insert("minLength".to_owned(), $min.into());
                }
                schema
            }
        }
    };
}

/// A time in RFC 3339.
pub(super) struct Time;

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

text! {
    /// The value of a label or taint.
    LabelValue, 0 to 63, format!("self.matches(r'{LABEL_VALUE}')"),
    "must be letters, digits, '-', '_' or '.', and start and end with a letter or digit"
}
text! {
    /// The key of a taint.
    QualifiedName, 1 to 317, is_qualified_name("self"),
    "must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, after an optional \
     DNS name and '/'"
}
text! {
    /// An entry of `offeringIDs`: a part of a pool's id, and the value of a label.
    Offer, 1 to 63, format!("self.matches(r'{LABEL_VALUE}')"),
    "must be the name, UUID or KubeSizeID of an offer: letters, digits, '-', '_' or '.', with a letter or digit \
     at both ends"
}
text! {
    /// A datacenter: a part of a pool's id, and the value of a label.
    Datacenter, 1 to 63, format!("self.matches(r'{LABEL_VALUE}')"),
    "must be a datacenter of VPSie: letters, digits, '-', '_' or '.', with a letter or digit at both ends"
}
text! {
    /// A cluster at VPSie: a part of the API's paths.
    Cluster, 1 to 63, "self.matches('^[A-Za-z0-9-]+$')",
    "must be the UUID of the cluster at VPSie"
}
text! {
    /// A NodeGroup's name: machines are named after it.
    NodeGroupName, 1 to 54, "self.matches(r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "must be the name of a NodeGroup: lower-case letters, digits, '-' or '.', with a letter or digit at both ends"
}
text! {
    /// A Kubernetes version.
    Version, 0 to 63, r"self.matches(r'^v[0-9]+\.[0-9]+\.[0-9]+([-+].*)?$')",
    "must be a version such as v1.33.2"
}
text! {
    /// An amount of money above 0.
    Money, 1 to 16, r"self.matches('^[0-9]{1,9}([.][0-9]{1,6})?$') && self.matches('[1-9]')",
    "must be an amount above 0 in USD such as 0.50 or 300"
}
text! {
    /// An amount of a resource.
    Amount, 1 to 16, r"self.matches('^([0-9]{1,15}|[0-9]{1,6}(Ki|Mi|Gi|Ti))$')",
    "must be a whole number such as 1, or an amount of bytes such as 512Mi or 1Gi"
}
text! {
    /// A duration above 0.
    Duration, 0 to 32, r"self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self.matches('[1-9]')",
    "must be a duration above 0 such as 90s, 10m or 1h30m"
}
text! {
    /// `host:port`.
    Endpoint, 3 to 260, r"self.matches(r'^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}$')",
    "must be a host and a port such as 10.0.0.1:6443"
}
text! {
    /// An identifier at VPSie.
    Identifier, 1 to 63, "self.matches('^[A-Za-z0-9-]+$')",
    "must be an identifier of VPSie: letters, digits or '-'"
}
text! {
    /// The name of a ConfigMap or Secret.
    ObjectName, 1 to 253, r"self.matches(r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "must be the name of an object: lower-case letters, digits, '-' or '.', with a letter or digit at both ends"
}
text! {
    /// A key in the data of a ConfigMap or Secret.
    Key, 1 to 253, r"self.matches('^[-._A-Za-z0-9]+$')",
    "must be letters, digits, '-', '_' or '.'"
}
text! {
    /// The name of a variable.
    VariableName, 1 to 63, r"self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
    "must be letters, digits or '_', and not start with a digit"
}
