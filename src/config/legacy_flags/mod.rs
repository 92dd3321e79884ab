//! Flags of the original VPSie autoscaler. The command line accepts the removed ones as hidden flags, so that
//! all of them are refused at once, each with its replacement.

#[cfg(test)]
mod docs;
mod table;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::validation::Problem;

pub use table::{CONTROLLER, MANIFESTS, WEBHOOK};

/// A flag of the original VPSie autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyFlag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Its default in the original, or its value in the manifests of the original.
    pub default: &'static str,
    /// Its support by this program.
    pub support: Support,
}

/// The support of a flag of the original by this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Same values and meaning. With a note for the documentation, which may be empty.
    Same(&'static str),
    /// Removed. With the reason and the replacement.
    Refused(&'static str),
}

/// All flags of the original.
fn all() -> impl Iterator<Item = &'static LegacyFlag> {
    [CONTROLLER, WEBHOOK, MANIFESTS].into_iter().flatten()
}

/// The refused flags on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedArgs {
    problems: Vec<Problem>,
}

impl RefusedArgs {
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl Args for RefusedArgs {
    fn augment_args(command: Command) -> Command {
        let refused = all().filter(|flag| matches!(flag.support, Support::Refused(_)));
        command.args(refused.map(|flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true);
            // Any value is accepted: the refusal concerns the flag.
            arg.num_args(0..=1).action(ArgAction::Append)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RefusedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let problem = |flag: &LegacyFlag| {
            let Support::Refused(sentence) = flag.support else { return None };
            matches.value_source(flag.name)?;
            Some(Problem::new(&format!("--{}", flag.name), "", sentence))
        };
        Ok(Self { problems: all().filter_map(problem).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
