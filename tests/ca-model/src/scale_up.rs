//! Scale-up: upstream's orchestrator.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::expander::{FilterContext, filter};
use crate::minor::Minor;
use crate::model::{Autoscaler, Event, Stop};
use crate::object::{Node, Pod, SchedulableNode, schedule_pod};
use crate::registry::{Run, ignore_abort};

/// An option of a scale-up: a group, and the nodes that it would add for some pods.
pub(crate) struct Choice {
    pub group: String,
    pub headroom: i64,
    pub nodes: i64,
    pub pods: Vec<Pod>,
    pub waste: f64,
}

impl Autoscaler {
    /// Scales up a group for these pods. Returns true iff a scale-up was attempted.
    pub(crate) async fn scale_up(
        &mut self,
        pods: &[Pod],
        nodes: &[Node],
        templates: &BTreeMap<String, Node>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<bool, Stop> {
        let groups = self.provider.groups().await;
        for node in nodes {
            self.provider.group_of(node).await?;
        }
        if self.provider.minor() <= Minor::V1_34 {
            for group in &groups {
                let target = self.provider.target_size(&group.id).await?;
                if target > 0 && !templates.contains_key(&group.id) {
                    return Err(Stop::Abort(format!("No node info for: {}", group.id)));
                }
            }
        }
        let mut choices = Vec::new();
        for group in groups {
            if !self.registry.is_safe_to_scale_up(&group.id, &self.config, now) {
                continue;
            }
            let Ok(target) = self.provider.target_size(&group.id).await else { continue };
            if target >= group.max {
                continue;
            }
            ignore_abort(crate::registry::options(&self.provider, &self.config, &group.id).await)?;
            let Some(template) = templates.get(&group.id) else { continue };
            let Some(choice) = self.estimate(&group.id, template, pods, group.max - target) else { continue };
            drop(self.provider.target_size(&group.id).await);
            ignore_abort(crate::registry::options(&self.provider, &self.config, &group.id).await)?;
            choices.push(choice);
        }
        let context = FilterContext {
            provider: &self.provider,
            service: self.expander.as_ref(),
            templates,
            nodes: nodes.len(),
            now,
        };
        for expander in &self.config.expander {
            // As upstream, the first filter also gets a single option.
            choices = filter(*expander, choices, &context).await;
            if choices.len() == 1 {
                break;
            }
        }
        let Some(choice) = self.draw_index(choices.len()).map(|index| choices.swap_remove(index)) else {
            return Ok(false);
        };
        drop(self.provider.target_size(&choice.group).await);
        self.execute(&choice, templates, now, events).await?;
        Ok(true)
    }

    async fn execute(
        &mut self,
        choice: &Choice,
        templates: &BTreeMap<String, Node>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        let group = choice.group.clone();
        let delta = choice.nodes.min(choice.headroom);
        self.provider.gpu_types().await;
        let increased = self.provider.increase_size(&group, delta).await;
        let mut run = Run { provider: &self.provider, config: &self.config, now, templates, events };
        if increased.is_err() {
            run.events.push(Event::ScaleUpFailed { group: group.clone(), delta });
            return self.registry.back_off(&mut run, &group, "cloudProviderError").await;
        }
        self.registry.register_scale_up(&run, &group, delta).await?;
        run.events.push(Event::ScaledUp { group, delta });
        self.last_scale_up = Some(now);
        self.registry.recalculate(&self.provider).await;
        Ok(())
    }

    /// Places the pods on new nodes of the template, first fit decreasing.
    fn estimate(&self, group: &str, template: &Node, pods: &[Pod], headroom: i64) -> Option<Choice> {
        let empty = SchedulableNode::from_node(template);
        let mut fitting: Vec<_> = pods.iter().filter(|pod| empty.fits(pod)).collect();
        let share = |pod: &Pod| {
            pod.requests.cpu_millis as f64 / empty.free.cpu_millis.max(1) as f64
                + pod.requests.memory_mib as f64 / empty.free.memory_mib.max(1) as f64
        };
        fitting.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let mut new_nodes: Vec<SchedulableNode> = Vec::new();
        let mut placed_pods = Vec::new();
        let mut used = 0.0;
        for pod in fitting {
            let mut placed = schedule_pod(&mut new_nodes, pod);
            if !placed && new_nodes.len() < self.config.max_nodes_per_scale_up {
                new_nodes.push(empty.clone());
                placed = schedule_pod(&mut new_nodes, pod);
            }
            if placed {
                used += share(pod);
                placed_pods.push(pod.clone());
            }
        }
        let nodes = new_nodes.len() as i64;
        let waste = 1.0 - used / (2.0 * nodes.max(1) as f64);
        let group = group.to_owned();
        (!placed_pods.is_empty()).then_some(Choice { group, headroom, nodes, pods: placed_pods, waste })
    }

    /// A random number below `bound` (SplitMix64).
    fn draw_index(&mut self, bound: usize) -> Option<usize> {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random_state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound as u64).map(|index| index as usize)
    }
}
