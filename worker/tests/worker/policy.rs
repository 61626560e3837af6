//! The IAM policies in deploy/iam hold exactly the actions that the source uses: none is missing, none is idle.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The SDK's calls and the IAM action that each needs. A batch needs what its entries need.
const ACTIONS: &[(&str, &str)] = &[
    ("receive_message", "sqs:ReceiveMessage"),
    ("change_message_visibility", "sqs:ChangeMessageVisibility"),
    ("change_message_visibility_batch", "sqs:ChangeMessageVisibility"),
    ("delete_message", "sqs:DeleteMessage"),
    ("delete_message_batch", "sqs:DeleteMessage"),
    ("send_message", "sqs:SendMessage"),
    ("send_message_batch", "sqs:SendMessage"),
    ("get_queue_attributes", "sqs:GetQueueAttributes"),
    ("put_object", "s3:PutObject"),
    ("get_object", "s3:GetObject"),
    ("head_object", "s3:GetObject"),
    ("delete_object", "s3:DeleteObject"),
    ("list_objects_v2", "s3:ListBucket"),
    ("head_bucket", "s3:ListBucket"),
    ("create_multipart_upload", "s3:PutObject"),
    ("upload_part", "s3:PutObject"),
    ("complete_multipart_upload", "s3:PutObject"),
    ("abort_multipart_upload", "s3:AbortMultipartUpload"),
];

#[test]
fn the_workers_policy_is_what_the_worker_does() {
    assert_eq!(used("worker"), allowed("worker"));
}

#[test]
fn the_operators_policy_is_what_the_operator_does() {
    assert_eq!(used("operator"), allowed("operator"));
}

#[test]
fn no_statement_is_wider_than_it_must_be() {
    for program in ["worker", "operator"] {
        for statement in statements(program) {
            let sid = statement["Sid"].as_str().unwrap();
            let resources = texts(&statement["Resource"]);
            assert!(resources.iter().all(|r| r != "*"), "{sid} is for every resource");
            let actions = texts(&statement["Action"]);
            let has = |action: &str| actions.iter().any(|a| a == action);
            if has("s3:ListBucket") {
                assert!(statement["Condition"].to_string().contains("s3:prefix"), "{sid} lists whole buckets");
            }
            if has("s3:DeleteObject") {
                let own = |r: &String| r.ends_with("/.millrace-check-*") || r.ends_with("*.attempt");
                assert!(resources.iter().all(own), "{sid} deletes results");
            }
            assert!(!actions.iter().any(|action| action.contains('*')), "{sid} allows more than one can say");
        }
    }
}

/// The actions of a crate's SDK calls.
fn used(program: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut files = Vec::new();
    sources(&root().join(program).join("src"), &mut files);
    assert!(!files.is_empty());
    for file in files {
        let code = code(&file);
        // what is sent there is no request to AWS
        if code.contains("usereqwest::") {
            continue;
        }
        let mut calls = 0;
        for (call, action) in ACTIONS {
            let count = code.matches(&format!(".{call}()")).count();
            calls += count;
            if count > 0 {
                used.insert((*action).to_owned());
            }
        }
        let sent = code.matches(".send()").count();
        assert_eq!(calls, sent, "{}: a call that ACTIONS does not know, or one that is never sent", file.display());
    }
    used
}

/// Every source file but tests.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// A file without comments, white space and its tests, which come last.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.starts_with("//")).flat_map(str::split_whitespace).collect()
}

/// The actions of a policy. Those for KMS come with encrypted queues and buckets: SQS and S3 call it, not we. A version is
/// read by the same call as an object.
fn allowed(program: &str) -> BTreeSet<String> {
    let actions = statements(program).into_iter().flat_map(|statement| texts(&statement["Action"]));
    actions.filter(|action| !action.starts_with("kms:") && action != "s3:GetObjectVersion").collect()
}

fn statements(program: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(format!("deploy/iam/{program}.json"))).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    let statements = policy["Statement"].as_array().unwrap().clone();
    assert!(statements.iter().all(|statement| statement["Effect"] == "Allow"));
    statements
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn root() -> PathBuf {
    std::env::current_dir().unwrap().parent().unwrap().to_owned()
}
