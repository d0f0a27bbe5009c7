//! What is asked and answered: the cases of the test kit, whole replies, and what the reference says.

use tessera_api::Error;
use tessera_api::gateway::{
    Event, Finished, GenerateRequest, ImageSource, Input, Message, Part, Role, Settings, Started,
};
use tessera_api::proto::gateway::v1 as proto;
use tessera_checkpoint::Checkpoint;
use tessera_testkit::{Golden, conversations, family_dir, picture};
use tonic::Streaming;

/// A whole answer of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) started: Started,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) finished: Finished,
}

impl Reply {
    /// Reads an answer, whose events must come in their order.
    pub(crate) async fn read(mut events: Streaming<proto::GenerateResponse>) -> Result<Self, Error> {
        let first = events.message().await?.expect("an answer is not empty");
        let Event::Started(started) = first.try_into()? else { panic!("an answer begins with Started") };
        let (mut text, mut token_ids, mut finished) = (String::new(), Vec::new(), None);
        while let Some(response) = events.message().await? {
            assert_eq!(finished, None, "nothing follows Finished");
            match response.try_into()? {
                Event::Started(_) => panic!("Started comes once"),
                Event::PromptLogprobs(_) => panic!("log-probabilities were not asked for"),
                Event::Delta { text: more, token_ids: new, .. } => {
                    text.push_str(&more);
                    token_ids.extend(new);
                }
                Event::Finished(end) => finished = Some(end),
            }
        }
        Ok(Self { started, text, token_ids, finished: finished.expect("an answer ends with Finished") })
    }
}

/// What the reference answered to one conversation of a case.
pub(crate) struct Expected {
    pub(crate) token_ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) prompt_tokens: usize,
    pub(crate) image_tokens: usize,
    pub(crate) margin: f32,
}

impl Expected {
    pub(crate) fn of(family: &str, case: &str, sequence: usize) -> Self {
        let golden = Golden::load(family, case);
        let end = Checkpoint::open(&family_dir(family)).unwrap().generation.eos_ids;
        let mut token_ids = golden.greedy[sequence].clone();
        if let Some(last) = token_ids.iter().position(|id| end.contains(id)) {
            token_ids.truncate(last + 1);
        }
        Self {
            token_ids,
            text: golden.greedy_text[sequence].clone(),
            prompt_tokens: golden.unpadded_ids(sequence).len(),
            image_tokens: golden.image_tokens[sequence],
            margin: golden.margin[sequence],
        }
    }
}

/// A conversation of a case with its pictures: 16 tokens, greedy.
pub(crate) fn request(case: &str, sequence: usize) -> GenerateRequest {
    let conversations = conversations(case);
    let earlier = conversations[..sequence].iter().flatten().map(|turn| turn.images).sum::<usize>();
    let mut pictures = (earlier..).map(|index| Part::Image(ImageSource::File(picture(case, index).into())));
    let messages = conversations[sequence].iter().map(|turn| {
        let role = if turn.role == "user" { Role::User } else { Role::Assistant };
        let mut parts: Vec<Part> = pictures.by_ref().take(turn.images).collect();
        parts.push(Part::Text(turn.text.into()));
        Message { role, parts }
    });
    let settings = Settings { max_tokens: Some(16), temperature: Some(0.0), ..Settings::default() };
    GenerateRequest { request_id: String::new(), input: Input::Conversation(messages.collect()), settings }
}

/// One question of the user.
pub(crate) fn question(parts: Vec<Part>) -> GenerateRequest {
    turns(vec![Message { role: Role::User, parts }])
}

/// A conversation of these turns.
pub(crate) fn turns(messages: Vec<Message>) -> GenerateRequest {
    GenerateRequest { input: Input::Conversation(messages), ..request("text_only", 0) }
}
