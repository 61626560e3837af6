//! A file that a request produced: its bytes, or those that went up while they were made.

use std::borrow::Cow;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::parts::{Parts, Upload};

/// Bytes of a part: S3 takes no smaller ones but the last, and at most 10,000 of them.
pub const PART: usize = 8 << 20;

/// One file that a request produced.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// For `keyTemplate`'s `{extension}`, without the dot: `png`.
    pub extension: Cow<'static, str>,
    /// The S3 object's Content-Type.
    pub content_type: Cow<'static, str>,
    /// The content.
    pub body: Body,
}

/// The content of an output.
#[derive(Debug, Clone)]
pub enum Body {
    /// The whole of it.
    Whole(Bytes),
    /// It went up in parts, and is an object as soon as its job is delivered.
    Sent(Arc<Sent>),
}

/// What went up in parts.
#[derive(Debug)]
pub struct Sent {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// What of it was too little for a part, and has not gone up yet.
    pub rest: Bytes,
    /// The upload, which is given up when this is dropped.
    pub upload: Upload,
}

impl Body {
    /// The bytes, where they are here.
    pub fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Sent(_) => None,
        }
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        Self::Whole(bytes.into())
    }
}

/// Engines are tested without S3, where everything is whole.
#[cfg(test)]
impl std::ops::Deref for Body {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        self.whole().unwrap_or_else(|| panic!("it went up in parts"))
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one == other,
            (Self::Sent(one), Self::Sent(other)) => one.sha256 == other.sha256,
            _ => false,
        }
    }
}

/// Which of its job's outputs a stream is, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// From 0.
    pub index: usize,
    /// How many the job is going to have.
    pub count: usize,
    /// As [`Output::extension`].
    pub extension: Cow<'static, str>,
    /// As [`Output::content_type`].
    pub content_type: Cow<'static, str>,
}

/// An output that is uploaded while it is made: write it, then [`finish`](Self::finish). Dropped before that, nothing of
/// it stays. What is smaller than a part is kept until then.
#[derive(Debug)]
pub struct Stream {
    name: Name,
    uploads: Option<Arc<Parts>>,
    begun: Option<(mpsc::Sender<Bytes>, Upload)>,
    kept: BytesMut,
    sha256: Sha256,
    bytes: u64,
}

impl Stream {
    pub(super) fn new(name: Name, uploads: Option<Arc<Parts>>) -> Self {
        Self { name, uploads, begun: None, kept: BytesMut::new(), sha256: Sha256::new(), bytes: 0 }
    }

    /// How much was written.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Writes, and waits while too much is on its way. For engines on the worker's runtime; those on a thread of their own
    /// use [`io::Write`]. One that stops waiting here loses nothing: what did not go yet goes with the next.
    pub async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keep(bytes);
        while let Some(to) = self.next_part() {
            let room = to.reserve().await.map_err(|_| given_up())?;
            room.send(self.kept.split_to(PART).freeze());
        }
        Ok(())
    }

    /// The whole of it.
    pub fn finish(self) -> Output {
        let Name { extension, content_type, .. } = self.name;
        let rest = self.kept.freeze();
        let body = match self.begun {
            None => Body::Whole(rest),
            Some((_, upload)) => {
                let sha256 = hex::encode(self.sha256.finalize());
                Body::Sent(Arc::new(Sent { bytes: self.bytes, sha256, rest, upload }))
            }
        };
        Output { extension, content_type, body }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.kept.extend_from_slice(bytes);
    }

    /// Where the next part goes, once it is full.
    fn next_part(&mut self) -> Option<mpsc::Sender<Bytes>> {
        let uploads = self.uploads.as_ref()?;
        if self.kept.len() < PART {
            return None;
        }
        if self.begun.is_none() {
            self.begun = uploads.begin(&self.name);
        }
        Some(self.begun.as_ref()?.0.clone())
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.keep(bytes);
        while let Some(to) = self.next_part() {
            to.blocking_send(self.kept.split_to(PART).freeze()).map_err(|_| given_up())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the upload was given up")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn stream() -> Stream {
        let name = Name { index: 0, count: 1, extension: "mp4".into(), content_type: "video/mp4".into() };
        Stream::new(name, None)
    }

    #[test]
    fn without_a_place_to_go_to_all_is_kept() {
        let mut stream = stream();
        assert!(stream.is_empty());
        let large = vec![7; PART + 1];
        stream.write_all(&large).unwrap();
        stream.write_all(b"end").unwrap();
        assert_eq!(stream.len(), large.len() as u64 + 3);
        let output = stream.finish();
        assert_eq!((&*output.extension, &*output.content_type), ("mp4", "video/mp4"));
        assert!(output.body[..large.len()] == large[..] && output.body.ends_with(b"end"));
    }

    #[tokio::test]
    async fn an_engine_on_the_runtime_writes_the_same() {
        let (mut one, mut other) = (stream(), stream());
        one.push(b"bytes").await.unwrap();
        other.write_all(b"bytes").unwrap();
        assert_eq!(one.finish(), other.finish());
    }
}
