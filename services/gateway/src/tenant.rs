//! Who asks: every request belongs to a tenant.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tessera_api::Result;
use tessera_config::Secret;
use tonic::metadata::MetadataMap;

use crate::settings::Settings;

/// Whoever is not told apart from others.
const EVERYBODY: &str = "";

/// What is set for a tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSettings {
    /// Part of the keys of its images. When there is none, a tenant that is named gets one that is made from its name and the
    /// gateway's.
    pub salt: Secret,
}

/// Settings by the names of tenants.
pub type NamedTenants = BTreeMap<String, TenantSettings>;

/// A tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Empty for whoever is not told apart.
    pub(crate) name: String,
    /// Part of the keys of its images, and of what it shares in the prefix cache.
    pub(crate) salt: Bytes,
}

/// All tenants.
#[derive(Debug)]
pub(crate) struct Tenants {
    everybody: Arc<Tenant>,
    named: HashMap<String, Arc<Tenant>>,
}

impl Tenants {
    /// Makes those that the settings name.
    pub(crate) fn new(settings: &Settings) -> Self {
        let root = settings.tenant_salt.expose().as_bytes();
        let named = settings.tenants.iter().map(|(name, own)| {
            let salt = match own.salt.expose() {
                "" => derived(root, name),
                salt => Bytes::copy_from_slice(salt.as_bytes()),
            };
            (name.clone(), Arc::new(Tenant { name: name.clone(), salt }))
        });
        let everybody = Arc::new(Tenant { name: EVERYBODY.into(), salt: Bytes::copy_from_slice(root) });
        Self { named: named.collect(), everybody }
    }

    /// The tenant that a request comes from.
    ///
    /// # Errors
    /// When nobody may ask who is not known.
    #[expect(clippy::unnecessary_wraps, reason = "who is nobody will be refused")]
    pub(crate) fn of(&self, _metadata: &MetadataMap) -> Result<Arc<Tenant>> {
        Ok(Arc::clone(self.named.get(EVERYBODY).unwrap_or(&self.everybody)))
    }
}

/// The salt of a tenant that has none of its own.
fn derived(root: &[u8], name: &str) -> Bytes {
    let mut hasher = blake3::Hasher::new_derive_key("tessera 2026-11-24 salt of a named tenant");
    hasher.update(&(root.len() as u64).to_le_bytes()).update(root).update(name.as_bytes());
    Bytes::copy_from_slice(hasher.finalize().as_bytes())
}
