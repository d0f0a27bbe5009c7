//! The secret that a tenant's keys are made with.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Part of every key of a tenant, so that tenants never meet. `Debug` shows only whether there is one.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Salt(Bytes);

/// The secret itself; take care where it goes.
impl Deref for Salt {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "***" })
    }
}

impl From<Bytes> for Salt {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<&'static str> for Salt {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Salt> for Bytes {
    fn from(salt: Salt) -> Self {
        salt.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_never_shown() {
        let salt = Salt::from("hunter2");
        assert_eq!(&*salt, b"hunter2");
        assert_eq!(format!("{salt:?} {:?}", Salt::default()), "*** ");
    }
}
