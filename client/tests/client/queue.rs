//! A queue's numbers, and queues as millrace wants them.

use aws_sdk_sqs::config::BehaviorVersion;
use aws_sdk_sqs::types::QueueAttributeName as Name;
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::{Job, QueuePlan, Trouble};

use crate::lab::{DEAD, Lab};

#[tokio::test]
async fn the_numbers_are_sqs_s_own() {
    let lab = Lab::standard().await;
    for n in 0..3 {
        lab.client.send(&Job::text(n.to_string())).await.unwrap();
    }
    let delay = std::time::Duration::from_mins(10);
    lab.client.send(&Job { delay, ..Job::text("later") }).await.unwrap();
    lab.sqs.receive_message().queue_url(&lab.url).send().await.unwrap();
    let stats = lab.client.queue_stats().await.unwrap();
    assert_eq!((stats.visible, stats.in_flight, stats.delayed), (2, 1, 1));
    assert_eq!((stats.max_receive_count, stats.dead_letters), (Some(1), Some(0)));
    assert!(stats.dead_letter_url.unwrap().ends_with(DEAD));
    lab.client.purge().await.unwrap();
    assert!(lab.bodies("jobs").is_empty());
}

#[tokio::test]
async fn a_new_queue_has_a_dead_letter_queue_and_long_polls() {
    let lab = Lab::standard().await;
    for (name, dead) in [("new", "new-dead"), ("new.fifo", "new-dead.fifo")] {
        let plan = QueuePlan { name: name.into(), max_receive_count: 5, visibility_timeout: 120 };
        let (url, dead_url) = plan.create(&lab.sqs).await.unwrap();
        assert!(url.ends_with(name) && dead_url.ends_with(dead), "{url} {dead_url}");
        // once more changes nothing
        assert_eq!(plan.create(&lab.sqs).await.unwrap().0, url);
        let all = lab.sqs.get_queue_attributes().queue_url(&url).attribute_names(Name::All).send().await.unwrap();
        let all = all.attributes.unwrap();
        assert_eq!(all[&Name::MessageRetentionPeriod], "1209600");
        assert_eq!(all[&Name::ReceiveMessageWaitTimeSeconds], "20");
        assert_eq!(all[&Name::VisibilityTimeout], "120");
        let policy: serde_json::Value = serde_json::from_str(&all[&Name::RedrivePolicy]).unwrap();
        assert!(policy["deadLetterTargetArn"].as_str().unwrap().ends_with(dead), "{policy}");
    }
}

#[tokio::test]
async fn the_queue_has_numbers_though_its_dead_letters_may_not_be_counted() {
    let lab = Lab::standard().await;
    let denied = Rule::on(Operation::GetQueueAttributes, Effect::Refuse(Refusal::AccessDenied)).named(DEAD);
    lab.inject(vec![denied]);
    let stats = lab.client.queue_stats().await.unwrap();
    assert_eq!((stats.visible, stats.dead_letters), (0, None));
    assert!(stats.dead_letter_url.is_some());
}

#[tokio::test]
async fn a_missing_region_is_told() {
    let lab = Lab::standard().await;
    let plan = QueuePlan { name: "new".into(), max_receive_count: 5, visibility_timeout: 120 };
    let keys = aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test");
    let nowhere = || {
        let config = aws_sdk_sqs::Config::builder().behavior_version(BehaviorVersion::latest());
        config.credentials_provider(keys.clone())
    };
    for config in [nowhere(), nowhere().endpoint_url(lab.model.endpoint())] {
        let error = plan.create(&aws_sdk_sqs::Client::from_conf(config.build())).await.unwrap_err();
        assert_eq!(error.trouble(), Some(Trouble::NoRegion), "{error}");
        assert!(error.to_string().contains("AWS_REGION"), "{error}");
    }
}
