//! Marginal prices of a core and a GiB.

use super::money::UsdPerHour;
use crate::catalog::Resources;

/// USD per hour of a core and of a GiB of memory. For scores, not for bills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// One core.
    pub core: f64,
    /// One GiB.
    pub gib: f64,
}

impl Default for Rates {
    /// Rates without any known price. They order machines by size.
    fn default() -> Self {
        Self { core: 0.01, gib: 0.005 }
    }
}

impl Rates {
    /// Marginal prices of the offers: the highest rates at which no offer is worth more than its price, for a
    /// demand with the proportions of all offers together. By duality this equals the cost of the cheapest
    /// mix of offers, so it is the price of pods on machines that fit them perfectly
    /// (docs/reference/cluster-autoscaler.md#price-expander).
    ///
    /// With `m(c) = min (price - c * cores) / gib` this is the maximum of a concave function of one variable.
    /// Among several maxima (with one offer: all rates that add up to its price) it is their middle.
    pub fn marginal(offers: impl IntoIterator<Item = (Resources, UsdPerHour)>) -> Option<Self> {
        let offers: Vec<(f64, f64, f64)> = offers
            .into_iter()
            .map(|(size, price)| (cores(size), gib(size), price.to_f64()))
            .filter(|(cores, gib, price)| *cores > 0.0 && *gib > 0.0 && *price > 0.0 && price.is_finite())
            .collect();
        let (cores, gibs) = offers.iter().fold((0.0, 0.0), |(c, g), offer| (c + offer.0, g + offer.1));
        let top = offers.iter().map(|(cores, _, price)| price / cores).min_by(f64::total_cmp)?;
        let gib_at = |core: f64| {
            let each = offers.iter().map(|(cores, gib, price)| (price - core * cores) / gib);
            each.min_by(f64::total_cmp).unwrap_or(0.0).max(0.0)
        };
        let worth = |core: f64| core * cores + gib_at(core) * gibs;
        let mut low = 0.0;
        let mut high = top;
        for _ in 0..STEPS {
            let a = low + (high - low) / 3.0;
            let b = high - (high - low) / 3.0;
            if worth(a) < worth(b) { low = a } else { high = b }
        }
        let best = f64::midpoint(low, high);
        let enough = worth(best) * (1.0 - 1e-9);
        let reach = |mut inside: f64, mut outside: f64| {
            if worth(outside) >= enough {
                return outside;
            }
            for _ in 0..STEPS {
                let middle = f64::midpoint(inside, outside);
                if worth(middle) >= enough { inside = middle } else { outside = middle }
            }
            inside
        };
        let core = f64::midpoint(reach(best, 0.0), reach(best, top));
        Some(Self { core, gib: gib_at(core) })
    }

    /// USD per hour of these resources.
    pub fn price(self, cores: f64, gib: f64) -> f64 {
        cores * self.core + gib * self.gib
    }

    /// USD per hour of a machine without a known price, counted with at least one core.
    pub fn machine_price(self, size: Resources) -> f64 {
        self.price(cores(size).max(1.0), gib(size))
    }
}

/// Number of steps after which an interval of floating-point numbers cannot shrink further.
const STEPS: usize = 120;

fn cores(size: Resources) -> f64 {
    size.cpu_millis as f64 / 1000.0
}

fn gib(size: Resources) -> f64 {
    size.memory_mib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    use super::*;

    fn offer(cores: u64, gib: u64, milli_usd: i64) -> (Resources, UsdPerHour) {
        let size = Resources { cpu_millis: cores * 1000, memory_mib: gib * 1024, disk_gib: 0, pods: 110 };
        (size, UsdPerHour(Decimal::new(milli_usd, 3)))
    }

    #[test]
    fn two_offers_that_differ_in_memory_determine_its_rate() {
        // 4 GiB more cost 40, so a GiB costs 10, and a core (60 - 4 * 10) / 2 = 10.
        let rates = Rates::marginal([offer(2, 4, 60), offer(2, 8, 100)]).unwrap();
        assert!((rates.core - 0.01).abs() < 1e-9 && (rates.gib - 0.01).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn one_offer_is_half_its_cores_and_half_its_memory() {
        let rates = Rates::marginal([offer(2, 4, 80)]).unwrap();
        assert!((rates.core - 0.02).abs() < 1e-6 && (rates.gib - 0.01).abs() < 1e-6, "{rates:?}");
        assert_eq!(Rates::marginal([]), None);
    }

    proptest! {
        #[test]
        fn no_offer_is_worth_more_than_it_costs(
            offers in proptest::collection::vec((1..64u64, 1..256u64, 1..5000i64), 1..12),
        ) {
            let offers: Vec<_> = offers.into_iter().map(|(cores, gib, price)| offer(cores, gib, price)).collect();
            let rates = Rates::marginal(offers.clone()).unwrap();
            prop_assert!(rates.core >= 0.0 && rates.gib >= 0.0 && rates.core + rates.gib > 0.0);
            let mut tight = f64::INFINITY;
            for (size, price) in offers {
                let left = price.to_f64() - rates.price(cores(size), gib(size));
                prop_assert!(left > -1e-9, "{rates:?} {size:?} {price}");
                tight = tight.min(left);
            }
            prop_assert!(tight < 1e-6, "all offers cost more: {rates:?}");
        }
    }
}
