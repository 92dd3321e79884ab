//! Faults by rule: `<METHOD> <path glob> <effect> [options]`.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A fault and its conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// The HTTP method. None: every method.
    pub method: Option<String>,
    /// The path glob: `*` matches anything but `/`, `**` matches anything.
    pub path: String,
    /// The effect.
    pub effect: Effect,
    /// Number of matching requests that pass first.
    pub skip: u32,
    /// Maximum number of times. None: no maximum.
    pub count: Option<u32>,
    /// Probability per matching request, 0 to 1.
    pub probability: f64,
}

/// The effect of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A JSON error with that HTTP status.
    Status {
        /// HTTP status.
        code: u16,
        /// Whether the request is executed before the reply.
        execution: Execution,
        /// Value of `Retry-After`: seconds, a date, or malformed text.
        retry_after: Option<String>,
        /// The message. None: the reason phrase of the status.
        message: Option<String>,
    },
    /// An HTML page with that HTTP status.
    Html {
        /// HTTP status.
        code: u16,
        /// Whether the request is executed before the reply.
        execution: Execution,
    },
    /// The request is executed after this time.
    Delay(SignedDuration),
    /// The request is executed at once; the body is sent in pieces over this time.
    Slow(SignedDuration),
    /// The request is executed; the reply is not sent.
    Lost,
    /// The request is not executed: the connection fails.
    NotSent,
    /// The request is executed twice.
    Duplicate,
}

/// Whether the request is executed before the error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Executed.
    Executed,
    /// Not executed.
    Skipped,
}

/// A malformed [`FaultRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "fault {text:?}: {problem}; a rule must be <METHOD|*> <path glob> <effect> [options], with an effect of \
     status=CODE, html=CODE, delay=TIME, slow=TIME, lost, not-sent, duplicate, and options of done, count=N, \
     skip=N, p=0..1, retry-after=TEXT, message=WORD"
)]
pub struct FaultError {
    text: String,
    problem: String,
}

impl FaultRule {
    /// Returns true iff method and path match, regardless of count and probability.
    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|m| m == method) && glob(self.path.as_bytes(), path.as_bytes())
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|i| glob(rest, &text[i..])),
        [b'*', rest @ ..] => {
            let segment = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=segment).any(|i| glob(rest, &text[i..]))
        }
        [first, rest @ ..] => text.split_first().is_some_and(|(t, text)| t == first && glob(rest, text)),
    }
}

impl FromStr for FaultRule {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        parse(text).map_err(|problem| FaultError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<FaultRule, String> {
    let mut words = text.split_whitespace();
    let method = words.next().ok_or("the rule is empty")?;
    let method = match method {
        "*" => None,
        "GET" | "POST" | "PUT" | "DELETE" => Some(method.to_owned()),
        other => return Err(format!("method {other:?} must be one of *, GET, POST, PUT, DELETE")),
    };
    let path = words.next().ok_or("the path glob is missing")?.to_owned();
    if !path.starts_with(['/', '*']) {
        return Err(format!("path glob {path:?} must start with / or *"));
    }
    let effect = words.next().ok_or("the effect is missing")?;
    let mut rule =
        FaultRule { method, path, effect: parse_effect(effect)?, skip: 0, count: None, probability: 1.0 };
    for word in words {
        apply(&mut rule, word)?;
    }
    Ok(rule)
}

fn parse_effect(word: &str) -> Result<Effect, String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let status = || {
        let code = value.parse().ok().filter(|code| (400..=599).contains(code));
        code.ok_or_else(|| format!("{name}={value:?} must be an HTTP status of 400 to 599"))
    };
    let time = || {
        let time = value.parse::<SignedDuration>().ok().filter(|time| !time.is_negative());
        time.ok_or_else(|| format!("{name}={value:?} must be a time such as 3s"))
    };
    Ok(match name {
        "status" => Effect::Status {
            code: status()?,
            execution: Execution::Skipped,
            retry_after: None,
            message: None,
        },
        "html" => Effect::Html { code: status()?, execution: Execution::Skipped },
        "delay" => Effect::Delay(time()?),
        "slow" => Effect::Slow(time()?),
        "lost" if value.is_empty() => Effect::Lost,
        "not-sent" if value.is_empty() => Effect::NotSent,
        "duplicate" if value.is_empty() => Effect::Duplicate,
        _ => return Err(format!("effect {word:?} is unknown")),
    })
}

fn apply(rule: &mut FaultRule, word: &str) -> Result<(), String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let number = || value.parse::<u32>().map_err(|_| format!("{name}={value:?} must be a number"));
    match (name, &mut rule.effect) {
        ("count", _) => rule.count = Some(number()?),
        ("skip", _) => rule.skip = number()?,
        ("p", _) => {
            let p = value.parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p));
            rule.probability = p.ok_or_else(|| format!("p={value:?} must be 0 to 1"))?;
        }
        ("done", Effect::Status { execution, .. } | Effect::Html { execution, .. }) if value.is_empty() => {
            *execution = Execution::Executed;
        }
        ("retry-after", Effect::Status { retry_after, .. }) => *retry_after = Some(value.replace('_', " ")),
        ("message", Effect::Status { message, .. }) => *message = Some(value.replace('_', " ")),
        _ => return Err(format!("option {word:?} is unknown or invalid for the effect")),
    }
    Ok(())
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.method.as_deref().unwrap_or("*"), self.path)?;
        match &self.effect {
            Effect::Status { code, execution, retry_after, message } => {
                write!(f, "status={code}{}", execution_option(*execution))?;
                if let Some(text) = retry_after {
                    write!(f, " retry-after={}", text.replace(' ', "_"))?;
                }
                if let Some(message) = message {
                    write!(f, " message={}", message.replace(' ', "_"))?;
                }
            }
            Effect::Html { code, execution } => write!(f, "html={code}{}", execution_option(*execution))?,
            Effect::Delay(time) => write!(f, "delay={time}")?,
            Effect::Slow(time) => write!(f, "slow={time}")?,
            Effect::Lost => f.write_str("lost")?,
            Effect::NotSent => f.write_str("not-sent")?,
            Effect::Duplicate => f.write_str("duplicate")?,
        }
        if self.skip > 0 {
            write!(f, " skip={}", self.skip)?;
        }
        if let Some(count) = self.count {
            write!(f, " count={count}")?;
        }
        if self.probability < 1.0 {
            write!(f, " p={}", self.probability)?;
        }
        Ok(())
    }
}

fn execution_option(execution: Execution) -> &'static str {
    match execution {
        Execution::Executed => " done",
        Execution::Skipped => "",
    }
}

impl Serialize for FaultRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FaultRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The active rules with their counters.
#[derive(Debug, Default)]
pub(super) struct Faults {
    next: u64,
    rules: Vec<ActiveRule>,
}

/// An active rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveRule {
    /// Its id.
    pub id: u64,
    /// The rule.
    pub rule: FaultRule,
    /// Number of matching requests.
    pub matched: u32,
    /// Number of applications.
    pub applied: u32,
}

impl Faults {
    pub(super) fn add(&mut self, rule: FaultRule) -> u64 {
        self.next += 1;
        self.rules.push(ActiveRule { id: self.next, rule, matched: 0, applied: 0 });
        self.next
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|active| active.id != id);
        self.rules.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn list(&self) -> Vec<ActiveRule> {
        self.rules.clone()
    }

    /// Selects the effect of the first rule that applies to a request.
    pub(super) fn select_effect(
        &mut self,
        method: &str,
        path: &str,
        rng: &mut impl rand::RngExt,
    ) -> Option<Effect> {
        let active = self.rules.iter_mut().filter(|active| active.rule.matches(method, path));
        for ActiveRule { rule, matched, applied, .. } in active {
            *matched += 1;
            if *matched <= rule.skip || rule.count.is_some_and(|count| *applied >= count) {
                continue;
            }
            if rule.probability >= 1.0 || rng.random_bool(rule.probability) {
                *applied += 1;
                return Some(rule.effect.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;

    #[test]
    fn rules_survive_formatting() {
        for text in [
            "POST **/add/slave/group/* lost",
            "* /apps/v2/** status=503",
            "GET ** status=503 retry-after=Fri,_01_Jan_2027_00:00:00_GMT",
            "GET ** status=429 done retry-after=7 message=slow_down skip=2 count=3 p=0.5",
            "DELETE ** html=502 done",
            "GET ** delay=1m 30s",
            "POST ** slow=10s",
            "POST ** duplicate count=1",
            "* ** not-sent",
        ] {
            let text = text.replace("1m 30s", "90s");
            let rule: FaultRule = text.parse().unwrap();
            assert_eq!(rule.to_string().parse(), Ok(rule), "{text}");
        }
    }

    #[test]
    fn a_malformed_rule_names_the_problem() {
        for (text, problem) in [
            ("", "the rule is empty"),
            ("PATCH ** lost", "method \"PATCH\" must be one of *, GET, POST, PUT, DELETE"),
            ("GET", "the path glob is missing"),
            ("GET k8s lost", "path glob \"k8s\" must start with / or *"),
            ("GET **", "the effect is missing"),
            ("GET ** explode", "effect \"explode\" is unknown"),
            ("GET ** status=200", "status=\"200\" must be an HTTP status of 400 to 599"),
            ("GET ** delay=soon", "delay=\"soon\" must be a time such as 3s"),
            ("GET ** lost count=x", "count=\"x\" must be a number"),
            ("GET ** lost p=2", "p=\"2\" must be 0 to 1"),
            ("GET ** lost done", "option \"done\" is unknown or invalid for the effect"),
        ] {
            let error = text.parse::<FaultRule>().unwrap_err();
            assert_eq!(error.problem, problem, "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, path, matches) in [
            ("**", "/apps/v2/vm", true),
            ("/apps/v2/vm", "/apps/v2/vm", true),
            ("/apps/v2/vm", "/apps/v2/vms", false),
            ("/apps/*/vm", "/apps/v2/vm", true),
            ("/apps/*", "/apps/v2/vm", false),
            ("**/group/*", "/apps/v2/k8s/cluster/byId/x/add/slave/group/7", true),
            ("**/group", "/apps/v2/k8s/cluster/byId/x/add/slave/group/7", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), path.as_bytes()), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn the_first_applicable_rule_wins() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut faults = Faults::default();
        faults.add("GET ** lost skip=1 count=1".parse().unwrap());
        faults.add("* ** duplicate".parse().unwrap());
        let mut select_effect = |method| faults.select_effect(method, "/x", &mut rng);
        assert_eq!(select_effect("GET"), Some(Effect::Duplicate));
        assert_eq!(select_effect("POST"), Some(Effect::Duplicate));
        assert_eq!(select_effect("GET"), Some(Effect::Lost));
        assert_eq!(select_effect("GET"), Some(Effect::Duplicate));
    }

    #[test]
    fn faults_apply_with_the_given_probability() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut faults = Faults::default();
        faults.add("* ** lost p=0.25".parse().unwrap());
        let applied = (0..1000).filter(|_| faults.select_effect("GET", "/x", &mut rng).is_some()).count();
        assert!((200..300).contains(&applied), "{applied}");
    }
}
