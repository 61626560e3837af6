//! Puts dead letters back into their queue: message by message, so that each stays the job that it was, or all at once by
//! SQS, which gives them new ids.

use aws_sdk_sqs::types::{
    MessageAttributeValue, MessageSystemAttributeNameForSends as SystemName, MessageSystemAttributeValue,
};
use millrace_api::{FIRST_MESSAGE_ATTRIBUTE, is_fifo};

use crate::dead_letters::{DeadLetter, DeadLetters, ERROR_ATTRIBUTES};
use crate::error::Error;
use crate::patiently::patiently;
use crate::queue::queue_arn;

/// How often a message is sent, and deleted, at most.
const ATTEMPTS: u32 = 5;

impl DeadLetters<'_> {
    /// Sends a message to the queue again, then deletes it here. Its job id stays: where the message does not tell it, it
    /// goes along as an attribute. Between the two a crash leaves it in both; its job is computed once all the same.
    pub async fn redrive(&self, letter: &DeadLetter) -> Result<(), Error> {
        patiently(ATTEMPTS, async || self.send_back(letter).await).await?;
        let deleted = patiently(ATTEMPTS, async || self.delete(letter).await).await;
        deleted.map_err(|cause| Error::NotDeleted { cause: Box::new(cause) })
    }

    async fn delete(&self, letter: &DeadLetter) -> Result<(), Error> {
        let delete = self.client.sqs.delete_message().queue_url(&self.url).receipt_handle(&letter.handle);
        delete.send().await.map(|_| ()).map_err(|e| Error::aws("sqs:DeleteMessage", &self.url, &e))
    }

    async fn send_back(&self, letter: &DeadLetter) -> Result<(), Error> {
        let queue = &self.client.consumer.queue.url;
        let unsendable = |e: aws_sdk_sqs::error::BuildError| Error::Config(e.to_string());
        let mut call = self.client.sqs.send_message().queue_url(queue).message_body(&letter.body);
        for (name, value) in letter.all.iter().filter(|(name, _)| !name.starts_with(ERROR_ATTRIBUTES)) {
            call = call.message_attributes(name, value.clone());
        }
        if let Some(id) = letter.first_message() {
            let value = MessageAttributeValue::builder().data_type("String").string_value(id).build();
            call = call.message_attributes(FIRST_MESSAGE_ATTRIBUTE, value.map_err(unsendable)?);
        }
        if let Some(header) = &letter.trace_header {
            let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header).build();
            call = call.message_system_attributes(SystemName::AwsTraceHeader, value.map_err(unsendable)?);
        }
        call = call.set_message_group_id(letter.group.clone());
        if is_fifo(queue) {
            // not the first one's: within five minutes SQS would drop it
            call = call.message_deduplication_id(format!("redrive-{}", letter.message_id));
        }
        call.send().await.map(|_| ()).map_err(|e| Error::aws("sqs:SendMessage", queue, &e))
    }

    /// Has SQS move all of them, and gives the task's handle. Messages get new ids: a job that goes by its message's id is
    /// another job then.
    pub async fn redrive_all_by_sqs(&self) -> Result<String, Error> {
        let sqs = &self.client.sqs;
        let source = queue_arn(sqs, &self.url).await?;
        let destination = queue_arn(sqs, &self.client.consumer.queue.url).await?;
        let call = sqs.start_message_move_task().source_arn(&source).destination_arn(destination);
        let task = call.send().await.map_err(|e| Error::aws("sqs:StartMessageMoveTask", source, &e))?;
        Ok(task.task_handle.unwrap_or_default())
    }
}
