//! The store of image features: memory, local disk and a shared tier.
//!
//! *Encode once, ask for years.* An artifact is read from the first tier that has it and brought up from there; it is written to
//! memory, where readers find it at once, then to the disk, after which it survives whatever ends the process, and
//! some time later to the tier that all workers share. No tier is ever over its budget of bytes, not even for a moment, and
//! nothing is served that fails its checks.
//!
//! | file | idea |
//! |---|---|
//! | `store` | what services call |
//! | `flight` | one encoding for everybody who asks for the same key |
//! | `tiers` | the tiers as one; `tiers/care`: leases, deletion, lists, checks |
//! | `index` | budget, order of eviction and leases of a tier |
//! | `memory`, `disk`, `shared_tier` | the tiers |
//! | `reads`, `behind` | one read for all who ask; what is written later |

mod about;
mod behind;
mod blocking;
mod clock;
mod disk;
mod figures;
mod flight;
mod index;
mod memory;
mod options;
mod reads;
pub mod remote;
mod shared_tier;
mod store;
mod tiers;

pub use about::{Kept, LeaseError, Listed, Stat, Verified};
pub use behind::Background;
pub use figures::{Figures, TierFigures};
pub use flight::{Begin, Joined, Lead};
pub use options::{DiskOptions, StoreError, StoreOptions};
pub use remote::{Breaker, BreakerOptions, Credentials, Remote, RemoteError, RemoteOptions, connect};
pub use store::Store;
pub use tessera_embedding::{Abandoned, Busy, WaitError};

#[cfg(test)]
mod tests;
