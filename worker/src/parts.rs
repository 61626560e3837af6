//! Outputs that go up while they are made: a task for each holds the upload, from its first part to the job's delivery.

use bytes::Bytes;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::deliver::{Place, Store};
use crate::job::JobHead;
use crate::message::Message;
use crate::model::Name;
use crate::store::{At, BucketError, Condition, FAREWELL, GivenUp, Put};

/// Parts that may wait for S3: an engine that is faster waits for them.
const WAITING: usize = 2;

/// Where the outputs of one job go.
#[derive(Debug, Clone)]
pub struct Parts {
    store: Store,
    head: JobHead,
    message_id: String,
    sent_at: Timestamp,
    give_up: CancellationToken,
    runtime: Handle,
}

/// An upload that was begun. It is given up when this is dropped.
#[derive(Debug)]
pub struct Upload {
    /// Where the object is going to be.
    pub bucket: String,
    /// Its key.
    pub key: String,
    orders: mpsc::Sender<Order>,
}

/// An order to make the parts an object.
#[derive(Debug)]
struct Order {
    /// What was not a part yet.
    rest: Bytes,
    condition: Condition,
    answer: oneshot::Sender<Put>,
}

impl Parts {
    /// Of a job on the runtime that asks.
    pub fn new(store: &Store, head: &JobHead, message: &Message, give_up: &CancellationToken) -> Self {
        Self {
            store: store.clone(),
            head: head.clone(),
            message_id: message.id.clone(),
            sent_at: message.sent_at,
            give_up: give_up.clone(),
            runtime: Handle::current(),
        }
    }

    /// Begins the upload of an output, whose parts go into the channel; none where it has no place.
    pub fn begin(&self, name: &Name) -> Option<(mpsc::Sender<Bytes>, Upload)> {
        let place = Place {
            head: &self.head,
            message_id: &self.message_id,
            sent_at: self.sent_at,
            index: name.index,
            count: name.count,
        };
        // it is told when the job is delivered
        let (bucket, key) = self.store.place(place, &name.extension).ok()?;
        let (parts, coming) = mpsc::channel(WAITING);
        let (orders, ordered) = mpsc::channel(1);
        let upload = Upload { bucket: bucket.clone(), key: key.clone(), orders };
        let (own, content_type) = (self.clone(), name.content_type.to_string());
        self.runtime.spawn(async move {
            // whoever waits for an answer hears that there is none
            let _: Result<(), GivenUp> = own.carry(&bucket, &key, &content_type, coming, ordered).await;
        });
        Some((parts, upload))
    }

    async fn carry(
        &self,
        bucket: &str,
        key: &str,
        content_type: &str,
        mut parts: mpsc::Receiver<Bytes>,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<(), GivenUp> {
        let (at, own, give_up) = (At { bucket, key }, self.store.bucket(), &self.give_up);
        let metadata = self.store.metadata(&self.head);
        let mut begun = match own.begin_upload(at, content_type, &metadata, give_up).await? {
            Ok(begun) => begun,
            Err(error) => return refuse(&error, parts, orders).await,
        };
        let done = async {
            while let Some(part) = parts.recv().await {
                own.put_part(at, &mut begun, part, give_up).await?;
            }
            let mut is_whole = false;
            while let Some(Order { rest, condition, answer }) = orders.recv().await {
                if !is_whole && !rest.is_empty() {
                    own.put_part(at, &mut begun, rest, give_up).await?;
                }
                is_whole = true;
                let put = own.complete_upload(at, &begun, &condition, give_up).await?;
                let done = matches!(put, Put::Done(_));
                let _ = answer.send(put);
                if done {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        .await;
        if done != Ok(true) {
            let _ = tokio::time::timeout(FAREWELL, own.abort_upload(at, &begun)).await;
        }
        done.map(|_| ())
    }
}

/// An upload that cannot begin: what comes is not kept, and orders hear why.
async fn refuse(
    error: &BucketError,
    mut parts: mpsc::Receiver<Bytes>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), GivenUp> {
    while parts.recv().await.is_some() {}
    while let Some(order) = orders.recv().await {
        let _ = order.answer.send(Put::Never(error.clone()));
    }
    Ok(())
}

impl Upload {
    /// Makes the parts, and `rest` after them, an object.
    pub async fn complete(&self, rest: Bytes, condition: Condition) -> Result<Put, GivenUp> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { rest, condition, answer }).await.map_err(|_| GivenUp)?;
        answered.await.map_err(|_| GivenUp)
    }
}
