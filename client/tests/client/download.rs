//! Outputs become files, whole or not at all.

use aws_sdk_s3::primitives::ByteStream;
use millrace_api::RecordOutput;
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::Client;
use sha2::{Digest, Sha256};

use crate::lab::{BUCKET, Lab};
use crate::torn::Torn;

/// A lab with one output, and a folder.
async fn with_output() -> (Lab, tempfile::TempDir) {
    let lab = Lab::standard().await;
    let put = lab.s3.put_object().bucket(BUCKET).key("out/a.txt");
    put.body(ByteStream::from_static(b"hello")).send().await.unwrap();
    (lab, tempfile::tempdir().unwrap())
}

fn output(content: &str) -> RecordOutput {
    RecordOutput {
        uri: format!("s3://{BUCKET}/out/a.txt"),
        content_type: "text/plain".into(),
        bytes: 5,
        sha256: hex::encode(Sha256::digest(content)),
    }
}

#[tokio::test]
async fn a_download_is_what_the_record_says_or_nothing() {
    let (lab, folder) = with_output().await;
    let file = folder.path().join("a.txt");
    let error = lab.client.download(&output("other"), &file).await.unwrap_err().to_string();
    assert!(error.contains("sha256") && std::fs::read_dir(folder.path()).unwrap().next().is_none(), "{error}");
    lab.client.download(&output("hello"), &file).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
}

#[tokio::test]
async fn a_file_that_is_there_stays_only_if_it_is_this_output() {
    let (lab, folder) = with_output().await;
    let file = folder.path().join("a.txt");
    // another consumer's, of the same size
    std::fs::write(&file, "other").unwrap();
    lab.client.download(&output("hello"), &file).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
    lab.inject(vec![Rule::on(Operation::GetObject, Effect::Refuse(Refusal::AccessDenied))]);
    lab.client.download(&output("hello"), &file).await.unwrap();
}

#[tokio::test]
async fn a_download_that_breaks_off_is_tried_again() {
    let (lab, folder) = with_output().await;
    let file = folder.path().join("a.txt");
    let torn = Torn::serve(b"hello", 2).await;
    let client = Client::new(lab.client.consumer().clone(), lab.sqs.clone(), torn.s3(&lab));
    client.download(&output("hello"), &file).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
