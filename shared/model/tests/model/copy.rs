//! Changed copies of a tiny checkpoint.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;
use tessera_testkit::family_dir;

/// A tensor to be stored.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// A copy of a checkpoint whose tensors can be changed before they are written.
pub(crate) struct Copy {
    dir: TempDir,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

impl Copy {
    /// Copies everything but the weights, which are held in memory.
    pub(crate) fn of(family: &str) -> Self {
        let source = family_dir(family);
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = BTreeMap::new();
        for entry in fs::read_dir(&source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".safetensors") {
                let bytes = fs::read(&path).unwrap();
                for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                    let (dtype, shape, data) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                    tensors.insert(name.to_owned(), Stored { dtype, shape, data });
                }
            } else if path.is_file() && !name.ends_with(".index.json") {
                fs::write(dir.path().join(name), fs::read(&path).unwrap()).unwrap();
            }
        }
        Self { dir, tensors }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Renames every tensor.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> String) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    }

    /// Writes all tensors to one file.
    pub(crate) fn write(&self) {
        self.write_part("model.safetensors", |_| true);
    }

    /// Writes the tensors whose names are `chosen` to one file.
    pub(crate) fn write_part(&self, file: &str, chosen: impl Fn(&str) -> bool) {
        let chosen = self.tensors.iter().filter(|(name, _)| chosen(name));
        let views = chosen
            .map(|(name, stored)| (name, TensorView::new(stored.dtype, stored.shape.clone(), &stored.data).unwrap()));
        fs::write(self.file(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Writes an index of shards.
    pub(crate) fn write_index(&self, shard_of: impl Fn(&str) -> String) {
        let entries: Vec<String> = self.tensors.keys().map(|name| format!("{name:?}: {:?}", shard_of(name))).collect();
        let index = format!("{{\"metadata\": {{}}, \"weight_map\": {{{}}}}}", entries.join(", "));
        fs::write(self.file("model.safetensors.index.json"), index).unwrap();
    }
}
