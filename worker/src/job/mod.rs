//! A message becomes a job, or several: every accepted form of a body, with exact errors.
//!
//! What a message is wrapped in comes off first: an SNS topic's envelope (`sns`), kombu's base64 (`celery`), a pointer
//! to a body that lies in S3 (`pointer`). Then queue.mapping is asked (`mapping`), then the forms are tried:
//!
//! | form | how it is told |
//! |---|---|
//! | S3 event (`s3_event`) | `Records` of a `…:s3` source, an EventBridge event of `aws.s3`, or s3:TestEvent |
//! | Celery (`celery`) | an object with `body`, `content-type`, `headers` and `properties` |
//! | task envelope (`envelope`) | an object with `entity_id`, `task_name` and `task_config` |
//! | envelope (`envelope`) | an object with `inputs`, or with `job_id` and one of `input`, `payload` |
//! | object (`envelope`) | any other object: the task's own input, what is said about the job may stand beside it |
//! | text | anything else: the task's main field |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_api::{BodyFormat, FIRST_MESSAGE_ATTRIBUTE, JOB_ID_ATTRIBUTE, WorkerConfig};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

mod celery;
mod envelope;
mod head;
mod id;
mod input;
mod mapping;
mod pointer;
mod s3_event;
mod sns;
mod trace;

pub use head::{Announce, Form, JobHead, ObjectRef, Placement, Trace};

use self::input::Inputs;
use self::mapping::Mapping;
use self::s3_event::Event;
use crate::allow::Allow;
use crate::handler::{Handler, RequestOf};
use crate::message::Message;
use crate::model::{About, Input, InvalidInput};

/// The record's error code of an input that can never run.
const INVALID_INPUT: &str = "InvalidInput";

/// A job whose form is known and whose inputs the task has yet to read.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is known of it whatever its inputs.
    pub head: JobHead,
    source: Source,
}

/// Where a job's inputs are.
#[derive(Debug, Clone)]
enum Source {
    /// Here.
    Inputs(Inputs),
    /// The content of an object, to be read as `format` says.
    Object { object: ObjectRef, format: BodyFormat },
}

/// A job that can never run: what is known of it, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// What is known of it.
    pub head: JobHead,
    /// The record's error code: `InvalidInput`, `OutputLoop`.
    pub code: &'static str,
    /// Why it cannot run.
    pub error: InvalidInput,
}

/// An object that a field of an input names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Which of the job's inputs.
    pub input: usize,
    /// Which of its fields.
    pub field: &'static str,
    /// The object.
    pub object: ObjectRef,
}

/// What a message came to.
#[derive(Debug, Clone)]
pub enum Decoded {
    /// At least one; the message is done when all are final. Only an S3 event has more than one.
    Jobs(Vec<Job>),
    /// The body lies in S3: read it, then [`Forms::decode_body`].
    Elsewhere(ObjectRef),
    /// Nothing to do: the message is deleted. Why, for the log.
    Nothing(&'static str),
    /// It can never run.
    Rejected(Box<Rejected>),
}

/// Why a body is no job.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    error: InvalidInput,
}

impl From<InvalidInput> for Refusal {
    fn from(error: InvalidInput) -> Self {
        Self { code: INVALID_INPUT, error }
    }
}

/// Every form of a message that one consumer takes.
#[derive(Debug, Clone)]
pub struct Forms {
    format: BodyFormat,
    mapping: Mapping,
    allow: Allow,
}

impl Forms {
    /// The forms of a consumer whose keys begin with `prefix`; else every problem of its spec, with its field.
    pub fn new(config: &WorkerConfig, prefix: &str) -> Result<Self, Vec<String>> {
        match (Mapping::new(&config.queue), Allow::new(config, prefix)) {
            (Ok(mapping), Ok(allow)) => Ok(Self { format: config.queue.body_format, mapping, allow }),
            (mapping, allow) => Err([mapping.err(), allow.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// Reads a message.
    pub fn decode(&self, message: &Message) -> Decoded {
        let message = sns::unwrap(message, self.format);
        match self.find_body(&message) {
            Ok(Some(object)) => Decoded::Elsewhere(object),
            Ok(None) => self.decode_here(&message),
            Err(error) => Decoded::Rejected(self.reject(&message, error)),
        }
    }

    /// Reads a message whose body lay elsewhere. Never `Elsewhere` again.
    pub fn decode_body(&self, message: &Message, body: &str) -> Decoded {
        let message = sns::unwrap(message, self.format);
        if self.format != BodyFormat::Text && pointer::is_pointer(body) {
            let error = InvalidInput::body("the body in S3 is itself a pointer to a body in S3");
            return Decoded::Rejected(self.reject(&message, error));
        }
        self.decode_here(&Message { body: body.into(), ..message.into_owned() })
    }

    /// A message of which something else than its body's form is wrong: an object that it points to cannot be read.
    pub fn reject(&self, message: &Message, error: InvalidInput) -> Box<Rejected> {
        let mut head = head_of(message);
        // a name that is itself at fault names nothing
        let _ = name_by_attribute(&mut head, message);
        Box::new(Rejected { head, code: INVALID_INPUT, error })
    }

    /// The objects that a job's inputs name in `fields`, as `s3://bucket/key`; an error where one may not be read.
    pub fn objects_of(&self, job: &Job, fields: &[&'static str]) -> Result<Vec<Named>, InvalidInput> {
        let Source::Inputs(inputs) = &job.source else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (input, object) in inputs.list.iter().enumerate() {
            let (Input::Object(map) | Input::Call { fields: map, .. }) = object else { continue };
            for field in fields {
                let Some(uri) = map.get(*field).and_then(Value::as_str).and_then(|text| text.strip_prefix("s3://"))
                else {
                    continue;
                };
                let wrong = |message: &str| job.at(input, InvalidInput::field(*field, message));
                let (bucket, key) = uri
                    .split_once('/')
                    .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
                    .ok_or_else(|| wrong("must be s3://bucket/key"))?;
                self.allow.input_bucket(field, bucket).map_err(|error| job.at(input, error))?;
                let object =
                    ObjectRef { bucket: bucket.into(), key: key.into(), version: None, etag: None, size: None };
                found.push(Named { input, field, object });
            }
        }
        Ok(found)
    }

    fn find_body(&self, message: &Message) -> Result<Option<ObjectRef>, InvalidInput> {
        let object = pointer::read(message, self.format)?;
        if let Some(object) = &object {
            self.allow.input_bucket("s3BucketName", &object.bucket)?;
        }
        Ok(object)
    }

    fn decode_here(&self, message: &Message) -> Decoded {
        let mut head = head_of(message);
        match self.read(message, &mut head) {
            Ok(decoded) => decoded,
            Err(Refusal { code, error }) => Decoded::Rejected(Box::new(Rejected { head, code, error })),
        }
    }

    fn read(&self, message: &Message, head: &mut JobHead) -> Result<Decoded, Refusal> {
        name_by_attribute(head, message)?;
        let wrapped = if self.format == BodyFormat::Text { None } else { celery::unwrap(&message.body) };
        let body = match wrapped {
            Some(object) => Some(object),
            None => input::parse(&message.body, self.format)?,
        };
        let body = body.map(Value::Object);
        let mut mapped = self.mapping.read(message, body.as_ref(), head)?;
        let object = body.and_then(|body| if let Value::Object(object) = body { Some(object) } else { None });
        if let Some(object) = object.as_ref().filter(|object| mapped.input.is_none() && s3_event::is_event(object)) {
            let mut jobs = match s3_event::read(object, head, &self.allow, self.format)? {
                Event::Nothing(why) => return Ok(Decoded::Nothing(why)),
                Event::Jobs(jobs) => jobs,
            };
            if jobs.len() > 1 && mapped.names_job() {
                let message = format!("queue.mapping.jobId names one job, and this event has {}", jobs.len());
                return Err(InvalidInput::field("Records", message).into());
            }
            jobs.iter_mut().try_for_each(|job| mapped.overrule(&mut job.head))?;
            return Ok(Decoded::Jobs(jobs));
        }
        let inputs = match (mapped.input.take(), object) {
            (Some(inputs), _) => Ok(inputs),
            (None, Some(object)) if celery::is_message(&object) => celery::read(object, head),
            (None, Some(object)) => envelope::read(object, head, &self.allow),
            (None, None) => {
                head.form = Form::Text;
                input::as_text(&message.body).map(Inputs::one)
            }
        };
        mapped.overrule(head)?;
        Ok(Decoded::Jobs(vec![Job::new(head.clone(), inputs?)]))
    }
}

fn head_of(message: &Message) -> JobHead {
    let sha256 = hex::encode(Sha256::digest(message.body.as_bytes()));
    let mut head = JobHead { trace: trace::of(message), ..JobHead::new(&message.id, sha256) };
    if let Some(first) = message.attributes.get(FIRST_MESSAGE_ATTRIBUTE) {
        id::take_first(&mut head, first);
    }
    head
}

fn name_by_attribute(head: &mut JobHead, message: &Message) -> Result<(), InvalidInput> {
    let name = message.attributes.get(JOB_ID_ATTRIBUTE);
    name.map_or(Ok(()), |name| id::take(head, JOB_ID_ATTRIBUTE, name))
}

impl Job {
    fn new(head: JobHead, inputs: Inputs) -> Self {
        Self { head: JobHead { input_sha256: inputs.sha256(), ..head }, source: Source::Inputs(inputs) }
    }

    /// The object that is the job's input, where that is still to be read.
    pub fn object(&self) -> Option<&ObjectRef> {
        match &self.source {
            Source::Object { object, .. } => Some(object),
            Source::Inputs(_) => None,
        }
    }

    /// The job with its object's content as input: a text or a JSON object, as a body would be, or one with this field,
    /// which holds the content in base64. Its hash stays, which says what was read.
    pub fn with_content(self, content: &[u8], field: Option<&str>) -> Result<Self, InvalidInput> {
        let Source::Object { object, format } = &self.source else { return Ok(self) };
        if let Some(field) = field {
            let input = Input::Object(Map::from_iter([(field.to_owned(), STANDARD.encode(content).into())]));
            return Ok(Self { source: Source::Inputs(Inputs::one(input)), ..self });
        }
        let text = str::from_utf8(content).map_err(|_| object.not_text())?;
        let read = || {
            Ok(match input::parse(text, *format)? {
                Some(fields) => Input::Object(fields),
                None => input::as_text(text)?,
            })
        };
        let input = read().map_err(|e: InvalidInput| InvalidInput::body(format!("{object}: {}", e.message)))?;
        Ok(Self { source: Source::Inputs(Inputs::one(input)), ..self })
    }

    /// Puts an object's content, in base64, where its name was. The hash stays, which says what was asked for.
    pub fn put_content(&mut self, named: &Named, content: &[u8]) {
        let Source::Inputs(inputs) = &mut self.source else { return };
        if let Some(Input::Object(map) | Input::Call { fields: map, .. }) = inputs.list.get_mut(named.input) {
            map.insert(named.field.to_owned(), STANDARD.encode(content).into());
        }
    }

    /// What `handler` reads the inputs as, over the consumer's `defaults`. Input i without a seed takes the job's plus i.
    pub fn requests<H: Handler>(
        &self,
        handler: &H,
        defaults: &Map<String, Value>,
    ) -> Result<Vec<RequestOf<H>>, InvalidInput> {
        let seed = self.about().seed;
        let read = |(index, input): (usize, &Input)| {
            let about = About { seed: seed.wrapping_add(index as u64), ..self.about() };
            handler.decode(input, defaults, &about).map_err(|error| self.at(index, error))
        };
        match &self.source {
            Source::Inputs(inputs) => inputs.list.iter().enumerate().map(read).collect(),
            Source::Object { object, .. } => Err(InvalidInput::body(format!("{object} was not read"))),
        }
    }

    /// What is known of it around its inputs.
    pub fn about(&self) -> About<'_> {
        let envelope = if let Source::Inputs(inputs) = &self.source { inputs.envelope.as_ref() } else { None };
        About { job_id: &self.head.id, seed: seed_of(&self.head.id), route: self.head.route.as_deref(), envelope }
    }

    /// An error of one input, with its place in the list where there is one.
    pub fn at(&self, index: usize, error: InvalidInput) -> InvalidInput {
        if !matches!(&self.source, Source::Inputs(inputs) if inputs.listed) {
            return error;
        }
        let place = format!("inputs[{index}]");
        let field = error.field.map_or(place.clone(), |field| format!("{place}.{field}"));
        InvalidInput { field: Some(field), ..error }
    }
}

/// The seed of a job that names none: from its id, so that a repeat computes the same. 32 bits, as every tool takes.
pub fn seed_of(job_id: &str) -> u64 {
    let digest = Sha256::digest(job_id.as_bytes());
    u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

#[cfg(test)]
mod tests;
