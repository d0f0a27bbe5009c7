//! Who may talk to whom: certificates of everybody, replaced while they are in use, tokens of clients, and what tenants see of
//! one another.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tessera_api::embedding::{FetchRequest, KeyStatus, LeaseRequest, Representation, key_bytes, lease_ends};
use tessera_api::gateway::{EncodeRequest, Encoded, GenerateRequest};
use tessera_api::proto::embedding::v1 as embedding_proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part as EncodePart;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::{Error, ErrorKind};
use tessera_config::Secret;
use tessera_embedding::ImageKey;
use tessera_gateway::{AuthSettings, JwtSettings, TenantSettings};
use tessera_rpc::{ClientTls, Tasks, TlsSettings, UpstreamTlsSettings, client};
use tessera_testkit::{Authority, Identity, family_dir, picture};
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{assert_reference, by_handles};
use crate::cluster::{limited, limited_to};
use crate::conversation::{Reply, request};
use crate::running::Running;

const REFRESH: Duration = Duration::from_millis(20);
/// Tokens, and what `printf %s TOKEN | sha256sum` says of them.
pub(crate) const ACME: (&str, &str) =
    ("marked-token-of-acme", "ba51c7d77b7156aa78cf4666f0f14ef75b9c52330e833e6b42e8315fafd71213");
pub(crate) const ZOO: (&str, &str) =
    ("marked-token-of-zoo", "2c1ad6cd929f8145277835d0c3c836f2a77253b5869fcaa8d6ba3708a734fe07");
/// A public key made by OpenSSL, and tokens that it signed: of tenant acme, until the year 2100, and until 2001.
const RSA: &str = "vfL9DY01cXqX6SxXNqNzIQdejsg_G-FeGU9xlx00Ine1xVPX5I2SOcAcAW-4EqvTDsB6RU9Ms7dIGvJO_j7v5HFEEGn9BRXgrasx-BsnA0y0EgejvkzTBiKFfh60VY0ufJKT2sydIUmmTx-OQ1AQvuazUKpqaxiCq59p1NnjnaxHcFq3c4oIBbaSl0OmVezGtIeglD7qytsE102ofxEw4EyAAR9z0tY6QGncB5KgSMrjLIILFBV96Y_QQSxPP4b24erBkjw9yIUtvjpKykXTpPCLXsK51KVKMG-_Ij7Q5R_UBZi-MWmTHBNY_3Ha61iCc8jQMw32p5PGoayDjglCUQ";
pub(crate) const SIGNED: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOiJ0ZXNzZXJhIiwic3ViIjoiYWNtZSIsImV4cCI6NDEwMjQ0NDgwMH0.EZowM2gl1kLPkvxTM6k7BHR4XEueZobhkCEHxNdu8t4x8YACt__5a1Xvit7bI5J4mqAKdZlZmjWO5giSeTj4b7a4G_EyhBkZdruv1GJCJmgaDWLfpLEvL4cM2t_ZrZtO-aJPYybZjINAOd2HKW59vGrS5QcngieB4fn9a1FeAm7yVumfbgMibcwuI4qshu8bjfmChDPLCc6gfnXnVdgZnhEkg4zjGBd_oS1FpIXA-9yt4U82ch92xSwkMWi84RYWDsx9aEWWeKFx-VY3LJ35UAEHRX43lAttyhEkXKSA_m2aykEmcG3YTba0SY8T90EthoUkZSV1DNhepj2W3UnIFg";
const EXPIRED: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOiJ0ZXNzZXJhIiwic3ViIjoiYWNtZSIsImV4cCI6MTAwMDAwMDAwMH0.SOFZ8Qg7md_IvaFpQ9h3iYgTkbfkGTP82AA3_KE0EXKJdJkbHRKtcObuK9l_jpdJu3FidtwMnV7CAz_KyaryJ2Uc130Q2Uf31q5S1D1J318MJXRrOdCl9krvoAvca0QA_TroiVHp-wejvJ5H_dk41EI0eUqBizHCTJa5ASYLJm3EorpdiX-PTokADucq3K6YQjndOL_wY-P1bbkgjC5a0XqdicvM9vkAc6lfjkK0q0S_HkR7-ydUA4jI_MjN1dGAKJwRv8zVSHfNz1laxR26AYjyF0zPRQ5FK_LhmO5zLAP3Cl7rCgvVjkqq7r08MWmq4TlMMfVpS6a2kw0EB2UB3Q";

/// The files of a cluster in which everybody shows a certificate to everybody.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    authority: Authority,
    ca: PathBuf,
    /// What services show, as servers and as clients.
    pub(crate) own: Identity,
    /// What the gateway's clients show.
    client: Identity,
    tasks: Tasks,
}

/// A cluster whose parts speak TLS.
pub(crate) struct Cluster {
    gateway: Running,
    vision: Running,
    language: Running,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let ca = authority.write(&folder.path().join("ca.crt"));
        let own = authority.issue(folder.path(), "own", &["127.0.0.1", "localhost"]);
        let client = authority.issue(folder.path(), "client", &["client"]);
        Self { folder, authority, ca, own, client, tasks: Tasks::default() }
    }

    fn server(&self) -> TlsSettings {
        let Identity { certificate, key } = self.own.clone();
        TlsSettings { certificate, key, client_ca: self.ca.clone(), refresh: REFRESH }
    }

    fn upstream(&self) -> UpstreamTlsSettings {
        let Identity { certificate, key } = self.own.clone();
        UpstreamTlsSettings { ca: self.ca.clone(), certificate, key, refresh: REFRESH, ..Default::default() }
    }

    /// A file of tokens of acme and zoo.
    pub(crate) fn tokens(&self) -> AuthSettings {
        let path = self.folder.path().join("tokens");
        std::fs::write(&path, format!("# hashes\n{} acme\n{} zoo\n", ACME.1, ZOO.1)).unwrap();
        AuthSettings { tokens: path, refresh: REFRESH, ..AuthSettings::default() }
    }

    /// The keys of somebody who signs tokens.
    pub(crate) fn keys(&self) -> JwtSettings {
        let keys = self.folder.path().join("keys");
        let set = serde_json::json!({ "keys": [{ "kty": "RSA", "kid": "rsa", "n": RSA, "e": "AQAB" }] });
        std::fs::write(&keys, set.to_string()).unwrap();
        let (issuer, audience) = ("https://id.example".into(), "tessera".into());
        JwtSettings { keys, issuer, audience, ..JwtSettings::default() }
    }

    /// Starts the three services; `change` may change the settings of the gateway and of the language worker.
    pub(crate) async fn start(
        &self,
        change: impl FnOnce(&mut tessera_gateway::Settings, &mut tessera_language::Settings),
    ) -> Cluster {
        let model = family_dir("mistral");
        let vision = tessera_vision::Settings {
            model: model.clone(),
            tls: self.server(),
            ..tessera_vision::Settings::default()
        };
        let mut language = tessera_language::Settings {
            model: model.clone(),
            tls: self.server(),
            upstream_tls: self.upstream(),
            ..tessera_language::Settings::default()
        };
        let mut gateway = tessera_gateway::Settings {
            model,
            tls: self.server(),
            upstream_tls: self.upstream(),
            ..tessera_gateway::Settings::default()
        };
        change(&mut gateway, &mut language);
        let vision = tessera_vision::build(vision, |_| {}).await.unwrap();
        let vision = Running::start(|listener, stop| vision.run(listener, stop)).await;
        let language = tessera_language::build(language, |_| {}).await.unwrap();
        let language = Running::start(|listener, stop| language.run(listener, stop)).await;
        (gateway.vision, gateway.language) = (vec![url(&vision)], vec![url(&language)]);
        let gateway = tessera_gateway::build(gateway).await.unwrap();
        let gateway = Running::start(|listener, stop| gateway.run(listener, stop)).await;
        Cluster { gateway, vision, language }
    }

    /// A client that shows a certificate of ours.
    fn channel(&self, to: &Running) -> Channel {
        let Identity { certificate, key } = self.client.clone();
        self.channel_as(to, &UpstreamTlsSettings { certificate, key, ..self.upstream() })
    }

    fn channel_as(&self, to: &Running, tls: &UpstreamTlsSettings) -> Channel {
        client::channel_with(&url(to), &ClientTls::start(tls, &self.tasks).unwrap()).unwrap()
    }

    /// Somebody who shows a certificate of ours and this token to the gateway.
    pub(crate) fn asker(&self, cluster: &Cluster, token: Option<&str>) -> Asker {
        Asker { channel: self.channel(&cluster.gateway), token: token.map(str::to_owned) }
    }
}

fn url(service: &Running) -> String {
    format!("https://{}", service.address)
}

/// Somebody who asks the gateway.
pub(crate) struct Asker {
    channel: Channel,
    token: Option<String>,
}

impl Asker {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    pub(crate) async fn ask(&self, asked: GenerateRequest) -> Result<Reply, Error> {
        let mut gateway = GatewayClient::new(self.channel.clone());
        Reply::read(gateway.generate(self.request(asked.into())).await?.into_inner()).await
    }

    pub(crate) async fn encode(&self, image: Vec<u8>) -> Result<Encoded, Error> {
        let request = EncodeRequest { image: image.into(), lease: None, rows: None };
        let request = self.request(proto::EncodeRequest::from(request));
        let mut parts = GatewayClient::new(self.channel.clone()).encode(request).await?.into_inner();
        let Some(EncodePart::Encoded(encoded)) = parts.message().await?.and_then(|first| first.part) else {
            panic!("an encoding is told first")
        };
        encoded.try_into()
    }

    fn store(&self) -> EmbeddingStoreClient<Channel> {
        EmbeddingStoreClient::new(self.channel.clone())
    }

    /// Whether a key is stored, can be read, can be leased and can be deleted, in this order.
    async fn may(&self, key: ImageKey) -> Result<[bool; 4], Error> {
        let keys = key_bytes(&[key]);
        let request = self.request(embedding_proto::StatRequest { keys: keys.clone() });
        let mut found = self.store().stat(request).await?.into_inner().keys;
        let stored = KeyStatus::try_from(found.remove(0))?.stored.is_some();
        let fetch = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
        let read = match self.store().fetch(self.request(fetch.into())).await.map_err(Error::from) {
            Ok(_) => true,
            Err(error) if error.kind == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let lease = LeaseRequest { keys: vec![key], period: Duration::from_secs(60) };
        let leased = self.store().lease(self.request(lease.into())).await?.into_inner();
        let leased = lease_ends(&leased)[0].is_some();
        self.store().release(self.request(embedding_proto::ReleaseRequest { keys: keys.clone() })).await?;
        let what = embedding_proto::delete_request::What::Keys(embedding_proto::Keys { keys });
        let delete = self.request(embedding_proto::DeleteRequest { what: Some(what) });
        let deleted = self.store().delete(delete).await?.into_inner().deleted > 0;
        Ok([stored, read, leased, deleted])
    }
}

async fn check(channel: Channel) -> Result<(), Error> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop).map_err(Error::from)
}

#[test]
fn an_image_is_asked_about_where_everybody_shows_a_certificate() {
    limited(async {
        let world = World::new();
        let cluster = world.start(|_, language| {
            language.features.allowed_stores = vec!["https://127.0.0.*:*".parse().unwrap()];
        });
        let cluster = cluster.await;
        let reply = world.asker(&cluster, None).ask(request("one_image", 0)).await.unwrap();
        assert_reference(&reply, "mistral", "one_image");

        let nobody = UpstreamTlsSettings { certificate: PathBuf::new(), key: PathBuf::new(), ..world.upstream() };
        let forged = Authority::new("ours").issue(world.folder.path(), "forged", &["127.0.0.1"]);
        let forged = UpstreamTlsSettings { certificate: forged.certificate, key: forged.key, ..world.upstream() };
        let other_ca = Authority::new("theirs").write(&world.folder.path().join("theirs.crt"));
        let sceptic = UpstreamTlsSettings { ca: other_ca, ..world.upstream() };
        for service in [&cluster.gateway, &cluster.vision, &cluster.language] {
            check(world.channel(service)).await.unwrap();
            for stranger in [&nobody, &forged, &sceptic] {
                let error = check(world.channel_as(service, stranger)).await.unwrap_err();
                assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{error}");
            }
            assert_eq!(check(service.channel()).await.unwrap_err().kind, ErrorKind::Unavailable, "in the clear");
        }
    });
}

#[test]
fn features_come_from_the_stores_that_are_allowed() {
    limited(async {
        let world = World::new();
        let allowed = vec!["https://vision-*:50052".parse().unwrap()];
        let cluster = world.start(|_, language| language.features.allowed_stores = allowed).await;
        let error = world.asker(&cluster, None).ask(request("one_image", 0)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Denied, "STORE_NOT_ALLOWED"), "{error}");
        assert!(error.message.contains(&url(&cluster.vision)) && error.message.contains("allowed_stores"), "{error}");
        let asked = crate::cluster::sequence(vec![1, 2, 3], 2);
        let mut direct = LanguageWorkerClient::new(world.channel(&cluster.language));
        direct.generate(language_proto::GenerateRequest::from(asked)).await.unwrap();
    });
}

#[test]
fn certificates_are_replaced_and_no_request_is_lost() {
    limited_to(Duration::from_secs(120), async {
        let world = World::new();
        let cluster = world.start(|_, _| {}).await;
        let done = AtomicBool::new(false);
        let asking = async {
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                // A new client each time, which shakes hands anew.
                let reply = world.asker(&cluster, None).ask(request("one_image", 0)).await;
                assert_reference(&reply.unwrap_or_else(|error| panic!("{error:?}")), "mistral", "one_image");
                answered += 1;
            }
            answered
        };
        let staying = async {
            // The connections of the first moment.
            let asker = world.asker(&cluster, None);
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                asker.ask(request("text_only", 0)).await.unwrap_or_else(|error| panic!("{error:?}"));
                answered += 1;
            }
            answered
        };
        let replacing = async {
            for round in 0..10 {
                let next = world.authority.issue(world.folder.path(), "next", &["127.0.0.1"]);
                for (new, old) in [(next.certificate, &world.own.certificate), (next.key, &world.own.key)] {
                    std::fs::rename(new, old).unwrap();
                    tokio::time::sleep(if round % 2 == 0 { Duration::ZERO } else { REFRESH * 2 }).await;
                }
                tokio::time::sleep(REFRESH * 3).await;
            }
            done.store(true, Ordering::Relaxed);
        };
        let (fresh, stayed, ()) = tokio::join!(asking, staying, replacing);
        assert!(fresh > 1 && stayed > 1, "{fresh} {stayed}");
    });
}

#[test]
fn who_asks_must_say_who_they_are() {
    limited(async {
        let world = World::new();
        let auth = AuthSettings { jwt: world.keys(), ..world.tokens() };
        let cluster = world.start(|gateway, _| gateway.auth = auth).await;
        let [message, signature] = [SIGNED, EXPIRED].map(|token| token.rsplit_once('.').unwrap());
        let forged = format!("{}.{}", message.0, signature.1);
        for (token, reason) in [
            (None, "TOKEN_MISSING"),
            (Some("marked-token-of-nobody"), "TOKEN_UNKNOWN"),
            (Some(EXPIRED), "TOKEN_EXPIRED"),
            (Some(&*forged), "TOKEN_SIGNATURE"),
        ] {
            let asker = world.asker(&cluster, token);
            let key = ImageKey::of(b"", &tessera_embedding::EncoderFingerprint::of(&[]), b"");
            let errors = [
                asker.ask(request("text_only", 0)).await.unwrap_err(),
                asker.encode(picture("one_image", 0)).await.unwrap_err(),
                asker.may(key).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unauthenticated, reason), "{error}");
                assert!(token.is_none_or(|token| !format!("{error:?}").contains(token)), "{error:?}");
            }
            // Probes say nothing of themselves.
            check(asker.channel).await.unwrap();
        }
        for token in [ACME.0, ZOO.0, SIGNED] {
            let reply = world.asker(&cluster, Some(token)).ask(request("one_image", 0)).await.unwrap();
            assert_reference(&reply, "mistral", "one_image");
        }
    });
}

#[test]
fn only_listed_tenants_may_ask_where_that_is_set() {
    limited(async {
        let world = World::new();
        let auth = AuthSettings { listed_only: true, ..world.tokens() };
        let cluster = world.start(|gateway, _| {
            gateway.auth = auth;
            gateway.tenants.insert("acme".into(), TenantSettings::default());
        });
        let cluster = cluster.await;
        world.asker(&cluster, Some(ACME.0)).ask(request("text_only", 0)).await.unwrap();
        let error = world.asker(&cluster, Some(ZOO.0)).ask(request("text_only", 0)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Denied, "TENANT_NOT_LISTED"), "{error}");
    });
}

#[test]
fn tenants_see_nothing_of_one_another() {
    limited(async {
        let world = World::new();
        let auth = AuthSettings { jwt: world.keys(), ..world.tokens() };
        let cluster = world.start(|gateway, _| {
            gateway.auth = auth;
            gateway.tenant_salt = Secret::new("marked-salt");
        });
        let cluster = cluster.await;
        let (acme, zoo) = (world.asker(&cluster, Some(ACME.0)), world.asker(&cluster, Some(ZOO.0)));
        let image = picture("one_image", 0);
        let ours = acme.encode(image.clone()).await.unwrap();
        let theirs = zoo.encode(image.clone()).await.unwrap();
        assert!(!theirs.stored_before);
        assert_ne!(ours.image.key, theirs.image.key);
        // The same tenant by another kind of token.
        let signed = world.asker(&cluster, Some(SIGNED));
        assert!(signed.encode(image.clone()).await.unwrap().stored_before);

        // What another has computed saves nothing, which would tell of it.
        let handle = |key| by_handles("one_image", &[key]);
        let first = acme.ask(handle(ours.image.key)).await.unwrap();
        assert_reference(&first, "mistral", "one_image");
        assert_eq!(first.finished.usage.reused_tokens, Some(0));
        assert!(acme.ask(handle(ours.image.key)).await.unwrap().finished.usage.reused_tokens > Some(0));
        let other = zoo.ask(handle(theirs.image.key)).await.unwrap();
        assert_eq!(other.finished.usage.reused_tokens, Some(0));

        // A handle in the wrong hands is nothing.
        let error = zoo.ask(handle(ours.image.key)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::NotFound, "EMBEDDING_NOT_FOUND"), "{error}");
        assert_eq!(zoo.may(ours.image.key).await.unwrap(), [false; 4]);
        assert_eq!(acme.may(ours.image.key).await.unwrap(), [true; 4]);
        assert_eq!(zoo.may(theirs.image.key).await.unwrap(), [true; 4]);
    });
}

/// The lines of the private key that everybody in a world has.
pub(crate) fn key_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.contains("PRIVATE KEY")).map(str::to_owned).collect()
}
