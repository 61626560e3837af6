//! queue.allow: where a message may point. A producer who may send a message must not be able to make the worker's role
//! read, write or call elsewhere.

use millrace_api::{AllowSpec, CallbackHosts, Listing, WorkerConfig};
use serde_json::{Map, Value};

use crate::job::{ObjectRef, Placement};
use crate::model::InvalidInput;
use crate::store::{NOTE, PREVIEW, RECORD, TRIED};

/// Longest URL that a message may name.
const MAX_URL: usize = 2048;
/// Longest prefix and longest key that a message may name, as the consumer's own.
const MAX_PART: usize = 512;
/// What the worker's own objects end in.
pub(crate) const RESERVED: [&str; 3] = [RECORD, NOTE, PREVIEW];

/// Where messages of one consumer may point.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// Queues for `reply_to`.
    reply_queues: Vec<String>,
    /// Hosts for `callback_url`.
    callback_hosts: CallbackHosts,
    /// The consumer's own bucket.
    bucket: String,
    /// What its keys begin with.
    prefix: String,
    output_buckets: Vec<String>,
    input_buckets: Vec<String>,
}

impl Allow {
    /// What a consumer whose keys begin with `prefix` allows; else every problem of its spec, with its field.
    pub fn new(config: &WorkerConfig, prefix: &str) -> Result<Self, Vec<String>> {
        let AllowSpec { input_buckets, output_buckets, reply_queues, callback_hosts } = &config.queue.allow;
        let mut problems = Vec::new();
        let callback_hosts = CallbackHosts::parse(callback_hosts).unwrap_or_else(|wrong| {
            let told = wrong.into_iter().map(|(at, error)| format!("queue.allow.callbackHosts[{at}]: {error}"));
            problems.extend(told);
            CallbackHosts::default()
        });
        let reply = config.output.reply.as_ref().map(|reply| ("output.reply.queueUrl".to_owned(), &reply.queue_url));
        let listed = reply_queues.iter().enumerate().map(|(i, url)| (format!("queue.allow.replyQueues[{i}]"), url));
        let queues: Vec<_> = listed.chain(reply).collect();
        for (field, _) in queues.iter().filter(|(_, url)| **url == config.queue.url) {
            problems.push(format!("{field}: is queue.url itself, so each result would be a new job"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            reply_queues: queues.into_iter().map(|(_, url)| url.clone()).collect(),
            callback_hosts,
            bucket: config.output.bucket.clone(),
            prefix: prefix.into(),
            output_buckets: output_buckets.clone(),
            input_buckets: input_buckets.clone(),
        })
    }

    /// A queue that the message wants to be told on.
    pub fn reply_to(&self, url: &str) -> Result<String, InvalidInput> {
        if self.reply_queues.iter().any(|queue| queue == url) {
            return Ok(url.into());
        }
        Err(refuse("reply_to", url, "replyQueues"))
    }

    /// A URL that the message wants to be called, as it will be called.
    pub fn callback_url(&self, text: &str) -> Result<String, InvalidInput> {
        let wrong = |message: &str| InvalidInput::field("callback_url", message);
        if text.len() > MAX_URL {
            return Err(wrong(&format!("must have at most {MAX_URL} bytes, has {}", text.len())));
        }
        let url = self.callback_hosts.permit(text).map_err(|e| wrong(&e.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must not hold a user name or password"));
        }
        // whoever owns a name below a pattern must not choose what of it is spoken to
        let listing = url.host().and_then(|host| self.callback_hosts.listing(&host));
        if let (Some(Listing::Below), Some(port)) = (listing, url.port()) {
            let message = format!("port {port} takes a host that queue.allow.callbackHosts lists in full");
            return Err(wrong(&message));
        }
        Ok(url.into())
    }

    /// A bucket that the message wants to be read from.
    pub fn input_bucket(&self, field: &str, bucket: &str) -> Result<(), InvalidInput> {
        if self.input_buckets.iter().any(|listed| listed == bucket) {
            return Ok(());
        }
        Err(refuse(field, bucket, "inputBuckets"))
    }

    /// Whether an object lies where this consumer's results do.
    pub fn is_own_output(&self, object: &ObjectRef) -> bool {
        self.own_name(object).is_some()
    }

    /// Whether an object is one of the consumer's records, notes or tries of the right to write.
    pub fn is_own_record(&self, object: &ObjectRef) -> bool {
        let own = |name: &str| RESERVED.iter().any(|end| name.ends_with(end)) || name.starts_with(TRIED);
        self.own_name(object).is_some_and(own)
    }

    /// What an object is called under the consumer's prefix.
    fn own_name<'o>(&self, object: &'o ObjectRef) -> Option<&'o str> {
        object.key.strip_prefix(&self.prefix).filter(|_| object.bucket == self.bucket)
    }

    /// Where the message wants its outputs.
    pub fn placement(&self, mut output: Map<String, Value>) -> Result<Placement, InvalidInput> {
        let mut take = |key: &str| {
            let field = format!("output.{key}");
            match output.remove(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if text.is_empty() && key != "prefix" => {
                    Err(InvalidInput::field(field, "must not be empty"))
                }
                Some(Value::String(text)) => Ok(Some(text)),
                Some(_) => Err(InvalidInput::field(field, "must be a text")),
            }
        };
        let placement = Placement { bucket: take("bucket")?, prefix: take("prefix")?, key: take("key")? };
        if let Some(key) = output.keys().next() {
            let message = "unknown field (valid: bucket, prefix, key)";
            return Err(InvalidInput::field(format!("output.{}", shown(key)), message));
        }
        if let Some(bucket) = &placement.bucket
            && *bucket != self.bucket
            && !self.output_buckets.contains(bucket)
        {
            return Err(refuse("output.bucket", bucket, "outputBuckets"));
        }
        for (field, part) in [("output.prefix", &placement.prefix), ("output.key", &placement.key)] {
            let problem = part.as_deref().and_then(problem_of_part);
            if let Some(problem) = problem {
                return Err(InvalidInput::field(field, problem));
            }
        }
        if let Some(key) = &placement.key {
            let whole = format!("{}{key}", placement.prefix.as_ref().unwrap_or(&self.prefix));
            if let Some(end) = RESERVED.iter().find(|end| whole.ends_with(**end)) {
                return Err(InvalidInput::field(
                    "output.key",
                    format!("must not end in {end}: those keys are millrace's own"),
                ));
            }
            if whole.ends_with('/') {
                return Err(InvalidInput::field("output.key", "must not end in '/': it names an object"));
            }
        }
        Ok(placement)
    }
}

/// What is wrong with a prefix or a key, whatever it is joined to.
fn problem_of_part(part: &str) -> Option<String> {
    if part.len() > MAX_PART {
        return Some(format!("must have at most {MAX_PART} bytes, has {}", part.len()));
    }
    if part.starts_with('/') {
        return Some("must not begin with '/'".into());
    }
    if part.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("must not have the parts . or ..".into());
    }
    if part.contains(['{', '}']) {
        return Some("must not have braces: it is taken as it is, and is no template".into());
    }
    part.chars().any(char::is_control).then(|| "must not have control characters".into())
}

fn refuse(field: &str, value: &str, list: &str) -> InvalidInput {
    InvalidInput::field(field, format!("{} is not allowed: it is not in queue.allow.{list}", shown(value)))
}

/// A value as an error shows it.
fn shown(value: &str) -> String {
    const LONGEST: usize = 200;
    if value.chars().count() <= LONGEST {
        return value.into();
    }
    format!("{}…", value.chars().take(LONGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allow(queue: &Value) -> Result<Allow, Vec<String>> {
        let config = json!({
            "consumer": { "namespace": "team", "name": "sdxl" },
            "queue": { "url": "http://h/0/prompts", "allow": queue },
            "model": { "task": "Echo" },
            "output": { "bucket": "images", "reply": { "queueUrl": "http://h/0/results" } },
        });
        Allow::new(&serde_json::from_value(config).unwrap(), "out/")
    }

    #[test]
    fn nothing_is_allowed_but_what_is_listed_and_the_consumers_own() {
        let (none, some) = (allow(&json!({})).unwrap(), allow(&json!({ "replyQueues": ["http://h/0/a"] })).unwrap());
        assert_eq!(some.reply_to("http://h/0/a").unwrap(), "http://h/0/a");
        assert_eq!(none.reply_to("http://h/0/results").unwrap(), "http://h/0/results");
        for (allow, url) in [(&none, "http://h/0/a"), (&some, "http://h/0/a/"), (&some, "HTTP://h/0/a"), (&some, "")] {
            let wanted = format!("reply_to: {url} is not allowed: it is not in queue.allow.replyQueues");
            assert_eq!(allow.reply_to(url).unwrap_err().to_string(), wanted);
        }
        let buckets = allow(&json!({ "inputBuckets": ["photos"] })).unwrap();
        assert!(buckets.input_bucket("bucket", "photos").is_ok());
        // the consumer's own bucket is for outputs
        assert!(buckets.input_bucket("bucket", "images").is_err());
        let long = "x".repeat(300);
        let error = none.input_bucket("bucket", &long).unwrap_err().to_string();
        let wanted = format!("bucket: {}… is not allowed: it is not in queue.allow.inputBuckets", "x".repeat(200));
        assert_eq!(error, wanted);
    }

    #[test]
    fn a_callback_goes_to_a_listed_host_and_nowhere_else() {
        let allow = allow(&json!({ "callbackHosts": ["hooks.example.com", "*.example.org", "10.0.0.7"] })).unwrap();
        for (url, called) in [
            ("https://hooks.example.com/a b?c", "https://hooks.example.com/a%20b?c"),
            ("HTTP://HOOKS.example.com:8080", "http://hooks.example.com:8080/"),
            ("https://a.b.example.org:443/", "https://a.b.example.org/"),
            ("http://10.0.0.7:9000/x", "http://10.0.0.7:9000/x"),
        ] {
            assert_eq!(allow.callback_url(url).unwrap(), called);
        }
        let long = format!("https://hooks.example.com/{}", "x".repeat(2048));
        for (url, wanted) in [
            ("https://other.example.com/", "host other.example.com is not allowed"),
            ("https://example.org/", "host example.org is not allowed"),
            ("https://hooks.example.com@evil.test/", "host evil.test is not allowed"),
            ("http://0x0a.0.0.8/", "host 10.0.0.8 is not allowed"),
            ("https://ana:secret@hooks.example.com/", "must not hold a user name or password"),
            ("https://ana@hooks.example.com/", "must not hold a user name or password"),
            ("https://a.example.org:8443/", "port 8443 takes a host that queue.allow.callbackHosts lists in full"),
            ("file:///etc/passwd", "not an http or https URL: scheme file"),
            ("hooks.example.com", "not an http or https URL: relative URL without a base"),
            (long.as_str(), "must have at most 2048 bytes, has 2074"),
        ] {
            let error = allow.callback_url(url).unwrap_err().to_string();
            assert!(error.starts_with(&format!("callback_url: {wanted}")), "{url}: {error}");
        }
    }

    #[test]
    fn outputs_may_be_placed_where_they_harm_nobody() {
        let allow = allow(&json!({ "outputBuckets": ["thumbs"] })).unwrap();
        let place = |output: Value| {
            let Value::Object(output) = output else { panic!("not an object") };
            allow.placement(output)
        };
        let whole = place(json!({ "bucket": "thumbs", "prefix": "a/b..c/", "key": "d/e.png" })).unwrap();
        assert_eq!((whole.bucket.as_deref(), whole.key.as_deref()), (Some("thumbs"), Some("d/e.png")));
        assert_eq!(place(json!({ "bucket": "images", "prefix": "" })).unwrap().prefix.as_deref(), Some(""));
        assert_eq!(place(json!({ "key": null })).unwrap(), Placement::default());
        let long = "x".repeat(513);
        for (output, wanted) in [
            (
                json!({ "bucket": "theirs" }),
                "output.bucket: theirs is not allowed: it is not in queue.allow.outputBuckets",
            ),
            (json!({ "bucket": "" }), "output.bucket: must not be empty"),
            (json!({ "key": "" }), "output.key: must not be empty"),
            (json!({ "key": 7 }), "output.key: must be a text"),
            (json!({ "folder": "a" }), "output.folder: unknown field (valid: bucket, prefix, key)"),
            (json!({ "prefix": "/a" }), "output.prefix: must not begin with '/'"),
            (json!({ "key": "a/../b" }), "output.key: must not have the parts . or .."),
            (json!({ "prefix": "./" }), "output.prefix: must not have the parts . or .."),
            (
                json!({ "key": "{job_id}.png" }),
                "output.key: must not have braces: it is taken as it is, and is no template",
            ),
            (json!({ "key": "a\nb" }), "output.key: must not have control characters"),
            (json!({ "key": long }), "output.key: must have at most 512 bytes, has 513"),
            (
                json!({ "key": "a.record.json" }),
                "output.key: must not end in .record.json: those keys are millrace's own",
            ),
            (
                json!({ "prefix": "a.record", "key": ".json" }),
                "output.key: must not end in .record.json: those keys are millrace's own",
            ),
            (json!({ "key": "a.attempt" }), "output.key: must not end in .attempt: those keys are millrace's own"),
            (json!({ "key": "a/" }), "output.key: must not end in '/': it names an object"),
        ] {
            assert_eq!(place(output.clone()).unwrap_err().to_string(), wanted, "{output}");
        }
    }

    #[test]
    fn an_object_is_the_consumers_own_by_bucket_and_prefix() {
        let allow = allow(&json!({})).unwrap();
        let object = |bucket: &str, key: &str| ObjectRef {
            bucket: bucket.into(),
            key: key.into(),
            version: None,
            etag: None,
            size: None,
        };
        assert!(allow.is_own_output(&object("images", "out/a.png")));
        assert!(!allow.is_own_output(&object("images", "in/a.png")));
        assert!(!allow.is_own_output(&object("photos", "out/a.png")));
        for (key, record) in
            [("a.record.json", true), ("a.attempt", true), (".millrace-check-w", true), ("a.json", false)]
        {
            assert_eq!(allow.is_own_record(&object("images", &format!("out/{key}"))), record, "{key}");
            assert!(!allow.is_own_record(&object("images", &format!("in/{key}"))), "{key}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_told_at_start() {
        let wrong = allow(&json!({
            "callbackHosts": ["hooks.example.com", "https://hooks.example.com"], "replyQueues": ["http://h/0/prompts"],
        }));
        let wanted = [
            "queue.allow.callbackHosts[1]: \"https://hooks.example.com\" is not a host; write hooks.example.com, \
             *.example.com or an address, without scheme, port, path and brackets",
            "queue.allow.replyQueues[0]: is queue.url itself, so each result would be a new job",
        ];
        assert_eq!(wrong.unwrap_err(), wanted);
    }
}
