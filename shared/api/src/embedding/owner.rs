//! Whose keys a call is about: a gateway tells a worker of whom it asks, beside the message.

use tessera_embedding::TenantId;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::error::{Error, Result};

/// The metadata of a call: the tenant's 32 bytes.
const OWNER: &str = "tessera-tenant-bin";

/// Restricts a call to the keys of one tenant: what belongs to another is as if it were not stored.
pub fn set_owner<T>(request: &mut Request<T>, tenant: &TenantId) {
    request.metadata_mut().insert_bin(OWNER, MetadataValue::from_bytes(tenant.as_bytes()));
}

/// The tenant whose keys a call is about; `None` where it is about anybody's.
///
/// # Errors
/// `Invalid` for what is no tenant.
pub fn owner(metadata: &MetadataMap) -> Result<Option<TenantId>> {
    let Some(value) = metadata.get_bin(OWNER) else { return Ok(None) };
    let bytes = value.to_bytes().ok();
    let tenant = bytes.and_then(|bytes| TenantId::try_from(&bytes[..]).ok());
    tenant.map(Some).ok_or_else(|| Error::field("TENANT_INVALID", OWNER, "must be 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_read_as_it_was_written() {
        let mut request = Request::new(());
        assert_eq!(owner(request.metadata()).unwrap(), None);
        let tenant = TenantId::of(b"salt");
        set_owner(&mut request, &tenant);
        assert_eq!(owner(request.metadata()).unwrap(), Some(tenant));
        request.metadata_mut().insert_bin(OWNER, MetadataValue::from_bytes(b"short"));
        assert_eq!(owner(request.metadata()).unwrap_err().reason, "TENANT_INVALID");
    }
}
