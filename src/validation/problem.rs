//! Problems of user input, and notes on input without effect.

use std::fmt;

/// A problem or a note, with its location and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A flag, or file and line.
    pub place: String,
    /// The field, such as `spec.minNodes`; empty for the whole.
    pub field: String,
    /// The invalid value and what is allowed.
    pub message: String,
}

impl Problem {
    /// A problem at `place`.
    pub fn new(place: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.to_owned(), field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, field, message } = self;
        if field.is_empty() {
            write!(f, "{place}: {message}")
        } else {
            write!(f, "{place}: {field}: {message}")
        }
    }
}

/// All problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Problems and notes of one NodeGroup: field and message.
#[derive(Default)]
pub(super) struct Findings {
    /// Problems.
    pub(super) wrong: Vec<(String, String)>,
    /// Input without effect.
    pub(super) notes: Vec<(String, String)>,
}

impl Findings {
    pub(super) fn add_problem(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.wrong.push((field.into(), message.into()));
    }

    pub(super) fn add_note(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.notes.push((field.into(), message.into()));
    }

    pub(super) fn require(&mut self, field: impl Into<String>, rule: Result<(), String>) {
        if let Err(message) = rule {
            self.add_problem(field, message);
        }
    }
}
