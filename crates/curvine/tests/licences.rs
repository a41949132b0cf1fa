//! Every crate that is built in has a licence that `deny.toml` allows. This is the part of `cargo deny` that must never be skipped.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The list `[licenses] allow`.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    list.split(',').map(|item| item.trim().trim_matches('"').to_string()).filter(|item| !item.is_empty()).collect()
}

/// Whether an expression of OR, AND and parentheses can be satisfied; `/` is an old way to write OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "~");
    let words: Vec<String> = expression.split_whitespace().map(|word| word.replace('~', " WITH ")).collect();
    let mut at = 0;
    let value = any(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "not understood: {expression}");
    value
}

fn any(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = all(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "OR") {
        *at += 1;
        value |= all(words, at, allowed);
    }
    value
}

fn all(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = one(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "AND") {
        *at += 1;
        value &= one(words, at, allowed);
    }
    value
}

fn one(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    *at += 1;
    if words[*at - 1] == "(" {
        let value = any(words, at, allowed);
        assert_eq!(words[*at], ")");
        *at += 1;
        return value;
    }
    allowed.contains(&words[*at - 1])
}

#[test]
fn expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_string(), "Zlib".to_string(), "A WITH B".to_string()]);
    for yes in ["MIT", "GPL-3.0 OR MIT", "MIT AND Zlib", "(GPL-3.0 OR MIT) AND Zlib", "X/MIT", "A WITH B OR X"] {
        assert!(satisfied(yes, &allowed), "{yes}");
    }
    for no in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y", "A", "MIT WITH B"] {
        assert!(!satisfied(no, &allowed), "{no}");
    }
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let allowed = allowed();
    assert!(allowed.contains("Apache-2.0"));
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|licence| satisfied(licence, &allowed)))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}
