//! The command line: one file per subcommand.

mod crds;
#[cfg(test)]
mod docs;
mod explain;
mod http_query;
mod interrupt;
mod offers;
mod serve;
mod table;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, CommandFactory, Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub use explain::render;

use crate::config::{ServeArgs, Settings};
#[cfg(any(feature = "simulator", test))]
use crate::simulator::{self, SimulatorArgs};
use crate::telemetry::chain;
#[cfg(any(feature = "simulator", test))]
use crate::telemetry::{LogArgs, init_logs};
use crate::validation::Problems;

/// Cloud provider for Kubernetes Cluster Autoscaler on VPSie
#[derive(Debug, Parser)]
#[command(name = "vpsie-autoscaler", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves Cluster Autoscaler
    Serve(Box<ServeArgs>),
    /// Checks settings and NodeGroup manifests as `serve` would, and shows the resulting pools.
    /// Credentials are checked only if they are given
    Validate(Box<ServeArgs>),
    /// Shows the last decisions of the expander: the options, their costs, and the reasons for their order
    Explain(explain::ExplainArgs),
    /// Shows offers with their prices, cheapest first. Flags set the minimums of a machine
    Offers(offers::OffersArgs),
    /// Sets an interruption notice on a Node, or shows its effect (--dry-run)
    Interrupt(interrupt::InterruptArgs),
    /// Prints the CustomResourceDefinitions of AutoscalerConfig, NodeGroup and VPSieNode, for `kubectl apply
    /// -f -`
    Crds,
    /// Runs a simulated VPSie API, for trials without an account and for tests. Images and releases are built
    /// without it
    #[cfg(any(feature = "simulator", test))]
    Simulator(Box<SimulatorCommand>),
}

#[cfg(any(feature = "simulator", test))]
#[derive(clap::Args, Debug)]
struct SimulatorCommand {
    #[command(flatten)]
    simulator: SimulatorArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Parses the command line and runs it. The exit code is 0, 1 after a failure, or 2 for an invalid command
/// line.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Cli { command } = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => {
            match without_serve(&words) {
                Some(report) => eprintln!("{report}"),
                None => {
                    let _ = error.print();
                }
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match command {
        Command::Serve(args) => block_on(|shutdown| serve::run(*args, shutdown)),
        Command::Validate(args) => validate::run(*args, &mut std::io::stdout()),
        Command::Explain(args) => block_on(|_| explain::run(args)),
        Command::Offers(args) => block_on(|_| offers::run(args)),
        Command::Interrupt(args) => block_on(|_| interrupt::run(args)),
        Command::Crds => crds::run(&mut std::io::stdout()),
        #[cfg(any(feature = "simulator", test))]
        Command::Simulator(command) => {
            let SimulatorCommand { simulator, log } = *command;
            init_logs(&log)
                .map_err(Into::into)
                .and_then(|()| block_on(|shutdown| simulator::run(simulator, shutdown)))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<Problems>() {
                Some(problems) => eprintln!("{problems}"),
                None => eprintln!("error: {}", chain(error.as_ref())),
            }
            ExitCode::FAILURE
        }
    }
}

/// The error for flags of `serve` without the subcommand, as the original VPSie autoscaler had them, with the
/// other problems of these flags.
fn without_serve(words: &[OsString]) -> Option<String> {
    let [program, flags @ ..] = words else { return None };
    let first = flags.first()?.to_str()?.strip_prefix("--")?.split('=').next();
    let cli = Cli::command();
    let has = |arg: &Arg| {
        let others = arg.get_all_aliases().unwrap_or_default().into_iter().map(Some);
        others.chain([arg.get_long()]).any(|name| name == first)
    };
    if !cli.find_subcommand("serve")?.get_arguments().any(has) {
        return None;
    }
    let serve = OsString::from("serve");
    let more = match Cli::try_parse_from([program, &serve].into_iter().chain(flags)) {
        Ok(Cli { command: Command::Serve(args) }) => Settings::new(*args).err().map(|more| more.to_string()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    let missing = "serve: is missing: write `vpsie-autoscaler serve` before the flags; add `--store=kubernetes \
                   --kubeconfig=in-cluster` if the NodeGroups are in its own cluster";
    Some(format!("{missing}\n{}", more.unwrap_or_default()).trim_end().to_owned())
}

fn block_on<F>(command: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = Runtime::new()?;
    let shutdown = CancellationToken::new();
    runtime.spawn(stop_on_signal(shutdown.clone()));
    let result = runtime.block_on(command(shutdown));
    // The subcommand has waited for its blocking tasks already.
    runtime.shutdown_background();
    result
}

/// Cancels on the first SIGINT or SIGTERM, and ends the process on the second.
async fn stop_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("cannot receive signals: only SIGKILL ends this process");
        return;
    };
    for is_second in [false, true] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if is_second {
            std::process::exit(1);
        }
        shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }
}
