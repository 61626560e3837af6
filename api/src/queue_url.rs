//! What a queue URL tells: account, name, region, and whether its host is AWS's own.

use std::str::FromStr;

use url::{Host, Url};

/// A parsed queue URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueUrl {
    /// The account's id, as the URL has it.
    pub account: String,
    /// The queue's name.
    pub name: String,
    /// The region, where the host or path tells it.
    pub region: Option<String>,
    /// The endpoint to call where the host is not one of AWS's public ones: LocalStack, ElasticMQ, a VPC endpoint.
    pub endpoint: Option<String>,
}

/// Why a text is not a queue URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueUrlError {
    /// Not a URL at all.
    #[error("not a URL: {0}; expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")]
    NotAUrl(String),
    /// A URL without account and queue name.
    #[error("no queue in the URL's path: expected …/ACCOUNT/NAME, as `aws sqs get-queue-url` prints it")]
    NoQueue,
}

impl FromStr for QueueUrl {
    type Err = QueueUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|e| QueueUrlError::NotAUrl(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(QueueUrlError::NotAUrl(format!("scheme {}", url.scheme())));
        }
        let segments: Vec<&str> = url.path_segments().into_iter().flatten().filter(|s| !s.is_empty()).collect();
        let [.., account, name] = segments.as_slice() else { return Err(QueueUrlError::NoQueue) };
        let host = match url.host() {
            Some(Host::Domain(host)) => host.to_ascii_lowercase(),
            Some(address) => address.to_string(),
            None => return Err(QueueUrlError::NotAUrl("no host".into())),
        };
        // LocalStack's path style: /queue/REGION/ACCOUNT/NAME
        let in_path = match segments.as_slice() {
            ["queue", region, _, _] => Some((*region).to_owned()),
            _ => None,
        };
        Ok(Self {
            account: (*account).into(),
            name: (*name).into(),
            region: region_of_host(&host).or(in_path),
            endpoint: (!is_public_aws(&host)).then(|| url.origin().ascii_serialization()),
        })
    }
}

/// The region that a host names: `sqs.eu-west-1.amazonaws.com`, its China, FIPS, VPC-endpoint and LocalStack forms, and
/// the legacy `eu-west-1.queue.amazonaws.com` and `queue.amazonaws.com` (us-east-1).
fn region_of_host(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.split('.').collect();
    if let Some(at) = labels.iter().position(|l| *l == "sqs" || *l == "sqs-fips") {
        return labels.get(at + 1).filter(|l| looks_like_region(l)).map(|l| (*l).to_owned());
    }
    match labels.as_slice() {
        ["queue", "amazonaws", ..] => Some("us-east-1".into()),
        [region, "queue", ..] if looks_like_region(region) => Some((*region).to_owned()),
        _ => None,
    }
}

/// `us-east-1`, `us-gov-west-1`, `cn-north-1`: at least two dashes, the last part a number.
fn looks_like_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    parts.len() >= 3
        && parts.last().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && parts[..parts.len() - 1].iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase()))
}

fn is_public_aws(host: &str) -> bool {
    let aws = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|suffix| host.ends_with(suffix));
    aws && !host.contains(".vpce.")
}

/// Whether a queue is a FIFO queue, which its name says.
pub fn is_fifo(url: &str) -> bool {
    url.strip_suffix(".fifo").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_and_endpoint_of_every_known_host() {
        let table: &[(&str, Option<&str>, Option<&str>)] = &[
            ("https://sqs.us-east-1.amazonaws.com/123456789012/prompts", Some("us-east-1"), None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/prompts", Some("cn-north-1"), None),
            ("https://sqs.us-gov-west-1.amazonaws.com/123456789012/prompts", Some("us-gov-west-1"), None),
            ("https://sqs-fips.us-west-2.amazonaws.com/123456789012/prompts", Some("us-west-2"), None),
            ("https://eu-west-1.queue.amazonaws.com/123456789012/prompts", Some("eu-west-1"), None),
            ("https://queue.amazonaws.com/123456789012/prompts", Some("us-east-1"), None),
            (
                "https://vpce-0a-1b.sqs.eu-central-1.vpce.amazonaws.com/123456789012/prompts",
                Some("eu-central-1"),
                Some("https://vpce-0a-1b.sqs.eu-central-1.vpce.amazonaws.com"),
            ),
            (
                "http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/prompts",
                Some("us-east-1"),
                Some("http://sqs.us-east-1.localhost.localstack.cloud:4566"),
            ),
            (
                "http://localhost:4566/queue/eu-west-2/000000000000/prompts",
                Some("eu-west-2"),
                Some("http://localhost:4566"),
            ),
            ("http://localstack:4566/000000000000/prompts", None, Some("http://localstack:4566")),
            ("http://10.0.0.7:9324/queue/prompts", None, Some("http://10.0.0.7:9324")),
        ];
        for (text, region, endpoint) in table {
            let url: QueueUrl = text.parse().unwrap();
            assert_eq!((url.region.as_deref(), url.endpoint.as_deref()), (*region, *endpoint), "{text}");
            assert_eq!(url.name, "prompts", "{text}");
        }
    }

    #[test]
    fn says_what_is_missing() {
        assert!(matches!("prompts".parse::<QueueUrl>(), Err(QueueUrlError::NotAUrl(_))));
        assert!(matches!("ftp://host/1/q".parse::<QueueUrl>(), Err(QueueUrlError::NotAUrl(_))));
        assert_eq!("https://sqs.us-east-1.amazonaws.com/".parse::<QueueUrl>(), Err(QueueUrlError::NoQueue));
    }
}
