//! What each program links: a worker never kube, an operator never a model or S3.

use std::process::Command;

#[test]
fn a_worker_never_links_kube() {
    links_none("millrace-worker", &["kube", "k8s-openapi", "schemars"]);
}

#[test]
fn an_operator_never_links_a_model_or_s3() {
    links_none("millrace-operator", &["candle", "tokenizers", "safetensors", "hf-hub", "aws-sdk-s3"]);
}

#[test]
fn a_worker_of_ones_own_links_none_of_millraces_engines() {
    links_none(
        "fibonacci",
        &["candle", "cudarc", "gemm", "image", "png", "rayon", "safetensors", "tokenizers", "kube"],
    );
}

fn links_none(package: &str, families: &[&str]) {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--offline", "--locked"]);
    let output = tree.output().unwrap();
    let (tree, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    assert!(tree.starts_with(package), "{tree}");
    let of = |line: &&str| families.iter().any(|f| *line == *f || line.starts_with(&format!("{f}-")));
    let found: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).filter(of).collect();
    assert!(found.is_empty(), "{package} links {found:?}");
}
