//! A server of SQS before the model's that refuses every batch of more than one message as a whole.

use aws_sdk_sqs::config::BehaviorVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::lab::Lab;

const REFUSAL: &str = r#"{"__type":"com.amazonaws.sqs#BatchRequestTooLong","message":"too long"}"#;

/// Such a server. It stops when it is dropped.
pub struct Strict {
    endpoint: String,
    server: AbortHandle,
}

impl Strict {
    pub async fn before(lab: &Lab) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let model = lab.model.endpoint().trim_start_matches("http://").to_owned();
        let serve = async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                // a client that has gone is its own affair
                let _ = answer(connection, &model).await;
            }
        };
        Self { endpoint, server: tokio::spawn(serve).abort_handle() }
    }

    /// The lab's client of SQS, for this server.
    pub fn sqs(&self, lab: &Lab) -> aws_sdk_sqs::Client {
        let config = lab.sqs.config().to_builder().behavior_version(BehaviorVersion::latest());
        aws_sdk_sqs::Client::from_conf(config.endpoint_url(&self.endpoint).build())
    }
}

/// Answers one request, and closes the connection.
async fn answer(mut client: TcpStream, model: &str) -> std::io::Result<()> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let read = client.read(&mut chunk).await?;
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if read == 0 || body.len() >= length.unwrap_or_default() {
            break (head.to_owned(), body.to_owned());
        }
    };
    if body.matches("\"MessageBody\"").count() > 1 {
        let head =
            format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", REFUSAL.len());
        client.write_all(format!("{head}{REFUSAL}").as_bytes()).await?;
        return client.shutdown().await;
    }
    let mut server = TcpStream::connect(model).await?;
    server.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await?;
    copy(&mut server, &mut client).await?;
    client.shutdown().await
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.server.abort();
    }
}
