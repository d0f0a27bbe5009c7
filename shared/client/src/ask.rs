//! What is asked.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use tessera_api::Error;
use tessera_api::gateway::{GenerateRequest, ImageSource, Input, Message, Part, Role, Settings};
use tessera_embedding::ImageKey;

use crate::Image;

/// A question, with the images and the conversation that it is about.
///
/// ```
/// use tessera_client::Ask;
///
/// # fn ask(first: Vec<u8>, second: Vec<u8>) -> Ask {
/// Ask::new("What differs?").image(first).image(second).system("Answer in one sentence.").max_tokens(64)
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Ask {
    pub(crate) request: GenerateRequest,
    pub(crate) deadline: Option<Duration>,
    /// What stands for handles that are gone.
    otherwise: HashMap<ImageKey, ImageSource>,
    /// Why it cannot be asked.
    pub(crate) wrong: Option<Error>,
}

impl Ask {
    /// Asks a question.
    pub fn new(question: impl Into<String>) -> Self {
        Self::of(vec![spoken(Role::User, question)])
    }

    /// Goes on with a whole conversation, whose last message is to be answered. Texts and images stand in any order in it.
    pub fn of(messages: Vec<Message>) -> Self {
        Self::asking(Input::Conversation(messages))
    }

    /// Has a prompt continued as it is, without the chat template: text that spells a special token is that token there.
    pub fn prompt(parts: Vec<Part>) -> Self {
        Self::asking(Input::Prompt(parts))
    }

    fn asking(input: Input) -> Self {
        GenerateRequest { request_id: String::new(), input, settings: Settings::default() }.into()
    }

    /// Shows an image, in front of the last question's text and behind the images that it has; in a prompt, in front of its
    /// last text.
    pub fn image(mut self, image: impl Into<Image>) -> Self {
        let Image { source, otherwise } = image.into();
        if let (ImageSource::Stored(handle), Some(otherwise)) = (&source, otherwise) {
            self.otherwise.insert(*handle, otherwise);
        }
        let parts = match &mut self.request.input {
            Input::Conversation(messages) => messages.last_mut().map(|question| &mut question.parts),
            Input::Prompt(parts) => Some(parts),
        };
        if let Some(parts) = parts {
            let text = parts.iter().rposition(|part| matches!(part, Part::Text(_)));
            parts.insert(text.unwrap_or(parts.len()), Part::Image(source));
        }
        self
    }

    /// The same, by the handle of an image that was encoded before.
    pub fn embedding(self, handle: ImageKey) -> Self {
        self.image(handle)
    }

    /// Tells what was answered so far, and asks the next question. A prompt has no turns: to ask fails then.
    pub fn then(mut self, answer: impl Into<String>, question: impl Into<String>) -> Self {
        match &mut self.request.input {
            Input::Conversation(messages) => {
                messages.extend([spoken(Role::Assistant, answer), spoken(Role::User, question)]);
            }
            Input::Prompt(_) => self.wrong = Some(no_conversation("a turn")),
        }
        self
    }

    /// Puts instructions in front of the conversation. A prompt has no place for them: to ask fails then.
    pub fn system(mut self, instructions: impl Into<String>) -> Self {
        match &mut self.request.input {
            Input::Conversation(messages) => messages.insert(0, spoken(Role::System, instructions)),
            Input::Prompt(_) => self.wrong = Some(no_conversation("instructions")),
        }
        self
    }

    /// Says how the answer is made, in place of what was said so far: sampling, samples, form, log-probabilities.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.request.settings = settings;
        self
    }

    /// Answers with so many new tokens at most.
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.request.settings.max_tokens = Some(tokens);
        self
    }

    /// Chooses freely among likely tokens; 0 is greedy.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.request.settings.temperature = Some(temperature);
        self
    }

    /// Equal seeds give equal answers.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.settings.seed = Some(seed);
        self
    }

    /// Takes so much time at most, from the call on, retries included.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Names the request in the gateway's logs and errors: at most 128 bytes.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.request_id = id.into();
        self
    }

    /// The conversation; nothing where a prompt is continued.
    pub fn messages(&self) -> &[Message] {
        match &self.request.input {
            Input::Conversation(messages) => messages,
            Input::Prompt(_) => &[],
        }
    }

    /// How many answers there will be, unless the checkpoint says otherwise.
    pub fn samples(&self) -> usize {
        self.request.settings.samples.map_or(1, NonZeroUsize::get)
    }

    /// Puts files in place of handles, if this is the error of one that is gone and there is something to put. Once.
    pub(crate) fn replace_gone(&mut self, error: &Error) -> bool {
        let gone = error.metadata.iter().find(|(name, _)| name == "key").and_then(|(_, key)| key.parse().ok());
        let is_ours = gone.is_some_and(|key: ImageKey| self.otherwise.contains_key(&key));
        if error.reason != "EMBEDDING_NOT_FOUND" || !is_ours {
            return false;
        }
        // Where one is gone, so are others: all of them, that nobody is asked as often as there are images.
        let otherwise = std::mem::take(&mut self.otherwise);
        for part in self.request.input.parts_mut() {
            if let Part::Image(source) = part
                && let ImageSource::Stored(key) = source
                && let Some(file) = otherwise.get(key)
            {
                *source = file.clone();
            }
        }
        true
    }
}

impl From<GenerateRequest> for Ask {
    fn from(request: GenerateRequest) -> Self {
        Self { request, deadline: None, otherwise: HashMap::new(), wrong: None }
    }
}

impl From<&str> for Ask {
    fn from(question: &str) -> Self {
        Self::new(question)
    }
}

impl From<String> for Ask {
    fn from(question: String) -> Self {
        Self::new(question)
    }
}

fn no_conversation(what: &str) -> Error {
    Error::field(
        "INPUT_CONFLICT",
        "prompt",
        format!("is continued as it is, and has no place for {what}: write all of it there"),
    )
}

fn spoken(role: Role, text: impl Into<String>) -> Message {
    Message { role, parts: vec![Part::Text(text.into())] }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tessera_api::ErrorKind;

    use super::*;

    fn key(digit: &str) -> ImageKey {
        digit.repeat(64).parse().unwrap()
    }

    fn gone(key: ImageKey) -> Error {
        Error::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", "gone").with("key", key)
    }

    fn images(ask: &Ask) -> Vec<ImageSource> {
        ask.request
            .input
            .parts()
            .filter_map(|part| if let Part::Image(source) = part { Some(source.clone()) } else { None })
            .collect()
    }

    #[test]
    fn images_come_before_the_question_that_they_belong_to() {
        let ask =
            Ask::new("one").image(vec![1]).image(vec![2]).then("an answer", "two").embedding(key("3")).system("so");
        let Input::Conversation(messages) = &ask.request.input else { panic!("a conversation was asked for") };
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
        let file = |byte: u8| Part::Image(ImageSource::File(Bytes::from(vec![byte])));
        assert_eq!(messages[1].parts, [file(1), file(2), Part::Text("one".into())]);
        let stored = Part::Image(ImageSource::Stored(key("3")));
        assert_eq!(messages[3].parts, [stored, Part::Text("two".into())]);
    }

    #[test]
    fn what_does_not_go_with_a_prompt_is_kept_as_an_error() {
        let prompt = || Ask::prompt(vec![Part::Text("[INST] what [/INST]".into())]).image(vec![1]);
        assert_eq!((prompt().wrong, images(&prompt()).len()), (None, 1));
        for wrong in [prompt().system("Be brief."), prompt().then("yes", "and")] {
            assert_eq!(wrong.wrong.unwrap().reason, "INPUT_CONFLICT");
        }
    }

    #[test]
    fn all_handles_that_have_files_are_replaced_once_one_is_gone() {
        let stored = |digit| Image::stored_or(key(digit), vec![7]);
        let mut ask = Ask::new("what").image(stored("a")).embedding(key("b")).image(stored("c"));
        assert!(!ask.replace_gone(&gone(key("b"))), "there is no file of it");
        assert!(!ask.replace_gone(&Error { reason: "OTHER".into(), ..gone(key("a")) }));
        assert!(ask.replace_gone(&gone(key("c"))));
        let file = || ImageSource::File(Bytes::from_static(&[7]));
        assert_eq!(images(&ask), [file(), ImageSource::Stored(key("b")), file()]);
        assert!(!ask.replace_gone(&gone(key("a"))), "once");
    }
}
