use bytes::Bytes;
use serde_json::json;
use tessera_api::proto::inference::InferTensorContents;
use tessera_api::proto::inference::infer_parameter::ParameterChoice;
use tessera_api::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tessera_embedding::ImageKey;

use super::super::tensor::of_bytes;
use super::*;

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

/// An input with its raw contents.
type Given = (InferInputTensor, Bytes);

fn bytes(name: &str, elements: &[&[u8]]) -> Given {
    let length = i64::try_from(elements.len()).unwrap();
    (tensor(name, "BYTES", &[length]), of_bytes(elements.iter().copied()))
}

fn flag(name: &str, value: bool) -> Given {
    (tensor(name, "BOOL", &[1]), Bytes::copy_from_slice(&[u8::from(value)]))
}

fn question() -> Given {
    bytes("text_input", &[b"What?"])
}

fn request(given: impl IntoIterator<Item = Given>) -> proto::ModelInferRequest {
    let (inputs, raw_input_contents) = given.into_iter().unzip();
    proto::ModelInferRequest { model_name: "llava".into(), inputs, raw_input_contents, ..Default::default() }
}

fn ask(given: impl IntoIterator<Item = Given>) -> Result<Asked> {
    read(request(given), "<image>")
}

fn parameter(choice: ParameterChoice) -> proto::InferParameter {
    proto::InferParameter { parameter_choice: Some(choice) }
}

/// The reason, and the path that is at fault.
fn refusal(asked: Result<Asked>) -> (String, String) {
    let error = asked.unwrap_err();
    let field = error.fields.first().map(|violation| violation.field.clone()).unwrap_or_default();
    assert!(error.message.starts_with(&field), "{error}");
    (error.reason.into_owned(), field)
}

#[test]
fn images_stand_in_front_of_the_text_in_the_order_of_their_inputs() {
    let key = [7; 32];
    let hex = "07".repeat(32);
    let handles = bytes("image_embedding", &[&key, hex.as_bytes()]);
    let asked = ask([question(), handles, bytes("image", &[b"\xff\xd8one", b"/9hvbmU="])]).unwrap();
    let handle = || Part::Image(ImageSource::Stored(ImageKey::try_from(&key[..]).unwrap()));
    let file = || Part::Image(ImageSource::File(Bytes::from_static(b"\xff\xd8one")));
    let parts = vec![handle(), handle(), file(), file(), Part::Text("What?".into())];
    assert_eq!(
        asked.request.input,
        tessera_api::gateway::Input::Conversation(vec![Message { role: Role::User, parts }])
    );
    for (ours, theirs) in [
        ("messages[0].parts[1].image", "inputs[\"image_embedding\"][1]"),
        ("messages[0].parts[2].image.data", "inputs[\"image\"][0].data"),
        ("messages[0].parts[4]", "inputs[\"text_input\"]"),
        ("messages", "inputs"),
        ("settings.top_p", "parameters.top_p"),
        ("request_id", "id"),
    ] {
        assert_eq!(asked.words.of(Error::field("A_REASON", ours, "is wrong")).fields[0].field, theirs);
    }
}

#[test]
fn a_prompt_is_taken_as_it_is_with_images_where_it_spells_them() {
    let raw = || bytes("sampling_parameters", &[b"{\"chat_template\": \"false\", \"top_p\": 0.5}"]);
    let ask =
        |text: &str, images: &[&[u8]]| ask([bytes("text_input", &[text.as_bytes()]), bytes("image", images), raw()]);
    let asked = ask("<s>See <image> and<image>", &[b"\xffone", b"\xfftwo"]).unwrap();
    let file = |bytes: &'static [u8]| Part::Image(ImageSource::File(Bytes::from_static(bytes)));
    let text = |text: &str| Part::Text(text.into());
    let parts = vec![text("<s>See "), file(b"\xffone"), text(" and"), file(b"\xfftwo"), text("")];
    assert_eq!(asked.request.input, gateway::Input::Prompt(parts));
    assert_eq!(asked.reply.prefix, "<s>See <image> and<image>");
    for (ours, theirs) in [
        ("prompt[3].image", "inputs[\"image\"][1]"),
        ("prompt", "inputs"),
        ("settings.top_p", "inputs[\"sampling_parameters\"].top_p"),
        ("settings.samples", "inputs[\"sampling_parameters\"].samples"),
    ] {
        assert_eq!(asked.words.of(Error::field("A_REASON", ours, "is wrong")).fields[0].field, theirs);
    }
    for (text, images) in [("none", &[&b"\xff"[..]][..]), ("<image>", &[])] {
        assert_eq!(refusal(ask(text, images)), ("PROMPT_IMAGE_COUNT".into(), "inputs[\"text_input\"]".into()));
    }
}

#[test]
fn both_forms_of_contents_are_the_same() {
    let raw = ask([question(), bytes("sampling_parameters", &[b"{\"max_tokens\": 3}"]), flag("stream", true)]).unwrap();
    let typed = |mut tensor: InferInputTensor, contents| {
        tensor.contents = Some(contents);
        tensor
    };
    let texts = |text: &'static str| InferTensorContents { bytes_contents: vec![text.into()], ..Default::default() };
    let inputs = vec![
        typed(tensor("text_input", "BYTES", &[1]), texts("What?")),
        typed(tensor("sampling_parameters", "BYTES", &[1]), texts("{\"max_tokens\": 3}")),
        typed(tensor("stream", "BOOL", &[1]), InferTensorContents { bool_contents: vec![true], ..Default::default() }),
    ];
    let request = proto::ModelInferRequest { model_name: "llava".into(), inputs, ..Default::default() };
    let typed = read(request, "<image>").unwrap();
    assert_eq!((typed.request, typed.reply), (raw.request, raw.reply));
}

#[test]
fn an_answer_begins_with_its_input_unless_it_comes_in_pieces_or_somebody_says_otherwise() {
    let prefix = |given: Vec<Given>| ask([question()].into_iter().chain(given)).map(|asked| asked.reply.prefix);
    assert_eq!(prefix(vec![]).unwrap(), "What?");
    assert_eq!(prefix(vec![flag("exclude_input_in_output", false)]).unwrap(), "What?");
    assert_eq!(prefix(vec![flag("exclude_input_in_output", true)]).unwrap(), "");
    assert_eq!(prefix(vec![flag("stream", true)]).unwrap(), "");
    assert_eq!(prefix(vec![flag("stream", true), flag("exclude_input_in_output", true)]).unwrap(), "");
    let refused = ask([question(), flag("stream", true), flag("exclude_input_in_output", false)]);
    assert_eq!(refusal(refused), ("SETTINGS_CONFLICT".into(), "inputs[\"exclude_input_in_output\"]".into()));
}

#[test]
fn outputs_are_asked_for_by_name_or_by_an_input() {
    let outputs = |given: Vec<Given>, names: &[&str]| {
        let name = |name: &&str| InferRequestedOutputTensor { name: (*name).into(), ..Default::default() };
        let request = request([question()].into_iter().chain(given));
        read(proto::ModelInferRequest { outputs: names.iter().map(name).collect(), ..request }, "<image>")
    };
    let kinds = |asked: Result<Asked>| asked.unwrap().reply.outputs;
    assert_eq!(kinds(outputs(vec![], &[])), [Output::Text]);
    let also = vec![flag("return_finish_reason", true), flag("return_logprobs", false)];
    assert_eq!(kinds(outputs(also, &[])), [Output::Text, Output::FinishReason]);
    assert_eq!(kinds(outputs(vec![], &["token_ids", "text_output"])), [Output::TokenIds, Output::Text]);
    assert_eq!(outputs(vec![], &["logprobs"]).unwrap().request.settings.logprobs, Some(0));
    for (names, reason, field) in [
        (&["text"][..], "OUTPUT_UNKNOWN", "outputs[\"text\"]"),
        (&["text_output", "text_output"], "OUTPUT_REPEATED", "outputs[\"text_output\"]"),
    ] {
        assert_eq!(refusal(outputs(vec![], names)), (reason.into(), field.into()));
    }
}

#[test]
fn parameters_beside_the_tensors_are_sampling_parameters_where_there_is_no_such_input() {
    let with = |name: &str, choice: ParameterChoice, given: Vec<Given>| {
        let parameters = BTreeMap::from([(name.to_owned(), parameter(choice))]);
        let request = request([question()].into_iter().chain(given));
        read(proto::ModelInferRequest { parameters, ..request }, "<image>")
    };
    let asked = with("max_tokens", ParameterChoice::Int64Param(5), vec![]).unwrap();
    assert_eq!(asked.request.settings.max_tokens, Some(5));
    let asked = with("temperature", ParameterChoice::DoubleParam(0.5), vec![]).unwrap();
    assert_eq!(asked.request.settings.temperature, Some(0.5));
    assert_eq!(
        with("timeout", ParameterChoice::Int64Param(1500), vec![]).unwrap().time,
        Some(Duration::from_micros(1500))
    );
    let empty = with("triton_enable_empty_final_response", ParameterChoice::BoolParam(true), vec![]).unwrap();
    assert!(empty.reply.may_end_empty);
    let sampling = || vec![bytes("sampling_parameters", &[b"{}"])];
    for (name, choice, given, reason) in [
        ("max_tokens", ParameterChoice::Int64Param(0), vec![], "VALUE_OUT_OF_RANGE"),
        ("temperature", ParameterChoice::DoubleParam(f64::NAN), vec![], "VALUE_OUT_OF_RANGE"),
        ("max_tokens", ParameterChoice::Int64Param(5), sampling(), "SETTINGS_CONFLICT"),
        ("anything", ParameterChoice::BoolParam(true), vec![], "PARAMETER_UNKNOWN"),
        ("sequence_id", ParameterChoice::Int64Param(5), vec![], "PARAMETER_UNSUPPORTED"),
        ("priority", ParameterChoice::Uint64Param(1), vec![], "PARAMETER_UNSUPPORTED"),
        ("timeout", ParameterChoice::Int64Param(-1), vec![], "PARAMETER_MALFORMED"),
        ("timeout", ParameterChoice::StringParam("1s".into()), vec![], "PARAMETER_MALFORMED"),
    ] {
        let refused = refusal(with(name, choice, given));
        assert_eq!(refused, (reason.into(), format!("parameters[{name:?}]")), "{name}");
    }
}

#[test]
fn settings_that_cannot_be_are_named_as_the_client_names_them() {
    for (parameters, reason, field) in [
        (json!({"n": 0}), "VALUE_OUT_OF_RANGE", "n"),
        (json!({"n": 4_000_000_000u32}), "VALUE_OUT_OF_RANGE", "n"),
        (json!({"max_tokens": "0"}), "VALUE_OUT_OF_RANGE", "max_tokens"),
        (json!({"temperature": -1}), "VALUE_OUT_OF_RANGE", "temperature"),
        (json!({"stop": [""]}), "STOP_EMPTY", "stop[0]"),
        (json!({"guided_decoding": {"regex": ""}}), "VALUE_OUT_OF_RANGE", "guided_decoding.regex"),
        (json!({"guided_decoding": {"choice": []}}), "VALUE_OUT_OF_RANGE", "guided_decoding.choice"),
        (json!({"nonsense": 1}), "PARAMETER_UNKNOWN", "nonsense"),
    ] {
        let refused = ask([question(), bytes("sampling_parameters", &[parameters.to_string().as_bytes()])]);
        let field = format!("inputs[\"sampling_parameters\"].{field}");
        assert_eq!(refusal(refused), (reason.into(), field), "{parameters}");
    }
    let refused = ask([question(), bytes("sampling_parameters", &[b"max_tokens=5"])]);
    assert_eq!(refusal(refused), ("PARAMETER_MALFORMED".into(), "inputs[\"sampling_parameters\"]".into()));
}

#[test]
fn inputs_that_cannot_be_are_named() {
    let shaped = |name: &str, datatype: &str, shape: &[i64], raw: &[u8]| {
        ask([question(), (tensor(name, datatype, shape), Bytes::copy_from_slice(raw))])
    };
    let image = "inputs[\"image\"]";
    for (asked, reason, field) in [
        (ask([flag("stream", true)]), "INPUT_MISSING", "inputs[\"text_input\"]"),
        (ask([question(), question()]), "INPUT_REPEATED", "inputs[\"text_input\"]"),
        (ask([question(), bytes("images", &[])]), "INPUT_UNKNOWN", "inputs[\"images\"]"),
        (ask([bytes("text_input", &[b"\xff"])]), "TEXT_MALFORMED", "inputs[\"text_input\"]"),
        (ask([bytes("text_input", &[b"a", b"b"])]), "SHAPE_MISMATCH", "inputs[\"text_input\"]"),
        (ask([question(), bytes("image", &[b"a", b""])]), "IMAGE_EMPTY", "inputs[\"image\"][1]"),
        (ask([question(), bytes("image_embedding", &[b"a"])]), "KEY_INVALID", "inputs[\"image_embedding\"][0]"),
        (shaped("image", "UINT8", &[1], b"a"), "DATATYPE_MISMATCH", image),
        (shaped("image", "BYTES", &[1, 1], &[1, 0, 0, 0, 9]), "SHAPE_MISMATCH", image),
        (shaped("image", "BYTES", &[-1], &[1, 0, 0, 0, 9]), "SHAPE_MISMATCH", image),
        (shaped("image", "BYTES", &[], &[1, 0, 0, 0, 9]), "SHAPE_MISMATCH", image),
        (shaped("image", "BYTES", &[2], &[1, 0, 0, 0, 9]), "ELEMENTS_MISCOUNTED", image),
        (shaped("image", "BYTES", &[i64::MAX], &[1, 0, 0, 0, 9]), "ELEMENTS_MISCOUNTED", image),
        (shaped("image", "BYTES", &[1], &[2, 0, 0, 0, 9]), "TENSOR_MALFORMED", image),
        (shaped("stream", "BOOL", &[1], &[2]), "TENSOR_MALFORMED", "inputs[\"stream\"]"),
        (shaped("stream", "BOOL", &[1], &[]), "ELEMENTS_MISCOUNTED", "inputs[\"stream\"]"),
    ] {
        assert_eq!(refusal(asked), (reason.into(), field.into()));
    }
}

#[test]
fn contents_are_given_once_for_each_input() {
    let mut miscounted = request([question(), bytes("image", &[b"a"])]);
    miscounted.raw_input_contents.pop();
    assert_eq!(refusal(read(miscounted, "<image>")), ("CONTENTS_MISCOUNTED".into(), "raw_input_contents".into()));
    let mut both = request([question()]);
    both.inputs[0].contents = Some(InferTensorContents { bytes_contents: vec!["a".into()], ..Default::default() });
    assert_eq!(refusal(read(both, "<image>")), ("CONTENTS_CONFLICT".into(), "inputs[\"text_input\"]".into()));
    let mut neither = request([question()]);
    neither.raw_input_contents.clear();
    assert_eq!(refusal(read(neither, "<image>")), ("ELEMENTS_MISCOUNTED".into(), "inputs[\"text_input\"]".into()));
    let mut shared = request([question()]);
    shared.raw_input_contents.clear();
    let region = parameter(ParameterChoice::StringParam("a".into()));
    shared.inputs[0].parameters.insert("shared_memory_region".into(), region);
    let refused = refusal(read(shared, "<image>"));
    assert_eq!(refused, ("SHARED_MEMORY_UNSUPPORTED".into(), "inputs[\"text_input\"]".into()));
}

#[test]
fn whatever_byte_is_another_one_the_request_is_read_or_refused_with_a_path() {
    let sampling = json!({"n": 2, "stop": ["a"], "guided_decoding": {"regex": "a+"}, "logit_bias": {"3": 1.5}});
    let whole = request([
        question(),
        bytes("image", &[b"\xff\xd8one", b"/9hvbmU="]),
        bytes("image_embedding", &["07".repeat(32).as_bytes()]),
        bytes("sampling_parameters", &[sampling.to_string().as_bytes()]),
        flag("stream", true),
    ]);
    assert!(read(whole.clone(), "<image>").is_ok());
    let mut refused = 0;
    for tensor in 0..whole.raw_input_contents.len() {
        for at in 0..whole.raw_input_contents[tensor].len() {
            for byte in [0, 1, b'"', b'{', 0x7f, 0xff] {
                let mut changed = whole.clone();
                let mut raw = changed.raw_input_contents[tensor].to_vec();
                raw[at] = byte;
                changed.raw_input_contents[tensor] = raw.into();
                if let Err(error) = read(changed, "<image>") {
                    assert!(!error.fields.is_empty(), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
