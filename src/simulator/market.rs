//! The spot market: prices that move, capacity that comes and goes, and interruptions. Off by default. Pure: prices and
//! capacity are functions of seed, offer, datacenter and time.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rust_decimal::Decimal;
use rust_decimal::prelude::FromPrimitive as _;
use serde::{Deserialize, Serialize};

use super::anomalies::draw_event;
use super::config_error::ConfigError;
use super::span::{Span, later};

/// Hours of a month, for interruption rates.
const HOURS_PER_MONTH: f64 = 730.0;
/// Octaves of the noise of prices.
const OCTAVES: i32 = 3;
/// Interruptions are planned for this time ahead.
const HORIZON: SignedDuration = SignedDuration::from_hours(31 * 24);

/// The spot market.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MarketConfig {
    /// Maximum deviation of a spot price from that of its offer, 0 (constant) to below 1.
    pub price_range: f64,
    /// Time in which a spot price changes by a large part of its range.
    pub price_step: SignedDuration,
    /// Mean time in which an offer has spot capacity in a datacenter.
    pub available: SignedDuration,
    /// Mean time in which it then has none. 0: never.
    pub sold_out: SignedDuration,
    /// Probability that a spot VM is interrupted when its offer is sold out, 0 to 1.
    pub reclaimed: f64,
    /// Other interruptions, percent of spot VMs a month. May exceed 100.
    pub interruption_rate: f64,
    /// Other rates of some offers or datacenters. The first entry that matches applies.
    pub rates: Vec<RateConfig>,
    /// Time from a notice to the interruption.
    pub notice: Span,
    /// Probability that an interruption has no notice, 0 to 1.
    pub unannounced: f64,
    /// Probability that a notice is withdrawn, 0 to 1.
    pub withdrawn: f64,
    /// Probability that the VM ends later than its notice says, 0 to 1.
    pub late: f64,
    /// Delay of such a VM.
    pub late_by: Span,
    /// Events at fixed times.
    pub events: Vec<MarketEvent>,
}

/// The interruption rate of an offer in a datacenter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateConfig {
    /// Name of the offer. None: all.
    #[serde(default)]
    pub offer: Option<String>,
    /// Identifier of the datacenter. None: all.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Percent of spot VMs a month.
    pub interruption_rate: f64,
}

/// An event at a fixed time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MarketEvent {
    /// Time from the start of the simulator.
    pub at: SignedDuration,
    /// Interruptions.
    #[serde(default)]
    pub storm: Option<Storm>,
    /// A new maximum of spot VMs.
    #[serde(default)]
    pub capacity: Option<CapacityEvent>,
}

/// Interruptions of a share of the spot VMs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storm {
    /// Name of their offer. None: all.
    #[serde(default)]
    pub offer: Option<String>,
    /// Identifier of their datacenter. None: all.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Share of them, above 0 to 1; rounded up to whole VMs.
    #[serde(default = "full_share")]
    pub share: f64,
    /// Time from the notice to the interruption. 0: no notice.
    pub notice: SignedDuration,
}

/// A new maximum of spot VMs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityEvent {
    /// Name of the offer.
    pub offer: String,
    /// Identifier of the datacenter. None: each datacenter.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Maximum number of spot VMs, including existing ones. None: no limit.
    #[serde(default)]
    pub limit: Option<u32>,
}

fn full_share() -> f64 {
    1.0
}

/// A planned or announced interruption of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// Time of the notice.
    pub announced_at: Timestamp,
    /// Time of the end that the notice shows. None: there is no notice.
    pub deadline: Option<Timestamp>,
    /// Time of the end, or of the withdrawal of the notice.
    pub until: Timestamp,
    /// Whether the notice is withdrawn, and the VM does not end.
    pub withdrawn: bool,
}

/// A class of spot VMs.
#[derive(Clone, Copy, Debug)]
pub(super) struct MarketClass<'a> {
    pub(super) seed: u64,
    pub(super) size: u64,
    pub(super) offer: &'a str,
    pub(super) datacenter: &'a str,
}

impl Default for MarketConfig {
    fn default() -> Self {
        Self {
            price_range: 0.0,
            price_step: SignedDuration::from_hours(1),
            available: SignedDuration::from_hours(6),
            sold_out: SignedDuration::ZERO,
            reclaimed: 0.0,
            interruption_rate: 0.0,
            rates: Vec::new(),
            notice: Span::exactly(SignedDuration::from_mins(2)),
            unannounced: 0.0,
            withdrawn: 0.0,
            late: 0.0,
            late_by: Span::exactly(SignedDuration::from_mins(5)),
            events: Vec::new(),
        }
    }
}

impl MarketConfig {
    /// Checks the ranges of the values. `is_known` returns true iff offer and datacenter exist.
    pub(super) fn validate(
        &self,
        is_known: impl Fn(Option<&str>, Option<&str>) -> bool,
    ) -> Result<(), ConfigError> {
        let error =
            |field: &str, problem: String| Err(ConfigError { field: format!("spotMarket.{field}"), problem });
        for (field, probability) in [
            ("reclaimed", self.reclaimed),
            ("unannounced", self.unannounced),
            ("withdrawn", self.withdrawn),
            ("late", self.late),
        ] {
            if !(0.0..=1.0).contains(&probability) {
                return error(field, format!("must be 0 to 1, is {probability}"));
            }
        }
        if !(0.0..1.0).contains(&self.price_range) {
            return error("priceRange", format!("must be 0 to below 1, is {}", self.price_range));
        }
        let second = SignedDuration::from_secs(1);
        for (field, time) in [("priceStep", self.price_step), ("available", self.available)] {
            if time < second {
                return error(field, format!("must be 1s or more, is {time}"));
            }
        }
        if self.sold_out.is_negative() || self.sold_out > self.available {
            return error(
                "soldOut",
                format!("must be 0s to {}, that of available, is {}", self.available, self.sold_out),
            );
        }
        let rates = self.rates.iter().map(|rate| rate.interruption_rate).chain([self.interruption_rate]);
        if let Some(rate) = rates.into_iter().find(|rate| !rate.is_finite() || *rate < 0.0) {
            return error("interruptionRate", format!("must be 0 or more, is {rate}"));
        }
        let names = self.rates.iter().map(|rate| ("rates", &rate.offer, &rate.datacenter));
        let storms = self.events.iter().filter_map(|event| event.storm.as_ref());
        for (field, offer, datacenter) in
            names.chain(storms.clone().map(|storm| ("events.storm", &storm.offer, &storm.datacenter)))
        {
            if !is_known(offer.as_deref(), datacenter.as_deref()) {
                return error(field, format!("offer {offer:?} or datacenter {datacenter:?} is unknown"));
            }
        }
        for event in &self.events {
            if event.storm.is_some() == event.capacity.is_some() {
                return error("events", "set either storm or capacity in each event".to_owned());
            }
            if let Some(capacity) = &event.capacity
                && !is_known(Some(&capacity.offer), capacity.datacenter.as_deref())
            {
                return error(
                    "events.capacity",
                    format!("offer {:?} or its datacenter is unknown", capacity.offer),
                );
            }
        }
        match storms.map(|storm| storm.share).find(|share| !(*share > 0.0 && *share <= 1.0)) {
            Some(share) => error("events.storm.share", format!("must be above 0 to 1, is {share}")),
            None => Ok(()),
        }
    }

    /// The factor of the spot price of a class at a time: noise between `1 - priceRange` and `1 + priceRange`.
    pub(super) fn price_factor(&self, class: MarketClass<'_>, now: Timestamp) -> Decimal {
        if self.price_range == 0.0 {
            return Decimal::ONE;
        }
        let steps = now.as_second() as f64 / self.price_step.as_secs_f64();
        let octave = |octave: i32| {
            let frequency = 2_f64.powi(octave);
            class.noise(octave as u64, steps * frequency) / frequency
        };
        let total: f64 = (0..OCTAVES).map(octave).sum();
        let most: f64 = (0..OCTAVES).map(|octave| 2_f64.powi(-octave)).sum();
        Decimal::from_f64(1.0 + self.price_range * total / most).unwrap_or(Decimal::ONE)
    }

    /// Whether a class has no spot capacity at a time.
    pub(super) fn is_sold_out(&self, class: MarketClass<'_>, now: Timestamp) -> bool {
        self.sold_out_period(class, self.period(now)).is_some_and(|(from, to)| (from..to).contains(&now))
    }

    fn period(&self, now: Timestamp) -> i64 {
        now.as_second().div_euclid((self.available + self.sold_out).as_secs())
    }

    /// The time without capacity in a period of `available` and `soldOut`. Its length is a half to three halves of
    /// `soldOut`.
    fn sold_out_period(&self, class: MarketClass<'_>, period: i64) -> Option<(Timestamp, Timestamp)> {
        if self.sold_out.is_zero() {
            return None;
        }
        let whole = (self.available + self.sold_out).as_secs();
        let length = self.sold_out.as_secs_f64() * (0.5 + class.unit("length", period));
        let start = (whole as f64 - length) * class.unit("start", period);
        let from = Timestamp::from_second(period * whole + start as i64).ok()?;
        Some((from, later(from, SignedDuration::from_secs(length as i64))))
    }

    /// Draws the interruptions of a new spot VM. All but the last are withdrawn; the last one ends the VM, if it comes in
    /// time.
    pub(super) fn plan_interruptions(
        &self,
        class: MarketClass<'_>,
        now: Timestamp,
        rng: &mut impl RngExt,
    ) -> Vec<Interruption> {
        let mut planned = Vec::new();
        let mut from = now;
        let horizon = later(now, HORIZON);
        while let Some(announced_at) = self.next_interruption(class, from, rng).filter(|at| *at < horizon) {
            let notice = self.notice.draw(rng);
            let is_announced = !draw_event(self.unannounced, rng);
            let withdrawn = is_announced && draw_event(self.withdrawn, rng);
            let deadline = later(announced_at, notice);
            let until = match (is_announced, withdrawn) {
                (false, _) => announced_at,
                (true, true) => later(announced_at, notice / 2),
                (true, false) if draw_event(self.late, rng) => later(deadline, self.late_by.draw(rng)),
                (true, false) => deadline,
            };
            let deadline = is_announced.then_some(deadline);
            planned.push(Interruption { announced_at, deadline, until, withdrawn });
            if !withdrawn {
                break;
            }
            from = later(until, SignedDuration::from_secs(1));
        }
        planned
    }

    /// The time of the next interruption: by rate, or because the class is sold out.
    fn next_interruption(
        &self,
        class: MarketClass<'_>,
        from: Timestamp,
        rng: &mut impl RngExt,
    ) -> Option<Timestamp> {
        let rate = self.rate(class) / 100.0 / HOURS_PER_MONTH;
        let by_rate = (rate > 0.0).then(|| {
            let hours = -(1.0 - rng.random::<f64>()).ln() / rate;
            later(from, SignedDuration::from_secs((hours * 3600.0).min(HORIZON.as_secs_f64()) as i64))
        });
        let horizon = later(from, HORIZON);
        let mut reclaimed = None;
        if self.reclaimed > 0.0 && !self.sold_out.is_zero() {
            let starts = (self.period(from)..=self.period(horizon))
                .filter_map(|period| Some(self.sold_out_period(class, period)?.0))
                .filter(|start| *start > from);
            reclaimed = starts.into_iter().find(|_| draw_event(self.reclaimed, rng));
        }
        by_rate.into_iter().chain(reclaimed).min()
    }

    fn rate(&self, class: MarketClass<'_>) -> f64 {
        let matches = |rate: &&RateConfig| {
            rate.offer.as_deref().is_none_or(|offer| offer == class.offer)
                && rate.datacenter.as_deref().is_none_or(|datacenter| datacenter == class.datacenter)
        };
        self.rates.iter().find(matches).map_or(self.interruption_rate, |rate| rate.interruption_rate)
    }
}

impl Storm {
    /// Whether the storm can interrupt VMs of this offer in this datacenter.
    pub(super) fn includes(&self, offer: &str, datacenter: &str) -> bool {
        self.offer.as_deref().is_none_or(|own| own == offer)
            && self.datacenter.as_deref().is_none_or(|own| own == datacenter)
    }
}

impl MarketClass<'_> {
    /// Smooth noise of -1 to 1: linear between random values at whole numbers.
    fn noise(self, octave: u64, at: f64) -> f64 {
        let before = at.floor();
        let part = at - before;
        let value = |index: f64| 2.0 * self.unit(&format!("price{octave}"), index as i64) - 1.0;
        value(before) * (1.0 - part) + value(before + 1.0) * part
    }

    /// A random number of 0 to 1 for a use of this class and an index.
    fn unit(self, purpose: &str, index: i64) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.size, self.datacenter, purpose, index).hash(&mut hasher);
        (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
