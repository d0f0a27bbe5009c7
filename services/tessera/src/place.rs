//! Where encoded images are kept beside memory, as the command line names it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use tessera_config::{ByteSize, Secret};
use tessera_vision::{DiskSettings, SharedSettings, StoreSettings};

/// Schemes of the stores that several machines share.
const SHARED: [&str; 3] = ["redis", "rediss", "s3"];

/// Where encoded images are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// At a server, by its URL.
    Shared(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it names no folder".into());
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Folder(text.into())) };
        if scheme == "file" {
            let path = Path::new(rest);
            return if path.is_absolute() {
                Ok(Self::Folder(path.into()))
            } else {
                Err("a file URL is file:///FOLDER, with three strokes".into())
            };
        }
        if !SHARED.contains(&scheme) {
            return Err(format!("{scheme}:// is no store: name a folder, redis://HOST or s3://BUCKET/PREFIX"));
        }
        if rest.is_empty() || rest.starts_with('/') {
            return Err(format!("{scheme}:// is followed by a {}", if scheme == "s3" { "bucket" } else { "host" }));
        }
        Ok(Self::Shared(text.into()))
    }
}

/// What else there is to say about `--store`.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "The store")]
pub(crate) struct PlaceFlags {
    /// What encoded images may take there; those that nobody used for longest make room for others (64GiB by default)
    #[arg(long, value_name = "SIZE", requires = "store")]
    store_size: Option<ByteSize>,
    /// Address of an S3 server other than Amazon's
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    s3_endpoint: Option<String>,
    /// Region of the S3 bucket
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    s3_region: Option<String>,
    /// Who asks S3
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "ID", hide_env_values = true, value_parser = secret)]
    s3_access_key: Option<Secret>,
    /// What proves it; better in the environment than here
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", value_name = "KEY", hide_env_values = true, value_parser = secret)]
    s3_secret_key: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

impl PlaceFlags {
    /// What a vision worker is told; without a place, to keep images in memory only.
    pub(crate) fn settings(&self, place: Option<&Place>) -> StoreSettings {
        let mut settings = StoreSettings::default();
        match place {
            None => {}
            Some(Place::Folder(folder)) => {
                let size = self.store_size.unwrap_or(settings.disk.size);
                settings.disk = DiskSettings { folder: folder.clone(), size };
            }
            Some(Place::Shared(url)) => {
                let size = self.store_size.unwrap_or(settings.shared.size);
                settings.shared = SharedSettings { url: url.clone(), size, ..settings.shared };
                if url.starts_with("s3://") {
                    settings.shared.endpoint = self.s3_endpoint.clone().unwrap_or_default();
                    settings.shared.region = self.s3_region.clone().unwrap_or_default();
                    settings.shared.access_key = self.s3_access_key.clone().unwrap_or_default();
                    settings.shared.secret_key = self.s3_secret_key.clone().unwrap_or_default();
                }
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_or_a_url() {
        let folder = |path: &str| Ok(Place::Folder(path.into()));
        assert_eq!("features".parse(), folder("features"));
        assert_eq!("/mnt/features".parse(), folder("/mnt/features"));
        assert_eq!("file:///mnt/features".parse(), folder("/mnt/features"));
        for url in ["redis://:pass@cache:6379/1", "rediss://cache", "s3://bucket", "s3://bucket/a/b"] {
            assert_eq!(url.parse(), Ok(Place::Shared(url.into())));
        }
    }

    #[test]
    fn a_vision_worker_is_told_where_and_how() {
        let flags = PlaceFlags {
            store_size: Some(ByteSize::gib(2)),
            s3_region: Some("eu".into()),
            s3_secret_key: Some(Secret::new("hidden")),
            ..PlaceFlags::default()
        };
        let told = |text: &str| flags.settings(Some(&text.parse().unwrap()));
        let folder = told("/features");
        assert_eq!((folder.disk.folder, folder.disk.size), ("/features".into(), ByteSize::gib(2)));
        assert!(folder.shared.url.is_empty());
        let redis = told("redis://cache");
        assert_eq!((redis.shared.url.as_str(), redis.shared.size), ("redis://cache", ByteSize::gib(2)));
        assert!(redis.shared.region.is_empty() && redis.shared.secret_key.is_empty(), "these are S3's");
        let bucket = told("s3://bucket");
        assert_eq!((bucket.shared.region.as_str(), bucket.shared.secret_key.expose()), ("eu", "hidden"));
        assert!(bucket.disk.folder.as_os_str().is_empty());
        let memory = flags.settings(None);
        assert!(memory.disk.folder.as_os_str().is_empty() && memory.shared.url.is_empty());
        assert_eq!(
            PlaceFlags::default().settings(Some(&Place::Folder("a".into()))).disk.size,
            DiskSettings::default().size
        );
    }

    #[test]
    fn what_is_no_store_is_refused_with_what_is_one() {
        let cases = [
            ("", "no folder"),
            ("file://features", "file:///FOLDER"),
            ("http://cache", "s3://BUCKET/PREFIX"),
            ("redis://", "a host"),
            ("s3:///prefix", "a bucket"),
        ];
        for (text, why) in cases {
            let error = text.parse::<Place>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
