//! The real helm, and the charts of this checkout.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{build, refused, succeeded};

/// Helm, for one cluster or, to lint and to render, for none.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
    /// Helm's caches; nothing of the person who runs the tests.
    home: tempfile::TempDir,
}

impl Helm {
    pub fn new(kubeconfig: Option<&Path>) -> Helm {
        let home = tempfile::tempdir().expect("a directory for the test");
        Helm { program: build("helm").join("helm"), kubeconfig: kubeconfig.map(Path::to_path_buf), home }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(args).env("HOME", self.home.path()).stdin(Stdio::null());
        for name in ["KUBECONFIG", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HELM_NAMESPACE"] {
            command.env_remove(name);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.output().expect("helm can be run")
    }

    /// Runs helm, which must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        succeeded(self.run(args), &format!("helm {args:?}"))
    }

    /// Runs helm, which must fail; what it complained of.
    pub fn refused(&self, args: &[&str]) -> String {
        refused(self.run(args), &format!("helm {args:?}"))
    }
}

/// The folder of a chart.
pub fn chart(name: &str) -> String {
    format!("{}/../charts/{name}", env!("CARGO_MANIFEST_DIR"))
}
