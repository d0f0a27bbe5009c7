//! Nothing that is secret is shown: a process does everything with marked secrets and logs all that it can; none of them is in
//! what it says.

use std::process::Command;
use std::time::Duration;

use tessera_config::Secret;
use tessera_gateway::{AuthSettings, TenantSettings};
use tessera_telemetry::LogSettings;
use tessera_testkit::picture;

use crate::client::by_handles;
use crate::cluster::limited_to;
use crate::conversation::request;
use crate::secure::{ACME, SIGNED, World, ZOO, key_lines};

/// Says to a process that this test starts that it is to do everything.
const ROLE: &str = "TESSERA_TEST_SECRETS";
/// Stands in front of what the process says must not be shown.
const MUST_NOT: &str = "must not be shown: ";
const SALTS: [&str; 2] = ["marked-salt-of-the-gateway", "marked-salt-of-zoo"];
const UNKNOWN: &str = "marked-token-of-nobody";

#[test]
fn no_secret_is_in_what_is_logged() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this = "secrets::everything_with_marked_secrets";
    let output = command.args(["--exact", this, "--nocapture"]).env(ROLE, "yes").output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("TRACE") && said.contains("h2::"), "everything is logged: {} bytes", said.len());
    let (announced, logged): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.contains(MUST_NOT));
    let key: Vec<&str> =
        announced.iter().filter_map(|line| line.split_once(MUST_NOT)).map(|(_, secret)| secret).collect();
    assert!(!key.is_empty(), "the process names its key");
    let secrets = [&[ACME.0, ZOO.0, UNKNOWN, ACME.1, SIGNED.rsplit('.').next().unwrap()], &SALTS[..], &key].concat();
    for secret in secrets {
        let shown = logged.iter().find(|line| line.contains(secret));
        assert_eq!(shown, None, "{secret}");
    }
    // As Rust shows bytes.
    for salt in SALTS {
        let bytes = format!("{:?}", salt.as_bytes());
        let shown = logged.iter().find(|line| line.contains(bytes.trim_matches(['[', ']'])));
        assert_eq!(shown, None, "{salt}");
    }
}

/// Does nothing, unless [`no_secret_is_in_what_is_logged`] runs it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the only way to tell a process that the test harness starts what it is")]
fn everything_with_marked_secrets() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    limited_to(Duration::from_secs(120), async {
        tessera_telemetry::init(&LogSettings { filter: "trace".into(), ..LogSettings::default() }).unwrap();
        let world = World::new();
        for line in key_lines(&world.own.key) {
            eprintln!("{MUST_NOT}{line}");
        }
        let auth = AuthSettings { jwt: world.keys(), ..world.tokens() };
        let cluster = world.start(|gateway, language| {
            gateway.auth = auth;
            gateway.tenant_salt = Secret::new(SALTS[0]);
            gateway
                .tenants
                .insert("zoo".into(), TenantSettings { salt: Secret::new(SALTS[1]), ..TenantSettings::default() });
            tracing_shows(&format!("{gateway:?} {language:?} {}", tessera_config::describe(gateway)));
        });
        let cluster = cluster.await;
        for token in [ACME.0, ZOO.0, SIGNED] {
            let asker = world.asker(&cluster, Some(token));
            let key = asker.encode(picture("one_image", 0)).await.unwrap().image.key;
            asker.ask(by_handles("one_image", &[key])).await.unwrap();
            asker.ask(request("one_image", 0)).await.unwrap();
        }
        for token in [None, Some(UNKNOWN)] {
            let error = world.asker(&cluster, token).ask(request("one_image", 0)).await.unwrap_err();
            tracing_shows(&format!("{error:?}"));
        }
        // What is broken is reported.
        for path in [&world.own.key, &world.own.certificate] {
            std::fs::write(path, std::fs::read_to_string(path).unwrap().replace("-----END", "----END")).unwrap();
        }
        std::fs::write(world.folder.path().join("tokens"), ACME.0).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
}

/// What a developer might log.
fn tracing_shows(text: &str) {
    eprintln!("{text}");
}
