//! What can go wrong on the way to the server and back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::refusal::Refusal;
use crate::request::Asked;

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// How long it takes to get there.
    pub delay: Duration,
    /// What happens then.
    pub then: Then,
}

/// What happens to a request that arrived, or did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// It is done and answered.
    #[default]
    Done,
    /// It is not done, and this is the answer.
    Refused(Refusal),
    /// It is done, and the connection breaks before the answer.
    ReplyLost,
    /// It is not done; the connection breaks.
    RequestLost,
    /// It is not done, and no answer ever comes.
    Hangs,
    /// It is done, and no answer ever comes.
    DoneAndHangs,
}

impl From<Then> for Fate {
    fn from(then: Then) -> Self {
        Self { delay: Duration::ZERO, then }
    }
}

impl Fate {
    /// Refused with this HTTP status.
    pub fn refused(code: u16) -> Self {
        Then::Refused(Refusal::new(code, "refused by a test")).into()
    }

    /// Refused with 429 and the wish that the client wait so many seconds.
    pub fn throttled(seconds: u32) -> Self {
        let refusal = Refusal::new(429, "too many requests, please try again later");
        Then::Refused(Refusal { retry_after: Some(seconds), ..refusal }).into()
    }
}

type Matches = Arc<dyn Fn(&Asked) -> bool + Send + Sync>;
type Hook = Arc<dyn Fn(&Asked) -> Fate + Send + Sync>;

#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) latency: Duration,
    pub(crate) rules: Vec<(u32, Matches, Fate)>,
    pub(crate) hook: Option<Hook>,
    pub(crate) partitioned: BTreeSet<String>,
    pub(crate) down: bool,
    pub(crate) watches_held: bool,
    /// Watches of an earlier one are cut.
    pub(crate) cuts: u64,
    /// Watches of an earlier one tell nothing any more and do not end.
    pub(crate) silences: u64,
}

impl Faults {
    /// What becomes of it, by the first rule that fits, or else by the hook, called outside of the lock.
    pub(crate) fn fate(&mut self, asked: &Asked) -> Result<Fate, Option<Hook>> {
        if self.down {
            return Ok(Then::RequestLost.into());
        }
        let Some(at) = self.rules.iter().position(|(_, matches, _)| matches(asked)) else {
            return Err(self.hook.clone());
        };
        let (left, _, fate) = &mut self.rules[at];
        *left = left.saturating_sub(1);
        let (done, fate) = (*left == 0, fate.clone());
        if done {
            self.rules.remove(at);
        }
        Ok(fate)
    }
}
