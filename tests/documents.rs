//! The documents lead to each other, in the repository and in the package: what they link to is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: whatever is wrong here must end it loudly"
)]

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Lists what the package has below its directory of documents, by the patterns of Cargo.toml.
fn packaged() -> Vec<String> {
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let documents = manifest.lines().filter(|line| line.contains("\"usr/share/doc/wardlink/"));
    documents.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

fn is_packaged(path: &Path, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match pattern.split_once('*') {
        None => Path::new(pattern) == path,
        Some((begin, end)) => {
            let text = path.to_str().unwrap();
            let between = text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
            between.is_some_and(|between| !between.contains('/'))
        }
    })
}

/// Returns a path without `..`.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(flat.pop()),
            other => flat.push(other),
        }
    }
    flat
}

#[test]
fn each_link_of_a_document_leads_to_one_that_is_there_also_in_the_package() {
    let patterns = packaged();
    assert!(patterns.contains(&"README.md".to_owned()), "{patterns:?}");
    let documents = fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut count = 0;
    for document in documents.chain([PathBuf::from("README.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let to = flat(&document.parent().unwrap().join(file));
            assert!(to.exists() && is_packaged(&to, &patterns), "{} leads to {link}", document.display());
            count += 1;
        }
    }
    assert!(count > 5, "{count} links were found");
}
