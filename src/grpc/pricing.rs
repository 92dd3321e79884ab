//! Prices for Cluster Autoscaler's `price` expander. It drops every option whose price is an error or not a
//! number (contract R14), so there is always a price, and a node's is above 0.

use prost_types::Timestamp;

use super::convert::PodRequests;
use crate::catalog::Resources;
use crate::cost::UsdPerHour;
use crate::fleet::Fleet;

/// USD per hour of one core and of one GiB, in the relation of the cheapest offer for its cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    core: f64,
    gib: f64,
}

/// When no offer has a price. The order by size is all that is left.
const NO_PRICES: Rates = Rates { core: 0.01, gib: 0.005 };

impl Rates {
    /// The rates of the reference offer: the one with the lowest price for a core. Half of its price is for
    /// its cores, half for its memory.
    pub(super) fn reference(fleet: &Fleet) -> Self {
        let rates = fleet.pools().filter_map(|pool| {
            let price = pool.price?.to_f64();
            let (cores, gib) = size(pool.offer.resources);
            (cores > 0.0 && gib > 0.0).then_some(Self { core: price / 2.0 / cores, gib: price / 2.0 / gib })
        });
        rates.min_by(|a, b| a.core.total_cmp(&b.core)).unwrap_or(NO_PRICES)
    }

    /// USD per hour of what a pod asks for.
    pub(super) fn pod(self, requests: PodRequests) -> f64 {
        requests.cores * self.core + requests.gib * self.gib
    }

    /// USD per hour of a machine: its own price, or what its size would cost.
    pub(super) fn machine(self, price: Option<UsdPerHour>, resources: Resources) -> f64 {
        price.map_or_else(
            || {
                let (cores, gib) = size(resources);
                self.pod(PodRequests { cores: cores.max(1.0), gib })
            },
            UsdPerHour::to_f64,
        )
    }

    /// USD per hour of a node of which nothing is known: one core and one GiB.
    pub(super) fn unknown_node(self) -> f64 {
        self.core + self.gib
    }
}

/// A pod whose bytes cannot be read is priced as the one that the expander itself makes up (contract §6.1).
pub(super) const UNREADABLE_POD: PodRequests = PodRequests { cores: 0.5, gib: 500.0 / 1024.0 };

/// Length of a period in hours. One hour, which is what the expander asks for, where the request has none.
pub(super) fn hours(start: Option<Timestamp>, end: Option<Timestamp>) -> f64 {
    let seconds = match (start, end) {
        (Some(start), Some(end)) => {
            (end.seconds as f64 - start.seconds as f64)
                + f64::from(end.nanos.saturating_sub(start.nanos)) / 1e9
        }
        _ => 0.0,
    };
    if seconds > 0.0 { seconds / 3600.0 } else { 1.0 }
}

fn size(resources: Resources) -> (f64, f64) {
    (resources.cpu_millis as f64 / 1000.0, resources.memory_mib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_decimal::Decimal;

    #[test]
    fn a_machine_costs_its_price_or_what_its_size_would_cost() {
        let rates = Rates { core: 0.01, gib: 0.005 };
        let size = Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 };
        let price = Some(UsdPerHour(Decimal::new(1, 1)));
        assert!((rates.machine(price, size) - 0.1).abs() < 1e-12);
        assert!((rates.machine(None, size) - 0.04).abs() < 1e-12);
    }

    #[test]
    fn without_offers_there_are_prices_all_the_same() {
        let rates = Rates::reference(&Fleet::default());
        assert_eq!(rates, NO_PRICES);
        assert!(rates.unknown_node() > 0.0);
        assert!(rates.pod(UNREADABLE_POD) > 0.0);
    }

    #[test]
    fn a_period_that_is_missing_or_upside_down_is_an_hour() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        for (start, end, want) in [
            (at(0, 0), at(7200, 0), 2.0),
            (at(0, 500_000_000), at(1800, 500_000_000), 0.5),
            (None, at(7200, 0), 1.0),
            (at(7200, 0), at(0, 0), 1.0),
            (at(i64::MIN, 0), at(i64::MAX, 0), f64::INFINITY),
        ] {
            let got = hours(start, end);
            assert!(if want.is_finite() { (got - want).abs() < 1e-9 } else { got.is_finite() }, "{got}");
        }
    }
}
