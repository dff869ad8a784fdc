//! Who etcd has to be, and who we are, by certificates.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{EtcdConfig, Member};

/// Why there can be no secure connection.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{0} needs --etcd-ca: the certificate of who signed etcd's own")]
    NoCa(Member),
    #[error("--etcd-cert and --etcd-key go together")]
    HalfAClient,
    #[error("cannot use {file}: {why}")]
    Unusable { file: String, why: String },
}

/// Makes connections secure, where they are to be.
#[derive(Clone)]
pub struct Tls(Option<TlsConnector>);

impl Tls {
    /// Reads the files.
    pub fn new(config: &EtcdConfig) -> Result<Self, TlsError> {
        let client = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => Some((certificates(cert)?, private_key(key)?, cert)),
            (None, None) => None,
            _ => return Err(TlsError::HalfAClient),
        };
        let Some(ca) = &config.ca else {
            let secure = config.members.iter().find(|member| member.secure);
            return secure.map_or(Ok(Self(None)), |member| Err(TlsError::NoCa(member.clone())));
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| unusable(ca, error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(ca, error))?
            .with_root_certificates(roots);
        let client = match client {
            Some((chain, key, file)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| unusable(file, error))?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self(Some(TlsConnector::from(Arc::new(client)))))
    }

    /// The connection, secure, to who has the member's name or address in a certificate.
    pub async fn over(&self, stream: TcpStream, member: &Member) -> Result<TlsStream<TcpStream>, String> {
        let connector = self.0.as_ref().ok_or_else(|| TlsError::NoCa(member.clone()).to_string())?;
        let name = ServerName::try_from(member.address().to_owned()).map_err(|error| error.to_string())?;
        connector.connect(name, stream).await.map_err(|error| error.to_string())
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(file, error))?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| unusable(file, error))?;
    if certificates.is_empty() { Err(unusable(file, "there is no certificate in it")) } else { Ok(certificates) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| unusable(file, error))
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable { file: file.display().to_string(), why: why.to_string() }
}
