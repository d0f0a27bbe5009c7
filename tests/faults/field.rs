//! Who is hit now. A fault waits for its turn when an earlier one takes longer than it was meant to.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::log::Log;
use crate::names::Name;
use crate::schedule::Fault;
use crate::strike::{Struck, strike};

/// Between two looks whether it may happen.
const LOOK: Duration = Duration::from_millis(20);

/// The cluster while faults happen.
pub(crate) struct Field<'a> {
    cluster: &'a Cluster,
    log: &'a Log,
    hit: RefCell<Vec<Name>>,
}

impl<'a> Field<'a> {
    pub(crate) fn new(cluster: &'a Cluster, log: &'a Log) -> Self {
        Self { cluster, log, hit: RefCell::default() }
    }

    /// Has a fault happen when it is time, but never to the last one of a role, nor to one who is hit already.
    pub(crate) async fn strike(&self, fault: Fault, began: Instant) -> anyhow::Result<Struck> {
        tokio::time::sleep_until((began + fault.at).into()).await;
        while !fault.what.may_happen_beside(&self.hit.borrow()) {
            tokio::time::sleep(LOOK).await;
        }
        self.hit.borrow_mut().extend(fault.what.hits());
        let struck = strike(self.cluster, fault, |what| self.log.say(what)).await;
        self.hit.borrow_mut().retain(|name| !fault.what.hits().contains(name));
        struck
    }
}
