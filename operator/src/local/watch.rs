//! The manifest file while it is being edited.
//!
//! The file is polled, by its content (it is small). A new content counts when two polls in a row have seen it: an editor
//! that truncates and then writes would otherwise show half a file, and half a manifest may well be a valid one. A
//! broken edit is reported once, and the manifest in force stays in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at the file; an edit takes effect after at most twice this.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What one poll found.
#[derive(Debug, PartialEq, Eq)]
pub enum Edit {
    /// A content that is new and has settled. What it means is for the parser to say.
    Changed(String),
    /// The file cannot be read (any more).
    Unreadable(String),
}

/// The watched file.
#[derive(Debug)]
pub struct ManifestFile {
    path: PathBuf,
    in_force: Look,
    previous: Look,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Content(String),
    Unreadable(String),
}

impl ManifestFile {
    /// Reads the file for the first time.
    pub fn open(path: &Path) -> std::io::Result<(ManifestFile, String)> {
        let content = std::fs::read_to_string(path)?;
        let look = Look::Content(content.clone());
        Ok((ManifestFile { path: path.to_path_buf(), in_force: look.clone(), previous: look }, content))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file once. Each settled change is returned once.
    pub fn poll(&mut self) -> Option<Edit> {
        let look = match std::fs::read_to_string(&self.path) {
            Ok(content) => Look::Content(content),
            Err(error) => Look::Unreadable(format!("cannot read {}: {error}", self.path.display())),
        };
        let settled = look == self.previous;
        self.previous = look.clone();
        if !settled || look == self.in_force {
            return None;
        }
        self.in_force = look.clone();
        Some(match look {
            Look::Content(content) => Edit::Changed(content),
            Look::Unreadable(why) => Edit::Unreadable(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polls(file: &mut ManifestFile, n: usize) -> Vec<Edit> {
        (0..n).filter_map(|_| file.poll()).collect()
    }

    #[test]
    fn a_settled_change_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.yaml");
        std::fs::write(&path, "replicas: 2").unwrap();
        let (mut file, content) = ManifestFile::open(&path).unwrap();
        assert_eq!(content, "replicas: 2");
        assert_eq!(polls(&mut file, 3), []);

        std::fs::write(&path, "replicas: 4").unwrap();
        assert_eq!(file.poll(), None, "seen once is not settled");
        assert_eq!(polls(&mut file, 3), [Edit::Changed("replicas: 4".to_string())]);
    }

    #[test]
    fn a_half_written_file_is_not_taken_for_an_edit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.yaml");
        std::fs::write(&path, "replicas: 2\nname: x").unwrap();
        let (mut file, _) = ManifestFile::open(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.poll(), None);
        std::fs::write(&path, "replicas: 4\n").unwrap();
        assert_eq!(file.poll(), None);
        std::fs::write(&path, "replicas: 4\nname: x").unwrap();
        assert_eq!(polls(&mut file, 3), [Edit::Changed("replicas: 4\nname: x".to_string())]);
    }

    #[test]
    fn a_removed_file_is_told_once_and_its_return_unchanged_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.yaml");
        std::fs::write(&path, "replicas: 2").unwrap();
        let (mut file, _) = ManifestFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let told = polls(&mut file, 4);
        assert!(matches!(&told[..], [Edit::Unreadable(why)] if why.contains("m.yaml")), "{told:?}");
        std::fs::write(&path, "replicas: 2").unwrap();
        assert_eq!(polls(&mut file, 4), [Edit::Changed("replicas: 2".to_string())]);
    }

    #[test]
    fn an_editor_may_rename_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.yaml");
        std::fs::write(&path, "replicas: 2").unwrap();
        let (mut file, _) = ManifestFile::open(&path).unwrap();
        std::fs::write(dir.path().join(".m.swp"), "replicas: 0").unwrap();
        std::fs::rename(dir.path().join(".m.swp"), &path).unwrap();
        assert_eq!(polls(&mut file, 3), [Edit::Changed("replicas: 0".to_string())]);
    }
}
