//! An authority that signs certificates, made anew for a test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Whoever believes in it believes its certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
}

impl Authority {
    /// Makes one of this name.
    ///
    /// # Panics
    /// When the library makes no certificate.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority can be made"))
    }

    /// Writes its own certificate to a file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> PathBuf {
        std::fs::write(path, self.0.pem()).expect("a certificate can be written");
        path.to_owned()
    }

    /// Signs a new certificate of these hosts (names or addresses), and writes it with its key to `NAME.crt` and `NAME.key`.
    ///
    /// # Panics
    /// When a host is none, or the files cannot be written.
    pub fn issue(&self, folder: &Path, name: &str, hosts: &[&str]) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("these are names of hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate can be signed");
        let identity =
            Identity { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
        std::fs::write(&identity.certificate, certificate.pem()).expect("a certificate can be written");
        std::fs::write(&identity.key, key.serialize_pem()).expect("a key can be written");
        identity
    }
}
