//! Requests that are wrong: each is refused with a stable reason and the field at fault, and the next one is answered.

use bytes::Bytes;
use tessera_api::gateway::{ImageSource, Message, Part, Role, Settings};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::vision::v1::DescribeRequest;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::{Error, ErrorKind};
use tessera_config::ByteSize;
use tessera_embedding::ImageKey;
use tessera_testkit::picture;

use crate::cluster::{Cluster, limited};
use crate::conversation::{question, request, turns};

/// What is asked and how it is refused.
struct Fault {
    name: &'static str,
    request: proto::GenerateRequest,
    reason: &'static str,
    field: &'static str,
}

fn fault(
    name: &'static str,
    request: impl Into<proto::GenerateRequest>,
    reason: &'static str,
    field: &'static str,
) -> Fault {
    Fault { name, request: request.into(), reason, field }
}

/// A picture that must be refused.
fn bad_image(name: &'static str, file: impl Into<Bytes>, reason: &'static str) -> Fault {
    let parts = vec![Part::Image(ImageSource::File(file.into())), Part::Text("What is shown?".into())];
    fault(name, question(parts), reason, "messages[0].parts[0].image")
}

/// Settings that must be refused.
fn bad_settings(
    name: &'static str,
    change: impl FnOnce(&mut Settings),
    reason: &'static str,
    field: &'static str,
) -> Fault {
    let mut wrong = request("text_only", 0);
    change(&mut wrong.settings);
    fault(name, wrong, reason, field)
}

/// A message of the wire that no domain type can say.
fn bad_wire(
    name: &'static str,
    change: impl FnOnce(&mut proto::GenerateRequest),
    reason: &'static str,
    field: &'static str,
) -> Fault {
    let mut wrong = proto::GenerateRequest::from(request("one_image", 0));
    change(&mut wrong);
    fault(name, wrong, reason, field)
}

/// The picture of the first case.
fn good_picture() -> Vec<u8> {
    picture("one_image", 0)
}

/// A PNG whose header claims another size, with the header's checksum made right again.
fn claiming(mut png: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = png[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

fn image_faults() -> Vec<Fault> {
    let good = good_picture();
    let width = u32::from_be_bytes(good[16..20].try_into().unwrap());
    let two_formats: Vec<u8> = b"\xff\xd8\xff\xe0".iter().chain(&good[4..]).copied().collect();
    vec![
        bad_image("cut in its pixels", good[..good.len() / 2].to_vec(), "IMAGE_TRUNCATED"),
        bad_image("cut in its header", good[..20].to_vec(), "IMAGE_TRUNCATED"),
        bad_image("claims more rows than it has", claiming(good.clone(), width, 3000), "IMAGE_CORRUPT"),
        bad_image("claims to be huge", claiming(good.clone(), 60_000, 60_000), "IMAGE_TOO_LARGE"),
        bad_image("claims no pixels", claiming(good.clone(), 0, 10), "IMAGE_CORRUPT"),
        bad_image("begins as a JPEG and is none", two_formats, "IMAGE_TRUNCATED"),
        bad_image("is text", &b"What is shown in this image?"[..], "IMAGE_FORMAT_UNKNOWN"),
        bad_image("is one byte", &b"\x89"[..], "IMAGE_FORMAT_UNKNOWN"),
        bad_wire(
            "has no bytes",
            |wrong| image_of(wrong).source = Some(proto::image::Source::Data(Bytes::new())),
            "IMAGE_EMPTY",
            "messages[0].parts[0].image.data",
        ),
        bad_wire(
            "has no source",
            |wrong| image_of(wrong).source = None,
            "FIELD_MISSING",
            "messages[0].parts[0].image.source",
        ),
    ]
}

/// The image of a request's first part.
fn image_of(request: &mut proto::GenerateRequest) -> &mut proto::Image {
    match &mut request.messages[0].parts[0].content {
        Some(proto::part::Content::Image(image)) => image,
        other => panic!("{other:?}"),
    }
}

fn conversation_faults() -> Vec<Fault> {
    let text = |text: &str| Part::Text(text.into());
    let image = || Part::Image(ImageSource::File(good_picture().into()));
    let asked = || Message { role: Role::User, parts: vec![text("What?")] };
    let shown_by_the_model =
        turns(vec![asked(), Message { role: Role::Assistant, parts: vec![text("This."), image()] }]);
    let silent = turns(vec![asked(), Message { role: Role::User, parts: Vec::new() }]);
    let mut long_id = request("text_only", 0);
    long_id.request_id = "a".repeat(129);
    let mut strange_id = request("text_only", 0);
    strange_id.request_id = "a\nb".into();
    let many = (0..17).map(|_| image()).collect();
    vec![
        bad_wire("no messages", |wrong| wrong.messages.clear(), "FIELD_MISSING", "messages"),
        fault("a message without parts", silent, "PROMPT_EMPTY", "messages"),
        bad_wire("no role", |wrong| wrong.messages[0].role = 0, "ROLE_INVALID", "messages[0].role"),
        bad_wire("an unknown role", |wrong| wrong.messages[0].role = 77, "ROLE_INVALID", "messages[0].role"),
        bad_wire(
            "an empty part",
            |wrong| wrong.messages[0].parts[1].content = None,
            "FIELD_MISSING",
            "messages[0].parts[1]",
        ),
        fault("too many images", question(many), "TOO_MANY_IMAGES", "messages"),
        fault("an image where the template shows none", shown_by_the_model, "PROMPT_IMAGE_COUNT", "messages"),
        fault("longer than the context", question(vec![text(&"word ".repeat(5000))]), "PROMPT_TOO_LONG", "messages"),
        fault("a long request id", long_id, "REQUEST_ID_INVALID", "request_id"),
        fault("a request id of two lines", strange_id, "REQUEST_ID_INVALID", "request_id"),
    ]
}

fn setting_faults() -> Vec<Fault> {
    let range = "VALUE_OUT_OF_RANGE";
    vec![
        bad_settings("no new tokens", |wrong| wrong.max_tokens = Some(0), range, "settings.max_tokens"),
        bad_settings("below zero", |wrong| wrong.temperature = Some(-0.5), range, "settings.temperature"),
        bad_settings("no number", |wrong| wrong.temperature = Some(f32::NAN), range, "settings.temperature"),
        bad_settings("endless", |wrong| wrong.temperature = Some(f32::INFINITY), range, "settings.temperature"),
        bad_settings(
            "top_p too large",
            |wrong| {
                (wrong.temperature, wrong.top_p) = (Some(1.0), Some(1.5));
            },
            range,
            "settings.top_p",
        ),
        bad_settings(
            "top_p of zero",
            |wrong| {
                (wrong.temperature, wrong.top_p) = (None, Some(0.0));
            },
            range,
            "settings.top_p",
        ),
        bad_settings(
            "min_p too large",
            |wrong| {
                (wrong.temperature, wrong.min_p) = (Some(1.0), Some(2.0));
            },
            range,
            "settings.min_p",
        ),
        bad_settings(
            "a penalty of zero",
            |wrong| wrong.repetition_penalty = Some(0.0),
            range,
            "settings.repetition_penalty",
        ),
        bad_settings(
            "an empty stop string",
            |wrong| wrong.stop = vec!["a".into(), String::new()],
            "STOP_EMPTY",
            "settings.stop[1]",
        ),
        bad_settings("too many stop strings", |wrong| wrong.stop = vec!["a".into(); 17], range, "settings.stop"),
    ]
}

#[test]
fn what_is_wrong_is_named_and_the_next_request_is_answered() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        for Fault { name, request, reason, field } in
            image_faults().into_iter().chain(conversation_faults()).chain(setting_faults())
        {
            let error = cluster.ask(request).await.map(|reply| reply.text).expect_err(name);
            let fields: Vec<&str> = error.fields.iter().map(|violation| violation.field.as_str()).collect();
            assert_eq!(
                (error.kind, error.reason.as_ref(), fields.as_slice()),
                (ErrorKind::Invalid, reason, &[field][..]),
                "{name}: {error:?}"
            );
            assert!(!error.message.is_empty() && error.retry_after.is_none(), "{name}: {error:?}");
            cluster.answers_as_the_reference("mistral", "one_image").await;
        }
    });
}

#[test]
fn a_file_over_the_limit_is_refused_by_its_length() {
    limited(async {
        let limit = ByteSize::bytes(good_picture().len() as u64);
        let cluster = Cluster::start("mistral", |settings| {
            settings.gateway.image.max_file = limit;
            settings.vision.image.max_file = limit;
        })
        .await;
        let mut long = good_picture();
        long.push(0);
        let Fault { request, .. } = bad_image("", long.clone(), "");
        let error = cluster.ask(request).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "IMAGE_TOO_MANY_BYTES"));
        assert!(error.message.contains(&format!("{} bytes", long.len())), "{error}");
        // The worker refuses it as well when it is asked directly.
        let key = ImageKey::of(&[], &cluster.fingerprint().await, &long);
        let error = cluster.encode(long.into(), key.as_bytes()).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "IMAGE_TOO_MANY_BYTES"));
        cluster.answers_as_the_reference("mistral", "one_image").await;
    });
}

#[test]
fn a_request_over_the_limit_is_refused_by_its_length() {
    limited(async {
        let change = |settings: &mut crate::cluster::ClusterSettings| {
            settings.gateway.limits.request = ByteSize::kib(64);
        };
        let cluster = Cluster::start("mistral", change).await;
        let long = question(vec![Part::Text("a".repeat(65 << 10))]);
        let error = cluster.ask(long).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "MESSAGE_TOO_LARGE"), "{error:?}");
        // The transport refused it, and a method that nobody has; both with the details that every error has.
        let long = question(vec![Part::Text("a".repeat(65 << 10))]);
        let too_long = GatewayClient::new(cluster.gateway.channel()).generate(proto::GenerateRequest::from(long)).await;
        let unknown = VisionWorkerClient::new(cluster.gateway.channel()).describe(DescribeRequest {}).await;
        for status in [too_long.unwrap_err(), unknown.unwrap_err()] {
            assert!(!status.details().is_empty(), "{status:?}");
        }
        cluster.answers_as_the_reference("mistral", "one_image").await;
    });
}

/// A request as somebody writes it who does not know that text is UTF-8.
#[derive(Clone, PartialEq, prost::Message)]
struct RawRequest {
    #[prost(bytes = "vec", tag = "3")]
    request_id: Vec<u8>,
}

#[test]
fn text_that_is_not_utf_8_is_the_callers_fault() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let mut client = tonic::client::Grpc::new(cluster.gateway.channel());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawRequest, proto::GenerateResponse>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/tessera.gateway.v1.Gateway/Generate");
        let request = tonic::Request::new(RawRequest { request_id: vec![0xff, 0xfe] });
        let status = client.server_streaming(request, path, codec).await.unwrap_err();
        let error = Error::from(status);
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "REQUEST_MALFORMED"), "{error:?}");
        assert!(error.message.contains("request_id") && error.message.contains("UTF-8"), "{error}");
        cluster.answers_as_the_reference("mistral", "one_image").await;
    });
}

#[test]
fn a_key_must_be_the_encoders_own() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let image = Bytes::from(good_picture());
        let fingerprint = cluster.fingerprint().await;
        let right = ImageKey::of(&[], &fingerprint, &image);
        let other = ImageKey::of(b"other", &fingerprint, &image);
        let named =
            |error: Error| (error.kind, error.reason.into_owned(), error.fields.first().map(|f| f.field.clone()));
        let invalid = |reason: &str, field: &str| (ErrorKind::Invalid, reason.to_owned(), Some(field.to_owned()));

        let error = cluster.encode(image.clone(), other.as_bytes()).await.unwrap_err();
        assert!(error.metadata.contains(&("encoder".into(), fingerprint.to_string())), "{error:?}");
        assert_eq!(named(error), (ErrorKind::Precondition, "KEY_MISMATCH".into(), None));
        for wrong in [&right.as_bytes()[..31], &[], &[7; 33]] {
            let error = cluster.encode(image.clone(), wrong).await.unwrap_err();
            assert_eq!(named(error), invalid("KEY_INVALID", "key"));
        }
        let error = cluster.encode(Bytes::new(), right.as_bytes()).await.unwrap_err();
        assert_eq!(named(error), invalid("IMAGE_EMPTY", "image"));
        assert!(!cluster.encode(image, right.as_bytes()).await.unwrap().stored_before);
    });
}
