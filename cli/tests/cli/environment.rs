//! What the environment says goes behind what is typed, and a reader that has gone is no error.

use std::process::Stdio;

use crate::lab::{Lab, QUEUE};

const FILE: [&str; 2] = ["--config", "worker.yaml"];

#[tokio::test]
async fn what_is_typed_goes_before_the_environment() {
    let lab = Lab::new().await;
    let by_file = lab.run_in(&[("MILLRACE_CONSUMER", "other")], &["queue", FILE[0], FILE[1]]).await;
    assert_eq!(by_file.code, 0, "{by_file:?}");
    // a cluster's consumer, though there is no cluster here
    let none = [("MILLRACE_CONFIG", "worker.yaml"), ("KUBECONFIG", "no-such-file")];
    let by_name = lab.run_in(&none, &["queue", "-c", "other"]).await;
    assert!(by_name.code == 1 && by_name.err.contains("KUBECONFIG"), "{by_name:?}");
    let both = lab.run_in(&[], &["queue", "-c", "other", FILE[0], FILE[1]]).await;
    assert!(both.code == 2 && both.err.contains("'--consumer' cannot be used with '--config'"), "{both:?}");
}

#[tokio::test]
async fn a_malformed_trace_of_the_environment_is_none() {
    let lab = Lab::new().await;
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for context in ["", "01-a-b-c", good] {
        let args = ["submit", "--prompt", "x", FILE[0], FILE[1]];
        let done = lab.run_in(&[("TRACEPARENT", context)], &args).await;
        assert_eq!(done.code, 0, "{context} {done:?}");
    }
    let messages = lab.model.queue(QUEUE).unwrap().messages;
    let traces: Vec<usize> = messages.iter().map(|message| message.attributes.len()).collect();
    assert_eq!(traces, [0, 0, 1]);
    assert_eq!(lab.run(&["submit", "--prompt", "x", "--traceparent", ""]).await.code, 1);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_error() {
    let lab = Lab::new().await;
    let mut child = lab.command(&["reference"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
}

#[tokio::test]
async fn an_empty_answer_says_so() {
    let lab = Lab::new().await;
    let list = lab.run(&["dlq", "list"]).await;
    assert!(list.code == 0 && list.out.is_empty() && list.err.contains("there is nothing to show"), "{list:?}");
}
