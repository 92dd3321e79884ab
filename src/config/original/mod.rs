//! What became of the flags of the original VPSie autoscaler. Those that are gone are on the command line all the
//! same, hidden, so that each is refused with what replaced it, and all of them at once.

#[cfg(test)]
mod docs;
mod table;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::validation::Problem;

pub use table::{CONTROLLER, MANIFESTS, WEBHOOK};

/// A flag of the original VPSie autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalFlag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Its default there, or what the manifests gave it.
    pub default: &'static str,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It takes the same values and means the same. With what there is to know of it, or nothing.
    Same(&'static str),
    /// It is gone: why, and what replaced it.
    Refused(&'static str),
}

/// All of them.
fn all() -> impl Iterator<Item = &'static OriginalFlag> {
    [CONTROLLER, WEBHOOK, MANIFESTS].into_iter().flatten()
}

/// Those of the refused flags that were given.
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
        let refused = all().filter(|flag| matches!(flag.fate, Fate::Refused(_)));
        command.args(refused.map(|flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true);
            // Whatever is given with it: it is the flag that is answered, not its value.
            arg.num_args(0..=1).action(ArgAction::Append)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RefusedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let problem = |flag: &OriginalFlag| {
            let Fate::Refused(sentence) = flag.fate else { return None };
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
