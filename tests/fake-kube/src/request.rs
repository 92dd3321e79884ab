//! Requests, parsed from method and URL.

use std::collections::BTreeMap;

use http::{Method, Uri};
use serde_json::Value;

use crate::kinds::Kind;
use crate::status_error::StatusError;

/// The RBAC verb of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads all objects.
    List,
    /// Reads changes.
    Watch,
    /// `POST`.
    Create,
    /// `PUT`.
    Update,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
}

impl Verb {
    /// Returns true iff it can change objects.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request in hooks and in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// The client's name.
    pub client: String,
    /// The verb.
    pub verb: Verb,
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The resource, such as `vpsienodes`. Empty if the path is not that of a resource.
    pub plural: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object, or empty.
    pub name: String,
    /// The subresource, such as `status`, or empty.
    pub subresource: String,
    /// The parameters of the query.
    pub query: BTreeMap<String, String>,
}

impl ApiRequest {
    /// Returns true iff it is this verb on this resource, without subresource.
    pub fn is_verb_on(&self, verb: Verb, plural: &str) -> bool {
        self.verb == verb && self.plural == plural && self.subresource.is_empty()
    }
}

/// The target of a URL.
pub(crate) struct RequestTarget {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    pub(crate) query: BTreeMap<String, String>,
}

impl RequestTarget {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, StatusError> {
        let not_found = || StatusError::new(404, "the server could not find the requested resource");
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned);
        let mut next = || parts.next();
        let (group, version) = match next().as_deref() {
            Some("api") => (String::new(), next()),
            Some("apis") => (next().ok_or_else(not_found)?, next()),
            _ => return Err(not_found()),
        };
        let version = version.ok_or_else(not_found)?;
        let mut plural = next().ok_or_else(not_found)?;
        let mut namespace = None;
        let mut name = next();
        let mut subresource = next();
        if plural == "namespaces"
            && let (Some(of), Some(of_plural)) = (&name, &subresource)
        {
            (namespace, plural) = (Some(of.clone()), of_plural.clone());
            (name, subresource) = (next(), next());
        }
        let kind = Kind::served(&group, &version, &plural).ok_or_else(not_found)?;
        let misplaced =
            if kind.namespaced { name.is_some() && namespace.is_none() } else { namespace.is_some() };
        if misplaced || next().is_some() {
            return Err(not_found());
        }
        let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Ok(Self { kind, namespace, name, subresource, query: query.into_owned().collect() })
    }

    pub(crate) fn param(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn watches(&self) -> bool {
        matches!(self.param("watch"), Some("true" | "1"))
    }

    pub(crate) fn verb(&self, method: &Method) -> Verb {
        match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if self.watches() => Verb::Watch,
            _ if self.name.is_some() => Verb::Get,
            _ => Verb::List,
        }
    }

    pub(crate) fn selector(&self) -> Result<Selector, StatusError> {
        Selector::parse(self.param("labelSelector"), self.param("fieldSelector"))
    }
}

/// Labels and fields that must have, or must not have, a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<Term>);

#[derive(Clone, Debug)]
struct Term {
    path: Vec<String>,
    /// None: any value.
    value: Option<String>,
    equal: bool,
}

impl Selector {
    fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, StatusError> {
        let mut terms = Vec::new();
        for term in labels.unwrap_or_default().split(',').filter(|term| !term.is_empty()) {
            let label = |key: &str| vec!["metadata".to_owned(), "labels".to_owned(), key.trim().to_owned()];
            terms.push(parse_term(term, label)?);
        }
        for term in fields.unwrap_or_default().split(',').filter(|term| !term.is_empty()) {
            terms.push(parse_term(term, |key| key.trim().split('.').map(str::to_owned).collect())?);
        }
        Ok(Self(terms))
    }

    pub(crate) fn fits(&self, object: &Value) -> bool {
        self.0.iter().all(|term| {
            let found = term.path.iter().try_fold(object, |value, key| value.get(key));
            let fits = match (found, &term.value) {
                (Some(Value::String(text)), Some(value)) => text == value,
                (Some(Value::Bool(flag)), Some(value)) => value.parse() == Ok(*flag),
                (Some(_), Some(_)) => false,
                // A missing field counts as empty.
                (None, Some(value)) => value.is_empty(),
                (found, None) => found.is_some(),
            };
            fits == term.equal
        })
    }
}

fn parse_term(term: &str, path: impl Fn(&str) -> Vec<String>) -> Result<Term, StatusError> {
    if term.contains([' ', '(']) {
        return Err(StatusError::new(400, format!("selector {term:?}: only = and != are served")));
    }
    Ok(if let Some((key, value)) = term.split_once("!=") {
        Term { path: path(key), value: Some(value.to_owned()), equal: false }
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        Term { path: path(key), value: Some(value.to_owned()), equal: true }
    } else if let Some(key) = term.strip_prefix('!') {
        Term { path: path(key), value: None, equal: false }
    } else {
        Term { path: path(term), value: None, equal: true }
    })
}
