//! The operations of both services, which rules of faults name.

/// An operation of SQS or S3, by AWS's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // AWS documents them
pub enum Operation {
    CreateQueue,
    DeleteQueue,
    GetQueueUrl,
    ListQueues,
    ListDeadLetterSourceQueues,
    GetQueueAttributes,
    SetQueueAttributes,
    PurgeQueue,
    TagQueue,
    UntagQueue,
    ListQueueTags,
    StartMessageMoveTask,
    ListMessageMoveTasks,
    SendMessage,
    SendMessageBatch,
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    ListObjectsV2,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
}

/// Which of the two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Sqs,
    S3,
}

impl Operation {
    /// Those of SQS.
    pub const SQS: [Self; 20] = [
        Self::CreateQueue,
        Self::DeleteQueue,
        Self::GetQueueUrl,
        Self::ListQueues,
        Self::ListDeadLetterSourceQueues,
        Self::GetQueueAttributes,
        Self::SetQueueAttributes,
        Self::PurgeQueue,
        Self::TagQueue,
        Self::UntagQueue,
        Self::ListQueueTags,
        Self::StartMessageMoveTask,
        Self::ListMessageMoveTasks,
        Self::SendMessage,
        Self::SendMessageBatch,
        Self::ReceiveMessage,
        Self::DeleteMessage,
        Self::DeleteMessageBatch,
        Self::ChangeMessageVisibility,
        Self::ChangeMessageVisibilityBatch,
    ];

    /// Those of S3.
    pub const S3: [Self; 9] = [
        Self::ListBuckets,
        Self::CreateBucket,
        Self::HeadBucket,
        Self::DeleteBucket,
        Self::ListObjectsV2,
        Self::PutObject,
        Self::GetObject,
        Self::HeadObject,
        Self::DeleteObject,
    ];

    pub(crate) fn service(self) -> Service {
        if Self::S3.contains(&self) { Service::S3 } else { Service::Sqs }
    }

    /// Whether its answer tells of each entry by itself.
    pub(crate) const fn is_batch(self) -> bool {
        matches!(self, Self::SendMessageBatch | Self::DeleteMessageBatch | Self::ChangeMessageVisibilityBatch)
    }
}
