//! A server whose first answers break off in the middle of their content.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::lab::Lab;

/// Such a server. It stops when it is dropped.
pub struct Torn {
    endpoint: String,
    server: AbortHandle,
}

impl Torn {
    /// Answers everything with `content`, of which the first `torn` answers give only a part.
    pub async fn serve(content: &'static [u8], torn: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move {
            for answer in 0.. {
                let (connection, _) = listener.accept().await.unwrap();
                let given = if answer < torn { &content[..content.len() / 2] } else { content };
                // a client that has gone is its own affair
                let _ = answer_one(connection, content.len(), given).await;
            }
        };
        Self { endpoint, server: tokio::spawn(serve).abort_handle() }
    }

    /// The lab's client of S3, for this server.
    pub fn s3(&self, lab: &Lab) -> aws_sdk_s3::Client {
        let config = lab.s3.config().to_builder().endpoint_url(&self.endpoint);
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

async fn answer_one(mut connection: TcpStream, length: usize, given: &[u8]) -> std::io::Result<()> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut chunk).await? {
            0 => return Ok(()),
            read => request.extend_from_slice(&chunk[..read]),
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    connection.write_all(&[head.as_bytes(), given].concat()).await?;
    connection.shutdown().await
}

impl Drop for Torn {
    fn drop(&mut self) {
        self.server.abort();
    }
}
