//! Who asks: every request belongs to a tenant.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tessera_anyres::Shape;
use tessera_api::{Error, ErrorKind, Result};
use tessera_config::Secret;
use tessera_embedding::{Salt, TenantId};
use tessera_rpc::{FileError, Tasks};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Extensions, Request, Status};

use crate::admission::Quota;
use crate::auth::Auth;
use crate::settings::Settings;

/// Whoever is not told apart from others.
const EVERYBODY: &str = "";

/// What is set for a tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSettings {
    /// Part of the keys of its images. When there is none, a tenant gets one that is made from its name and the gateway's;
    /// whoever is not told apart, whose name is empty, has the gateway's.
    pub salt: Secret,
    /// Give all its images the same shape before they are cut, so that neither tokens nor bytes nor work tell one from another.
    pub constant_shape: bool,
    /// Its share of the pools, beside those of others, while there is not enough for all.
    pub weight: Weight,
    /// Requests that it may begin in a minute; images of a batch count one each.
    pub requests_per_minute: Option<NonZeroU64>,
    /// Tiles that may be encoded for it in a minute. What was stored before does not count.
    pub tiles_per_minute: Option<NonZeroU64>,
    /// Tokens of prompts and answers in a minute. A request needs room for all that it may take, and gives back what it did
    /// not.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Requests that it may have in progress.
    pub concurrent: Option<NonZeroUsize>,
}

/// The share of a tenant: a number above 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Weight(f64);

/// Why a number is no [`Weight`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is no weight: write a number from 0.001 to 1000, such as 2.0 for twice the share of others")]
pub struct WeightError(f64);

/// Settings by the names of tenants.
pub type NamedTenants = BTreeMap<String, TenantSettings>;

/// A tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Empty for whoever is not told apart.
    pub(crate) name: String,
    /// Part of the keys of its images, and of what it shares in the prefix cache.
    pub(crate) salt: Salt,
    /// What belongs to it is marked with this, which does not give the salt away.
    pub(crate) id: TenantId,
    /// What its images are given before they are cut.
    pub(crate) shape: Shape,
    /// Its share of the pools.
    pub(crate) weight: f64,
    /// What it may have.
    pub(crate) quota: Quota,
}

/// All tenants.
#[derive(Debug)]
pub(crate) struct Tenants {
    /// Without it everybody is the same.
    auth: Option<Auth>,
    everybody: Arc<Tenant>,
    named: HashMap<String, Arc<Tenant>>,
    /// The gateway's own salt.
    root: Salt,
    /// Whether only those that are named may ask.
    listed_only: bool,
}

impl Tenants {
    /// Makes those that the settings name, and reads what they are told apart by.
    ///
    /// # Errors
    /// When a file of tokens or keys cannot be used.
    pub(crate) fn start(settings: &Settings, tasks: &Tasks) -> Result<Self, FileError> {
        let root = salt(&settings.tenant_salt);
        let named = settings.tenants.iter().map(|(name, own)| (name.clone(), Arc::new(Tenant::new(&root, name, own))));
        let mut named: HashMap<_, _> = named.collect();
        let nobody_in_particular = || Arc::new(Tenant::new(&root, EVERYBODY, &TenantSettings::default()));
        let everybody = named.remove(EVERYBODY).unwrap_or_else(nobody_in_particular);
        let auth = Auth::start(&settings.auth, tasks)?;
        Ok(Self { auth, everybody, named, root, listed_only: settings.auth.listed_only })
    }

    /// The tenant of a request that came in by the [`Door`].
    ///
    /// # Errors
    /// `Internal` for one that did not.
    pub(crate) fn of(extensions: &Extensions) -> Result<Arc<Tenant>> {
        let tenant = extensions.get::<Arc<Tenant>>().cloned();
        tenant.ok_or_else(|| Error::new(ErrorKind::Internal, "TENANT_UNKNOWN", "nobody found out who asks"))
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// `Unauthenticated` when nobody knows, `Denied` when only those may ask who are named.
    pub(crate) fn find(&self, metadata: &MetadataMap) -> Result<Arc<Tenant>> {
        let Some(auth) = &self.auth else { return Ok(Arc::clone(&self.everybody)) };
        let name = auth.tenant(metadata)?;
        if let Some(tenant) = self.named.get(&name) {
            return Ok(Arc::clone(tenant));
        }
        if self.listed_only {
            let message = format!("tenant {name:?} is not listed here: its operator adds it under `tenants`");
            return Err(Error::new(ErrorKind::Denied, "TENANT_NOT_LISTED", message).with("tenant", name));
        }
        // Made anew each time: however many there are, nothing is kept of them.
        Ok(Arc::new(Tenant::new(&self.root, &name, &TenantSettings::default())))
    }
}

impl Tenant {
    /// Makes a tenant of this name with what is set for it; `root` is the gateway's salt.
    pub(crate) fn new(root: &Salt, name: &str, own: &TenantSettings) -> Self {
        let salt = match own.salt.expose() {
            "" if name == EVERYBODY => root.clone(),
            "" => derived(root, name),
            _ => salt(&own.salt),
        };
        let shape = if own.constant_shape { Shape::Constant } else { Shape::Own };
        let (weight, quota) = (own.weight.0, Quota::new(own));
        Self { name: name.to_owned(), id: TenantId::of(&salt), salt, shape, weight, quota }
    }
}

/// Lets requests in once it is known who asks; before anything else of them is read.
#[derive(Clone, Debug)]
pub(crate) struct Door(pub(crate) Arc<Tenants>);

impl Interceptor for Door {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let tenant = self.0.find(request.metadata())?;
        request.extensions_mut().insert(tenant);
        Ok(request)
    }
}

fn salt(secret: &Secret) -> Salt {
    Bytes::copy_from_slice(secret.expose().as_bytes()).into()
}

impl Default for Weight {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for Weight {
    type Error = WeightError;

    fn try_from(weight: f64) -> Result<Self, WeightError> {
        if (1e-3..=1e3).contains(&weight) { Ok(Self(weight)) } else { Err(WeightError(weight)) }
    }
}

impl From<Weight> for f64 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

/// The salt of a tenant that has none of its own.
fn derived(root: &Salt, name: &str) -> Salt {
    let mut hasher = blake3::Hasher::new_derive_key("tessera 2026-11-24 salt of a named tenant");
    hasher.update(&(root.len() as u64).to_le_bytes()).update(root).update(name.as_bytes());
    Bytes::copy_from_slice(hasher.finalize().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(named: &[(&str, &str)]) -> Tenants {
        let own = |salt: &str| TenantSettings { salt: Secret::new(salt), ..TenantSettings::default() };
        let tenants = named.iter().map(|&(name, salt)| (name.to_owned(), own(salt))).collect();
        let settings = Settings { tenant_salt: Secret::new("root"), tenants, ..Settings::default() };
        Tenants::start(&settings, &Tasks::default()).unwrap()
    }

    #[test]
    fn without_tokens_everybody_has_the_gateways_salt() {
        let everybody = tenants(&[("acme", "")]).find(&MetadataMap::new()).unwrap();
        assert_eq!((everybody.name.as_str(), &*everybody.salt), ("", b"root".as_slice()));
        // What else is set for everybody changes no key.
        assert_eq!(tenants(&[("", "")]).find(&MetadataMap::new()).unwrap().salt, everybody.salt);
        assert_eq!(&*tenants(&[("", "own")]).find(&MetadataMap::new()).unwrap().salt, b"own");
    }

    #[test]
    fn tenants_have_salts_of_their_own_listed_or_not() {
        let root = Salt::from("root");
        let plain = |name: &str| Tenant::new(&root, name, &TenantSettings::default());
        let listed = &tenants(&[("acme", ""), ("zoo", "own")]).named;
        assert_eq!(listed["acme"].salt, plain("acme").salt);
        assert_eq!(&*listed["zoo"].salt, b"own");
        assert_ne!(plain("acme").salt, plain("zoo").salt);
        assert_ne!(plain("acme").id, plain("zoo").id);
        assert_ne!(plain("acme").salt, Tenant::new(&"other".into(), "acme", &TenantSettings::default()).salt);
        assert!(!format!("{:?}", listed["zoo"]).contains("own"));
    }

    #[test]
    fn a_request_that_did_not_come_in_by_the_door_is_nobodys() {
        let request = Request::new(());
        assert_eq!(Tenants::of(request.extensions()).unwrap_err().kind, ErrorKind::Internal);
        let let_in = Door(Arc::new(tenants(&[]))).call(request).unwrap();
        assert_eq!(Tenants::of(let_in.extensions()).unwrap().name, "");
    }
}
