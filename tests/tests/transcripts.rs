//! Every transcript against a server of ours and against redis-server: the same replies, to the letter.

use harness::{Server, transcript};

fn check(name: &str) {
    let path = format!("{}/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    for (kind, server) in [
        ("redis-server", Server::redis(&["--save", ""])),
        ("one worker", Server::ours(&["--save", "", "--io-threads", "1"])),
        ("two workers", Server::ours(&["--save", "", "--io-threads", "2", "--io-threads-adaptive", "no"])),
    ] {
        let wrong = transcript::play(&mut server.conn(), &text);
        assert!(wrong.is_empty(), "{name} against {kind}:\n{wrong}");
    }
}

#[test]
fn hashes() {
    check("hashes");
}

#[test]
fn lists() {
    check("lists");
}

#[test]
fn sets() {
    check("sets");
}

#[test]
fn zsets() {
    check("zsets");
}

#[test]
fn strings() {
    check("strings");
}

#[test]
fn bitmaps() {
    check("bitmaps");
}

#[test]
fn sort() {
    check("sort");
}

#[test]
fn introspection() {
    check("introspection");
}

#[test]
fn keys() {
    check("keys");
}

#[test]
fn transactions_and_errors() {
    check("transactions");
}

#[test]
fn the_default_user_and_its_passwords() {
    check("acl");
}
