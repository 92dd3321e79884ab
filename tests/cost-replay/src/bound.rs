//! A lower bound of the cost of any autoscaler: at each instant, the cheapest nodes for the pods that run.
//! Pods run from their arrival for their duration, without pending.
//!
//! *Fractional*: nodes can be divided; the cost is that of the linear program
//! `min Σ price·x, Σ allocatable·x ≥ Σ requests` in CPU, memory and pods.
//!
//! *Packed*: pods are whole. Give each size of pod a value such that no node can hold pods whose total value
//! exceeds the price of the node: then any nodes that hold the pods cost at least the total value of the
//! pods. The best values are the dual of the linear program over all fillings of a node (Gilmore and Gomory).
//! They are computed by column generation: the filling with the highest value relative to the price of its
//! node is added until no filling exceeds `1 + TOLERANCE` times the price; then all values are divided by the
//! remaining excess. Values of one instant are valid at every other instant, where the best of all is taken.
//! So the result is a bound everywhere, and the best one at the instants of its computation. The sizes of
//! pods are rounded down to the grid, which keeps it a bound.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use good_lp::{Expression, ProblemVariables, Solution as _, SolverModel as _, constraint, microlp, variable};

use crate::data::{ReplayPool, ReplayResources, Trace};

/// Relative excess of a filling over the price of its node at which the computation ends.
const TOLERANCE: f64 = 2e-3;
/// Number of instants at which the best values are computed. The cost between two instants is equal.
const INSTANTS: usize = 120;
/// Steps of the grid: millicores (or the common divisor of all pods, if larger), MiB.
const CPU_STEP: u64 = 250;
const MEMORY_STEP: u64 = 256;

/// Bounds for the whole trace, USD.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) fractional: f64,
    pub(crate) packed: f64,
}

/// Number of running pods of each class, and the seconds for which it is constant.
struct Span {
    counts: Vec<u32>,
    seconds: u64,
    /// USD per hour.
    fractional: f64,
}

pub(crate) fn bounds(trace: &Trace, pools: &[ReplayPool]) -> Result<Bounds> {
    let mut spans = spans(trace, pools);
    let mut known: HashMap<ReplayResources, f64> = HashMap::new();
    for span in &mut spans {
        let demand = demand(trace, &span.counts);
        span.fractional = match known.get(&demand) {
            Some(cost) => *cost,
            None => *known.entry(demand).or_insert(fractional(demand, pools)?),
        };
    }
    let mut values: Vec<Vec<f64>> = Vec::new();
    let mut fillings = NodeFillings::new(trace, pools);
    for index in instants(&spans) {
        values.push(fillings.values(&spans[index].counts)?);
    }
    let mut bounds = Bounds::default();
    for span in &spans {
        let hours = span.seconds as f64 / 3600.0;
        let worth = |values: &Vec<f64>| dot(values, &span.counts);
        let packed = values.iter().map(worth).fold(span.fractional, f64::max);
        bounds.fractional += span.fractional * hours;
        bounds.packed += packed * hours;
    }
    Ok(bounds)
}

fn dot(values: &[f64], counts: &[u32]) -> f64 {
    values.iter().zip(counts).map(|(value, count)| value * f64::from(*count)).sum()
}

fn demand(trace: &Trace, counts: &[u32]) -> ReplayResources {
    let mut sum = ReplayResources::default();
    for (size, count) in trace.classes.iter().zip(counts) {
        let count = u64::from(*count);
        sum.add(ReplayResources { cpu: size.cpu * count, memory: size.memory * count, pods: count });
    }
    sum
}

/// The spans between the events of the trace. Pods that fit no pool are skipped, as in the replay.
fn spans(trace: &Trace, pools: &[ReplayPool]) -> Vec<Span> {
    let mut changes: BTreeMap<u64, Vec<(usize, bool)>> = BTreeMap::new();
    for pod in &trace.pods {
        if pools.iter().any(|pool| pool.allocatable.holds(pod.size)) {
            changes.entry(pod.arrival).or_default().push((pod.class, true));
            changes.entry(pod.end()).or_default().push((pod.class, false));
        }
    }
    let mut counts = vec![0u32; trace.classes.len()];
    let mut spans = Vec::new();
    let times: Vec<u64> = changes.keys().copied().collect();
    for (index, changed) in changes.values().enumerate() {
        for (class, more) in changed {
            counts[*class] = if *more { counts[*class] + 1 } else { counts[*class] - 1 };
        }
        if let Some(next) = times.get(index + 1) {
            spans.push(Span { counts: counts.clone(), seconds: next - times[index], fractional: 0.0 });
        }
    }
    spans
}

/// Indexes of spans at equal distances of cost.
fn instants(spans: &[Span]) -> Vec<usize> {
    let paid = |span: &Span| span.fractional * span.seconds as f64;
    let step = spans.iter().map(paid).sum::<f64>() / INSTANTS as f64;
    let mut sum = 0.0;
    let mut next = step / 2.0;
    let mut selected = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        sum += paid(span);
        if sum >= next {
            selected.push(index);
            next = sum + step;
        }
    }
    selected
}

fn fractional(demand: ReplayResources, pools: &[ReplayPool]) -> Result<f64> {
    let mut variables = ProblemVariables::new();
    let nodes = variables.add_vector(variable().min(0.0), pools.len());
    let sum = |of: &dyn Fn(&ReplayPool) -> f64| -> Expression {
        nodes.iter().zip(pools).map(|(node, pool)| *node * of(pool)).sum()
    };
    let solution = variables
        .minimise(sum(&|pool| pool.price.to_f64()))
        .using(microlp)
        .with(constraint!(sum(&|pool| pool.allocatable.cpu as f64 / 1000.0) >= demand.cpu as f64 / 1000.0))
        .with(constraint!(
            sum(&|pool| pool.allocatable.memory as f64 / 1024.0) >= demand.memory as f64 / 1024.0
        ))
        .with(constraint!(sum(&|pool| pool.allocatable.pods as f64) >= demand.pods as f64))
        .solve()?;
    Ok(nodes.iter().zip(pools).map(|(node, pool)| solution.value(*node) * pool.price.to_f64()).sum())
}

/// Fillings of nodes: number of pods of each class, and the price of the node.
struct NodeFillings<'a> {
    pools: Vec<(&'a ReplayPool, ReplayResources)>,
    /// Sizes on the grid. None if the size is 0 on the grid: its value stays 0.
    sizes: Vec<Option<ReplayResources>>,
    rows: Vec<(Vec<(usize, u32)>, f64)>,
}

impl<'a> NodeFillings<'a> {
    fn new(trace: &Trace, pools: &'a [ReplayPool]) -> Self {
        let divisor = trace.classes.iter().fold(0, |divisor, size| gcd(divisor, size.cpu));
        let steps = (divisor.max(CPU_STEP), MEMORY_STEP);
        let grid = |size: ReplayResources| ReplayResources {
            cpu: size.cpu / steps.0,
            memory: size.memory / steps.1,
            ..size
        };
        let sizes = trace.classes.iter().map(|size| {
            let on_grid = grid(*size);
            (on_grid.cpu + on_grid.memory > 0).then_some(on_grid)
        });
        let useful = pools.iter().filter(|pool| !pools.iter().any(|other| dominates(other, pool)));
        let pools = useful.map(|pool| (pool, grid(pool.allocatable))).collect();
        let mut fillings = Self { pools, sizes: sizes.collect(), rows: Vec::new() };
        for class in 0..fillings.sizes.len() {
            fillings.add_uniform_fillings(class);
        }
        fillings
    }

    /// Adds a node of each pool that is full of one class.
    fn add_uniform_fillings(&mut self, class: usize) {
        let Some(size) = self.sizes[class] else { return };
        for (pool, capacity) in &self.pools {
            let times = capacity.times(size);
            if times > 0 {
                self.rows.push((vec![(class, times as u32)], pool.price.to_f64()));
            }
        }
    }

    /// The best values for these pods, USD per hour.
    fn values(&mut self, counts: &[u32]) -> Result<Vec<f64>> {
        loop {
            let values = self.solve(counts)?;
            let mut worst = 1.0f64;
            for (pool, capacity) in self.pools.clone() {
                let price = pool.price.to_f64();
                let (worth, filling) = fill(capacity, &self.sizes, &values);
                if worth > price * (1.0 + TOLERANCE) {
                    self.rows.push((filling, price));
                }
                worst = worst.max(worth / price);
            }
            if worst <= 1.0 + TOLERANCE {
                return Ok(values.iter().map(|value| value / worst).collect());
            }
        }
    }

    fn solve(&self, counts: &[u32]) -> Result<Vec<f64>> {
        let mut variables = ProblemVariables::new();
        let values: Vec<_> = self
            .sizes
            .iter()
            .zip(counts)
            .map(|(size, count)| {
                let free = size.is_some() && *count > 0;
                variables.add(variable().min(0.0).max(if free { f64::INFINITY } else { 0.0 }))
            })
            .collect();
        let worth: Expression =
            values.iter().zip(counts).map(|(value, count)| *value * f64::from(*count)).sum();
        let mut model = variables.maximise(worth).using(microlp);
        for (filling, price) in &self.rows {
            let filled: Expression =
                filling.iter().map(|(class, times)| values[*class] * f64::from(*times)).sum();
            model = model.with(constraint!(filled <= *price));
        }
        let solution = model.solve()?;
        Ok(values.iter().map(|value| solution.value(*value).max(0.0)).collect())
    }
}

/// Returns true iff a pool is at least as large as another one for at most its price, and not equal.
fn dominates(one: &ReplayPool, other: &ReplayPool) -> bool {
    one.allocatable.holds(other.allocatable)
        && one.price <= other.price
        && (one.price < other.price || one.allocatable != other.allocatable)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The filling of a node with the highest value, and its value: a knapsack in two dimensions. The number of
/// pods is ignored, which can only raise the value and lower the bound.
fn fill(
    capacity: ReplayResources,
    sizes: &[Option<ReplayResources>],
    values: &[f64],
) -> (f64, Vec<(usize, u32)>) {
    let width = capacity.cpu as usize + 1;
    let height = capacity.memory as usize + 1;
    let at = |cpu: usize, memory: usize| cpu * height + memory;
    let mut best = vec![0.0f64; width * height];
    let mut last = vec![usize::MAX; width * height];
    for (class, value) in values.iter().enumerate() {
        let Some(size) = sizes[class].filter(|size| *value > 0.0 && capacity.cpu >= size.cpu) else {
            continue;
        };
        let cpu = size.cpu as usize;
        let memory = size.memory as usize;
        for x in cpu..width {
            for y in memory..height {
                let worth = best[at(x - cpu, y - memory)] + value;
                if worth > best[at(x, y)] {
                    best[at(x, y)] = worth;
                    last[at(x, y)] = class;
                }
            }
        }
    }
    let mut x = width - 1;
    let mut y = height - 1;
    let mut times: BTreeMap<usize, u32> = BTreeMap::new();
    while let Some(size) = sizes.get(last[at(x, y)]).copied().flatten() {
        *times.entry(last[at(x, y)]).or_default() += 1;
        x -= size.cpu as usize;
        y -= size.memory as usize;
    }
    (best[at(width - 1, height - 1)], times.into_iter().collect())
}
