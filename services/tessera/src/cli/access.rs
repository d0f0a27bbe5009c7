//! The flags that say how a gateway that runs elsewhere is reached, and who asks it.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;
use tessera_config::Secret;

/// How a gateway that runs elsewhere is reached, and who asks it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The gateway that runs elsewhere")]
pub(crate) struct AccessFlags {
    /// Believe the authorities in this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) ca: Option<PathBuf>,
    /// Show this certificate (PEM), where the gateway asks for one
    #[arg(long, value_name = "FILE", requires_all = ["server", "key"])]
    pub(crate) certificate: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Read from this file the token that says who asks
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself; better in the environment or in a file than here
    #[arg(long, env = "TESSERA_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub(crate) token: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn what_is_for_another_gateway_needs_one() {
        let fine = ["--server", "https://a:1", "--ca", "ca.crt", "--certificate", "a.crt", "--key", "a.key"];
        assert!(Cli::try_parse_from([&["tessera", "ask", "why?"], &fine[..]].concat()).is_ok());
        for wrong in [
            &["--ca", "ca.crt"][..],
            &["--token-file", "token"],
            &["--server", "https://a:1", "--certificate", "a.crt"],
            &["--server", "https://a:1", "--key", "a.key"],
        ] {
            assert!(Cli::try_parse_from([&["tessera", "ask", "why?"], wrong].concat()).is_err(), "{wrong:?}");
        }
        // A token may be in the environment, whatever is asked.
        let cli = Cli::try_parse_from(["tessera", "ask", "why?", "--token", "open-sesame"]).unwrap();
        assert!(!format!("{cli:?}").contains("sesame"));
    }
}
