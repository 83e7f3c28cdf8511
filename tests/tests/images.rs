//! The images: what `tests/cluster/image.sh` makes without a Docker engine, and the Dockerfiles as BuildKit reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::cluster::build;
use harness::program;

/// Size of an image, unpacked.
const IMAGE_BYTES_MAX: u64 = 40 << 20;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_image_is_small_and_holds_what_its_program_needs_for_a_user_who_is_not_root() {
    for name in ["replicated-redis-server", "replicated-redis-operator"] {
        let dir = tempfile::tempdir().unwrap();
        let (archive, layer) = (dir.path().join("image.tar"), dir.path().join("root"));
        let made = Command::new(root("tests/cluster/image.sh"))
            .arg(&archive)
            .arg(format!("localhost/{name}:test"))
            .arg(program(name))
            .output();
        ok(&made.unwrap());
        let bytes = std::fs::metadata(&archive).unwrap().len();
        println!("{name}: {:.1} MiB (this build, stripped)", bytes as f64 / f64::from(1 << 20));
        assert!(bytes < IMAGE_BYTES_MAX, "{name} has {bytes} bytes");

        ok(&Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path()).output().unwrap());
        std::fs::create_dir(&layer).unwrap();
        ok(&Command::new("tar").arg("-xf").arg(dir.path().join("layer.tar")).arg("-C").arg(&layer).output().unwrap());
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config["config"]["User"], "10001:10001");
        assert_eq!(config["config"]["Entrypoint"][0], format!("/{name}"));

        // Every library is inside, the loader too: with the image's own loader and libraries alone the program says its version.
        let loader = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"].map(|path| layer.join(path));
        let loader = loader.iter().find(|path| path.exists()).expect("the image has a loader");
        let libraries = ["lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"].map(|path| layer.join(path));
        let libraries: Vec<String> = libraries.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let said = Command::new(loader)
            .args(["--inhibit-cache", "--library-path", &libraries.join(":")])
            .arg(layer.join(name))
            .arg("--version")
            .output();
        let said = ok(&said.unwrap());
        assert!(said.contains("7.2") || said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    }
}

#[test]
fn buildkit_reads_the_dockerfiles_and_they_make_the_same_image() {
    let files = ["server", "operator"].map(|name| root(name).join("Dockerfile"));
    let read = Command::new(build("dockerfile").join("check-dockerfile")).args(&files).output().unwrap();
    let stages = ok(&read);
    assert_eq!(stages.matches("FROM scratch").count(), 2, "{stages}");
    for (file, name) in files.iter().zip(["replicated-redis-server", "replicated-redis-operator"]) {
        let text = std::fs::read_to_string(file).unwrap();
        // As image.sh has it.
        for line in ["USER 10001:10001", "ENV PATH=/", "WORKDIR /", "COPY --from=build /rootfs /"] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {}", file.display());
        }
        assert!(text.contains(&format!("ENTRYPOINT [\"/{name}\"]")));
        assert!(text.contains(&format!("tests/cluster/rootfs.sh /rootfs target/release/{name}")));
    }

    // The build's context: a checkout without what .dockerignore leaves out has all that the programs are built from.
    let ignored = std::fs::read_to_string(root(".dockerignore")).unwrap();
    for needed in ["Cargo.toml", "Cargo.lock", "server", "operator", "tests", "tests/cluster/rootfs.sh"] {
        assert!(root(needed).exists() && ignored.contains(&format!("!{needed}\n")), "{needed}");
    }
}
