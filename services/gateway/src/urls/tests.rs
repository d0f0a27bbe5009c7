//! Images from servers on loopback ports of this process, some of which mean no good.

mod server;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tessera_api::gateway::{Message, Role};
use tessera_config::{ByteSize, ConfigErrors, EnvironmentSource, Sources, load};
use tessera_testkit::picture;

use super::*;
use server::{Act, Server};

/// A request may have more bytes than any test sends.
const ROOMY: u64 = 1 << 30;

/// Where names lead: one answer after the other, the last one again and again.
#[derive(Debug, Default)]
struct World {
    names: Vec<(&'static str, Vec<SocketAddr>)>,
    asked: Mutex<Vec<String>>,
}

impl World {
    fn of(names: &[(&'static str, &[SocketAddr])]) -> Self {
        let names = names.iter().map(|&(name, answers)| (name, answers.to_vec())).collect();
        Self { names, asked: Mutex::default() }
    }
}

impl Resolve for World {
    async fn addresses(&self, name: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let mut asked = self.asked.lock().unwrap();
        let times = asked.iter().filter(|earlier| *earlier == name).count();
        asked.push(name.to_owned());
        let known = self.names.iter().find(|(known, _)| *known == name).map(|(_, answers)| answers);
        let answer = known.and_then(|answers| answers.get(times).or(answers.last()));
        answer.map(|&address| vec![address]).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Loopback may be spoken to, every host may be asked at this server's port, and TLS is not needed.
fn open(server: &Server) -> UrlSettings {
    UrlSettings {
        enabled: true,
        allow: vec![format!("*:{}", server.address.port()).parse().unwrap()],
        schemes: vec![Scheme::Http, Scheme::Https],
        private: vec!["127.0.0.0/8".parse().unwrap()],
        max_bytes: ByteSize::kib(64),
        // The system may trust nobody.
        roots: server.certificate.file(),
        ..UrlSettings::default()
    }
}

fn fetcher(settings: UrlSettings) -> Fetcher<World> {
    Fetcher::new(settings, World::default()).unwrap()
}

fn asking(urls: &[String]) -> Input {
    let image = |url: &String| Part::Image(ImageSource::Url(url.parse().unwrap()));
    let parts = urls.iter().map(image).chain([Part::Text("What?".into())]).collect();
    Input::Conversation(vec![Message { role: Role::User, parts }])
}

/// The file that a URL becomes.
async fn fetch(fetcher: &Fetcher<World>, url: &str) -> Result<Bytes> {
    let mut request = asking(&[url.to_owned()]);
    fetcher.fetch(&mut request, ROOMY, Deadline::default()).await?;
    match request.parts().next() {
        Some(Part::Image(ImageSource::File(file))) => Ok(file.clone()),
        other => panic!("{other:?}"),
    }
}

/// Kind and reason of what a URL fails with, which must name the field and must not name what the client does not know.
async fn refused(fetcher: &Fetcher<World>, url: &str) -> (ErrorKind, String) {
    let error = fetch(fetcher, url).await.expect_err(url);
    let text = format!("{error:?}");
    assert!(error.message.starts_with("messages[0].parts[0].image.url: "), "{text}");
    for hidden in ["127.0.0", "10.0.0", "secret", "root:x:0"] {
        assert!(!text.contains(hidden), "{hidden} is in {text}");
    }
    (error.kind, error.reason.into_owned())
}

fn invalid(reason: &str) -> (ErrorKind, String) {
    (ErrorKind::Invalid, reason.to_owned())
}

fn unavailable() -> (ErrorKind, String) {
    (ErrorKind::Unavailable, "URL_FETCH_FAILED".to_owned())
}

fn file() -> Vec<u8> {
    picture("one_image", 0)
}

/// A good answer.
fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: text/html\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 8\r\n\r\nroot:x:0").into_bytes()
}

#[tokio::test]
async fn a_file_is_what_the_server_has_whatever_it_calls_it() {
    let image = file();
    let chunked =
        [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], b"4\r\n", &image[..4], b"\r\n"].concat();
    let rest = [format!("{:x}\r\n", image.len() - 4).as_bytes(), &image[4..], b"\r\n0\r\n\r\n"].concat();
    let to_the_end = [&b"HTTP/1.0 200 OK\r\n\r\n"[..], &image].concat();
    let server = Server::start(move |path| match path {
        "/a.png?signature=secret" => vec![Act::Send(ok(&file()))],
        "/chunked" => vec![Act::Send(chunked.clone()), Act::Wait(Duration::from_millis(5)), Act::Send(rest.clone())],
        "/to-the-end" => vec![Act::Send(to_the_end.clone())],
        other => panic!("{other}"),
    })
    .await;
    let fetcher = fetcher(open(&server));
    for path in ["a.png?signature=secret#not-sent", "chunked", "to-the-end"] {
        assert_eq!(fetch(&fetcher, &server.url(path)).await.unwrap(), image, "{path}");
    }
    let asked = server.asked();
    let head = asked[0].to_ascii_lowercase();
    assert!(head.starts_with("get /a.png?signature=secret http/1.1\r\n"), "{head}");
    for line in [format!("host: {}", server.address), "connection: close".into(), "accept-encoding: identity".into()] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line:?} is not in {head}");
    }
    assert!(!head.contains("cookie") && !head.contains("authorization"), "{head}");
}

#[tokio::test]
async fn what_is_not_allowed_is_never_spoken_to() {
    let server = Server::start(|_| vec![Act::Send(ok(&file()))]).await;
    let settings = open(&server);
    let none = UrlSettings { private: Vec::new(), ..settings.clone() };
    let tls_only = UrlSettings { schemes: vec![Scheme::Https], ..settings.clone() };
    let another =
        UrlSettings { allow: vec!["images.test".parse().unwrap(), "*.images.test".parse().unwrap()], ..settings };
    let url = server.url("a.png");
    assert_eq!(refused(&fetcher(tls_only), &url).await, invalid("URL_NOT_ALLOWED"));
    assert_eq!(refused(&fetcher(another), &url).await, invalid("URL_NOT_ALLOWED"));
    let port = server.address.port();
    let none = fetcher(none);
    for host in ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let url = format!("http://{host}:{port}/a.png");
        assert_eq!(refused(&none, &url).await, invalid("URL_ADDRESS_PRIVATE"), "{host}");
    }
    assert_eq!(server.asked(), [""; 0]);
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_its_address_is_the_one_that_was_checked() {
    let server = Server::start(|_| vec![Act::Send(ok(&file()))]).await;
    let (good, bad) = (server.address, SocketAddr::from(([10, 0, 0, 1], 80)));
    // Good when it is checked, bad should anybody ask again.
    let world = World::of(&[("rebinding.test", &[good, bad]), ("private.test", &[bad, good])]);
    let fetcher = Fetcher::new(open(&server), world).unwrap();
    let url = |name: &str| format!("http://{name}:{}/a.png", good.port());
    assert_eq!(fetch(&fetcher, &url("rebinding.test")).await.unwrap(), file());
    assert_eq!(*fetcher.resolver.asked.lock().unwrap(), ["rebinding.test"]);
    assert_eq!(refused(&fetcher, &url("private.test")).await, invalid("URL_ADDRESS_PRIVATE"));
    assert_eq!(refused(&fetcher, &url("nobody.test")).await, unavailable());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_a_new_url_for_which_everything_is_checked_again() {
    let server = Server::start(|path| {
        vec![Act::Send(match path {
            "/a.png" => ok(&file()),
            "/relative" => redirect("a.png"),
            "/twice" => redirect("/relative"),
            "/for-ever" => redirect("/for-ever"),
            "/elsewhere" => redirect("http://elsewhere.test/secret"),
            "/metadata" => redirect("http://169.254.169.254:1/secret"),
            "/again" => redirect("//rebinding.test:1/a.png"),
            "/file" => redirect("file:///etc/passwd"),
            "/user" => redirect("http://user:secret@a.test/"),
            "/nowhere" => b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            other => panic!("{other}"),
        })]
    })
    .await;
    let bad = SocketAddr::from(([10, 0, 0, 1], 1));
    let world = World::of(&[("rebinding.test", &[server.address, bad])]);
    let mut settings = open(&server);
    settings.allow.push("*:1".parse().unwrap());
    let fetcher = Fetcher::new(settings, world).unwrap();
    for path in ["relative", "twice"] {
        assert_eq!(fetch(&fetcher, &server.url(path)).await.unwrap(), file(), "{path}");
    }
    for (path, expected) in [
        ("for-ever", invalid("URL_FETCH_FAILED")),
        ("elsewhere", invalid("URL_NOT_ALLOWED")),
        ("metadata", invalid("URL_ADDRESS_PRIVATE")),
        ("file", invalid("URL_FETCH_FAILED")),
        ("user", invalid("URL_FETCH_FAILED")),
        ("nowhere", invalid("URL_FETCH_FAILED")),
    ] {
        assert_eq!(refused(&fetcher, &server.url(path)).await, expected, "{path}");
    }
    // The same name, to which the first request went, leads to another address by the second.
    let url = format!("http://rebinding.test:{}/again", server.address.port());
    assert_eq!(refused(&fetcher, &url).await, invalid("URL_ADDRESS_PRIVATE"));
    let for_ever = server.asked().iter().filter(|head| head.starts_with("GET /for-ever ")).count();
    assert_eq!(for_ever, 1 + UrlSettings::default().redirects);
}

#[tokio::test]
async fn what_is_no_image_file_in_time_and_of_the_length_is_refused() {
    let server = Server::start(|path| match path {
        "/missing" => vec![Act::Send(status("404 Not Found"))],
        "/busy" => vec![Act::Send(status("503 Service Unavailable"))],
        "/none" => vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        "/page" => vec![Act::Send(ok(b"<html>root:x:0</html>"))],
        "/short" => vec![Act::Send(ok(b"\x89PNG"))],
        "/empty" => vec![Act::Send(ok(b""))],
        "/no-http" => vec![Act::Send(b"root:x:0\r\n\r\n".to_vec())],
        "/said" => vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec()), Act::Hang],
        "/endless" => vec![
            Act::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
            Act::Repeat([&b"400\r\n\x89PNG\r\n\x1a\n"[..], &[0; 1016], b"\r\n"].concat()),
        ],
        "/cut" => vec![Act::Send(ok(&file())[..200].to_vec())],
        "/headers" => vec![
            Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Act::Repeat(b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".to_vec()),
        ],
        "/silent" => vec![Act::Hang],
        "/slow" => vec![Act::Send(ok(&file())[..150].to_vec()), Act::Drip(b"0")],
        other => panic!("{other}"),
    })
    .await;
    let time = Duration::from_millis(300);
    let fetcher = fetcher(UrlSettings { time, ..open(&server) });
    for (path, expected) in [
        ("missing", invalid("URL_FETCH_FAILED")),
        ("busy", unavailable()),
        ("none", invalid("URL_FETCH_FAILED")),
        ("page", invalid("URL_NOT_AN_IMAGE")),
        ("short", invalid("URL_NOT_AN_IMAGE")),
        ("empty", invalid("URL_NOT_AN_IMAGE")),
        ("no-http", unavailable()),
        ("said", invalid("URL_TOO_LARGE")),
        ("endless", invalid("URL_TOO_LARGE")),
        ("cut", unavailable()),
        ("headers", unavailable()),
    ] {
        assert_eq!(refused(&fetcher, &server.url(path)).await, expected, "{path}");
    }
    for path in ["silent", "slow"] {
        let began = Instant::now();
        assert_eq!(refused(&fetcher, &server.url(path)).await, unavailable(), "{path}");
        assert!((time..time * 10).contains(&began.elapsed()), "{path} took {:?}", began.elapsed());
    }
    assert_eq!(fetcher.at_once.available_permits(), UrlSettings::default().at_once);
}

#[tokio::test]
async fn a_file_may_be_exactly_as_long_as_the_limit() {
    let server = Server::start(|_| vec![Act::Send(ok(&file()))]).await;
    let length = file().len() as u64;
    for (max, is_fine) in [(length, true), (length - 1, false)] {
        let fetcher = fetcher(UrlSettings { max_bytes: ByteSize::bytes(max), ..open(&server) });
        let fetched = fetch(&fetcher, &server.url("a.png")).await;
        assert_eq!(
            fetched.map_err(|error| error.reason.into_owned()),
            if is_fine { Ok(file().into()) } else { Err("URL_TOO_LARGE".into()) }
        );
    }
}

#[tokio::test]
async fn fetched_files_count_as_a_part_of_their_request() {
    let server = Server::start(|_| vec![Act::Send(ok(&file()))]).await;
    let fetcher = fetcher(open(&server));
    let urls = [server.url("1"), server.url("2")];
    // Two files, and the text of the question.
    let whole = 2 * file().len() as u64 + 5;
    let mut request = asking(&urls);
    fetcher.fetch(&mut request, whole, Deadline::default()).await.unwrap();
    assert_eq!(bytes_of(&request), whole);
    let error = fetcher.fetch(&mut asking(&urls), whole - 1, Deadline::default()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "MESSAGE_TOO_LARGE"));
}

#[tokio::test]
async fn no_more_are_fetched_at_once_than_may_be_and_nobody_waits_beyond_the_deadline() {
    let server = Server::start(|_| vec![Act::Hang]).await;
    let fetcher = fetcher(UrlSettings { at_once: 2, ..open(&server) });
    let urls: Vec<String> = (0..5).map(|number| server.url(&number.to_string())).collect();
    let deadline = Deadline::default().within(Duration::from_millis(300));
    let error = fetcher.fetch(&mut asking(&urls), ROOMY, deadline).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline);
    assert_eq!(server.asked().len(), 2);
    assert_eq!(fetcher.at_once.available_permits(), 2);
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_be_that_of_the_name() {
    let server = Server::start_tls(|_| vec![Act::Send(ok(&file()))]).await;
    let world = || World::of(&[("localhost", &[server.address]), ("another.test", &[server.address])]);
    let at = |name: &str| format!("https://{name}:{}/a.png", server.address.port());
    let trusts = Fetcher::new(open(&server), world()).unwrap();
    assert_eq!(fetch(&trusts, &at("localhost")).await.unwrap(), file());
    assert_eq!(refused(&trusts, &at("another.test")).await, unavailable());
    assert_eq!(refused(&trusts, &at("127.0.0.1")).await.1, "URL_FETCH_FAILED");
    // It speaks no TLS at all.
    let plain = Server::start(|_| vec![Act::Send(ok(&file()))]).await;
    let other = plain.certificate.file();
    let doubts = Fetcher::new(UrlSettings { roots: other, ..open(&server) }, world()).unwrap();
    assert_eq!(refused(&doubts, &at("localhost")).await, unavailable());
    let no_tls = fetcher(open(&plain));
    assert_eq!(refused(&no_tls, &format!("https://{}/a.png", plain.address)).await, unavailable());
}

#[test]
fn a_file_of_certificates_must_hold_some() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, text).unwrap();
        let error = exchange::trusting(&path).unwrap_err().to_string();
        assert!(error.contains("urls.roots") && error.contains("roots.pem"), "{error}");
    }
    assert!(exchange::trusting(&folder.path().join("missing")).is_err());
}

fn read(given: &[(&str, &str)]) -> Result<UrlSettings, ConfigErrors> {
    let given = [&[("model", "/models/a")], given].concat();
    let overrides = given.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let env = EnvironmentSource::Given(BTreeMap::new());
    let settings = load::<crate::Settings>(&Sources { file: None, env_prefix: "TEST", env, overrides })?;
    Ok(settings.urls)
}

#[test]
fn settings_that_let_nothing_or_everything_pass_by_mistake_are_refused() {
    assert_eq!(read(&[]).unwrap(), UrlSettings::default());
    assert!(!UrlSettings::default().enabled && UrlSettings::default().schemes == [Scheme::Https]);
    let enabled = ("urls.enabled", "true");
    let good = read(&[enabled, ("urls.allow", "https://a.test,*.b.test"), ("urls.private", "10.0.0.0/8,fd00::/8")]);
    let good = good.unwrap();
    assert_eq!((good.allow.len(), good.private.len()), (2, 2));
    let allow = ("urls.allow", "*");
    for (given, expected) in [
        (&[enabled][..], "must name the hosts"),
        (&[enabled, ("urls.allow", "http://a.test")], "has a scheme that `schemes` does not name"),
        (&[enabled, ("urls.allow", "a.test/images")], "write HOST"),
        (&[enabled, allow, ("urls.schemes", "ftp")], "urls.schemes"),
        (&[enabled, allow, ("urls.private", "10.0.0.0")], "urls.private"),
        (&[enabled, allow, ("urls.at_once", "0")], "urls.at_once"),
        (&[enabled, allow, ("urls.time", "0s")], "urls.time"),
        (&[enabled, allow, ("urls.max_bytes", "0")], "urls.max_bytes"),
    ] {
        let error = read(given).unwrap_err().to_string();
        assert!(error.contains(expected), "{given:?}: {error}");
    }
}
