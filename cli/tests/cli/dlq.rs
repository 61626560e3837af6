//! Dead letters are listed, put back by name, and deleted only by somebody who means it.

use std::collections::{BTreeSet, HashMap};

use millrace_aws_model::{Effect, Operation, Plan, Refusal, Rule};
use serde_json::json;

use crate::lab::{DEAD, Lab, QUEUE};

impl Lab {
    /// A lab with dead letters of these texts; gives their job ids.
    async fn with_dead(texts: &[&str]) -> (Self, Vec<String>) {
        let lab = Self::new().await;
        let mut ids = Vec::new();
        for text in texts {
            let sent = lab.sqs.send_message().queue_url(&lab.dead_url).message_body(*text).send().await.unwrap();
            ids.push(sent.message_id.unwrap());
        }
        (lab, ids)
    }
}

#[tokio::test]
async fn what_is_named_goes_back_and_the_rest_stays() {
    let (lab, ids) = Lab::with_dead(&["a", "b", "c"]).await;
    let list = lab.run(&["dlq", "list", "-o", "json"]).await;
    assert_eq!(list.json().as_array().unwrap().len(), 3, "{list:?}");
    let shown = lab.run(&["dlq", "show", &ids[1]]).await;
    assert!(shown.out.contains("body         b") && shown.code == 0, "{shown:?}");
    let redriven = lab.run(&["dlq", "redrive", &ids[1], "nobody", "-o", "json"]).await;
    assert_eq!((redriven.code, lab.waiting(QUEUE), lab.waiting(DEAD)), (3, 1, 2), "{redriven:?}");
    assert_eq!(redriven.json()[1]["error"]["code"], json!("NotFound"));
    let all = lab.run(&["dlq", "redrive", "--all"]).await;
    assert_eq!((all.code, lab.waiting(QUEUE), lab.waiting(DEAD)), (0, 3, 0), "{all:?}");
}

#[tokio::test]
async fn nothing_is_deleted_unasked() {
    let (lab, _) = Lab::with_dead(&["a"]).await;
    for what in ["dlq", "queue"] {
        let asked = lab.run(&[what, "purge"]).await;
        assert!(asked.code == 1 && asked.err.contains("give --yes"), "{asked:?}");
    }
    assert_eq!(lab.waiting(DEAD), 1);
    assert_eq!(lab.run(&["dlq", "purge", "--yes"]).await.code, 0);
    assert_eq!(lab.waiting(DEAD), 0);
}

#[tokio::test]
async fn the_queue_is_told_in_numbers() {
    let (lab, _) = Lab::with_dead(&["a", "b"]).await;
    assert_eq!(lab.run(&["submit", "--prompt", "x"]).await.code, 0);
    let queue = lab.run(&["queue", "-o", "json"]).await.json();
    assert_eq!((&queue["visible"], &queue["dead_letters"]), (&json!(1), &json!(2)), "{queue}");
    let table = lab.run(&["queue"]).await.out;
    assert!(table.contains("unknown"), "{table}");
}

/// A worker that refuses each job at once, under a new message id, as often as `times`.
async fn refuse_again(lab: &Lab, times: usize) {
    let mut refused: HashMap<String, usize> = HashMap::new();
    loop {
        let take = lab.sqs.receive_message().queue_url(&lab.url).message_attribute_names("All").wait_time_seconds(1);
        for message in take.max_number_of_messages(10).send().await.unwrap().messages.unwrap_or_default() {
            let told = message.message_attributes.as_ref().unwrap();
            let id = told.get("millrace-job-id").unwrap_or_else(|| &told["millrace-message-id"]).clone();
            let count = refused.entry(id.string_value().unwrap().to_owned()).or_default();
            *count += 1;
            if *count <= times {
                let bury = lab.sqs.send_message().queue_url(&lab.dead_url).message_body(message.body().unwrap());
                bury.message_attributes("millrace-job-id", id).send().await.unwrap();
            }
            let delete = lab.sqs.delete_message().queue_url(&lab.url);
            delete.receipt_handle(message.receipt_handle().unwrap()).send().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_job_that_is_refused_again_goes_back_once() {
    let (lab, ids) = Lab::with_dead(&["a", "b", "c"]).await;
    let redriven = tokio::select! {
        redriven = lab.run(&["dlq", "redrive", "--all", "-o", "json"]) => redriven,
        () = refuse_again(&lab, 3) => unreachable!(),
    };
    let told = redriven.json();
    let told: BTreeSet<&str> = told.as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap()).collect();
    assert_eq!(told, ids.iter().map(String::as_str).collect());
    assert_eq!((redriven.code, redriven.json().as_array().unwrap().len()), (0, 3), "{redriven:?}");
}

#[tokio::test]
async fn what_cannot_be_deleted_is_told_as_sent_and_ends_the_run() {
    let (lab, _) = Lab::with_dead(&["a", "b", "c"]).await;
    let denied = Rule::on(Operation::DeleteMessage, Effect::Refuse(Refusal::AccessDenied));
    lab.model.inject(Plan { seed: 7, rules: vec![denied] }).unwrap();
    let redriven = lab.run(&["dlq", "redrive", "--all", "-o", "json"]).await;
    assert_eq!((redriven.code, lab.waiting(QUEUE), lab.waiting(DEAD)), (3, 1, 3), "{redriven:?}");
    let told = redriven.json();
    assert_eq!((&told[0]["status"], &told[0]["error"]["code"]), (&json!("SENT"), &json!("NotDeleted")));
    for part in ["is in its queue again", "sqs:DeleteMessage", "allow your own user or role"] {
        assert!(told[0]["error"]["message"].as_str().unwrap().contains(part), "{told}");
    }
}
