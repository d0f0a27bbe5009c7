//! The command line that every service has.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ConfigErrors, EnvironmentSource, Sources, Validate, describe, load};

/// Flags that every service has; each goes before the environment, which goes before the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// TOML or YAML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read all settings, say what is wrong with them, and stop
    #[arg(long)]
    pub check_config: bool,
    /// Print the settings in force as TOML, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Where to listen, as HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Folder of the checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Any other setting, as KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

/// What a service is to do.
#[derive(Clone, Debug)]
pub enum Start<S> {
    /// Serve with these settings.
    Serve(S),
    /// Print this and stop.
    Print(String),
}

impl Arguments {
    /// Reads the settings from defaults, file, environment (variables that start with `env_prefix`) and these flags.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn start<S>(self, env_prefix: &'static str) -> Result<Start<S>, ConfigErrors>
    where
        S: Serialize + DeserializeOwned + Default + Validate,
    {
        let named = [("listen", self.listen), ("model", self.model)];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let overrides = named.chain(self.set).collect();
        let sources = Sources { file: self.config, env_prefix, env: EnvironmentSource::Process, overrides };
        let settings: S = load(&sources)?;
        Ok(match (self.print_config, self.check_config) {
            (true, _) => Start::Print(describe(&settings)),
            (false, true) => Start::Print("the configuration is fine\n".into()),
            (false, false) => Start::Serve(settings),
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}
