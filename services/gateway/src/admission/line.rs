//! Requests that wait for the pools, in an order that is fair to tenants by what their requests take.
//!
//! It is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each flow has a clock, which a request that is taken
//! moves on by its work over the flow's weight, and the flow whose clock is furthest behind comes first. Inside a flow, first
//! come first served. A flow that had nothing waiting begins at the time of the others, so nobody saves up, and nobody is
//! punished for having had what nobody else wanted.

use std::collections::VecDeque;

use super::cost::{Cost, Lacking};

/// What a batch weighs beside a request that somebody waits for.
const BATCH: f64 = 0.125;
/// Flows without anybody waiting whose clocks are remembered, at most.
const IDLE: usize = 256;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Somebody waits for it.
    Interactive,
    /// One of many images: it takes what the others leave, and a small share in any case.
    Batch,
}

/// Whose a request is, as far as that decides its turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Whose {
    pub(super) tenant: String,
    pub(super) class: Class,
    /// Of the tenant.
    pub(super) weight: f64,
}

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

/// The line. `G` is how one who waits is told.
#[derive(Debug)]
pub(super) struct Line<G> {
    /// Those who wait, and those whose clock is ahead of the line's.
    flows: Vec<Flow<G>>,
    /// The clock of the flow that was served last.
    time: f64,
    length: usize,
    joined: u64,
}

#[derive(Debug)]
struct Flow<G> {
    whose: Whose,
    time: f64,
    waiting: VecDeque<Waiting<G>>,
    /// What all of them take.
    cost: Cost,
}

#[derive(Debug)]
struct Waiting<G> {
    place: Place,
    cost: Cost,
    grant: G,
}

/// What is served before a request, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ahead {
    pub(super) tiles: f64,
    pub(super) tokens: f64,
}

impl Whose {
    fn weight(&self) -> f64 {
        match self.class {
            Class::Interactive => self.weight,
            Class::Batch => self.weight * BATCH,
        }
    }
}

impl<G> Line<G> {
    /// Makes a line of nobody.
    pub(super) fn new() -> Self {
        Self { flows: Vec::new(), time: 0.0, length: 0, joined: 0 }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Takes a request in, behind those of its flow.
    pub(super) fn join(&mut self, whose: &Whose, cost: Cost, grant: G) -> Place {
        let place = Place(self.joined);
        self.joined += 1;
        self.length += 1;
        let time = self.time;
        let index = self.find(whose).unwrap_or_else(|| {
            if self.flows.len() >= self.length + IDLE {
                self.flows.retain(|flow| !flow.waiting.is_empty());
            }
            let (waiting, cost) = (VecDeque::new(), Cost::default());
            self.flows.push(Flow { whose: whose.clone(), time, waiting, cost });
            self.flows.len() - 1
        });
        let flow = &mut self.flows[index];
        if flow.waiting.is_empty() {
            flow.time = flow.time.max(time);
        }
        flow.cost = flow.cost.plus(cost);
        flow.waiting.push_back(Waiting { place, cost, grant });
        place
    }

    /// Whether a place is still taken.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.flows.iter().any(|flow| flow.waiting.iter().any(|waiting| waiting.place == place))
    }

    /// Takes out one who waits no longer; nothing if its turn came before.
    pub(super) fn leave(&mut self, place: Place) -> Option<G> {
        let at = |flow: &Flow<G>| flow.waiting.iter().position(|waiting| waiting.place == place);
        let (flow, index) = self.flows.iter().enumerate().find_map(|(flow, of)| Some((flow, at(of)?)))?;
        self.take_out(flow, index).map(|waiting| waiting.grant)
    }

    /// Takes out the one whose turn it is. `lacks` says which pools a request would have to wait for; whoever needs one that a
    /// request before it waits for does not overtake it, whoever needs none of these does.
    ///
    /// # Errors
    /// The pools that are waited for, when it is nobody's turn.
    pub(super) fn next(&mut self, lacks: impl Fn(Cost) -> Lacking) -> Result<(G, Cost), Lacking> {
        let mut order: Vec<usize> = (0..self.flows.len()).collect();
        order.sort_by(|&one, &other| self.flows[one].time.total_cmp(&self.flows[other].time));
        let mut lacking = Lacking::default();
        for flow in order {
            for index in 0..self.flows[flow].waiting.len() {
                let cost = self.flows[flow].waiting[index].cost;
                if cost.needs(lacking) {
                    continue;
                }
                let more = lacks(cost);
                if !more.is_any() {
                    return self.serve(flow, index).ok_or(lacking);
                }
                lacking = lacking.or(more);
                if lacking.is_both() {
                    return Err(lacking);
                }
            }
        }
        Err(lacking)
    }

    /// What is served until a request that joins now has had its turn, if nobody else joins.
    pub(super) fn ahead_of(&self, whose: &Whose, cost: Cost) -> Ahead {
        let own = self.find(whose);
        let (time, waiting) =
            own.map_or((self.time, Cost::default()), |own| (self.flows[own].time, self.flows[own].cost));
        let until = waiting.plus(cost);
        let end = time.max(self.time) + until.work() / whose.weight();
        let mut ahead = Ahead { tiles: until.tiles as f64, tokens: until.tokens as f64 };
        let others =
            self.flows.iter().enumerate().filter(|(index, flow)| Some(*index) != own && !flow.waiting.is_empty());
        for (_, flow) in others {
            let share = ((end - flow.time).max(0.0) * flow.whose.weight() / flow.cost.work().max(1.0)).min(1.0);
            ahead.tiles += share * flow.cost.tiles as f64;
            ahead.tokens += share * flow.cost.tokens as f64;
        }
        ahead
    }

    /// The part of the whole that a flow has while all who wait now go on waiting.
    pub(super) fn share_of(&self, whose: &Whose) -> f64 {
        let of = |flow: &Flow<G>| if flow.waiting.is_empty() || flow.is_of(whose) { 0.0 } else { flow.whose.weight() };
        let others: f64 = self.flows.iter().map(of).sum();
        whose.weight() / (others + whose.weight())
    }

    /// Takes out who gives way when there are too many: the last one of the flow that has most waiting for its weight.
    pub(super) fn give_way(&mut self) -> Option<(Whose, Cost, G)> {
        let most = |flow: &Flow<G>| flow.cost.work() / flow.whose.weight();
        let flows = (0..self.flows.len()).filter(|&flow| !self.flows[flow].waiting.is_empty());
        let flow = flows.max_by(|&one, &other| most(&self.flows[one]).total_cmp(&most(&self.flows[other])))?;
        let whose = self.flows[flow].whose.clone();
        let last = self.take_out(flow, self.flows[flow].waiting.len() - 1)?;
        Some((whose, last.cost, last.grant))
    }

    fn find(&self, whose: &Whose) -> Option<usize> {
        self.flows.iter().position(|flow| flow.is_of(whose))
    }

    fn serve(&mut self, flow: usize, index: usize) -> Option<(G, Cost)> {
        let served = &mut self.flows[flow];
        self.time = self.time.max(served.time);
        let work = served.waiting[index].cost.work().max(1.0);
        served.time += work / served.whose.weight();
        let Waiting { cost, grant, .. } = self.take_out(flow, index)?;
        Some((grant, cost))
    }

    fn take_out(&mut self, flow: usize, index: usize) -> Option<Waiting<G>> {
        let out = self.flows[flow].waiting.remove(index)?;
        self.flows[flow].cost = self.flows[flow].cost.minus(out.cost);
        self.length -= 1;
        if self.length == 0 {
            // Nobody is ahead of anybody any more.
            self.flows.clear();
            self.time = 0.0;
        } else {
            let time = self.time;
            self.flows.retain(|flow| !flow.waiting.is_empty() || flow.time > time);
        }
        Some(out)
    }
}

impl<G> Flow<G> {
    fn is_of(&self, whose: &Whose) -> bool {
        self.whose.class == whose.class && self.whose.tenant == whose.tenant
    }
}

#[cfg(test)]
mod tests;
