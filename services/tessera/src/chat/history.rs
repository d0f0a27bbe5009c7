//! What was said and shown.

use std::fmt::Write;

use anyhow::ensure;
use tessera_client::{Ask, Image, ImageKey, ImagePlan};

use crate::cli::Picture;
use crate::files;

/// Pictures that wait for one question: gateways take as many in a request, unless they are set up otherwise.
const MOST_SHOWN: usize = 16;

/// A conversation. It is as long as the model's context allows: what was not answered is not part of it.
#[derive(Debug)]
pub(super) struct History {
    /// Instructions in front of all.
    pub(super) system: Option<String>,
    turns: Vec<Turn>,
    /// Pictures that go with the next question.
    shown: Vec<Shown>,
    /// A question that got no answer.
    unanswered: Option<String>,
}

/// A question and its answer.
#[derive(Debug)]
struct Turn {
    shown: Vec<Shown>,
    question: String,
    answer: String,
}

/// A picture.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// As it was named, and its size if that is known.
    pub(super) about: String,
    name: String,
    image: Image,
    /// Stands for it once it was encoded.
    handle: Option<ImageKey>,
}

impl Shown {
    /// Takes a picture; a file is read, and what is no image is said at once.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(super) fn open(picture: &Picture) -> anyhow::Result<Self> {
        let (name, about, image) = match picture {
            Picture::File(path) => {
                let (file, size) = files::read_image(path)?;
                let name = path.display().to_string();
                (name.clone(), format!("{name} ({} x {} pixels)", size.width, size.height), Image::file(file))
            }
            Picture::Url(url) => (url.to_string(), format!("the picture at {url}"), Image::url(url.clone())),
            Picture::Stored(handle) => (handle.to_string(), format!("image {handle}"), Image::stored(*handle)),
        };
        Ok(Self { about, name, image, handle: None })
    }

    /// Its handle once there is one, and what it was named by should that be gone.
    fn image(&self) -> Image {
        match self.handle {
            Some(handle) => Image::stored_or(handle, self.image.clone()),
            None => self.image.clone(),
        }
    }
}

impl History {
    pub(super) fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new(), shown: Vec::new(), unanswered: None }
    }

    /// Has a picture wait for the next question.
    ///
    /// # Errors
    /// When too many wait.
    pub(super) fn show(&mut self, shown: Shown) -> anyhow::Result<()> {
        ensure!(
            self.shown.len() < MOST_SHOWN,
            "{MOST_SHOWN} pictures wait for a question: ask, or take one back with /undo"
        );
        self.shown.push(shown);
        Ok(())
    }

    /// All that was said and shown, and a question.
    pub(super) fn ask(&self, question: &str) -> Ask {
        let said = self.turns.iter().map(|turn| (&turn.shown, turn.question.as_str(), turn.answer.as_str()));
        let mut ask: Option<Ask> = None;
        let mut answer = "";
        for (shown, question, next_answer) in said.chain([(&self.shown, question, "")]) {
            let asked = match ask {
                Some(ask) => ask.then(answer, question),
                None => Ask::new(question),
            };
            ask = Some(shown.iter().fold(asked, |ask, shown| ask.image(shown.image())));
            answer = next_answer;
        }
        let ask = ask.unwrap_or_else(|| Ask::new(question));
        match &self.system {
            Some(system) => ask.system(system),
            None => ask,
        }
    }

    /// Takes the answer to a question, and how all images were understood, if that is known: their handles stand for them
    /// from now on.
    pub(super) fn answered(&mut self, question: String, answer: String, images: &[ImagePlan]) {
        let shown = std::mem::take(&mut self.shown);
        self.turns.push(Turn { shown, question, answer });
        self.unanswered = None;
        let all = self.turns.iter_mut().flat_map(|turn| &mut turn.shown);
        for (shown, plan) in all.zip(images) {
            shown.handle = Some(plan.key);
        }
    }

    /// Keeps a question that got no answer; its pictures wait for the next one.
    pub(super) fn unanswered(&mut self, question: String) {
        self.unanswered = Some(question);
    }

    /// Gives the last question back, to be asked again, with the pictures that it had.
    pub(super) fn take_back(&mut self) -> Option<String> {
        if let Some(question) = self.unanswered.take() {
            return Some(question);
        }
        let Turn { mut shown, question, .. } = self.turns.pop()?;
        shown.append(&mut self.shown);
        self.shown = shown;
        Some(question)
    }

    /// Forgets what came last, and says what that was.
    pub(super) fn undo(&mut self) -> Option<String> {
        if let Some(shown) = self.shown.pop() {
            return Some(format!("{} is not shown", shown.about));
        }
        let question = self.unanswered.take().or_else(|| self.turns.pop().map(|turn| turn.question))?;
        Some(format!("not asked: {question}"))
    }

    /// Forgets all but the instructions.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.system.take());
    }

    /// The conversation as Markdown; nothing where nothing was answered.
    pub(super) fn transcript(&self) -> String {
        let mut text = String::new();
        if self.turns.is_empty() {
            return text;
        }
        // Writing to a string does not fail.
        if let Some(system) = &self.system {
            let _ = writeln!(text, "**Instructions:** {system}\n");
        }
        for Turn { shown, question, answer } in &self.turns {
            for Shown { name, handle, .. } in shown {
                let handle = handle.map(|handle| format!(", handle `{handle}`")).unwrap_or_default();
                let _ = writeln!(text, "**Picture:** `{name}`{handle}\n");
            }
            let _ = writeln!(text, "**Question:** {question}\n\n{answer}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use tessera_client::{ImageSize, ImageSource, Part};

    use super::*;

    fn shown(name: &str) -> Shown {
        Shown { about: name.into(), name: name.into(), image: Image::file(name.as_bytes().to_vec()), handle: None }
    }

    fn plan(digit: &str) -> ImagePlan {
        let size = ImageSize { height: 1, width: 1 };
        let key = digit.repeat(64).parse().unwrap();
        ImagePlan { key, image_size: size, grid: size, tiles: 1, image_tokens: 1 }
    }

    /// Images and texts of what would be asked.
    fn parts(history: &History, question: &str) -> Vec<String> {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Image(ImageSource::File(file)) => format!("[{}]", String::from_utf8_lossy(file)),
            Part::Image(ImageSource::Stored(key)) => format!("<{}>", &key.to_string()[..1]),
            Part::Image(ImageSource::Url(url)) => url.to_string(),
        };
        let ask = history.ask(question);
        ask.messages().iter().flat_map(|message| message.parts.iter().map(part)).collect()
    }

    #[test]
    fn a_picture_is_sent_once_and_then_by_its_handle() {
        let mut history = History::new(Some("Be brief.".into()));
        history.show(shown("a")).unwrap();
        history.show(shown("b")).unwrap();
        assert_eq!(parts(&history, "one?"), ["Be brief.", "[a]", "[b]", "one?"]);
        history.answered("one?".into(), "yes".into(), &[plan("1"), plan("2")]);
        history.show(shown("c")).unwrap();
        assert_eq!(parts(&history, "two?"), ["Be brief.", "<1>", "<2>", "one?", "yes", "[c]", "two?"]);
        // Where an answer tells nothing of its pictures, they are sent as they are.
        history.answered("two?".into(), "n".into(), &[]);
        let expected = ["Be brief.", "<1>", "<2>", "one?", "yes", "[c]", "two?", "n", "three?"];
        assert_eq!(parts(&history, "three?"), expected);
        let text = history.transcript();
        assert!(text.contains(&format!("`a`, handle `{}`", "1".repeat(64))) && text.contains("`c`\n"), "{text}");
        assert!(text.ends_with("**Question:** two?\n\nn\n\n"), "{text}");
    }

    #[test]
    fn what_came_last_is_taken_back_first() {
        let mut history = History::new(None);
        assert_eq!((history.undo(), history.take_back(), history.transcript()), (None, None, String::new()));
        history.show(shown("a")).unwrap();
        history.answered("one?".into(), "yes".into(), &[]);
        history.show(shown("b")).unwrap();
        history.unanswered("two?".into());
        assert_eq!(history.undo().unwrap(), "b is not shown");
        assert_eq!(history.undo().unwrap(), "not asked: two?");
        history.show(shown("c")).unwrap();
        assert_eq!(history.take_back().unwrap(), "one?");
        assert_eq!(parts(&history, "one?"), ["[a]", "[c]", "one?"], "with its picture, and the one shown since");
        history.answered("one?".into(), "no".into(), &[]);
        assert_eq!(history.undo().unwrap(), "not asked: one?");
        assert_eq!(parts(&history, "three?"), ["three?"]);
        history.system = Some("Be brief.".into());
        history.answered("three?".into(), "yes".into(), &[]);
        history.clear();
        assert_eq!(parts(&history, "four?"), ["Be brief.", "four?"]);
    }

    #[test]
    fn only_so_many_pictures_wait_for_a_question() {
        let mut history = History::new(None);
        (0..MOST_SHOWN).for_each(|_| history.show(shown("a")).unwrap());
        assert!(history.show(shown("a")).unwrap_err().to_string().contains("/undo"));
    }
}
