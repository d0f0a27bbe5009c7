//! The tiers of the store, as the settings name them.

use std::sync::Arc;
use std::time::Duration;

use tessera_store::{
    Breaker, BreakerOptions, Credentials, DiskOptions, Remote, RemoteError, RemoteOptions, StoreOptions, connect,
};

use crate::settings::{SharedSettings, StoreSettings};

/// Artifacts that nobody used for so long are let go of by Redis, whatever room there is: what it lost from its books goes
/// with them.
const IDLE: Duration = Duration::from_hours(24 * 365 * 5);

/// Options of the store.
///
/// # Errors
/// [`RemoteError::Options`] when the shared tier's settings name no server.
pub(crate) fn options(settings: &StoreSettings) -> Result<StoreOptions, RemoteError> {
    let disk = &settings.disk;
    Ok(StoreOptions {
        memory_bytes: settings.memory.as_u64(),
        open_keys: settings.open_keys,
        disk: (!disk.folder.as_os_str().is_empty())
            .then(|| DiskOptions { folder: disk.folder.clone(), bytes: disk.size.as_u64() }),
        remote: remote(&settings.shared)?,
        pending_bytes: settings.shared.pending.as_u64(),
    })
}

fn remote(shared: &SharedSettings) -> Result<Option<Arc<dyn Remote>>, RemoteError> {
    if shared.url.is_empty() {
        return Ok(None);
    }
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let is_redis = shared.url.starts_with("redis");
    let secret = (!shared.secret_key.is_empty()).then(|| shared.secret_key.clone());
    let credentials = secret.clone().filter(|_| !is_redis).map(|secret_key| Credentials {
        key_id: shared.access_key.expose().to_owned(),
        secret_key,
        session_token: None,
    });
    let bytes = shared.size.as_u64();
    let defaults = RemoteOptions::new(shared.url.clone(), bytes);
    let server = connect(&RemoteOptions {
        max_artifact_bytes: defaults.max_artifact_bytes.min(bytes),
        timeout: shared.timeout,
        idle: IDLE,
        password: secret.filter(|_| is_redis),
        endpoint: given(&shared.endpoint),
        region: given(&shared.region),
        credentials,
        ..defaults
    })?;
    Ok(Some(Arc::new(Breaker::new(server, BreakerOptions { timeout: shared.timeout, ..BreakerOptions::default() }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_no_tier() {
        let options = options(&StoreSettings::default()).unwrap();
        assert!(options.disk.is_none() && options.remote.is_none());
    }

    #[test]
    fn a_shared_store_that_is_none_is_named() {
        let shared = SharedSettings { url: "ftp://host".into(), ..SharedSettings::default() };
        let error = options(&StoreSettings { shared, ..StoreSettings::default() }).err().unwrap();
        assert!(error.to_string().contains("redis://"), "{error}");
    }
}
