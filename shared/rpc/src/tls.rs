//! TLS between the parts: who we are, whom we let in and whom we believe. Files of certificates may be replaced at any
//! time: new connections go by the new ones, those that there are go on.

mod client;
mod server;
mod settings;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConfigBuilder, ConfigSide, RootCertStore, WantsVersions};

pub use client::ClientTls;
pub use server::ServerTls;
pub use settings::{TlsSettings, UpstreamTlsSettings};

/// The one protocol that is spoken inside.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The library of ciphers, named here and not by the process's default, which is whoever's comes first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS 1.3, and 1.2 for those that have no other.
fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> Result<ConfigBuilder<S, rustls::WantsVerifier>, String> {
    builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())
}

/// The certificates of a file, in its order.
fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{what} holds no certificate in PEM form")),
        Err(error) => Err(format!("{what} is no PEM file: {error}")),
    }
}

/// The key of a file. What is wrong with one is not shown: it may be a part of it.
fn key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| format!("{what} holds no private key in PEM form"))
}

/// The authorities of a file.
fn authorities(what: &str, pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(what, pem)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| format!("certificate {} of {what} is none: {error}", index + 1))?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests;
