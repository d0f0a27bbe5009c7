//! Who there is: the processes of the cluster, by role and number.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Gateway,
    Vision,
    Language,
}

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) role: Role,
    pub(crate) number: usize,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Vision, Self::Language, Self::Gateway];

    /// How many of them there are.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Gateway => 2,
            Self::Vision | Self::Language => 3,
        }
    }

    pub(crate) fn names(self) -> impl Iterator<Item = Name> {
        (0..self.count()).map(move |number| Name { role: self, number })
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Vision => "vision",
            Self::Language => "language",
        }
    }

    /// Runs a service of this role, as its own program does, until it is told to end.
    pub(crate) async fn serve(self, file: &Path) -> anyhow::Result<()> {
        let sources = tessera_config::Sources {
            file: Some(file.to_owned()),
            env_prefix: "TESSERA_FAULTS",
            env: tessera_config::EnvironmentSource::Given(Default::default()),
            overrides: Vec::new(),
        };
        let (listen, service) = match self {
            Self::Gateway => {
                let settings: tessera_gateway::Settings = tessera_config::load(&sources)?;
                tessera_telemetry::init(&settings.log)?;
                (tessera_rpc::listen(settings.listen).await?, tessera_gateway::build(settings).await?)
            }
            Self::Vision => {
                let settings: tessera_vision::Settings = tessera_config::load(&sources)?;
                tessera_telemetry::init(&settings.log)?;
                (tessera_rpc::listen(settings.listen).await?, tessera_vision::build(settings, |_| {}).await?)
            }
            Self::Language => {
                let settings: tessera_language::Settings = tessera_config::load(&sources)?;
                tessera_telemetry::init(&settings.log)?;
                (tessera_rpc::listen(settings.listen).await?, tessera_language::build(settings, |_| {}).await?)
            }
        };
        Ok(service.run_until_interrupted(listen).await?)
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.word() == text);
        role.ok_or_else(|| format!("{text:?} is no role: use gateway, vision or language"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.role.word(), self.number)
    }
}
