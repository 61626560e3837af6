//! Which queue it is, and where to ask for it.

use millrace_api::{QueueSpec, QueueUrl};

use crate::validate::Problem;

/// A queue, and where to ask for it: what two consumers of one queue have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QueueAddress {
    /// As SQS is given it.
    pub(crate) url: String,
    /// The queue's name, for messages.
    pub(crate) name: String,
    /// AWS region to sign for.
    pub(crate) region: String,
    /// Another place to ask than AWS's own of that region.
    pub(crate) endpoint: Option<String>,
}

impl QueueAddress {
    /// The address that a spec means.
    pub(crate) fn of(spec: &QueueSpec) -> Result<Self, Problem> {
        let url: QueueUrl = spec.url.parse().map_err(|error| Problem::new("spec.queue.url", error))?;
        let Some(region) = spec.region.clone().or(url.region) else {
            return Err(Problem::new("spec.queue.region", "must be set: the queue's URL does not tell its region"));
        };
        let endpoint = spec.endpoint.clone().or(url.endpoint);
        Ok(Self { url: spec.url.clone(), name: url.name, region, endpoint })
    }

    /// Why the worker of this queue cannot send to another one: it speaks to one region, at one endpoint.
    pub(crate) fn cannot_reach(&self, spec: &QueueSpec, url: &str) -> Option<String> {
        let other: QueueUrl = match url.parse() {
            Ok(other) => other,
            Err(error) => return Some(error.to_string()),
        };
        if let Some(region) = other.region.filter(|region| *region != self.region) {
            return Some(format!(
                "is in region {region}, spec.queue in {}: workers send only to queues of their own queue's region",
                self.region
            ));
        }
        // an endpoint that is given is called whatever the host of a URL
        (spec.endpoint.is_none() && other.endpoint != self.endpoint).then(|| {
            format!(
                "is not at {}, where spec.queue is: workers send only to queues at their own queue's endpoint",
                self.place()
            )
        })
    }

    /// Where SQS is asked, for messages.
    pub(crate) fn place(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("AWS region {}", self.region))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: serde_json::Value) -> Result<QueueAddress, Problem> {
        QueueAddress::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_spec_rules_over_the_url() {
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/prompts";
        let plain = of(json!({ "url": url })).unwrap();
        assert_eq!((plain.region.as_str(), plain.endpoint, plain.name.as_str()), ("eu-west-1", None, "prompts"));
        let told = of(json!({ "url": url, "region": "us-east-1", "endpoint": "http://localstack:4566" })).unwrap();
        assert_eq!((told.region.as_str(), told.endpoint.as_deref()), ("us-east-1", Some("http://localstack:4566")));
        let local = of(json!({ "url": "http://localstack:4566/000000000000/prompts", "region": "us-east-1" })).unwrap();
        assert_eq!(local.endpoint.as_deref(), Some("http://localstack:4566"));
    }

    #[test]
    fn another_queue_is_reached_in_the_same_place() {
        let (aws, lab) = ("https://sqs.eu-west-1.amazonaws.com/1/q", "http://localstack:4566/0/q");
        let table = [
            (json!({ "url": aws }), "https://sqs.eu-west-1.amazonaws.com/2/replies", None),
            (json!({ "url": aws }), "https://eu-west-1.queue.amazonaws.com/2/replies.fifo", None),
            (json!({ "url": aws }), "https://sqs.us-east-1.amazonaws.com/1/replies", Some("is in region us-east-1")),
            (json!({ "url": aws }), "http://localstack:4566/0/replies", Some("is not at AWS region eu-west-1")),
            (json!({ "url": aws, "endpoint": "https://vpce-1.test" }), aws, None),
            (json!({ "url": lab, "region": "us-east-1" }), "http://localstack:4566/0/replies", None),
            (
                json!({ "url": lab, "region": "us-east-1" }),
                "http://other:4566/0/replies",
                Some("is not at http://localstack:4566"),
            ),
            (json!({ "url": lab, "region": "us-east-1", "endpoint": "http://x" }), "http://other:4566/0/replies", None),
            (json!({ "url": aws }), "replies", Some("not a URL")),
        ];
        for (spec, url, wanted) in table {
            let spec: QueueSpec = serde_json::from_value(spec).unwrap();
            let found = QueueAddress::of(&spec).unwrap().cannot_reach(&spec, url);
            match wanted {
                None => assert_eq!(found, None, "{spec:?} {url}"),
                Some(words) => assert!(found.as_ref().is_some_and(|f| f.starts_with(words)), "{found:?} {words}"),
            }
        }
    }

    #[test]
    fn a_missing_region_names_the_field() {
        let problem = of(json!({ "url": "http://localstack:4566/000000000000/prompts" })).unwrap_err();
        assert_eq!(problem.field, "spec.queue.region");
    }
}
