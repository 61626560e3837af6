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
use crate::store::{At, Begun, Condition, FAREWELL, GivenUp, Put};

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
        let carried = async move {
            let at = At { bucket: &bucket, key: &key };
            Box::pin(own.carry(at, &content_type, coming, ordered)).await;
        };
        self.store.uploads().spawn_on(carried, &self.runtime);
        Some((parts, upload))
    }

    /// Holds an upload to its end: an object, or nothing.
    async fn carry(&self, at: At<'_>, content_type: &str, parts: mpsc::Receiver<Bytes>, orders: mpsc::Receiver<Order>) {
        let mut begun = None;
        let put = Box::pin(self.put(at, content_type, parts, orders, &mut begun));
        // whoever waits for an answer hears that there is none
        let is_done = matches!(self.give_up.run_until_cancelled(put).await, Some(Ok(true)));
        if let Some(begun) = begun.filter(|_| !is_done) {
            let _ = tokio::time::timeout(FAREWELL, self.store.bucket().abort_upload(at, &begun)).await;
        }
    }

    /// Puts parts as they come, and makes them an object when that is ordered: whether they are one.
    async fn put(
        &self,
        at: At<'_>,
        content_type: &str,
        mut parts: mpsc::Receiver<Bytes>,
        mut orders: mpsc::Receiver<Order>,
        begun: &mut Option<Begun>,
    ) -> Result<bool, GivenUp> {
        let (bucket, give_up) = (self.store.bucket(), &self.give_up);
        let begun = match bucket.begin_upload(at, content_type, &self.store.metadata(&self.head), give_up).await? {
            Ok(new) => begun.insert(new),
            Err(put) => return refuse(put, parts, orders).await,
        };
        while let Some(part) = parts.recv().await {
            if let Err(put) = bucket.put_part(at, begun, part, give_up).await? {
                return refuse(put, parts, orders).await;
            }
        }
        let mut is_whole = false;
        while let Some(Order { rest, condition, answer }) = orders.recv().await {
            if !is_whole
                && !rest.is_empty()
                && let Err(put) = bucket.put_part(at, begun, rest, give_up).await?
            {
                let _ = answer.send(put.clone());
                return refuse(put, parts, orders).await;
            }
            is_whole = true;
            let put = bucket.complete_upload(at, begun, &condition, give_up).await?;
            let is_done = matches!(put, Put::Done(_));
            // who does not wait any more has given it up
            let _ = answer.send(put);
            if is_done {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// An upload that comes to nothing: what is still made is not kept, and who orders it hears `put`.
async fn refuse(
    put: Put,
    mut parts: mpsc::Receiver<Bytes>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<bool, GivenUp> {
    while parts.recv().await.is_some() {}
    while let Some(order) = orders.recv().await {
        let _ = order.answer.send(put.clone());
    }
    Ok(false)
}

impl Upload {
    /// Makes the parts, and `rest` after them, an object.
    pub async fn complete(&self, rest: Bytes, condition: Condition) -> Result<Put, GivenUp> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { rest, condition, answer }).await.map_err(|_| GivenUp)?;
        answered.await.map_err(|_| GivenUp)
    }
}
