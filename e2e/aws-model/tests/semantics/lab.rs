//! A model, clients that repeat nothing by themselves, and short ways to say what tests do.

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as Name, QueueAttributeName};
use millrace_aws_model::{Model, Plan, Rule};

/// The bucket of every lab.
pub const BUCKET: &str = "bucket";

/// One test's model.
pub struct Lab {
    pub model: Model,
    pub sqs: aws_sdk_sqs::Client,
    pub s3: aws_sdk_s3::Client,
}

/// A queue of it.
pub struct Queue<'a> {
    pub lab: &'a Lab,
    pub name: &'static str,
    pub url: String,
}

impl Lab {
    pub async fn new() -> Self {
        let model = Model::start(7).await.unwrap();
        model.create_bucket(BUCKET).unwrap();
        let credentials = Credentials::new("any", "any", None, None, "model");
        let sqs = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials.clone())
            .retry_config(RetryConfig::disabled())
            .endpoint_url(model.endpoint());
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .force_path_style(true)
            .endpoint_url(model.endpoint());
        let (sqs, s3) = (aws_sdk_sqs::Client::from_conf(sqs.build()), aws_sdk_s3::Client::from_conf(s3.build()));
        Self { model, sqs, s3 }
    }

    pub fn queue(&self, name: &'static str, attributes: &[(&str, &str)]) -> Queue<'_> {
        let url = self.model.create_queue(name, attributes).unwrap();
        Queue { lab: self, name, url }
    }

    /// A queue whose messages go to the queue `dead` after so many receives.
    pub fn queue_with_dead_letters(&self, name: &'static str, dead: &Queue<'_>, receives: u32) -> Queue<'_> {
        let arn = format!("arn:aws:sqs:us-east-1:000000000000:{}", dead.name);
        self.queue(
            name,
            &[("RedrivePolicy", &format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{receives}}}"#))],
        )
    }

    pub fn advance(&self, seconds: u64) {
        self.model.advance(Duration::from_secs(seconds));
    }

    /// Gives polls the time to reach the model, so that they wait there and do not find. Those that come later find:
    /// what a test asserts holds either way.
    pub async fn until_they_wait(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    pub fn inject(&self, rule: Rule) {
        self.model.inject(Plan { seed: 1, rules: vec![rule] }).unwrap();
    }

    /// Puts an object, and gives its version or the code of what went wrong.
    pub async fn put(&self, key: &str, body: &'static str) -> Result<String, String> {
        let call = self.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body.as_bytes()));
        call.send().await.map(|put| put.e_tag.unwrap()).map_err(|error| code(&error))
    }

    /// The same, if there is none.
    pub async fn create(&self, key: &str, body: &'static str) -> Result<String, String> {
        let call = self.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body.as_bytes()));
        call.if_none_match("*").send().await.map(|put| put.e_tag.unwrap()).map_err(|error| code(&error))
    }

    /// The same, if there is this version.
    pub async fn replace(&self, key: &str, body: &'static str, etag: &str) -> Result<String, String> {
        let call = self.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body.as_bytes()));
        call.if_match(etag).send().await.map(|put| put.e_tag.unwrap()).map_err(|error| code(&error))
    }

    /// What is in an object.
    pub fn content(&self, key: &str) -> Option<String> {
        let objects = self.model.objects(BUCKET).unwrap();
        objects.get(key).map(|object| String::from_utf8(object.body.to_vec()).unwrap())
    }
}

impl Queue<'_> {
    /// Sends a message, and gives its id.
    pub async fn send(&self, body: &str) -> String {
        let call = self.lab.sqs.send_message().queue_url(&self.url).message_body(body);
        call.send().await.unwrap().message_id.unwrap()
    }

    /// Sends a message of a group, and gives its id.
    pub async fn send_to(&self, group: &str, body: &str) -> String {
        let call = self.lab.sqs.send_message().queue_url(&self.url).message_body(body).message_group_id(group);
        call.message_deduplication_id(format!("{group}{body}")).send().await.unwrap().message_id.unwrap()
    }

    /// Receives up to `most` messages that are there.
    pub async fn receive(&self, most: i32) -> Vec<Message> {
        self.try_receive(most).await.unwrap()
    }

    pub async fn try_receive(&self, most: i32) -> Result<Vec<Message>, String> {
        let call = self.lab.sqs.receive_message().queue_url(&self.url).max_number_of_messages(most);
        let call = call.message_system_attribute_names(Name::All).message_attribute_names("All");
        call.send().await.map(|answer| answer.messages.unwrap_or_default()).map_err(|error| code(&error))
    }

    /// Receives the one message that is there.
    pub async fn receive_one(&self) -> Message {
        let mut received = self.receive(10).await;
        assert_eq!(received.len(), 1, "{received:?}");
        received.remove(0)
    }

    /// Bodies of the messages received.
    pub async fn receive_bodies(&self, most: i32) -> Vec<String> {
        self.receive(most).await.into_iter().map(|message| message.body.unwrap()).collect()
    }

    pub async fn delete(&self, message: &Message) -> Result<(), String> {
        let call = self.lab.sqs.delete_message().queue_url(&self.url).receipt_handle(handle(message));
        call.send().await.map(|_| ()).map_err(|error| code(&error))
    }

    /// Hides a message for so many seconds.
    pub async fn hide(&self, message: &Message, seconds: i32) -> Result<(), String> {
        let call = self.lab.sqs.change_message_visibility().queue_url(&self.url).receipt_handle(handle(message));
        call.visibility_timeout(seconds).send().await.map(|_| ()).map_err(|error| code(&error))
    }

    /// Visible, in flight and delayed messages.
    pub fn counts(&self) -> [usize; 3] {
        let view = self.lab.model.queue(self.name).unwrap();
        [view.visible, view.in_flight, view.delayed]
    }

    /// The same, as SQS tells it.
    pub async fn told_counts(&self) -> [usize; 3] {
        let call = self.lab.sqs.get_queue_attributes().queue_url(&self.url);
        let all = call.attribute_names(QueueAttributeName::All).send().await.unwrap().attributes.unwrap();
        [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ]
        .map(|name| all[&name].parse().unwrap())
    }
}

pub fn handle(message: &Message) -> &str {
    message.receipt_handle().unwrap()
}

pub fn id(message: &Message) -> &str {
    message.message_id().unwrap()
}

/// One of a message's system attributes; empty where it has none of that name.
pub fn attribute(message: &Message, name: &Name) -> String {
    message.attributes().and_then(|all| all.get(name)).cloned().unwrap_or_default()
}

/// The code of an error, or its status, or that there was no answer.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    let status = error.raw_response().map(|answer| answer.status().as_u16().to_string());
    error.code().map(str::to_owned).or(status).unwrap_or_else(|| "no answer".into())
}
