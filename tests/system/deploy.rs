//! The example configurations fit the services that they are for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tessera_config::{EnvironmentSource, Sources, Validate, load};

fn problems<S>(file: &Path) -> Option<String>
where
    S: Serialize + DeserializeOwned + Default + Validate,
{
    let env = EnvironmentSource::Given(BTreeMap::new());
    let sources = Sources { file: Some(file.to_owned()), env_prefix: "TEST", env, overrides: Vec::new() };
    load::<S>(&sources).err().map(|errors| format!("{}: {errors}", file.display()))
}

/// Every TOML file of a folder and its folders.
fn examples(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { examples(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_example_configuration_fits_its_service() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let (mut wrong, mut found) = (Vec::new(), [0; 3]);
    for file in examples(&folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let service = ["gateway", "vision", "language"].iter().position(|service| name.contains(service));
        wrong.extend(match service {
            Some(0) => problems::<tessera_gateway::Settings>(&file),
            Some(1) => problems::<tessera_vision::Settings>(&file),
            Some(_) => problems::<tessera_language::Settings>(&file),
            None => None,
        });
        if let Some(service) = service {
            found[service] += 1;
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(found.iter().all(|count| *count > 0), "each service has an example: {found:?}");
}
