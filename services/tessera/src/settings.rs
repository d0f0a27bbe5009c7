//! The flags of `tessera ask` and `tessera chat` that say how an answer is made.

use std::num::NonZeroUsize;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use tessera_client::{BeamSettings, Constraint, Settings};

use crate::files;

/// How the answer is made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How the answer is made")]
pub(crate) struct SettingFlags {
    /// New tokens at most
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 is greedy, which is the default unless the checkpoint says otherwise
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Sample among the K likeliest; 0: all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Sample among the likeliest whose probabilities reach this sum
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Sample among those with at least this share of the likeliest one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Sample among the most typical whose probabilities reach this sum
    #[arg(long, value_name = "P")]
    typical_p: Option<f32>,
    /// Divide the scores of tokens that occurred, in the question as well
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Subtract this from the score of every token that the answer holds
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract this from the score of a token as often as the answer holds it
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Equal seeds give equal answers
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer in front of this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// So many answers
    #[arg(long, value_name = "N")]
    samples: Option<NonZeroUsize>,
    /// Search for the likeliest answer with so many beams
    #[arg(long, value_name = "N")]
    beams: Option<NonZeroUsize>,
    /// Show the log-probability of every token, and of the N likeliest at its place
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
    /// Answer with JSON of this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|TEXT", group = "form")]
    json_schema: Option<String>,
    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", group = "form")]
    regex: Option<String>,
    /// Answer with one of these texts; repeat it for every one
    #[arg(long, value_name = "TEXT", group = "form")]
    choice: Vec<String>,
}

impl SettingFlags {
    /// The settings of a request.
    ///
    /// # Errors
    /// When the file of a schema cannot be read.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let beam_search = |beams| BeamSettings { beams, length_penalty: None, early_stopping: None };
        Ok(Settings {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            samples: self.samples,
            beam_search: self.beams.map(beam_search),
            logprobs: self.logprobs,
            constraint: self.constraint()?,
            ..Settings::default()
        })
    }

    /// Changes one of them as its flag does, by the flag's name without its strokes.
    ///
    /// # Errors
    /// In one line, when there is no such setting or it has no such value.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let command = Self::augment_args(Command::new("set").no_binary_name(true).disable_help_flag(true));
        let names: Vec<&str> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
        if !names.contains(&name) {
            return Err(format!("there is no setting {name:?}; there are: {}", names.join(", ")));
        }
        let matches = command.try_get_matches_from([format!("--{name}={value}")]);
        let set = matches.and_then(|matches| self.update_from_arg_matches(&matches));
        set.map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        })
    }

    fn constraint(&self) -> anyhow::Result<Option<Constraint>> {
        if let Some(schema) = &self.json_schema {
            let text = schema.trim_start().starts_with('{');
            let schema = if text { schema.clone() } else { files::read_text(Path::new(schema))? };
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        let choices = || (!self.choice.is_empty()).then(|| Constraint::Choices(self.choice.clone()));
        Ok(self.regex.clone().map(Constraint::Regex).or_else(choices))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        settings: SettingFlags,
    }

    fn settings(flags: &[&str]) -> Settings {
        Flags::parse_from([&["ask"], flags].concat()).settings.settings().unwrap()
    }

    #[test]
    fn a_schema_is_a_text_or_a_file() {
        let schema = r#" {"type": "object"}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), schema).unwrap();
        for given in [schema, file.path().to_str().unwrap()] {
            let expected = Some(Constraint::JsonSchema(schema.into()));
            assert_eq!(settings(&["--json-schema", given]).constraint, expected, "{given}");
        }
        let missing = Flags::parse_from(["ask", "--json-schema", "/nowhere.json"]).settings.settings();
        assert!(missing.unwrap_err().to_string().contains("/nowhere.json"));
    }

    #[test]
    fn an_answer_has_one_form() {
        let choices = Constraint::Choices(vec!["yes".into(), "no".into()]);
        assert_eq!(settings(&["--choice", "yes", "--choice", "no"]).constraint, Some(choices));
        assert_eq!(settings(&["--regex", "a+"]).constraint, Some(Constraint::Regex("a+".into())));
        assert!(Flags::try_parse_from(["ask", "--regex", "a", "--choice", "b"]).is_err());
    }

    #[test]
    fn a_setting_is_changed_as_by_its_flag() {
        let mut flags = Flags::parse_from(["ask", "--top-k", "7", "--stop", "a"]).settings;
        flags.set("presence-penalty", "-0.5").unwrap();
        flags.set("stop", "-- b").unwrap();
        let set = flags.settings().unwrap();
        assert_eq!((set.top_k, set.presence_penalty, &set.stop[..]), (Some(7), Some(-0.5), &["-- b".to_owned()][..]));
        let error = flags.set("top-k", "many").unwrap_err();
        assert!(error.contains("'many'") && error.lines().count() == 1, "{error}");
        let error = flags.set("help", "").unwrap_err();
        assert!(error.contains("there are: max-tokens, "), "{error}");
        assert_eq!(flags.settings().unwrap(), set, "what was refused changes nothing");
    }

    #[test]
    fn flags_become_settings() {
        let asked = settings(&["--presence-penalty", "-0.5", "--beams", "3", "--samples", "2", "--stop", "a"]);
        assert_eq!((asked.presence_penalty, asked.samples), (Some(-0.5), NonZeroUsize::new(2)));
        assert_eq!(asked.beam_search.map(|search| search.beams.get()), Some(3));
        assert_eq!(asked.stop, ["a"]);
        assert_eq!(settings(&[]), Settings::default());
    }
}
