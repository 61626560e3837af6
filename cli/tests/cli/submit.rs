//! Jobs are sent, followed and fetched; a second run sends only the rest.

use serde_json::json;

use crate::lab::{Lab, QUEUE};

#[tokio::test]
async fn one_job_is_sent_and_followed_to_its_file() {
    let lab = Lab::new().await;
    let submitted = lab.run(&["submit", "--prompt", "a cat", "--job-id", "order 7", "-o", "json"]).await;
    assert_eq!((submitted.code, &submitted.json()[0]["status"]), (0, &json!("SENT")), "{submitted:?}");
    assert_eq!(lab.run(&["status", "order 7"]).await.code, 4);
    assert_eq!(lab.work().await, 1);
    let status = lab.run(&["status", "order 7"]).await;
    assert_eq!(status.code, 0);
    assert_eq!(status.out, "JOB         STATUS      SECONDS   RESULT\norder%207   COMPLETED   3.6       \"a cat\"\n");
    let results = lab.run(&["results", "order 7", "--output", "got"]).await;
    assert_eq!(results.code, 0, "{results:?}");
    assert_eq!(std::fs::read_to_string(lab.path("got/order%207.json")).unwrap(), "\"a cat\"\n");
}

#[tokio::test]
async fn a_second_run_sends_only_the_rest() {
    let lab = Lab::new().await;
    let mut lines: Vec<String> = (0..12).map(|n| json!({ "prompt": n }).to_string()).collect();
    lines.push("fail".into());
    std::fs::write(lab.path("jobs.jsonl"), lines.join("\n")).unwrap();
    let submit = ["submit", "--file", "jobs.jsonl", "-o", "json"];
    assert_eq!(lab.run(&submit).await.code, 0);
    assert_eq!(lab.waiting(QUEUE), 13);
    lines.push("one more".into());
    std::fs::write(lab.path("jobs.jsonl"), lines.join("\n")).unwrap();
    let second = lab.run(&submit).await;
    assert!(second.err.contains("13 of 14 were sent before"), "{second:?}");
    assert_eq!(lab.work().await, 14);

    // all are done, so there is nothing to wait for; one is told as failed
    let waited = lab.run(&["submit", "--file", "jobs.jsonl", "--output", "got", "-o", "json"]).await;
    assert_eq!((waited.code, lab.waiting(QUEUE)), (3, 0), "{waited:?}");
    assert_eq!(std::fs::read_dir(lab.path("got")).unwrap().count(), 13);
    assert_eq!(waited.json()[12]["error"]["code"], "ModelError");

    let retry = ["submit", "--file", "jobs.jsonl", "--retry-failed"];
    for _ in 0..2 {
        // the second finds only the failure that the first one repeats
        let again = lab.run(&retry).await;
        assert_eq!((again.code, lab.waiting(QUEUE)), (0, 1), "{again:?}");
    }
}

#[tokio::test]
async fn a_job_that_failed_again_under_another_message_has_failed() {
    let lab = Lab::new().await;
    std::fs::write(lab.path("jobs.jsonl"), "fail").unwrap();
    let submit = |more| ["submit", "--file", "jobs.jsonl", more];
    assert_eq!(lab.run(&submit("--retry-failed")).await.code, 0);
    let body = lab.model.queue(QUEUE).unwrap().messages[0].body.clone();
    assert_eq!(lab.work().await, 1);
    lab.sqs.send_message().queue_url(&lab.url).message_body(body).send().await.unwrap();
    assert_eq!(lab.work().await, 1);
    let waited = lab.run(&submit("--wait")).await;
    assert!(waited.code == 3 && waited.out.contains("FAILED"), "{waited:?}");
    let again = lab.run(&submit("--retry-failed")).await;
    assert_eq!((again.code, lab.waiting(QUEUE)), (0, 1), "{again:?}");
}

#[tokio::test]
async fn an_id_that_was_sent_with_another_input_is_an_error() {
    let lab = Lab::new().await;
    let submit = async |text: &str| {
        let line = json!({ "job_id": "order-7", "prompt": text }).to_string();
        std::fs::write(lab.path("jobs.jsonl"), format!("another\n{line}\n")).unwrap();
        lab.run(&["submit", "--file", "jobs.jsonl"]).await
    };
    assert_eq!(submit("a caat").await.code, 0);
    let mended = submit("a cat").await;
    assert_eq!((mended.code, lab.waiting(QUEUE)), (1, 2), "{mended:?}");
    for part in ["jobs.jsonl, line 2", "job_id order-7 was sent with another input", "--id-prefix"] {
        assert!(mended.err.contains(part), "{mended:?}");
    }
}

#[tokio::test]
async fn waiting_ends_when_all_have_ended() {
    let lab = Lab::new().await;
    let submitting = lab.run(&["submit", "--input", r#"{"prompt":"x"}"#, "--wait", "-o", "json"]);
    let working = async {
        while lab.work().await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let (done, ()) = tokio::join!(submitting, working);
    assert_eq!((done.code, &done.json()[0]["value"]), (0, &json!({ "prompt": "x" })), "{done:?}");
}

#[tokio::test]
async fn all_lines_are_checked_before_the_first_is_sent() {
    let lab = Lab::new().await;
    let lines = ["a cat".to_owned(), String::new(), json!({ "inputs": ["x", 7] }).to_string(), "x".into()];
    std::fs::write(lab.path("jobs.jsonl"), lines.join("\n")).unwrap();
    let done = lab.run(&["submit", "--file", "jobs.jsonl"]).await;
    assert_eq!((done.code, lab.waiting(QUEUE)), (1, 0), "{done:?}");
    assert!(done.err.contains("jobs.jsonl, line 3: inputs[1]: must be a text or an object"), "{done:?}");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_the_fix() {
    let lab = Lab::new().await;
    std::fs::write(lab.path("bad.jsonl"), "good\n{\"prompt\"").unwrap();
    for (args, code, parts) in [
        (&["submit", "--file", "bad.jsonl"] as &[&str], 1, &["--file: bad.jsonl, line 2", "not JSON"] as &[&str]),
        (&["submit", "--prompt", " "], 1, &["input: the text is blank"]),
        (&["submit"], 2, &["--prompt"]),
        (&["submit", "--prompt", "x", "--delay", "1h"], 1, &["delay", "15 minutes at most"]),
        (&["submit", "--prompt", "x", "--wait", "--timeout", "1ms"], 4, &[]),
        (
            &["submit", "--prompt", "x", "--endpoint", "http://127.0.0.1:9"],
            1,
            &["sqs:SendMessage", "check the endpoint"],
        ),
    ] {
        let done = lab.run(args).await;
        assert_eq!(done.code, code, "{args:?} {done:?}");
        assert!(parts.iter().all(|part| done.err.contains(part)), "{args:?} {done:?}");
    }
}
