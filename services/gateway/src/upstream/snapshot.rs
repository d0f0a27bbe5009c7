//! How both pools are at this moment.

use tessera_api::{language, vision};

use super::Upstream;
pub(crate) use super::pool::{PoolSnapshot, Standing};

/// Both pools.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) vision: PoolSnapshot<vision::Load>,
    pub(crate) language: PoolSnapshot<language::Load>,
}

impl Upstream {
    /// Says how everybody is. Asks nobody.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { vision: self.vision.pool.snapshot(), language: self.languages.pool.snapshot() }
    }
}
