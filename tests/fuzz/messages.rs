//! Messages of the wire: any bytes at all, what looks like a message, and messages that were damaged.

use std::sync::LazyLock;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message as _;
use tessera_api::proto::{
    embedding::v1 as embedding, gateway::v1 as gateway, language::v1 as language, vision::v1 as vision,
};
use tessera_api::{Error, ErrorKind, vision as vision_domain};
use tessera_api::{embedding as embedding_domain, gateway as gateway_domain, language as language_domain};
use tessera_testkit::{damaged, default_cases, peak};

/// Bytes of memory for each byte of a message: two of these may be a list's element, which takes some hundreds.
const MOST: usize = 600;
/// Largest upload here.
const UPLOAD: usize = 16 << 10;

/// Messages of every kind that has parts, as they come over the wire.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut runner = TestRunner::deterministic();
    let mut messages = Vec::new();
    for _ in 0..40 {
        messages.push(conversation().new_tree(&mut runner).unwrap().current().encode_to_vec());
        messages.push(tokens().new_tree(&mut runner).unwrap().current().encode_to_vec());
    }
    let key = || Bytes::from_static(&[7; 32]);
    let size = Some(embedding::ImageSize { height: 480, width: 640 });
    let header = embedding::PutHeader {
        image_size: size,
        data_type: embedding::DataType::F16.into(),
        representation: embedding::Representation::Features.into(),
        rows: 3,
        columns: 5,
        tenant_salt: key(),
    };
    let header = embedding::put_request::Part::Header(header);
    messages.extend([
        embedding::PutRequest { part: Some(header) }.encode_to_vec(),
        embedding::LeaseRequest { keys: vec![key(); 3], seconds: 60 }.encode_to_vec(),
        embedding::StatRequest { keys: vec![key(); 3] }.encode_to_vec(),
        vision::EncodeRequest { image: key(), key: key(), tenant_salt: key(), shape: 1 }.encode_to_vec(),
        gateway::EncodeBatchRequest { id: "a".into(), image: key(), lease_seconds: 60, in_order: true }.encode_to_vec(),
    ]);
    messages
});

/// Reads bytes as a message and the message as a domain type.
fn read<W, D>(bytes: &[u8])
where
    W: prost::Message + Default,
    D: TryFrom<W, Error = Error>,
{
    take::<W>(bytes, |message| D::try_from(message).map(drop));
}

/// Reads bytes as a message, if they are one, and what the message says. An error must say what is wrong, and where; and
/// all of it takes memory in proportion to the bytes.
fn take<W: prost::Message + Default>(bytes: &[u8], domain: impl FnOnce(W) -> Result<(), Error>) {
    let (read, taken) = peak(|| W::decode(bytes).ok().map(domain));
    let name = std::any::type_name::<W>();
    assert!(taken < MOST * bytes.len() + (64 << 10), "{name} of {} bytes took {taken}", bytes.len());
    if let Some(Err(error)) = read {
        assert_eq!(error.kind, ErrorKind::Invalid, "{name}: {error:?}");
        assert!(!error.fields.is_empty(), "{name}: {error:?}");
        let is_stable = error.reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        assert!(is_stable && !error.reason.is_empty(), "{name}: {error:?}");
    }
}

fn read_as_everything(bytes: &[u8]) {
    read::<gateway::EncodeRequest, gateway_domain::EncodeRequest>(bytes);
    read::<gateway::Encoded, gateway_domain::Encoded>(bytes);
    read::<gateway::EncodeBatchResponse, gateway_domain::BatchResponse>(bytes);
    read::<gateway::GenerateRequest, gateway_domain::GenerateRequest>(bytes);
    read::<gateway::GenerateResponse, gateway_domain::Event>(bytes);
    read::<language::GenerateRequest, language_domain::GenerateRequest>(bytes);
    read::<language::GenerateResponse, language_domain::Event>(bytes);
    read::<language::DescribeResponse, language_domain::Description>(bytes);
    read::<vision::EncodeRequest, vision_domain::EncodeRequest>(bytes);
    read::<vision::EncodeResponse, vision_domain::Encoded>(bytes);
    read::<vision::DescribeResponse, vision_domain::Description>(bytes);
    read::<embedding::FetchRequest, embedding_domain::FetchRequest>(bytes);
    read::<embedding::FetchHeader, embedding_domain::FetchHeader>(bytes);
    read::<embedding::KeyStatus, embedding_domain::KeyStatus>(bytes);
    read::<embedding::PutResponse, embedding_domain::Uploaded>(bytes);
    read::<embedding::LeaseRequest, embedding_domain::LeaseRequest>(bytes);
    read::<embedding::DeleteRequest, embedding_domain::DeleteRequest>(bytes);
    // These are always read, each in its own way.
    take::<gateway::EncodeBatchRequest>(bytes, |request| gateway_domain::BatchRequest::from(request).image.map(drop));
    take::<embedding::StatRequest>(bytes, |request| embedding_domain::keys(&request.keys).map(drop));
    take::<embedding::ReleaseRequest>(bytes, |request| embedding_domain::keys(&request.keys).map(drop));
    take::<embedding::PutRequest>(bytes, upload);
    take::<language::LoadResponse>(bytes, |response| {
        let _ = language_domain::Load::from(response);
        Ok(())
    });
}

/// Reads an upload that ends behind its first message.
fn upload(first: embedding::PutRequest) -> Result<(), Error> {
    let reading = embedding_domain::read_upload(futures::stream::iter([Ok(first)]), UPLOAD);
    reading.now_or_never().expect("nothing is waited for").map(drop)
}

fn blob(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn part() -> impl Strategy<Value = gateway::Part> {
    use gateway::part::Content;
    let image =
        prop::option::of(blob(40)).prop_map(|data| gateway::Image { source: data.map(gateway::image::Source::Data) });
    let content = prop_oneof![any::<String>().prop_map(Content::Text), image.prop_map(Content::Image)];
    prop::option::of(content).prop_map(|content| gateway::Part { content })
}

prop_compose! {
    fn settings()(
        max_tokens: Option<u32>, temperature: Option<f32>, top_k: Option<u32>, top_p: Option<f32>, min_p: Option<f32>,
        repetition_penalty: Option<f32>, seed: Option<u64>, stop in prop::collection::vec(any::<String>(), 0..20),
    ) -> gateway::GenerationSettings {
        gateway::GenerationSettings {
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            stop,
            ..gateway::GenerationSettings::default()
        }
    }
}

prop_compose! {
    fn conversation()(
        messages in prop::collection::vec((-1..5_i32, prop::collection::vec(part(), 0..4)), 0..4),
        settings in prop::option::of(settings()), prompt in prop::collection::vec(part(), 0..2),
        request_id: String,
    ) -> gateway::GenerateRequest {
        let messages = messages.into_iter().map(|(role, parts)| gateway::Message { role, parts });
        gateway::GenerateRequest { messages: messages.collect(), settings, request_id, prompt }
    }
}

prop_compose! {
    fn reference()(
        key in prop_oneof![blob(40), Just(Bytes::from_static(&[7; 32]))], start in prop_oneof![0..20_u32, any::<u32>()],
        image_tokens in prop_oneof![0..20_u32, any::<u32>()], size: Option<(u32, u32)>, store: String,
    ) -> language::ImageReference {
        let image_size = size.map(|(height, width)| embedding::ImageSize { height, width });
        language::ImageReference { key, start, image_tokens, image_size, store, is_stored: false }
    }
}

prop_compose! {
    fn tokens()(
        token_ids in prop::collection::vec(any::<u32>(), 0..30), images in prop::collection::vec(reference(), 0..3),
        sampling: Option<(f32, f32, u32, f32, f32, u64)>, max_new_tokens in prop_oneof![Just(0), any::<u32>()],
    ) -> language::GenerateRequest {
        let sampling = sampling.map(|(repetition_penalty, temperature, top_k, top_p, min_p, seed)| {
            language::Sampling {
                repetition_penalty,
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
                ..language::Sampling::default()
            }
        });
        let (request_id, end_token_ids) = (String::new(), vec![2]);
        language::GenerateRequest {
            request_id,
            token_ids,
            images,
            sampling,
            max_new_tokens,
            end_token_ids,
            ..language::GenerateRequest::default()
        }
    }
}

proptest! {
    #![proptest_config(default_cases(2000))]

    #[test]
    fn random_bytes_are_read_or_refused(bytes in blob(200)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn what_looks_like_a_conversation_is_read_or_refused(request in conversation()) {
        let bytes = request.encode_to_vec();
        read_as_everything(&bytes);
        if let Ok(read) = gateway_domain::GenerateRequest::try_from(request.clone()) {
            // What was understood says the same when it is written again.
            let again = gateway::GenerateRequest::from(read.clone());
            prop_assert_eq!(gateway_domain::GenerateRequest::try_from(again).unwrap(), read);
        }
    }

    #[test]
    fn what_looks_like_a_prompt_is_read_or_refused(request in tokens()) {
        read_as_everything(&request.encode_to_vec());
        if let Ok(read) = language_domain::GenerateRequest::try_from(request) {
            for image in &read.images {
                prop_assert!(!image.positions.is_empty() && image.positions.end <= read.token_ids.len());
            }
        }
    }

    #[test]
    fn a_damaged_message_is_read_or_refused(bytes in damaged(CORPUS.clone())) {
        read_as_everything(&bytes);
    }
}
