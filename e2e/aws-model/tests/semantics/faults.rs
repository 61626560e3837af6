//! Faults: each does what it says, strikes as its plan says, and is counted.

use std::time::Duration;

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName as Name,
    SendMessageBatchRequestEntry,
};
use millrace_aws_model::{Effect, Operation, Plan, Refusal, Rule, When};

use crate::lab::{BUCKET, Lab, attribute, handle, id};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn refusals_are_aws_own_and_nothing_is_done() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    for (refusal, code) in [
        (Refusal::SlowDown, "SlowDown"),
        (Refusal::InternalError, "InternalError"),
        (Refusal::ServiceUnavailable, "ServiceUnavailable"),
        (Refusal::AccessDenied, "AccessDenied"),
        (Refusal::ConditionalRequestConflict, "ConditionalRequestConflict"),
    ] {
        lab.inject(Rule::on(Operation::PutObject, Effect::Refuse(refusal)));
        assert_eq!(lab.create("k", "x").await.unwrap_err(), code);
        assert_eq!((lab.model.injected(), lab.content("k")), (vec![1], None));
    }
    queue.send("m").await;
    for (refusal, code) in [
        (Refusal::RequestThrottled, "RequestThrottled"),
        (Refusal::InternalError, "InternalError"),
        (Refusal::ServiceUnavailable, "ServiceUnavailable"),
        (Refusal::AccessDenied, "AccessDenied"),
    ] {
        lab.inject(Rule::on(Operation::ReceiveMessage, Effect::Refuse(refusal)));
        assert_eq!(queue.try_receive(1).await.unwrap_err(), code);
        assert_eq!((lab.model.injected(), queue.counts()), (vec![1], [1, 0, 0]));
    }
}

#[tokio::test]
async fn a_connection_is_dropped_before_or_after_the_deed() {
    let lab = Lab::new().await;
    lab.inject(Rule::on(Operation::PutObject, Effect::DropBefore));
    assert_eq!(lab.create("k", "x").await.unwrap_err(), "no answer");
    assert_eq!(lab.content("k"), None);
    lab.inject(Rule::on(Operation::PutObject, Effect::DropAfter).nth(1));
    assert_eq!(lab.create("k", "x").await.unwrap_err(), "no answer");
    assert_eq!(lab.content("k").as_deref(), Some("x"));
    // one's own write looks like another's
    assert_eq!(lab.create("k", "x").await.unwrap_err(), "PreconditionFailed");
    assert_eq!(lab.model.injected(), [1]);
}

#[tokio::test]
async fn late_is_done_at_once_and_slow_is_done_late() {
    let lab = Lab::new().await;
    lab.inject(Rule::on(Operation::PutObject, Effect::Late(HOUR..=HOUR)));
    let (put, ()) = tokio::join!(lab.put("late", "x"), async {
        while lab.content("late").is_none() {
            tokio::task::yield_now().await;
        }
        lab.model.advance(HOUR);
    });
    put.unwrap();
    lab.inject(Rule::on(Operation::PutObject, Effect::Slow(HOUR..=HOUR)));
    let (put, ()) = tokio::join!(lab.put("slow", "x"), async {
        while lab.model.injected() != [1] {
            tokio::task::yield_now().await;
        }
        assert_eq!(lab.content("slow"), None);
        lab.model.advance(HOUR);
    });
    put.unwrap();
    assert_eq!(lab.content("slow").as_deref(), Some("x"));
}

#[tokio::test]
async fn slow_is_done_even_if_its_client_has_given_up() {
    let lab = Lab::new().await;
    lab.inject(Rule::on(Operation::PutObject, Effect::Slow(HOUR..=HOUR)));
    tokio::select! {
        put = lab.put("k", "x") => panic!("{put:?}"),
        () = async {
            while lab.model.injected() != [1] {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(lab.content("k"), None);
    lab.model.advance(HOUR);
    while lab.content("k").is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_that_hangs_does_nothing_and_never_answers() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    lab.inject(Rule::on(Operation::ReceiveMessage, Effect::Hang).nth(1));
    tokio::select! {
        received = queue.receive(1) => panic!("{received:?}"),
        () = async {
            while lab.model.injected() != [1] {
                tokio::task::yield_now().await;
            }
            lab.model.advance(HOUR);
        } => {}
    }
    assert_eq!(queue.counts(), [1, 0, 0]);
    assert_eq!(queue.receive(1).await.len(), 1);
}

#[tokio::test]
async fn entries_of_a_batch_fail_done_or_not() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("VisibilityTimeout", "100")]);
    let fail = |operation, done| lab.inject(Rule::on(operation, Effect::FailEntries { share: 0.5, done }));
    let send = || {
        let entry =
            |n: i32| SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body("m").build().unwrap();
        let entries: Vec<_> = (0..10).map(entry).collect();
        lab.sqs.send_message_batch().queue_url(&queue.url).set_entries(Some(entries)).send()
    };
    fail(Operation::SendMessageBatch, 0.0);
    let sent = send().await.unwrap();
    let failed = sent.failed().len();
    assert!((1..10).contains(&failed), "{failed}");
    assert_eq!((sent.failed()[0].code(), sent.failed()[0].sender_fault()), ("InternalError", false));
    assert_eq!((queue.counts(), lab.model.injected()), ([10 - failed, 0, 0], vec![failed as u64]));
    fail(Operation::SendMessageBatch, 1.0);
    let failed_done = send().await.unwrap().failed().len();
    assert!((1..10).contains(&failed_done), "{failed_done}");
    assert_eq!(queue.counts(), [20 - failed, 0, 0]);

    fail(Operation::ChangeMessageVisibilityBatch, 0.0);
    let received = queue.receive(10).await;
    let change = |message: &aws_sdk_sqs::types::Message| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id(message));
        entry.receipt_handle(handle(message)).visibility_timeout(0).build().unwrap()
    };
    let call = lab.sqs.change_message_visibility_batch().queue_url(&queue.url);
    let changed = call.set_entries(Some(received.iter().map(change).collect())).send().await.unwrap();
    assert_eq!(queue.counts()[1], changed.failed().len());

    lab.advance(100);
    fail(Operation::DeleteMessageBatch, 0.0);
    let received = queue.receive(10).await;
    let delete = |message: &aws_sdk_sqs::types::Message| {
        DeleteMessageBatchRequestEntry::builder().id(id(message)).receipt_handle(handle(message)).build().unwrap()
    };
    let call = lab.sqs.delete_message_batch().queue_url(&queue.url);
    let deleted = call.set_entries(Some(received.iter().map(delete).collect())).send().await.unwrap();
    assert!(!deleted.failed().is_empty());
    assert_eq!(queue.counts()[1], deleted.failed().len());
}

#[tokio::test]
async fn a_duplicate_is_a_message_in_flight_given_out_again() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let sent = queue.send("m").await;
    let first = queue.receive_one().await;
    lab.inject(Rule::on(Operation::ReceiveMessage, Effect::Duplicate(1.0)));
    let second = queue.receive_one().await;
    assert_eq!((id(&second), attribute(&second, &Name::ApproximateReceiveCount).as_str()), (sent.as_str(), "2"));
    assert_eq!((queue.counts(), lab.model.injected()), ([0, 1, 0], vec![1]));
    queue.delete(&first).await.unwrap();
    assert_eq!(queue.counts(), [0, 1, 0]);
    queue.delete(&second).await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);

    let fifo = lab.queue("q.fifo", &[]);
    fifo.send_to("g", "m").await;
    fifo.receive_one().await;
    assert_eq!((fifo.receive(10).await, lab.model.injected()), (vec![], vec![1]));
}

#[tokio::test]
async fn a_lost_delete_is_answered_well_and_the_message_comes_again() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let sent = queue.send("m").await;
    lab.inject(Rule::on(Operation::DeleteMessage, Effect::LoseDelete(1.0)).nth(1));
    queue.delete(&queue.receive_one().await).await.unwrap();
    assert_eq!((queue.counts(), lab.model.injected()), ([0, 1, 0], vec![1]));
    lab.advance(30);
    let again = queue.receive_one().await;
    assert_eq!(id(&again), sent);
    queue.delete(&again).await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);
}

#[tokio::test]
async fn an_outage_is_a_rule_on_all_of_a_service() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    lab.inject(Rule::on_any(Operation::SQS, Effect::DropBefore).calls(1..=2));
    assert_eq!(queue.try_receive(1).await.unwrap_err(), "no answer");
    assert!(lab.sqs.list_queues().send().await.is_err());
    lab.put("k", "x").await.unwrap();
    assert_eq!((queue.receive(1).await, lab.model.injected()), (vec![], vec![2]));
}

#[tokio::test]
async fn a_handle_goes_stale_before_its_time() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("VisibilityTimeout", "100")]);
    queue.send("m").await;
    let early = Duration::from_secs(5);
    lab.inject(Rule::on(Operation::ReceiveMessage, Effect::StaleHandle { share: 1.0, after: early..=early }).nth(1));
    let first = queue.receive_one().await;
    lab.advance(5);
    let second = queue.receive_one().await;
    assert_eq!(queue.hide(&first, 100).await.unwrap_err(), "InvalidParameterValue");
    queue.delete(&first).await.unwrap();
    assert_eq!((queue.counts(), lab.model.injected()), ([0, 1, 0], vec![1]));
    lab.advance(99);
    assert_eq!(queue.counts(), [0, 1, 0]);
    queue.delete(&second).await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);
}

#[tokio::test]
async fn counts_lie_within_bounds() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    for _ in 0..5 {
        queue.send("m").await;
    }
    assert_eq!(queue.told_counts().await, [5, 0, 0]);
    lab.inject(Rule::on(Operation::GetQueueAttributes, Effect::LyingCounts(3)));
    let mut lies = 0;
    for _ in 0..20 {
        let [visible, in_flight, delayed] = queue.told_counts().await;
        assert!((2..=8).contains(&visible) && in_flight <= 3 && delayed <= 3, "{visible} {in_flight} {delayed}");
        lies += u64::from(visible != 5) + u64::from(in_flight != 0) + u64::from(delayed != 0);
    }
    assert!(lies > 0);
    assert_eq!((lab.model.injected(), queue.counts()), (vec![lies], [5, 0, 0]));
}

#[tokio::test]
async fn a_rule_strikes_the_calls_that_it_names() {
    let lab = Lab::new().await;
    let refuse = || Effect::Refuse(Refusal::SlowDown);
    let rules = vec![
        Rule::on(Operation::PutObject, refuse()).named(".record.json").calls(2..=3),
        Rule::on_any([Operation::PutObject, Operation::GetObject], refuse()).named("never"),
    ];
    lab.model.inject(Plan { seed: 1, rules }).unwrap();
    let mut refused = Vec::new();
    for key in ["1.png", "1.record.json", "2.png", "2.record.json", "3.record.json", "4.record.json"] {
        if lab.put(key, "x").await.is_err() {
            refused.push(key);
        }
    }
    assert_eq!(refused, ["2.record.json", "3.record.json"]);
    assert_eq!(lab.model.injected(), [2, 0]);
    lab.model.inject(Plan::default()).unwrap();
    lab.put("2.record.json", "x").await.unwrap();
}

#[tokio::test]
async fn the_same_plan_strikes_the_same_calls_and_another_seed_others() {
    let mut struck = Vec::new();
    for seed in [1, 1, 2] {
        let lab = Lab::new().await;
        let rule = Rule::on(Operation::PutObject, Effect::Refuse(Refusal::SlowDown)).chance(0.5);
        lab.model.inject(Plan { seed, rules: vec![rule] }).unwrap();
        let mut refused = Vec::new();
        for n in 0..40 {
            refused.push(lab.put(&n.to_string(), "x").await.is_err());
        }
        assert_eq!(lab.model.injected(), [refused.iter().filter(|is| **is).count() as u64]);
        struck.push(refused);
    }
    assert_eq!(struck[0], struck[1]);
    assert_ne!(struck[0], struck[2]);
    assert!(struck[0].contains(&true) && struck[0].contains(&false), "{:?}", struck[0]);
}

#[tokio::test]
async fn a_plan_that_would_not_do_what_it_says_is_refused() {
    let lab = Lab::new().await;
    let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
    for (rule, word) in [
        (Rule::on_any([], Effect::Hang), "no operation"),
        (Rule::on(Operation::PutObject, Effect::Duplicate(0.1)), "no effect on PutObject"),
        (Rule::on(Operation::SendMessage, Effect::LoseDelete(0.1)), "no effect on SendMessage"),
        (Rule::on(Operation::SendMessage, Effect::FailEntries { share: 1.0, done: 0.0 }), "no effect on SendMessage"),
        (Rule::on(Operation::ReceiveMessage, Effect::Refuse(Refusal::SlowDown)), "no effect on ReceiveMessage"),
        (Rule::on(Operation::GetObject, Effect::Refuse(Refusal::ConditionalRequestConflict)), "no effect on GetObject"),
        (Rule::on(Operation::ReceiveMessage, Effect::LyingCounts(1)), "no effect on ReceiveMessage"),
        (Rule::on(Operation::PutObject, Effect::Hang).chance(1.5), "1.5 is no probability"),
        (Rule::on(Operation::ReceiveMessage, Effect::Duplicate(f64::NAN)), "NaN is no probability"),
        (Rule::on(Operation::PutObject, Effect::Hang).nth(0), "counted from 1"),
        (Rule::on(Operation::PutObject, Effect::Late(minute..=second)), "no span of time"),
    ] {
        let plan = Plan { seed: 1, rules: vec![Rule::on(Operation::GetObject, Effect::Hang), rule] };
        let error = lab.model.inject(plan).unwrap_err();
        assert_eq!(error.rule, 1);
        assert!(error.to_string().contains(word), "{error}");
    }
    // and none of it is in force
    assert_eq!(lab.model.injected(), [0; 0]);
    let rule = Rule { when: When::Chance(0.0), ..Rule::on(Operation::PutObject, Effect::Hang) };
    lab.inject(rule);
    lab.put("k", "x").await.unwrap();
    assert!(lab.model.objects(BUCKET).unwrap().contains_key("k"));
}
