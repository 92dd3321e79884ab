use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Logs, on standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct LogArgs {
    /// Log level: error, warn, info, debug, trace or off, also by module, such as
    /// info,vpsie_autoscaler::vpsie=debug. The longest matching module decides
    #[arg(long, value_name = "FILTER", env = "VPSIE_AUTOSCALER_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log format
    #[arg(long, value_name = "FORMAT", env = "VPSIE_AUTOSCALER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The format of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text lines.
    #[default]
    #[value(alias = "console")]
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is invalid.
    #[error("{0}")]
    Filter(String),
    /// Another component of the process has set up logging.
    #[error("cannot start logging: {0}")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the process's logs to standard error.
pub fn init_logs(args: &LogArgs) -> Result<(), LogError> {
    let filter = filter(&args.log_level).map_err(LogError::Filter)?;
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry();
    match args.log_format {
        LogFormat::Text => registry.with(logs).with(filter).try_init()?,
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_span_list(false);
            registry.with(logs).with(filter).try_init()?;
        }
    }
    Ok(())
}

/// Returns an error if a filter is invalid.
pub fn check_filter(text: &str) -> Result<(), String> {
    filter(text).map(drop)
}

// Not tracing's EnvFilter: spans and fields are not filtered here, and it compiles a regular expression
// engine.
fn filter(text: &str) -> Result<Targets, String> {
    let mut targets = Targets::new();
    for part in text.split(',') {
        let refusal = || {
            format!(
                "contains {part:?}, must be error, warn, info, debug, trace or off, also by module such as \
                 info,vpsie_autoscaler::vpsie=debug"
            )
        };
        let (module, level) =
            part.split_once('=').map_or((None, part), |(module, level)| (Some(module), level));
        let level = parse_level(level.trim()).ok_or_else(refusal)?;
        targets = match module.map(str::trim) {
            None => targets.with_default(level),
            Some(module) if is_module(module) => targets.with_target(module, level),
            Some(_) => return Err(refusal()),
        };
    }
    Ok(targets)
}

fn parse_level(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

fn is_module(name: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    name.split("::").all(is_part)
}

/// An error with its chain of causes. A cause that the text already contains is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn filters_are_levels_with_or_without_modules() {
        for good in ["info", "WARN", "off", "info, vpsie_autoscaler::vpsie=debug", "warn,kube=error"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        let bad = [
            "",
            "inof",
            "info,loud",
            "vpsie_autoscaler=verbose",
            "info,=,",
            "=info",
            "a=b=info",
            "a[{b}]=info",
        ];
        for bad in bad {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
        assert!(check_filter("inof").unwrap_err().starts_with("contains \"inof\", must be error, warn,"));
    }

    #[test]
    fn longest_matching_module_decides_the_level() {
        let filter = filter("warn,vpsie_autoscaler=info,vpsie_autoscaler::vpsie=debug,kube=off").unwrap();
        let most = |target: &str| {
            let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
            levels.into_iter().rfind(|level| filter.would_enable(target, level))
        };
        assert_eq!(most("hyper"), Some(Level::WARN));
        assert_eq!(most("vpsie_autoscaler::audit"), Some(Level::INFO));
        assert_eq!(most("vpsie_autoscaler::vpsie::client"), Some(Level::DEBUG));
        assert_eq!(most("kube::client"), None);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("request failed: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn a_chain_has_every_cause_once() {
        let error = Outer(Middle(std::io::Error::other("connection refused")));
        assert_eq!(chain(&error), "cannot read the list: request failed: connection refused");
    }
}
