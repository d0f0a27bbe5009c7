//! `tessera chat`: a conversation about pictures, line by line.
//!
//! `input` reads lines, `command` says what a line means, `history` holds what was said and shown.

mod command;
mod history;
mod input;
mod signal;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail, ensure};
use tessera_client::{Answer, Client, Error, ErrorKind, ImagePlan, Reply};
use tessera_gateway::{Scheme, UrlSettings};

use crate::access::explained;
use crate::cli::Chat;
use crate::gateway::{self, Gateway};
use crate::output::Waiting;
use crate::settings::SettingFlags;
use crate::{INTERRUPTED, answers, output};

use command::Command;
use history::{History, Shown};
use input::{Input, Line};
use signal::Signal;

/// Talks until the input ends.
///
/// # Errors
/// What went wrong before the first line, in one line that says what to do; what goes wrong with a line is shown, and the
/// conversation goes on.
pub(crate) async fn run(chat: Chat) -> anyhow::Result<ExitCode> {
    let mut history = History::new(chat.system.clone());
    for picture in &chat.pictures.0 {
        history.show(Shown::open(picture)?)?;
    }
    let gateway = tokio::select! {
        gateway = Gateway::open(&chat.services, fetching(&chat)?) => gateway?,
        signal = signal::next() => return signal.map(|_| ExitCode::from(INTERRUPTED)).map_err(Into::into),
    };
    let settings = Settings { flags: chat.settings, set: BTreeMap::new() };
    let talk = Talk { gateway: gateway.client.clone(), history, settings, last: None };
    let ended = talk.run().await;
    gateway.stop().await?;
    ended
}

/// What the gateway in this process may fetch: a URL of any host may be shown at any time.
fn fetching(chat: &Chat) -> anyhow::Result<UrlSettings> {
    let mut settings = gateway::fetching(chat.pictures.urls())?;
    settings.enabled = true;
    settings.allow.push("*".parse()?);
    settings.schemes.push(Scheme::Http);
    Ok(settings)
}

/// A conversation.
struct Talk {
    gateway: Client,
    history: History,
    settings: Settings,
    /// The last answer, for its figures.
    last: Option<Reply>,
}

/// How answers are made.
struct Settings {
    /// As the command line says.
    flags: SettingFlags,
    /// What was set since.
    set: BTreeMap<String, String>,
}

/// What there is of an answer, should it be stopped.
#[derive(Default)]
struct Said {
    text: String,
    images: Vec<ImagePlan>,
}

/// What becomes of the conversation behind a line.
enum Next {
    Line,
    End(ExitCode),
}

impl Talk {
    async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut input = Input::start()?;
        if input.is_terminal() {
            output::note("ask about pictures: /image PATH shows one, /help tells more, Ctrl-D leaves");
        }
        let mut all_well = true;
        loop {
            let line = tokio::select! {
                line = input.next() => line,
                signal = signal::next() => return signal.map(|_| ExitCode::from(INTERRUPTED)).map_err(Into::into),
            };
            let next = match line {
                Ok(Line::End) => break,
                Ok(Line::Broken) => {
                    output::note("Ctrl-D leaves");
                    continue;
                }
                Ok(Line::Text(line)) => self.take(&line).await,
                Err(error) => Err(error),
            };
            match next {
                Ok(Next::Line) => {}
                Ok(Next::End(code)) if code != ExitCode::SUCCESS => return Ok(code),
                Ok(Next::End(_)) => break,
                Err(error) if output::reader_left(&error) => return Err(error),
                Err(error) => {
                    all_well = false;
                    output::error(&error);
                }
            }
        }
        Ok(if all_well || input.is_terminal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn take(&mut self, line: &str) -> anyhow::Result<Next> {
        let Some(command) = Command::read(line)? else { return Ok(Next::Line) };
        match command {
            Command::Ask(question) => return self.ask(question).await,
            Command::Retry => {
                let question = self.history.take_back().context("there is no question to ask again")?;
                return self.ask(question).await;
            }
            Command::Show(picture) => {
                let shown = Shown::open(&picture)?;
                output::note(&format!("{} goes with the next question", shown.about));
                self.history.show(shown)?;
            }
            Command::Stats => {
                let reply = self.last.as_ref().context("nothing was answered yet")?;
                output::text(&answers::figures(reply))?;
            }
            Command::System(instructions) => self.history.system = instructions,
            Command::Set(setting) => self.set(setting)?,
            Command::Undo => output::note(&self.history.undo().context("there is nothing to take back")?),
            Command::Save(path) => save(&path, &self.history.transcript())?,
            Command::Clear => self.history.clear(),
            Command::Help => output::text(&command::help())?,
            Command::Quit => return Ok(Next::End(ExitCode::SUCCESS)),
        }
        Ok(Next::Line)
    }

    /// Asks, and shows the answer while it is made. A question without an answer can be asked again.
    async fn ask(&mut self, question: String) -> anyhow::Result<Next> {
        let asked = self.history.ask(&question).settings(self.settings.now()?.settings()?);
        let mut said = Said::default();
        let answered = {
            let (gateway, said) = (&self.gateway, &mut said);
            let answering = async {
                let waiting = Waiting::new("looking and thinking");
                let answer = waiting.during(gateway.generate(asked)).await;
                let reply = match answer {
                    Ok(answer) => listen(answer, &waiting, said).await,
                    Err(error) => Err(hinted(explained(error)).into()),
                };
                waiting.end();
                reply
            };
            tokio::select! {
                reply = answering => Ok(reply),
                signal = signal::next() => Err(signal?),
            }
        };
        match answered {
            Ok(Ok(reply)) => {
                output::text(&format!("\n{}{}", answers::table(&reply), answers::headed(&reply, 1)))?;
                self.history.answered(question, reply.text().to_owned(), &reply.started.images);
                self.last = Some(reply);
                Ok(Next::Line)
            }
            Ok(Err(error)) => {
                if !said.text.is_empty() {
                    output::text("\n")?;
                }
                self.history.unanswered(question);
                Err(error)
            }
            Err(Signal::Terminate) => Ok(Next::End(ExitCode::from(INTERRUPTED))),
            Err(Signal::Interrupt) => {
                if said.text.is_empty() {
                    self.history.unanswered(question);
                    output::note("stopped; /retry asks again");
                } else {
                    output::text("\n")?;
                    self.history.answered(question, said.text, &said.images);
                    output::note("stopped; the answer counts as far as it came, /retry asks again");
                }
                Ok(Next::Line)
            }
        }
    }

    /// Shows what is set, sets something, or goes back to what the command line says of it.
    fn set(&mut self, setting: Option<(String, Option<String>)>) -> anyhow::Result<()> {
        match setting {
            None if self.settings.set.is_empty() => output::note("nothing is set but by the command line"),
            None => {
                let line = |(name, value): (&String, &String)| format!("{name} {value}\n");
                output::text(&self.settings.set.iter().map(line).collect::<String>())?;
            }
            Some((name, Some(value))) => {
                self.settings.flags.clone().set(&name, &value).map_err(|error| anyhow!(error))?;
                self.settings.set.insert(name, value);
            }
            Some((name, None)) => {
                ensure!(self.settings.set.remove(&name).is_some(), "{name:?} is not set: /set NAME VALUE sets it");
            }
        }
        Ok(())
    }
}

impl Settings {
    fn now(&self) -> anyhow::Result<SettingFlags> {
        let mut flags = self.flags.clone();
        for (name, value) in &self.set {
            flags.set(name, value).map_err(|error| anyhow!(error))?;
        }
        Ok(flags)
    }
}

/// Shows an answer while it is made, and keeps what was shown.
async fn listen(mut answer: Answer, waiting: &Waiting, said: &mut Said) -> anyhow::Result<Reply> {
    said.images.clone_from(&answer.started().images);
    while let Some(text) = waiting.during(answer.next_text()).await.map_err(hinted)? {
        waiting.end();
        output::text(&text)?;
        said.text.push_str(&text);
    }
    Ok(answer.finish().await?)
}

/// An error that says what to do in a conversation.
fn hinted(mut error: Error) -> Error {
    if error.reason == "PROMPT_TOO_LONG" {
        error.message.push_str("; /undo takes back what was shown or said last, /clear all of it");
    } else if error.kind != ErrorKind::Unavailable && error.message.contains(".image") {
        error.message.push_str("; /undo takes the picture back");
    }
    error
}

/// Writes a file that is not there yet.
fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    ensure!(!text.is_empty(), "nothing was said yet");
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} is there already: choose another name", path.display())
        }
        written => written.with_context(|| format!("cannot write {}", path.display())),
    }
}
