use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Logs, on standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug or trace, also by module, such as info,vpsie_autoscaler::vpsie=debug
    #[arg(long, value_name = "FILTER", env = "VPSIE_AUTOSCALER_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// How it is written
    #[arg(long, value_name = "FORMAT", env = "VPSIE_AUTOSCALER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    #[value(alias = "console")]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("{0}")]
    Filter(String),
    /// Something else in the process took the logs.
    #[error("cannot start logs: {0}")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the process's logs to standard error.
pub fn init_logs(args: &LogArgs) -> Result<(), LogError> {
    let filter = filter(&args.log_level).map_err(LogError::Filter)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => logs.finish().try_init()?,
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).finish().try_init()?,
    }
    Ok(())
}

/// Whether a filter can be read.
pub fn check_filter(text: &str) -> Result<(), String> {
    filter(text).map(drop)
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    let want = "must be error, warn, info, debug, trace or off, also by module such as \
                info,vpsie_autoscaler::vpsie=debug";
    // EnvFilter takes a misspelt level for the name of a module.
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let misspelt = |part: &&str| {
        let level = part.rsplit('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        !levels.contains(&level.as_str())
    };
    if let Some(part) = text.split(',').find(misspelt) {
        return Err(format!("has {part:?}, {want}"));
    }
    EnvFilter::builder().parse(text).map_err(|_| format!("is {text:?}, {want}"))
}

/// An error with all that caused it, for a log or a person. What an error already says of its cause is not
/// said twice.
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
    use super::*;

    #[test]
    fn filters_are_levels_with_or_without_modules() {
        for good in ["info", "WARN", "off", "info,vpsie_autoscaler::vpsie=debug", "warn,kube=error"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["", "inof", "info,loud", "vpsie_autoscaler=verbose", "info,=,"] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
        assert!(check_filter("inof").unwrap_err().starts_with("has \"inof\", must be error, warn,"));
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
