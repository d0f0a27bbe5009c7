//! The folders of the vision workers' disk tiers, and how they fill up.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every worker's folder is on a file system of this size, where that is possible.
const MIB: usize = 6;

/// What a full disk is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A small file system in memory of the worker's own, filled to the last byte. Needs root.
    Tmpfs,
    /// A folder that cannot be written.
    ReadOnly,
    /// Neither can be had: whoever is root may write everywhere, and may not mount.
    Never,
}

/// The folders.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) full: Full,
    folders: Vec<PathBuf>,
}

impl Disks {
    /// Makes so many folders in this one.
    pub(crate) fn make(inside: &Path, count: usize) -> Self {
        let folders: Vec<PathBuf> = (0..count).map(|number| inside.join(format!("disk-{number}"))).collect();
        folders.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        let full = if mount(&folders[0]) {
            assert!(folders[1..].iter().all(|folder| mount(folder)), "what could be mounted once can be again");
            Full::Tmpfs
        } else if can_be_kept_from_writing(inside) {
            Full::ReadOnly
        } else {
            Full::Never
        };
        Self { full, folders }
    }

    pub(crate) fn folder(&self, number: usize) -> &Path {
        &self.folders[number]
    }

    /// Leaves no room for another byte.
    pub(crate) fn fill(&self, number: usize) {
        let folder = &self.folders[number];
        match self.full {
            Full::Tmpfs => {
                let mut ballast = File::create(folder.join("ballast")).unwrap();
                for size in [64 << 10, 4 << 10, 1] {
                    while ballast.write_all(&vec![0; size]).is_ok() {}
                }
            }
            Full::ReadOnly => permit(folder, 0o555),
            Full::Never => {}
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self, number: usize) {
        let folder = &self.folders[number];
        match self.full {
            Full::Tmpfs => fs::remove_file(folder.join("ballast")).unwrap(),
            Full::ReadOnly => permit(folder, 0o755),
            Full::Never => {}
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        if self.full == Full::Tmpfs {
            for folder in &self.folders {
                // Whoever still has a file open there keeps it for as long as that.
                let _ = Command::new("umount").arg("-l").arg(folder).output();
            }
        }
    }
}

fn mount(folder: &Path) -> bool {
    let size = format!("size={MIB}m");
    let ran = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
    ran.is_ok_and(|ran| ran.status.success())
}

fn can_be_kept_from_writing(inside: &Path) -> bool {
    let folder = inside.join("probe");
    fs::create_dir_all(&folder).unwrap();
    permit(&folder, 0o555);
    let is_kept = File::create(folder.join("file")).is_err();
    permit(&folder, 0o755);
    is_kept
}

/// Changes the permissions of a folder and of the folders in it.
fn permit(folder: &Path, mode: u32) {
    let inside = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = inside.filter(|path| path.is_dir()).chain([folder.to_owned()]);
    for folder in folders {
        fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    }
}
