//! Rendering of templates, and checks of the result.

use std::collections::BTreeSet;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use secrecy::{ExposeSecret as _, SecretString};

use super::config::JoinKind;
use super::labels::refused_label;
use super::variables::Variables;

/// Maximum size of a payload, bytes.
pub const MAX_PAYLOAD: usize = 16 << 10;

/// Maximum number of instructions of a template: more than 16 KiB of text need.
const FUEL: u64 = 100_000;

/// A payload cannot be made. No message has the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The join kind has no built-in template.
    #[error("joinKind custom has no built-in payload: name a ConfigMap in selfManaged.payload")]
    NoTemplate,
    /// A kubelet may not set a label.
    #[error(
        "kubelet may not set the label {0}: the API server would refuse the Node; remove it from the labels of the NodeGroup"
    )]
    RefusedLabel(String),
    /// The template uses names that are not defined.
    #[error(
        "line {line} of the payload template uses an undefined value ({names}): define it, or correct its name"
    )]
    Undefined {
        /// Line of the template.
        line: usize,
        /// Candidates, or `unknown name`.
        names: String,
    },
    /// The template is wrong in another way.
    #[error("line {line} of the payload template: {problem}")]
    Template {
        /// Line of the template.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// The payload does not begin with `#!`.
    #[error("the payload must be a script that begins with #!, because VPSie runs it as a program")]
    NotAScript,
    /// The payload is too long.
    #[error("the payload has {0} bytes; at most {MAX_PAYLOAD} are possible: let the image contain more")]
    TooLong(usize),
    /// The payload contains a server token.
    #[error(
        "the payload contains a server token (`::server:`), which makes its holder an administrator of the cluster"
    )]
    ServerToken,
}

/// The template of the join kind.
pub fn builtin_template(kind: JoinKind) -> Result<&'static str, RenderError> {
    match kind {
        JoinKind::Kubeadm => Ok(include_str!("templates/kubeadm.sh")),
        JoinKind::K3s | JoinKind::Rke2 => Ok(include_str!("templates/agent.sh")),
        JoinKind::Custom => Err(RenderError::NoTemplate),
    }
}

/// Renders a template, and checks the payload.
pub fn render(template: &str, variables: &Variables) -> Result<SecretString, RenderError> {
    if let Some(label) = refused_label(variables.labels.keys()) {
        return Err(RenderError::RefusedLabel(label.to_owned()));
    }
    let values = variables.to_values();
    let environment = environment();
    let parsed = environment.template_from_str(template).map_err(|error| describe(&error, String::new()))?;
    let mut rendered = parsed.render(Value::from(values.clone())).map_err(|error| {
        let known = |name: &str| match name.strip_prefix("vars.") {
            Some(name) => variables.vars.contains_key(name),
            None => values.contains_key(name.split('.').next().unwrap_or(name)),
        };
        let used: BTreeSet<_> = parsed.undeclared_variables(true).into_iter().collect();
        let undefined: Vec<_> = used.into_iter().filter(|name| !known(name)).collect();
        describe(&error, undefined.join(", "))
    })?;
    rendered.truncate(rendered.trim_end().len());
    rendered.push('\n');
    check(rendered.into())
}

fn check(payload: SecretString) -> Result<SecretString, RenderError> {
    let text = payload.expose_secret();
    if !text.starts_with("#!") {
        return Err(RenderError::NotAScript);
    }
    if text.len() > MAX_PAYLOAD {
        return Err(RenderError::TooLong(text.len()));
    }
    if text.contains("::server:") {
        return Err(RenderError::ServerToken);
    }
    Ok(payload)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("yaml", yaml);
    environment.add_filter("sh", quote);
    environment
}

/// The error without values of variables: the engine's messages can have them.
fn describe(error: &Error, undefined: String) -> RenderError {
    let line = error.line().unwrap_or(1);
    match error.kind() {
        ErrorKind::UndefinedError => {
            let names = if undefined.is_empty() { "unknown name".to_owned() } else { undefined };
            RenderError::Undefined { line, names }
        }
        // These messages quote the template only.
        ErrorKind::SyntaxError
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction => {
            let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            RenderError::Template { line, problem: format!("{}{detail}", error.kind()) }
        }
        kind => RenderError::Template { line, problem: kind.to_string() },
    }
}

/// The value in YAML, on one line: JSON is YAML.
fn yaml(value: &Value) -> Result<String, Error> {
    Ok(to_json(value)?.to_string())
}

fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::None => serde_json::Value::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(number) => number.into(),
            Err(_) => f64::try_from(value.clone())?.into(),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|item| to_json(&item)).collect::<Result<Vec<_>, _>>()?.into()
        }
        ValueKind::Map => {
            let entry = |key: Value| Ok((key.to_string(), to_json(&value.get_item(&key)?)?));
            serde_json::Value::Object(value.try_iter()?.map(entry).collect::<Result<_, Error>>()?)
        }
        _ => value.to_string().into(),
    })
}

/// The text as one word of a shell.
fn quote(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    Ok(format!("'{}'", value.to_string().replace('\'', r"'\''")))
}
